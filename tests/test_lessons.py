"""`workbench lab`: what is copied, what is kept, and a JupyterLab for this machine alone that fetches nothing."""

import importlib.util
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from workbench import cli, versions
from workbench.errors import WorkbenchError
from workbench.lessons import copies as lessons

CODE = "import sys; from workbench.cli import main; sys.exit(main())"


@pytest.fixture
def ours(tmp_path):
    """Lessons to copy: two notebooks, one in a folder, and rubbish that is nobody's."""
    folder = tmp_path / "ours"
    (folder / "more").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "00_welcome.ipynb").write_text("one")
    (folder / "more" / "01.ipynb").write_text("two")
    (folder / ".ipynb_checkpoints" / "00_welcome.ipynb").write_text("rubbish")
    return folder


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


# --- copying ----------------------------------------------------------------------------------------------------------


def test_lessons_are_copied_into_a_new_folder(ours, tmp_path):
    goal = tmp_path / "my folder" / "é"
    done = lessons.copy(goal, ours)
    assert done.new == ("00_welcome.ipynb", "more/01.ipynb")
    assert done.kept == ()
    assert content(goal) == {"00_welcome.ipynb": "one", "more/01.ipynb": "two"}


def test_a_second_time_changes_nothing(ours, tmp_path):
    lessons.copy(tmp_path / "mine", ours)
    assert lessons.copy(tmp_path / "mine", ours).new == ()


def test_an_edited_copy_is_never_overwritten_and_untouched_ones_are_brought_up_to_date(ours, tmp_path):
    goal = tmp_path / "mine"
    lessons.copy(goal, ours)
    (goal / "00_welcome.ipynb").write_text("one, edited")
    assert lessons.copy(goal, ours).kept == ()  # ours is the one that was edited: nothing to say
    (ours / "00_welcome.ipynb").write_text("one, new edition")
    (ours / "more" / "01.ipynb").write_text("two, new edition")
    done = lessons.copy(goal, ours)
    assert (done.new, done.kept) == (("more/01.ipynb",), ("00_welcome.ipynb",))
    assert content(goal) == {"00_welcome.ipynb": "one, edited", "more/01.ipynb": "two, new edition"}
    assert lessons.copy(goal, ours).kept == ("00_welcome.ipynb",)


def test_a_file_of_that_name_that_we_never_copied_is_theirs(ours, tmp_path):
    goal = tmp_path / "mine"
    goal.mkdir()
    (goal / "00_welcome.ipynb").write_text("my own")
    assert lessons.copy(goal, ours).kept == ("00_welcome.ipynb",)
    assert content(goal)["00_welcome.ipynb"] == "my own"


def test_a_broken_record_means_that_everything_is_theirs(ours, tmp_path):
    goal = tmp_path / "mine"
    lessons.copy(goal, ours)
    (goal / ".workbench-lessons.json").write_text("[1")
    (ours / "00_welcome.ipynb").write_text("new")
    assert lessons.copy(goal, ours).kept == ("00_welcome.ipynb",)


def test_their_own_folder_is_used_as_it_is(ours):
    before = content(ours)
    assert lessons.copy(ours, ours).new == ()
    assert content(ours) == before
    assert not (ours / ".workbench-lessons.json").exists()


def test_a_place_that_cannot_be_a_folder_is_told(ours, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError, match=r"cannot be copied to .*file.*Name another folder"):
        lessons.copy(tmp_path / "file", ours)


def test_the_lessons_of_this_checkout_are_found():
    assert (lessons.source() / "00_welcome.ipynb").is_file()


def test_an_installation_without_lessons_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "__file__", str(tmp_path / "workbench" / "lessons" / "copies.py"))
    with pytest.raises(WorkbenchError, match="The lessons are missing"):
        lessons.source()


# --- the command ------------------------------------------------------------------------------------------------------


def test_jupyterlab_listens_here_alone_and_asks_nobody(tmp_path):
    (tmp_path / "00_welcome.ipynb").touch()
    words = lessons.command(tmp_path, 8901, browser=True)
    assert words[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in words
    assert "--LabApp.default_url=/lab/tree/00_welcome.ipynb" in words
    assert "--LabApp.news_url=None" in words
    assert "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate" in words
    assert "--LabApp.extension_manager=readonly" in words
    assert "--no-browser" not in words
    assert "--no-browser" in lessons.command(tmp_path, 8901, browser=False)
    assert not any("token" in word.lower() for word in words)  # other users can read the arguments of a program


def test_jupyter_has_folders_of_this_time_where_it_can_write_into_none_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    said = []
    with lessons._own_folders(said.append) as own:
        assert (own, said) == ({}, [])
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "below"))
    with lessons._own_folders(said.append) as own:
        assert {*own} == {"JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"}
        folder = Path(own["JUPYTER_DATA_DIR"]).parent
        assert folder.is_dir()
        assert str(folder) in said[0]
        assert "for this time only" in said[0]
    assert not folder.exists()


def test_without_jupyterlab_there_is_the_command_that_installs_it(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        lessons.importlib.util, "find_spec", lambda name, *more: None if name == "jupyterlab" else find(name, *more)
    )
    assert cli.main(["lab", str(tmp_path / "mine"), "--no-browser"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f'pip install -e "{versions.checkout()}[lab,model]"' in err
    assert (tmp_path / "mine" / "00_welcome.ipynb").exists()


def test_a_port_that_is_taken_is_told_and_otherwise_passed_by(tmp_path, monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["lab", str(tmp_path / "mine"), "--no-browser", "--port", str(port)]) == 1
        assert f"Port {port} is taken" in capsys.readouterr().err
        monkeypatch.setattr(lessons, "_PORT", port)
        assert lessons._free_port(None) > port


def test_what_was_copied_and_kept_is_said(tmp_path, monkeypatch, capsys):
    goal = tmp_path / "mine"
    goal.mkdir()
    (goal / "00_welcome.ipynb").write_text("my own")
    monkeypatch.setattr(
        "workbench.lessons.run", lambda folder, browser, port, say: say(f"{folder} {browser} {port}") or 0
    )
    assert cli.main(["lab", str(goal), "--no-browser"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{goal} False None\n"
    assert "00_welcome.ipynb is yours and was kept" in err
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab"]) == 0
    assert (tmp_path / lessons.FOLDER / "00_welcome.ipynb").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one child there")
def test_jupyterlab_starts_prints_its_address_and_offers_no_news(tmp_path):
    command = [sys.executable, "-c", CODE, "lab", "mine é", "--no-browser"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    lines = queue.Queue()
    readers = [
        threading.Thread(target=lambda s=stream: [lines.put(line) for line in s], daemon=True)
        for stream in (child.stderr, child.stdout)
    ]
    for reader in readers:
        reader.start()
    try:
        said = []
        while not said or not said[-1].startswith("http"):
            said.append(lines.get(timeout=90))
        address = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/lab/tree/00_welcome\.ipynb\?token=(\S+)\n", said[-1])
        page = get(f"{address[0].strip()}")
        config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
        assert config["news"] == {"disabled": True}
        assert "@jupyterlab/apputils-extension:announcements" in config["disabledExtensions"]
        assert config["extensionManager"]["name"] == "read-only"
        assert json.loads(get(f"{address[1]}/api/contents?token={address[2]}"))["content"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(f"{address[1]}/api/contents")
        assert Path(tmp_path / "mine é" / "00_welcome.ipynb").exists()
    finally:
        for _ in range(2):  # the second one does without JupyterLab's question
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGINT)
                try:
                    child.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    continue
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=30)
        for reader in readers:
            reader.join(timeout=10)
        child.stdout.close()
        child.stderr.close()
    assert child.returncode in (0, 130)


def get(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()
