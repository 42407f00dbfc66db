"""Views: modules in one piece, arrays as bytes, answers on a thread, errors in words, pages that escape everything."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
import pytest

import widgets
from tests.traces import INFO, make_trace
from widgets import AttentionView, DraftView, TokenView, esm, to_html
from widgets.base import View, question_key
from widgets.buffers import LIMIT, array, in_page, size, split
from widgets.export import page
from workbench.errors import TraceError, WorkbenchError

ROOT = Path(__file__).resolve().parents[1]
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
VIEWS = sorted(path.stem for path in (ROOT / "widgets").glob("*.js"))


class Fake:
    """Answers as a loaded model of the test traces would."""

    info = INFO

    def branch(self, trace, *, at, token):
        piece = trace.tokens.top_pieces[token]
        return replace(trace, text=f"{trace.text[:at]}{piece}!")


# --- modules ----------------------------------------------------------------------------------------------------------


def node():
    """Node, if it is here. Where views must be looked at in a browser, it may not be lacking either."""
    found = shutil.which("node")
    assert found or not os.environ.get("WORKBENCH_NEED_BROWSER"), "Node is not installed"
    return found


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_one_module_without_imports(name, tmp_path):
    text = esm.module(name)
    assert not re.search(r"^import\b", text, re.MULTILINE)
    assert len(re.findall(r"^export ", text, re.MULTILINE)) == 1
    assert "</script" not in text.lower()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    if node():
        file = tmp_path / "all.mjs"
        file.write_text(f"{text}\nconst again = {esm.expression(name)};", "utf-8")
        done = subprocess.run(["node", "--check", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_cannot_be_put_together_is_refused(tmp_path, monkeypatch):
    files = {
        "a.js": 'import { one, no } from "./lib/b.js";\nexport default one;\n', "lib/b.js": "export const one = 1;\n",
        "c.js": 'import { one } from "./lib/b.js";\nconst one = 2;\nexport default one;\n',
        "d.js": 'import * as b from "./lib/b.js";\nexport default b;\n', "lib/e.js": "export const two = 2;\n",
    }  # fmt: skip
    monkeypatch.setattr(esm, "_read", files.__getitem__)
    for name, words in (("a", "imports no from lib/b.js"), ("c", "both declare one"), ("d", "write this import as")):
        with pytest.raises(ValueError, match=words):
            esm.module.__wrapped__(name)
    with pytest.raises(ValueError, match="no default export"):
        esm.expression("lib/e")


def test_the_logic_under_node():
    if not node():
        pytest.skip("Node is not installed")
    files = sorted(map(str, (ROOT / "tests" / "js").glob("*.test.mjs")))
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", *files], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE)


def test_the_package_exports_what_all_says():
    assert set(dir(widgets)) == set(widgets.__all__)
    for name in widgets.__all__:
        assert callable(getattr(widgets, name))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = widgets.Nothing


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_cross_as_bytes():
    made = array(np.arange(6).reshape(2, 3)[:, ::-1], np.int32)
    assert made["shape"] == [2, 3]
    assert bytes(made["view"]) == np.array([[2, 1, 0], [5, 4, 3]], np.int32).tobytes()
    assert array(np.zeros((0, 5)), np.float32) == {"view": b"", "dtype": "float32", "shape": [0, 5]}
    with pytest.raises(TypeError, match="int64"):
        array([1], np.int64)
    value, buffers = split({"a": [made, 1], "b": b"xy"})
    assert value == {"a": [{"view": {"buffer": 0}, "dtype": "int32", "shape": [2, 3]}, 1], "b": {"buffer": 1}}
    assert [bytes(one) for one in buffers][1] == b"xy"
    assert in_page({"v": b"abc"}) == {"v": "YWJj"}
    assert size({"v": b"abc", "w": "é"}) == 3 + 3 + 3 + 4


# --- a view -----------------------------------------------------------------------------------------------------------


def test_a_view_sends_columns_and_follows_its_trace():
    view = TokenView(make_trace(rounds=4))
    tokens = view.data["tokens"]
    assert np.frombuffer(tokens["logprob"]["view"], np.float32).tolist() == view.trace.tokens.logprob.tolist()
    assert tokens["nearly"]["which"]["shape"] == [9, 5]
    assert tokens["kept"] == 5
    assert view.data["special"] == [8]
    assert view.data["groups"] == [{"label": "Answer", "from": 0, "to": 9, "folded": False}]
    view.selected = 8
    view.trace = make_trace(tokens=3, thought=1)
    assert view.selected == -1
    assert [group["folded"] for group in view.data["groups"]] == [True, False]
    view.trace = None
    assert view.data == {}
    assert "Nothing" in view.picture()


def test_long_answers_stay_below_the_limit_of_a_message():
    view = TokenView(make_trace(tokens=5000, top=200, images=(), audio=()))
    assert size(view.data) < LIMIT
    assert view.data["tokens"]["nearly"]["which"]["shape"][1] == 93  # of 200
    assert view.data["tokens"]["kept"] == 93


def test_a_view_that_would_not_fit_is_empty_and_says_so(monkeypatch):
    view = TokenView(make_trace())
    assert view.error == ""
    monkeypatch.setattr("widgets.base.LIMIT", 1000)
    view.trace = make_trace(tokens=9)
    assert set(view.data) == {"serial"}, "nothing of the trace before it"
    assert re.match(r"This view needs 0\.0 MB and a message to the browser takes 0\.0\. Ask with a smaller", view.error)
    looked = AttentionView(make_trace())
    assert "0.0 of it for 2 pictures" in looked.error
    assert "fewer pictures" in looked.error
    monkeypatch.undo()
    view.refresh()
    assert (view.error, len(view.data["tokens"]["piece"])) == ("", 9)


def test_a_view_that_cannot_be_drawn_is_empty_and_says_why():
    view = TokenView(make_trace())
    view.describe = lambda trace: 1 / 0
    with pytest.raises(ZeroDivisionError):
        view.trace = make_trace(tokens=9)
    assert set(view.data) == {"serial"}
    assert view.error == "ZeroDivisionError: division by zero"
    with pytest.raises(ZeroDivisionError):
        page(view)


def test_a_view_that_is_drawn_again_is_sent_again():
    view, sent = TokenView(make_trace()), []
    view.observe(lambda change: sent.append(change.new["serial"]), names="data")
    view.refresh()
    view.refresh()
    assert sent == [2, 3]


def test_branching_shows_the_new_trace_and_goes_back():
    trace = make_trace(tokens=5)
    view = TokenView(trace, Fake())
    assert view.data["reasons"]["branch"] == ""
    token = int(trace.tokens.top_ids[2, 1])
    view.answer({"ask": "branch", "at": 2, "token": token})
    assert view.trace is not trace
    assert view.trace.text.endswith("!")
    assert (view.selected, view.data["parents"]) == (2, 1)
    view.answer({"ask": "back"})
    assert view.trace is trace
    with pytest.raises(WorkbenchError, match="not branched"):
        view.answer({"ask": "back"})


def test_a_click_in_an_answer_that_is_gone_is_refused():
    trace = make_trace(tokens=5)
    view = TokenView(trace, Fake())
    token, serial = int(trace.tokens.top_ids[2, 1]), view.data["serial"]
    click = {"ask": "branch", "at": 2, "token": token, "serial": serial}
    view.answer(click)
    branch = view.trace
    for late in (click, {"ask": "back", "serial": serial}):
        with pytest.raises(WorkbenchError, match="Another answer has come"):
            view.answer(late)
    assert view.trace is branch
    view.answer({"ask": "back", "serial": view.data["serial"]})
    assert view.trace is trace


def test_what_cannot_be_asked_is_told_with_the_reason():
    view = TokenView(make_trace())
    assert "pass inspector=" in view.data["reasons"]["branch"]
    with pytest.raises(WorkbenchError, match="pass inspector="):
        view.answer({"ask": "branch", "at": 0, "token": 1})
    with pytest.raises(WorkbenchError, match="no answer to 'nothing'"):
        view.answer({"ask": "nothing"})


def test_a_round_is_its_own_tokens_where_plain_ones_stand_between():
    trace = make_trace(rounds=4)
    rounds = np.array([-1, 0, -1, 1, 1, -1, 2, 3, -1])
    plain = replace(trace, tokens=replace(trace.tokens, round=rounds))
    sent = DraftView(plain).data["rounds"]
    first, last = (np.frombuffer(sent[name]["view"], np.int32).tolist() for name in ("first", "last"))
    assert (first, last) == ([1, 3, 6, 7], [2, 5, 7, 8])


def test_a_page_of_a_trace_leaves_no_widget(tmp_path):
    import ipywidgets.widgets.widget as module

    before = len(module._instances)
    for _ in range(3):
        to_html(make_trace(rounds=4), tmp_path / "a.html")
    TokenView().close()
    assert len(module._instances) == before
    for path, title in (("", None), (tmp_path / "b.html", "\ud800")):
        with pytest.raises(TraceError, match="cannot be written"):
            to_html(make_trace(), path, title=title)


def test_rounds_are_sent_with_their_first_tokens():
    view = DraftView(make_trace(rounds=4), Fake())
    rounds = view.data["rounds"]
    # rounds keep 0, 1, 2 of 3 drafts, and 1 of 1; the first token is of no round
    assert np.frombuffer(rounds["first"]["view"], np.int32).tolist() == [1, 2, 4, 7]
    assert rounds["draft"]["shape"] == [4, 3]
    assert view.data["verdict"].startswith("4 of 10 drafts kept")
    assert "cannot answer speedup" in view.data["reasons"]["speedup"]
    with pytest.raises(WorkbenchError, match="cannot answer speedup"):
        view.answer({"ask": "speedup"})
    assert DraftView(make_trace()).data["rounds"]["count"] == 0


def test_replies_carry_the_answer_or_the_words_of_an_error():
    view = TokenView(make_trace(tokens=5), Fake())
    sent = []
    view.send = lambda content, buffers=None: sent.append((content, buffers))
    view._reply({"ask": "back", "id": "q1"}, [])
    view._reply({"ask": "branch", "at": 2, "token": 10**6, "id": "q2"}, [])
    view.answer_back = lambda: {"cells": array([1, 2], np.uint8)}
    view._reply({"ask": "back", "id": "q3"}, [])
    assert sent[0][0] == {"reply": "q1", "error": "This answer has not branched from another."}
    assert sent[1][0]["error"] == "KeyError: 1000000"
    assert sent[2][0]["value"]["cells"]["view"] == {"buffer": 0}
    assert bytes(sent[2][1][0]) == b"\x01\x02"


def test_a_view_says_that_it_is_alive_while_it_answers():
    view = TokenView(make_trace())
    sent = []
    view.send = lambda content, buffers=None: sent.append(content)
    with view._busy:  # an answer is being worked on
        view._heard(view, {"ping": 7}, [])
    view._heard(view, "nonsense", [])
    assert sent == [{"pong": 7}]


def test_a_running_answer_is_sent_in_parts():
    view = TokenView()
    tokens = list(make_trace(rounds=4).tokens)
    view.stream(0, tokens[:2])
    assert view.tail == {
        "from": 0,
        "rows": [["A", pytest.approx(tokens[0].logprob), 0], [" red", tokens[1].logprob, 2]],
    }
    view.stream(2, tokens[2:3])
    assert (view.tail["from"], len(view.tail["rows"]), view.tail["rows"][0][2]) == (2, 1, 1)


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_page_holds_everything_and_asks_for_nothing(tmp_path):
    trace = make_trace(rounds=4, words=[EVIL, " b"], question=EVIL, names=(EVIL,), text=EVIL)
    path = to_html(trace, tmp_path / "a.html")
    text = path.read_text("utf-8")
    assert "default-src 'none'" in text
    assert "<script>alert(2)" not in text
    assert "<img src=x" not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", text)
    saved = json.loads(re.search(r'id="saved">(.*?)</script>', text, re.DOTALL).group(1))
    assert saved[0]["state"]["data"]["tokens"]["piece"][0] == EVIL
    assert "saved page" in saved[0]["state"]["data"]["reasons"]["branch"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_has_no_limit(monkeypatch):
    monkeypatch.setattr("widgets.base.LIMIT", 1000)
    trace = make_trace(rounds=4)
    for what in (trace, [AttentionView(trace)]):
        saved = json.loads(re.search(r'id="saved">(.*?)</script>', page(what), re.DOTALL).group(1))
        assert all(len(one["state"]["data"]) > 5 for one in saved)


def test_what_the_first_sight_does_without_comes_last_in_a_page():
    trace = make_trace(tokens=3000, images=(), audio=())
    view = TokenView(trace)
    text = page(view)
    saved = json.loads(re.search(r'id="saved">(.*?)</script>', text, re.DOTALL).group(1))
    pieces = re.findall(r'class="rest">(.*?)</script>', text, re.DOTALL)
    assert len(pieces) > 2
    rest = json.loads("".join(pieces))
    assert saved[0]["late"] == ["tokens.nearly"]
    assert "nearly" not in saved[0]["state"]["data"]["tokens"]
    assert rest[0]["late"]["tokens.nearly"]["logprob"]["shape"] == [3000, trace.tokens.top_ids.shape[1]]
    assert text.index("showPage(") < text.index('class="rest"')
    assert "nearly" in view.data["tokens"], "the view itself keeps it"
    view.selected = 7  # a word that is picked is shown at once, with what it nearly was
    saved = json.loads(re.search(r'id="saved">(.*?)</script>', page(view), re.DOTALL).group(1))
    assert saved[0]["late"] == []
    assert "nearly" in saved[0]["state"]["data"]["tokens"]


def test_pages_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(TraceError, match="cannot be written"):
        to_html(make_trace(), tmp_path / "no such folder" / "a.html")
    for what in (5, None, "a.trace", [5]):
        with pytest.raises(TraceError, match=r"A page takes a trace or views; .* is neither"):
            to_html(what, "a.html")
    with pytest.raises(TraceError, match="nothing to show"):
        page(TokenView())


def test_a_question_has_one_key_on_both_sides():
    assert question_key(token=3, ask="attend", name="é") == '[["ask","attend"],["name","é"],["token",3]]'


def test_a_saved_notebook_and_one_without_scripts_still_show_something():
    data, _ = TokenView(make_trace())._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "A red circle" in data["text/plain"]
    assert "<script" not in data["text/html"]
    assert "red" in data["text/html"]


def test_views_name_themselves():
    for name in widgets.__all__:
        made = getattr(widgets, name)
        if isinstance(made, type) and issubclass(made, View):
            assert made.TITLE
            assert made.NAME in VIEWS


def test_a_view_closes_its_own_layout_and_no_other():
    mine, shared = TokenView(), ipywidgets.Layout()
    own = mine.layout
    mine.layout = shared
    mine.close()
    assert own.comm is None
    assert shared.comm is not None
    given = TokenView(layout=shared)
    given.close()
    assert shared.comm is not None
