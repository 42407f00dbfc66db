"""Workbench: one cell that asks, streams, stops, remembers, saves and exports; and never loses what was there."""

import html
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.traces import INFO, make_image, make_sound, make_trace
from widgets import AttentionView, Workbench
from widgets.buffers import size
from widgets.settings_form import GREEDY, MINE
from workbench.columns import SOURCES
from workbench.errors import MediaError, ModelError, PromptError, TraceError, WorkbenchError
from workbench.trace import Trace


class Fake:
    """Says the words of a test trace one by one; waits for permission where a test wants to look in between."""

    info = INFO
    drafter = object()

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.asked, self.error = [], None

    def ask(self, question, *, on_token, stop, **more):
        self.asked.append({"question": question, **more})
        trace = make_trace(rounds=4, question=question)
        for said, token in enumerate(trace.tokens):
            if stop.is_set():
                return replace(make_trace(tokens=said, finish="stopped", question=question), text="cut")
            on_token(token)
            self.go.wait(5)
        if self.error is not None:
            raise self.error
        return trace

    def branch(self, trace, *, at, token, on_token, stop):
        new = replace(trace, text="branched")
        for said in new.tokens:
            on_token(said)
            self.go.wait(5)
            if stop.is_set():
                return replace(new, finish="stopped")
        if self.error is not None:
            raise self.error
        return new


@pytest.fixture
def bench():
    made = Workbench(Fake())
    yield made
    made.model.go.set()
    made.stop()
    made.wait(5)


def test_a_run_shows_words_then_the_trace(bench):
    bench.media.add(make_image(36, 60), make_sound(0.5))
    bench.question.value = " What is it? "
    bench.run_button.click()
    bench.wait(5)
    assert bench.trace.tokens.piece[0] == "A"
    assert bench.answer.data["tokens"]["piece"][:2] == ["A", " red"]
    assert bench.answer.tail["rows"]  # words came before
    assert all(view.trace is bench.trace for view in bench.views.values())
    (asked,) = bench.model.asked
    assert asked["question"] == "What is it?"
    assert len(asked["images"]) == len(asked["audio"]) == 1
    assert (asked["draft"], asked["max_new_tokens"], asked["seed"]) == ("auto", 128, None)
    assert "temperature" not in asked
    assert "Done: 9 tokens" in bench.status.value
    assert not bench.running
    assert not bench.run_button.disabled
    assert bench.stop_button.disabled
    assert bench.history.options == (("1 · What is it? → A red circle lies at the top left", 0),)


def test_stop_works_while_it_runs_and_keeps_what_was_said(bench):
    bench.model.go.clear()
    bench.question.value = "Long?"
    bench.run()
    assert bench.running
    for _ in range(500):
        if bench.answer.tail:
            break
        time.sleep(0.01)
    with pytest.raises(PromptError, match="A run is going on"):
        bench.run()
    bench.run_button.click()
    assert "A run is going on" in bench.status.value
    bench.stop_button.click()
    bench.model.go.set()
    assert bench.wait(5).finish == "stopped"
    assert "Stopped: 1 token" in bench.status.value


@pytest.mark.parametrize("error", [MediaError("That is <b>no</b> picture."), ValueError("no")])
def test_an_error_is_told_and_what_was_there_stays(bench, error):
    bench.question.value = "First?"
    bench.run()
    first = bench.wait(5)
    bench.model.error = error
    bench.run()
    bench.wait(5)
    assert bench.trace is first
    assert bench.traces == (first,)
    assert 'role="alert"' in bench.status.value
    assert ("&lt;b&gt;no" if isinstance(error, MediaError) else "ValueError: no") in bench.status.value
    assert not bench.running


def test_what_cannot_be_run_is_told(bench):
    for value in ("", "  \n"):
        bench.question.value = value
        bench.run_button.click()
        assert "Write a question first." in bench.status.value
    bench.question.value = "x"
    bench.settings.seed.value = "-3"
    bench.run_button.click()
    assert "Seed &#x27;-3&#x27;" in bench.status.value
    assert bench.model.asked == []
    bench.settings.seed.value = "9" * 5000  # more digits than Python reads
    bench.run_button.click()
    assert "Seed &#x27;999" in bench.status.value
    assert "0 to 2^63 - 1" in bench.status.value
    assert len(bench.status.value) < 500
    assert bench.model.asked == []
    bench.save_button.click()
    assert "no answer yet" in bench.status.value
    with pytest.raises(TraceError, match="no answer yet"):
        bench.export()


def test_settings(bench):
    settings = bench.settings
    settings.how.value = GREEDY
    assert settings.seed.disabled
    assert settings.values()["temperature"] == 0
    settings.how.value = MINE
    settings.temperature.value, settings.seed.value, settings.draft.value = 0.7, "12", 3
    settings.system.value = " Be brief. "
    made = settings.values()
    assert (made["temperature"], made["top_k"], made["top_p"], made["seed"]) == (0.7, 64, 0.95, 12)
    assert (made["draft"], made["system"]) == (3, "Be brief.")
    assert not settings.temperature.disabled
    assert Workbench(type("Plain", (Fake,), {"drafter": None})()).settings.draft.options == (
        ("none: no drafter is loaded", 0),
    )


def test_runs_can_be_gone_back_to_and_followed_up(bench):
    for question in ("One?", "Two?"):
        bench.question.value = question
        bench.run()
        bench.wait(5)
    bench.history.value = 0
    assert bench.trace is bench.traces[0]
    assert bench.views["Drafts"].trace is bench.traces[0]
    bench.follow.value = True
    bench.run()
    bench.wait(5)
    assert bench.model.asked[-1]["history"] is bench.traces[0]
    assert bench.history.value == 2


def test_what_a_conversation_holds_is_not_asked_about_twice(bench):
    picture, word, other = make_image(36, 60), make_sound(0.2), make_image(24, 24, "other.png", seed=3)
    bench.question.value, bench.follow.disabled = "x", False
    before = make_trace(images=((36, 60),), audio=())
    turns = ({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *before.prompt.messages)
    before = replace(before, prompt=replace(before.prompt, messages=turns))
    bench._keep(before)
    bench.media.add(before.images[0], word)
    bench.follow.value = True
    bench.settings.system.value = "Be brief."
    bench.run()
    bench.wait(5)
    asked = bench.model.asked[-1]
    assert (asked["images"], [one.sha256 for one in asked["audio"]]) == ([], [word.sha256])
    assert asked["system"] is None, "the conversation has it"
    bench._keep(before)
    bench.media.add(other, picture)
    bench.settings.system.value = "Be long."
    with pytest.raises(PromptError, match="began with another system text"):
        bench.run()
    assert not bench.running
    bench.settings.system.value = ""
    bench.run()
    bench.wait(5)
    known = before.images[0].sha256
    assert [one.sha256 for one in bench.model.asked[-1]["images"]] == [
        one.sha256 for one in (other, picture) if one.sha256 != known
    ]


def test_a_run_and_stop_do_not_wait_for_what_a_view_asks(bench):
    """The model is read under a lock: a question about a long prompt would hold a run up."""
    looked, entered, ended = bench.views["Where it looked"], threading.Event(), []

    def attend(trace, tokens=None, stop=None):
        entered.set()
        ended.append(stop.wait(10))
        raise TraceError("attend was stopped.")

    bench.model.attend = attend
    bench._keep(make_trace())

    def ask():
        with pytest.raises(TraceError, match="stopped"):
            looked.answer({"ask": "attend", "token": 1})

    def look():
        entered.clear()
        asking = threading.Thread(target=ask)
        asking.start()
        assert entered.wait(5)
        return asking

    asking = look()
    bench.question.value = "x"
    bench.run()
    asking.join(5)
    assert not asking.is_alive()
    bench.wait(5)
    assert "Done" in bench.status.value
    asking = look()
    bench.export_button.click()  # which waits behind it, and asks as well
    assert asking.is_alive()
    bench.stop()
    asking.join(5)
    bench.wait(5)
    assert not asking.is_alive()
    assert ended == [True] * len(ended)
    assert "attend was stopped" in bench.status.value
    assert not bench.running


def test_a_page_is_written_after_a_run_that_was_stopped(bench, tmp_path):
    asked = []

    def attend(trace, tokens=None, stop=None):
        asked.append(stop.is_set())
        raise TraceError("nothing to be seen.")

    bench.model.attend = attend
    bench._keep(make_trace())
    bench.model.go.clear()
    bench.question.value = "x"
    bench.run()
    bench.stop()
    bench.model.go.set()
    bench.wait(5)
    assert bench.trace.finish == "stopped"
    bench.history.value = 0
    with pytest.raises(TraceError, match="nothing to be seen"):
        bench.export(str(tmp_path / "page.html"))
    assert asked == [False]


def test_a_run_does_not_wait_for_a_speed_up_that_is_being_measured(bench):
    drafts, entered, ended = bench.views["Drafts"], threading.Event(), []

    def speedup(trace, repeats=5, *, stop=None):
        entered.set()
        ended.append(stop.wait(10))
        raise TraceError("speedup was stopped.")

    bench.model.speedup = speedup
    bench._keep(make_trace(rounds=4))

    def ask():
        with pytest.raises(TraceError, match="stopped"), drafts._busy:
            drafts.answer({"ask": "speedup"})

    asking = threading.Thread(target=ask)
    asking.start()
    assert entered.wait(5)
    bench.question.value = "x"
    bench.run()
    asking.join(5)
    assert ended == [True]
    bench.wait(5)
    assert "Done" in bench.status.value


def test_a_run_that_is_no_longer_listed_is_shown_when_a_view_goes_back_to_it(bench, monkeypatch):
    from widgets import bench as module

    monkeypatch.setattr(module, "_RUNS_LISTED", 2)
    runs = [make_trace(question=f"{k}?") for k in range(4)]
    for one in runs:
        bench._keep(one)
    bench.answer.trace = runs[0]  # back from a branch
    assert bench.trace is runs[0]
    assert all(view.trace is runs[0] for view in bench.views.values())
    bench.answer.trace = runs[2]
    assert bench.trace is runs[2]
    assert bench.history.value == 2
    assert len(bench.traces) == 4


def test_the_speed_of_a_branch_is_of_what_it_said_itself():
    from widgets.bench_parts import ended
    from workbench.display import tokens_a_second

    trace = make_trace(tokens=12)
    source = np.array([SOURCES.index("forced")] * 8 + [SOURCES.index("plain")] * 4, trace.tokens.source.dtype)
    time_s = np.array([1.0] * 8 + [1.1, 1.2, 1.3, 1.4])
    branch = replace(
        trace, tokens=replace(trace.tokens, source=source, time_s=time_s.astype(trace.tokens.time_s.dtype))
    )
    assert tokens_a_second(branch) == pytest.approx(10)
    assert ended(branch).endswith("12 tokens, 10.0 a second")


def test_the_end_of_a_page_ends_no_look_of_a_reader(bench, tmp_path):
    looked, entered, go, ended = bench.views["Where it looked"], threading.Event(), threading.Event(), []

    def attend(trace, tokens=None, stop=None):
        if threading.current_thread() is asking:
            entered.set()
            go.wait(10)
            ended.append(stop.is_set())
        raise TraceError("nothing to be seen.")

    bench.model.attend = attend
    bench._keep(make_trace())
    bench.path.value = str(tmp_path / "page.html")

    def ask():
        with pytest.raises(TraceError, match="nothing to be seen"):
            looked.answer({"ask": "attend", "token": 1})

    asking = threading.Thread(target=ask)
    asking.start()
    assert entered.wait(5)
    bench.export_button.click()
    bench.wait(10)
    assert not bench.running
    go.set()
    asking.join(5)
    assert ended == [False]


def test_a_look_that_a_failed_run_has_ended_is_asked_again(bench):
    bench._keep(make_trace())
    looked = bench.views["Where it looked"]
    serial = looked.data["serial"]
    bench.model.error = MemoryError("none left")
    bench.question.value = "x"
    with looked._busy:  # as while it asks
        bench.run()
        bench.wait(5)
    assert looked.data["serial"] > serial
    assert "none left" in bench.status.value


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("none left")], ids=lambda e: type(e).__name__)
def test_a_branch_that_ends_by_any_error_leaves_nothing_running(bench, error):
    bench._keep(make_trace())
    bench.model.error = error
    with pytest.raises(type(error)):
        bench.branch(bench.trace, at=2, token=101)
    assert not bench.running
    assert not bench.run_button.disabled
    assert type(error).__name__ in bench.status.value


def test_a_run_that_fails_over_an_answer_that_cannot_be_drawn_is_over(bench, monkeypatch):
    bench._keep(make_trace())
    bench.question.value = "x"
    bench.model.error = MemoryError("none left")

    def refresh():
        bench.answer.data = {}
        raise TraceError("it cannot be drawn")

    monkeypatch.setattr(bench.answer, "refresh", refresh)
    bench._start(9)
    bench._sent = 3  # words had come
    bench._broke_off(MemoryError("none left"))
    assert not bench.running
    assert "none left" in bench.status.value
    assert "it cannot be drawn" in bench.status.value


def test_no_stopping_stands_behind_the_last_word(bench):
    say, clicks = bench._say, []

    def then_stop(words, **how):
        say(words, **how)
        if words.startswith("Done"):  # a click just as it ends
            clicks.append(threading.Thread(target=bench.stop))
            clicks[0].start()
            clicks[0].join(0.3)

    bench._say = then_stop
    bench.question.value = "x"
    bench.run()
    bench.wait(5)
    clicks[0].join(5)
    assert "Done: 9 tokens" in bench.status.value


def test_a_branch_is_a_run_of_its_own(bench):
    bench.question.value = "x"
    bench.run()
    first = bench.wait(5)
    bench.answer.answer({"ask": "branch", "at": 2, "token": 101})
    assert bench.trace.text == "branched"
    assert len(bench.traces) == 2
    assert bench.views["Drafts"].trace is bench.trace
    assert bench.views["Drafts"].selected == bench.answer.selected == 2
    assert bench.history.options[1][0].startswith("2 · ")
    assert "Done: 9 tokens" in bench.status.value
    assert bench.answer.data["parents"] == 1
    bench.answer.answer({"ask": "back"})
    assert bench.trace is first
    assert bench.history.value == 0
    assert bench.answer.data["parents"] == 0
    bench.history.value = 1
    assert bench.answer.data["parents"] == 1, "it is still a branch of the first"
    bench.history.value = 0
    with pytest.raises(WorkbenchError, match="has not branched"):
        bench.answer.answer({"ask": "back"})


def test_a_branch_shows_its_words_and_can_be_stopped(bench):
    bench.question.value = "x"
    bench.run()
    first = bench.wait(5)
    bench.model.go.clear()
    branching = threading.Thread(target=lambda: bench.answer.answer({"ask": "branch", "at": 2, "token": 101}))
    branching.start()
    for _ in range(500):
        if bench.running and bench.answer.tail.get("rows") and not bench.stop_button.disabled:
            break
        time.sleep(0.01)
    assert bench.run_button.disabled
    assert bench.history.disabled
    assert bench.save_button.disabled
    with pytest.raises(PromptError, match="A run is going on"):
        bench.branch(first, at=1, token=3)
    bench.stop_button.click()
    bench.model.go.set()
    branching.join(5)
    assert bench.trace.finish == "stopped"
    assert not bench.running
    assert not bench.save_button.disabled
    bench.model.error = MemoryError("none left")
    with pytest.raises(MemoryError):
        bench.answer.answer({"ask": "branch", "at": 2, "token": 101})
    assert "MemoryError: none left" in bench.status.value
    assert not bench.running


def test_what_a_view_cannot_show_is_told_and_nothing_old_stays_in_it(bench, monkeypatch, tmp_path):
    bench.question.value = "One?"
    bench.run()
    first = bench.wait(5)
    looked = bench.views["Where it looked"]
    monkeypatch.setattr("widgets.base.LIMIT", size(looked.data) - 1)  # the others need less
    bench.run()
    second = bench.wait(5)
    assert second is not first
    assert bench.traces == (first, second)
    assert {view.trace for view in bench.views.values()} == {second}
    assert "pictures" not in looked.data
    assert bench.answer.data["tokens"]
    assert bench.views["Drafts"].data["rounds"]
    said = html.unescape(bench.status.value)
    assert 'role="alert"' in said
    assert "Done: 9 tokens" in said
    assert "Where it looked: This view needs" in said
    assert "for 2 pictures" in said
    assert not bench.running
    assert looked.error.startswith("This view needs")
    bench.export(str(tmp_path / "a.html"))
    assert '"cols":5' in (tmp_path / "a.html").read_text("utf-8"), "a page has room for its pictures"
    monkeypatch.setattr(AttentionView, "describe", lambda _self, _trace: 1 / 0)
    bench.history.value = 0
    assert {view.trace for view in bench.views.values()} == {first}
    assert "Where it looked: ZeroDivisionError" in bench.status.value
    bench.path.value = str(tmp_path / "b")
    bench.export_button.click()
    bench.wait(5)
    assert "ZeroDivisionError" in bench.status.value
    assert not (tmp_path / "b.html").exists()
    monkeypatch.undo()
    bench.history.value = 1
    assert looked.data["pictures"]
    assert looked.error == ""


def test_after_words_that_broke_off_what_was_there_is_sent_again(bench):
    bench.question.value = "x"
    bench.run()
    first = bench.wait(5)
    drawn = []
    bench.answer.observe(lambda change: drawn.append(change.new["tokens"]["piece"][0]), names="data")
    bench.model.error = MemoryError("none left")
    bench.run()
    bench.wait(5)
    assert drawn == ["A"]
    with pytest.raises(MemoryError):
        bench.branch(first, at=2, token=101)
    assert drawn == ["A", "A"]
    bench.model.error = None
    bench.model.ask = lambda question, *, on_token, **more: [on_token(token) for token in first.tokens] and first
    bench.run()
    bench.wait(5)
    assert bench.traces == (first, first)
    assert drawn == ["A"] * 3, "the same trace again, in the place of its words"
    bench.answer.answer({"ask": "branch", "at": 2, "token": 101})
    assert drawn == ["A"] * 4, "drawn once"


def test_two_clicks_on_an_alternative_are_one_branch(bench):
    bench.question.value = "x"
    bench.run()
    first = bench.wait(5)
    click = {"ask": "branch", "at": 2, "token": 101, "serial": bench.answer.data["serial"]}
    bench.answer.answer(click)
    with pytest.raises(WorkbenchError, match="Another answer has come"):
        bench.answer.answer(click)
    assert len(bench.traces) == 2
    bench.answer.answer({"ask": "back", "serial": bench.answer.data["serial"]})
    assert bench.trace is first


def test_a_first_run_that_breaks_off_says_so_beside_its_words(bench):
    bench.model.error = MemoryError("out of memory")
    bench.question.value = "x"
    bench.run()
    bench.wait(5)
    assert bench.answer.tail["ended"] == "broke off"
    assert bench.traces == ()
    assert bench.save_button.disabled
    assert bench.history.disabled


def test_a_run_waits_for_files_that_are_on_their_way(bench):
    bench.question.value = "x"
    bench.media.sending = 1
    bench.run_button.click()
    assert "1 file is still on the way" in bench.status.value
    assert bench.model.asked == []
    bench.media.sending = 0
    bench.run_button.click()
    assert bench.wait(5) is not None


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("v1.2", ["v1.2.trace", "v1.2 2.trace"]),
        ("a.trace", ["a.trace", "a 2.trace"]),
        ("a.html", ["a.trace", "a 2.trace"]),
        ("run 1.5.trace", ["run 1.5.trace", "run 1.5 2.trace"]),
    ],
)
def test_a_file_is_called_what_was_written_and_none_is_lost(bench, tmp_path, name, files):
    bench._keep(make_trace())
    bench.path.value = str(tmp_path / name)
    for file in files:
        bench.save_button.click()
        assert f"Saved: {tmp_path / file}" in html.unescape(bench.status.value)
        assert (tmp_path / file).exists()
    assert bench.save(str(tmp_path / name)).name == files[0], "a path that is given is taken as it is"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("name", [".", "..", "/", "~", "sub/"])
def test_a_folder_is_no_file(bench, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    bench._keep(make_trace())
    bench.path.value = name
    for press in (bench.save_button, bench.export_button):
        press.click()
        bench.wait(5)
        assert "is a folder" in bench.status.value
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_disk_does_not_take_is_told(bench, tmp_path, monkeypatch):
    bench._keep(make_trace())
    bench.path.value = str(tmp_path / ("n" * 300))
    for press in (bench.save_button, bench.export_button):
        bench._say("")
        press.click()
        bench.wait(5)
        assert "cannot be written" in bench.status.value
    bench.path.value = str(tmp_path / "a\0b")
    for press in (bench.save_button, bench.export_button):
        bench._say("")
        press.click()
        bench.wait(5)
        assert 'role="alert"' in bench.status.value
    monkeypatch.setattr(Path, "is_dir", lambda self: os.scandir(tmp_path / "none"))
    with pytest.raises(TraceError, match="cannot be written: No such file"):
        bench.save()
    assert list(tmp_path.iterdir()) == []


def test_home_is_meant_by_a_tilde(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    bench._keep(make_trace())
    bench.path.value = "~/mine"
    bench.save_button.click()
    bench.export_button.click()
    bench.wait(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "mine.trace"]


def test_saving_and_exporting(bench, tmp_path):
    bench.question.value = "x"
    bench.run()
    trace = bench.wait(5)
    bench.path.value = str(tmp_path / "mine")
    bench.save_button.click()
    assert "Saved:" in bench.status.value
    assert Trace.load(tmp_path / "mine.trace").text == trace.text
    bench.export_button.click()
    bench.wait(5)
    assert "Drafts, round by round" in (tmp_path / "mine.html").read_text("utf-8")
    bench.path.value = " "
    bench.save_button.click()
    assert "file name" in bench.status.value
    bench.path.value = str(tmp_path / "no" / "such")
    bench.save_button.click()
    assert 'role="alert"' in bench.status.value


def test_it_begins_with_a_trace_and_shows_without_scripts():
    trace = make_trace()
    bench = Workbench(Fake(), trace)
    assert bench.traces == (trace,)
    data, _ = bench._repr_mimebundle_()
    assert "red" in data["text/html"]
    assert "1 runs" in repr(bench)


@pytest.mark.parametrize("model", [5, None, "pocket"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ModelError, match=r"takes what workbench.load.. gives; .* is none"):
        Workbench(model)
