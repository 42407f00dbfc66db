"""The pages under docs/: links lead somewhere, and what they quote from the code is in the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import workbench.errors
from workbench import flight
from workbench.columns import KINDS, SOURCES, Rounds, Segment, Tokens
from workbench.trace import Trace

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CODE = "\n".join(path.read_text("utf-8") for path in sorted((DOCS.parent / "workbench").rglob("*.py")))


def text(name):
    return (DOCS / name).read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#]+)", prose):
        assert (DOCS / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain_and_within_the_line(page):
    lines = page.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert max(len(line) for line in lines if not line.startswith("|")) <= 120


def test_the_first_page_lists_all():
    listed = re.findall(r"^\| \[([\w-]+\.md)\]", text("README.md"), re.MULTILINE)
    assert sorted([*listed, "README.md"]) == [page.name for page in PAGES]


def test_the_page_on_traces_names_every_column_kind_and_source():
    trace, segments, drafting = text("trace.md"), text("segments.md"), text("drafting.md")
    for column in Tokens.DTYPES:
        assert f"`{column}`" in trace or column.startswith("top_"), column
    for name in ("prompt", "tokens", "rounds", "images", "settings", "model", "usage", "timing", "finish", "readings"):
        assert name in Trace.__dataclass_fields__
        assert f"`{name}`" in trace
    assert all(f"`{source}`" in trace for source in SOURCES)
    assert all(f"`{kind}`" in segments for kind in KINDS)
    assert all(name in segments for name in ("rows", "cols", "boxes", "start_ms", "end_ms"))
    assert {"rows", "cols", "boxes", "start_ms", "end_ms"} <= set(Segment.__dataclass_fields__)
    assert all(f"`{name}`" in drafting for name in ("draft_logprob", "target_logprob"))
    assert {"draft_logprob", "target_logprob"} <= set(Rounds.DTYPES)


def test_functions_that_pages_call_exist():
    for name in re.findall(r"flight\.(\w+)\(", text("drafting.md")):
        assert callable(getattr(flight, name))
    tree = re.findall(r"[├└]── (\w+)", text("errors.md"))
    assert sorted(tree) == sorted(set(workbench.errors.__all__) - {"WorkbenchError"})


def test_messages_that_the_page_on_errors_quotes_are_raised():
    quoted = re.findall(r"^\| `([^`]+)`", text("errors.md"), re.MULTILINE)
    assert len(quoted) >= 10
    code = re.sub(r'"\s*\n\s*f?"', "", CODE)
    for message in quoted:
        for part in (part.strip(" ;") for part in re.split(r"…|=4|70, 140,", message)):
            assert not part or part in code, message


CONCEPTS = [page for page in PAGES if "## Sources" in page.read_text("utf-8")]
BEFORE = """\
import workbench
model = workbench.load(progress=False)
trace = model.ask("What is at the top left?", images=["scene.png"], temperature=0)
"""


def test_a_page_on_a_concept_has_an_example_a_warning_and_sources_with_years():
    assert len(CONCEPTS) >= 8
    for page in CONCEPTS:
        content = page.read_text("utf-8")
        parts = [content.index(one) for one in ("```python", "## What to watch for", "## Sources")]
        assert parts == sorted(parts), page.name
        assert re.search(r"\*[^*]+\*[^*]* \((19|20)\d\d\)", content.partition("## Sources")[2]), page.name


@pytest.mark.slow
def test_the_examples_of_these_pages_run_from_top_to_bottom(tmp_path):
    picture = Image.new("RGB", (480, 336), "white")
    ImageDraw.Draw(picture).ellipse((40, 30, 140, 130), fill="red")
    picture.save(tmp_path / "scene.png")
    code = BEFORE
    for page in CONCEPTS:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        code += f"\nprint('page', {page.name!r}, flush=True)\n" + "\n".join(blocks)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    assert re.findall(r"^page (.+)$", done.stdout, re.MULTILINE) == [page.name for page in CONCEPTS]
    assert (tmp_path / "answer.html").exists()
