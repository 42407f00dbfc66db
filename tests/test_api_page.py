"""docs/api.md is what its maker makes, and the docstrings it is made from say what a caller needs to know."""

import ast
import importlib.util
import inspect
import re
import sys
import textwrap
from pathlib import Path

import pytest

import widgets
import workbench

DOCS = Path(__file__).resolve().parents[1] / "docs"


def loaded(path):
    """The maker, which is a script in no package."""
    spec = importlib.util.spec_from_file_location("make_api", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_api"] = module
    spec.loader.exec_module(module)
    return module


maker = loaded(DOCS / "make_api.py")
NAMES = [name for _, _, names in maker.documented() for name in names]
EVERY = [*NAMES, *(member for name in NAMES for member in name.members)]
CALLS = [one for one in EVERY if inspect.isroutine(one.thing)]
PAGE = maker.PAGE.read_text("utf-8")


def named(parts):
    return {one.lstrip("*") for names, _ in parts for one in names.split(", ")}


def test_the_page_is_what_the_maker_makes():
    assert maker.made() == PAGE, "the docstrings have changed: python docs/make_api.py"


def test_every_public_name_has_an_anchor_and_the_contents_lead_to_all():
    anchors = re.findall(r'^<a id="(.+)"></a>$', PAGE, re.MULTILINE)
    assert len(set(anchors)) == len(anchors)
    public = {f"{m.__name__}.{n}" for m in (workbench, widgets) for n in m.__all__}
    assert public <= set(anchors)
    assert set(anchors) == {one.path for one in EVERY}
    contents = PAGE.partition("## Contents")[2].partition("\n## ")[0]
    assert set(anchors) <= set(re.findall(r"\]\(#([\w.]+)\)", contents))


def test_links_inside_the_page_lead_somewhere():
    anchors = set(re.findall(r'<a id="(.+)"></a>', PAGE))
    titles = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors | titles
    assert PAGE.count("```") % 2 == 0
    assert not re.search(r":(class|func|meth|mod|data):`", PAGE)


def test_what_a_public_call_returns_is_on_the_page_too():
    ours = {one.rpartition(".")[2] for one in (name.path for name in NAMES)}
    elsewhere = {"Any", "Callable", "DataFrame", "Figure", "Iterator", "Literal", "None", "PIL", "Path", "Request"}
    for one in CALLS:
        given = set(re.findall(r"\b[A-Z]\w+", str(inspect.signature(one.thing).return_annotation)))
        assert given <= ours | elsewhere, one.path


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.path)
def test_a_public_name_says_what_it_is_for(one):
    text = " ".join(one.doc["text"]).strip()
    assert len(text) > 15
    assert text.split("\n")[0].rstrip().endswith((".", ":", "…", ")", "`", "?")) or len(one.doc["text"]) > 1


@pytest.mark.parametrize("one", CALLS, ids=lambda one: one.path)
def test_a_public_call_says_what_it_takes_gives_and_refuses(one):
    signature, doc = inspect.signature(one.thing), one.doc
    if "Args" in doc:
        assert named(doc["Args"]) == set(signature.parameters) - {"self"}
    gives = signature.return_annotation not in ("None", None)
    assert ("Returns" in doc) or not (gives and "Args" in doc), "there are Args and a result, and no Returns"
    assert named(doc.get("Raises", ())) <= {*workbench.errors.__all__, "Busy", "ValueError", "TypeError"}
    tree = ast.parse(textwrap.dedent(inspect.getsource(one.thing)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        if node.exc.func.id[:1].isupper()  # not a function that makes the error
    }
    assert raised - {"NotImplementedError", "Wrong"} <= named(doc.get("Raises", ()))


@pytest.mark.parametrize(
    "one", [n for n in NAMES if hasattr(n.thing, "__dataclass_fields__")], ids=lambda one: one.path
)
def test_every_field_of_a_result_is_described(one):
    fields = set(one.thing.__dataclass_fields__)
    told = named(one.doc.get("Attributes", ()))
    assert fields <= told
    arrays = {
        name for name, field in one.thing.__dataclass_fields__.items() if str(field.type).startswith("np.ndarray")
    }
    for names, text in one.doc.get("Attributes", ()):
        if arrays & set(names.split(", ")):
            assert re.search(r"\(.*\)|\b(u?int|float)\d+", text), f"{names}: shape and type"
