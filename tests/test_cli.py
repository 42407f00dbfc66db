"""The command line: what goes where, what is found out before the model runs, and how each command ends."""

import html
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import workbench.loading
from tests.traces import make_trace
from workbench import cli, doctor, printing
from workbench.errors import ModelError
from workbench.pocket.examples import PAIR, SCENE, SEVEN
from workbench.trace import Trace

CODE = "import sys; from workbench.cli import main; sys.exit(main())"


class Model:
    """Answers with a trace made beforehand, token by token; ``at`` says what happens at one of them."""

    def __init__(self, trace, at=None):
        self.trace, self.at, self.asked = trace, at or {}, []
        self.processor = type("Processor", (), {"tokenizer": self})

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        pieces = dict(zip(self.trace.tokens.token_id.tolist(), self.trace.tokens.piece, strict=True))
        return "".join(pieces[i] for i in ids if not pieces[i].startswith("<"))

    def ask(self, question, *, on_token, stop, **how):
        self.asked.append((question, how))
        for k, token in enumerate(self.trace.tokens):
            if stop.is_set():
                return replace(self.trace, finish="stopped", text="".join(self.trace.tokens.piece[:k]))
            if on_token is not None:
                on_token(token)
            self.at.get(k, lambda: None)()
        return self.trace


@pytest.fixture
def model(monkeypatch):
    """A model that answers at once; its name and that it was loaded are written down."""
    made = Model(make_trace(6))
    made.loaded = []

    def load(name, progress):
        made.loaded.append(name)
        print("workbench.load('fake')")  # noqa: T201 (as load does)
        return made

    monkeypatch.setattr(workbench.loading, "load", load)
    return made


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["ask"], ["view"], ["doctor"], ["lab"], ["gallery"]])
def test_help_documents_the_exit_status(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 all went well, 1 the workbench raised an error, 2 wrong usage, 130 stopped" in said


def test_help_imports_nothing_heavy():
    code = """if True:
        import sys
        from workbench.cli import main
        main(["--help"]), main(["ask", "--help"])
        print([name for name in ("torch", "transformers", "numpy", "pandas", "PIL") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [[], ["question"], ["ask"], ["ask", "a", "b"], ["ask", "a", "--imagine", "x"]])
def test_wrong_usage_is_2(words, capsys):
    assert cli.main(words) == 2
    assert "usage: workbench" in capsys.readouterr().err


# --- ask --------------------------------------------------------------------------------------------------------------


def test_the_answer_alone_is_on_standard_output(model, capsys):
    assert cli.main(["ask", "What is it?"]) == 0
    out, err = capsys.readouterr()
    assert out == "A red circle lies at\n"
    assert "workbench.load('fake')" in err
    assert "tokens in" in err
    assert "seed 42" in err


def test_words_are_printed_as_they_come(model, capsys):
    seen = []
    model.at = {k: lambda: seen.append(capsys.readouterr().out) for k in range(6)}
    assert cli.main(["ask", "What is it?"]) == 0
    assert seen == ["A", " red", " circle", " lies", " at", ""]


def test_thoughts_and_control_tokens_are_held_back():
    pieces = {1: "<|channel>", 2: "thought", 3: "\n", 4: "<channel|>", 5: "Yes", 6: "<|tool_call>", 7: "f()",
              8: "<tool_call|>", 9: ".", 10: "<turn|>"}  # fmt: skip
    written = []

    class Tokenizer:
        def decode(self, ids, skip_special_tokens):
            return "".join(pieces[i] for i in ids if not pieces[i].startswith("<"))

    words = printing.Words(Tokenizer(), written.append)
    for i, piece in pieces.items():
        words(type("Token", (), {"token_id": i, "piece": piece}))
    assert "".join(written) == "Yes."


def test_half_a_letter_waits_for_its_other_half():
    written = []
    sofar = {1: "caf�", 2: "café", 3: "café!"}
    tokenizer = type("T", (), {"decode": lambda self, ids, skip_special_tokens: sofar[len(ids)]})()
    words = printing.Words(tokenizer, written.append)
    for k in range(3):
        words(type("Token", (), {"token_id": k, "piece": "?"}))
    assert written == ["caf", "é", "!"]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_trace_is_saved_though_nobody_reads_the_answer(model, monkeypatch, tmp_path, capsys, more):
    """`workbench ask … --save a.trace | head -1`"""

    class Pipe(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

        def fileno(self):
            return gone.fileno()

    with (tmp_path / "gone").open("w") as gone:
        monkeypatch.setattr(sys, "stdout", Pipe())
        assert cli.main(["ask", "What is it?", "--save", str(tmp_path / "a.trace"), *more]) == 0
        assert Trace.load(tmp_path / "a.trace").text == model.trace.text
        monkeypatch.setattr(sys, "stdout", Pipe())
        assert cli.main(["ask", "What is it?", *more]) == 1
    monkeypatch.undo()


def test_every_option_reaches_the_model(model, capsys):
    words = ["ask", "Q", "--image", str(SCENE), "--image", str(PAIR), "--audio", str(SEVEN), "--system", "Be brief.",
             "--max-new-tokens", "9", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--seed", "7",
             "--draft", "2", "--image-tokens", "140", "--model", "other"]  # fmt: skip
    assert cli.main(words) == 0
    ((question, how),) = model.asked
    assert model.loaded == ["other"]
    assert [image.name for image in how.pop("images")] == ["scene.png", "pair.png"]
    assert [sound.name for sound in how.pop("audio")] == ["seven.wav"]
    assert how.pop("video") == []
    assert question == "Q"
    assert how == {
        "system": "Be brief.", "max_new_tokens": 9, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 7, "draft": 2,
        "image_tokens": 140,
    }  # fmt: skip


def test_what_is_not_given_is_left_to_the_model(model, capsys):
    assert cli.main(["ask", "Q"]) == 0
    (_, how) = model.asked[0]
    assert (how["temperature"], how["top_k"], how["top_p"], how["seed"], how["draft"]) == (None,) * 4 + ("auto",)


def test_a_file_can_come_from_standard_input(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": io.BytesIO(SCENE.read_bytes())}))
    assert cli.main(["ask", "Q", "--image", "-"]) == 0
    assert model.asked[0][1]["images"][0].width == 480
    assert cli.main(["ask", "Q", "--image", "-", "--audio", "-"]) == 1


def test_json_is_one_strict_object(model, capsys):
    model.trace = make_trace(rounds=4, question="What is it?")
    assert cli.main(["ask", "What is it?", "--json"]) == 0
    out = capsys.readouterr().out

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    said = json.loads(out, parse_constant=refuse)
    assert {"text", "tokens", "usage", "timing", "model", "finish", "settings", "rounds"} <= set(said)
    assert said["text"] == model.trace.text
    assert len(said["tokens"]) == len(model.trace)
    assert said["tokens"][0]["alternatives"][0]["piece"] == "A"
    assert said["tokens"][0]["logprob"] == pytest.approx(float(model.trace.tokens.logprob[0]))
    assert said["usage"]["prompt"] == len(model.trace.prompt)
    assert said["model"]["layers"] == ["sliding", "sliding", "full"]
    assert len(said["rounds"]) == 4
    assert None in said["rounds"][-1]["draft_logprob"]  # NaN where nothing was drafted


def test_rounds_are_a_table_on_standard_error(model, capsys):
    model.trace = make_trace(rounds=4)
    assert cli.main(["ask", "Q", "--rounds", "--quiet"]) == 0
    out, err = capsys.readouterr()
    table = [line for line in err.splitlines() if "load(" not in line]
    assert out == model.trace.text + "\n"
    assert len(table) == 5
    assert "0 / 3" in table[1]
    assert "2 / 3" in table[3]
    model.trace = make_trace(3)
    assert cli.main(["ask", "Q", "--rounds"]) == 0
    assert "nothing was drafted" in capsys.readouterr().err


def test_quiet_is_quiet(model, capsys, monkeypatch):
    monkeypatch.setattr(workbench.loading, "load", lambda name, progress: progress or model)
    assert cli.main(["ask", "Q", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_an_answer_that_was_cut_off_is_told(model, capsys):
    model.trace = replace(make_trace(4, finish="max_new_tokens"))
    assert cli.main(["ask", "Q"]) == 0
    assert "cut off after 4 tokens: ask for more with --max-new-tokens" in capsys.readouterr().err


def test_what_was_changed_in_a_picture_is_told(model, capsys, tmp_path):
    frames = [Image.new("RGB", (60, 60), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert cli.main(["ask", "Q", "--image", str(tmp_path / "two.gif")]) == 0
    assert "workbench: two.gif: " in capsys.readouterr().err


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_between_two_tokens_and_keeps_the_trace(model, capsys, tmp_path):
    model.at = {1: lambda: signal.raise_signal(signal.SIGINT)}
    before = signal.getsignal(signal.SIGINT)
    path = tmp_path / "a.trace"
    assert cli.main(["ask", "Q", "--save", str(path)]) == 130
    out, err = capsys.readouterr()
    assert out == "A red\n"
    assert err.splitlines()[-1] == "workbench: stopped"
    assert Trace.load(path).finish == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(model, capsys):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model.at = {1: twice}
    assert cli.main(["ask", "Q"]) == 130
    assert "workbench: stopped" in capsys.readouterr().err


def test_ctrl_c_while_loading(monkeypatch, capsys):
    def load(name, progress):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(workbench.loading, "load", load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        assert cli.main(["ask", "Q"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


# --- bad input: found before the model is loaded ----------------------------------------------------------------------


def files(folder):
    (folder / "text.png").write_text("this is a text")
    (folder / "empty.png").touch()
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")
    (folder / "text.wav").write_text("this is a text")
    (folder / "folder.trace").mkdir()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["Q", "--image", "nowhere.png"], 1, "nowhere.png: there is no such file"),
        (["Q", "--image", "text.png"], 1, "text.png: this is no picture"),
        (["Q", "--image", "empty.png"], 1, "empty.png"),
        (["Q", "--image", "cut.jpg"], 1, "cut.jpg"),
        (["Q", "--audio", "text.wav"], 1, "text.wav"),
        ([""], 1, "The question is empty"),
        (["  \n"], 1, "The question is empty"),
        (["Q", "--save", "no/where/a.trace"], 1, "there is no folder"),
        (["Q", "--save", "folder.trace"], 1, "is a folder"),
        (["Q", "--temperature", "-1"], 2, "'-1': expected a number from 0 to 100"),
        (["Q", "--temperature", "nan"], 2, "'nan': expected a number from 0 to 100"),
        (["Q", "--top-p", "0"], 2, "'0': expected a number above 0 and up to 1"),
        (["Q", "--top-k", "-3"], 2, "'-3': expected a whole number from 0 to"),
        (["Q", "--max-new-tokens", "0"], 2, "'0': expected a whole number from 1 to"),
        (["Q", "--draft", "many"], 2, "'many': expected a whole number from 0 to 16"),
        (["Q", "--image-tokens", "71"], 2, "71"),
    ],
)
def test_bad_input_is_named_and_nothing_is_loaded(words, status, told, model, capsys, tmp_path, monkeypatch):
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    assert cli.main(["ask", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert "Traceback" not in err
    assert model.loaded == []
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(model, capsys, tmp_path):
    tmp_path.chmod(0o500)
    assert cli.main(["ask", "Q", "--save", str(tmp_path / "a.trace")]) == 1
    assert model.loaded == []


def test_a_place_that_refuses_a_file_is_told(model, capsys, tmp_path, monkeypatch):
    def refuse(**how):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
    assert cli.main(["ask", "Q", "--save", str(tmp_path / "a.trace")]) == 1
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
    assert model.loaded == []


def test_looking_whether_a_place_can_be_written_changes_nothing(model, capsys, tmp_path):
    (tmp_path / "a.trace").write_text("old")
    cli._check_writable(str(tmp_path / "a.trace"))
    assert (tmp_path / "a.trace").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_model_gets_the_nearest_name(capsys):
    assert cli.main(["ask", "Q", "--model", "pocked"]) == 1
    assert "Did you mean 'pocket'?" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch):
    def fail(name, progress):
        raise ModelError("no")

    monkeypatch.setattr(workbench.loading, "load", fail)
    assert cli.main(["ask", "Q"]) == 1
    with pytest.raises(ModelError, match="no"):
        cli.main(["ask", "Q", "--debug"])


def test_a_console_without_the_letters_gets_question_marks(model, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")
    model.trace = replace(make_trace(0, text="日本"), finish="stop_token")
    monkeypatch.setattr(sys, "stdout", console)
    assert cli.main(["ask", "Q", "--quiet"]) == 0
    console.seek(0)
    assert console.read() == "??\n"
    assert cli.main(["ask", "Q", "--quiet", "--json"]) == 0
    console.seek(3)
    assert json.loads(console.read())["text"] == "日本"


# --- view, doctor -----------------------------------------------------------------------------------------------------


def test_view_writes_a_page_beside_the_trace_without_torch(tmp_path):
    name = "a & b" if os.name == "nt" else "a <b>"  # Windows allows no < in names
    path = tmp_path / f"{name}.trace"
    make_trace(6).save(path)
    code = CODE.replace("sys.exit(main())", "main(); print([n for n in ('torch', 'IPython') if n in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, "view", str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / f"{name}.html"), "[]"]
    page = (tmp_path / f"{name}.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert f"<title>{html.escape(name)}.trace</title>" in page
    assert "circle" in page


def test_view_names_what_is_wrong(tmp_path, capsys):
    (tmp_path / "a.trace").write_text("no")
    assert cli.main(["view", str(tmp_path / "a.trace")]) == 1
    assert cli.main(["view", str(tmp_path / "none.trace")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "none.trace" in err
    make_trace(3).save(tmp_path / "b.trace")
    assert cli.main(["view", str(tmp_path / "b.trace"), "--out", str(tmp_path / "no" / "b.html")]) == 1
    assert cli.main(["view", str(tmp_path / "b.trace"), "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


def test_doctor_says_1_when_something_is_broken(monkeypatch, capsys):
    facts = doctor.probe()
    asked = []
    monkeypatch.setattr(doctor, "probe", lambda: facts)
    monkeypatch.setattr(doctor, "ask_pocket", lambda: asked.append(1) or doctor.Finding("Check", "broken", "no answer"))
    assert cli.main(["doctor", "--quick"]) == 0
    assert not asked
    capsys.readouterr()
    assert cli.main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["findings"][-1]["text"] == "no answer"
    assert said["facts"]["versions"]["torch"]
    monkeypatch.setattr(doctor, "probe", lambda: replace(facts, versions=facts.versions | {"torch": None}))
    assert cli.main(["doctor"]) == 0  # no torch: nothing to ask, and nothing broken
    assert len(asked) == 1


# --- on pocket --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pocket_answers_on_a_jpeg_of_another_size_and_on_a_voice(tmp_path, capsys):
    with Image.open(SCENE) as picture:
        picture.convert("RGB").resize((720, 504)).save(tmp_path / "photo.jpg", quality=70)
    words = ["ask", "How many shapes are there?", "--image", str(tmp_path / "photo.jpg"), "--temperature", "0"]
    assert cli.main([*words, "--save", str(tmp_path / "a.trace")]) == 0
    assert capsys.readouterr().out == "Three.\n"
    assert Trace.load(tmp_path / "a.trace").text == "Three."
    assert cli.main(["ask", "What word do you hear?", "--audio", str(SEVEN), "--temperature", "0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["text"] == "Seven."
    assert said["finish"] == "stop_token"
    assert np.isfinite([token["logprob"] for token in said["tokens"]]).all()


@pytest.mark.slow
def test_the_command_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, "ask", "What is at the top left?", "--image", str(SCENE)],
        capture_output=True, encoding="utf-8", check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_doctor_on_this_machine(capsys):
    assert cli.main(["doctor"]) == 0, capsys.readouterr().out
    assert "pocket loaded in" in capsys.readouterr().out


def test_the_examples_are_small_and_where_they_should_be():
    for path in (SCENE, PAIR, SEVEN):
        assert 0 < path.stat().st_size < 100_000
        assert path.parent == Path(workbench.__file__).parent / "pocket" / "examples"


def test_a_page_on_standard_output_is_utf_8_whatever_the_console_speaks(tmp_path):
    path = tmp_path / "a.trace"
    make_trace(text="␣ ↵ 你好").save(path)
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "workbench", "view", str(path), "--out"]
    out = subprocess.run([*command, "-"], capture_output=True, env=environment, check=True).stdout
    subprocess.run([*command, str(tmp_path / "a.html")], check=True, env=environment, capture_output=True)
    assert out.decode("utf-8") == (tmp_path / "a.html").read_text("utf-8")
    assert "×" in out.decode("utf-8")
