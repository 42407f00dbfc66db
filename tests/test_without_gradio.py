"""Where Gradio is not installed: the demo says what it needs, and lesson 10 goes on without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.versions import installing

ROOT = Path(__file__).resolve().parents[1]
HIDE = """\
import importlib.machinery as machinery

real = machinery.PathFinder.find_spec
hidden = {"gradio", "gradio_client", "segno"}
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in hidden else real(name, path, target)
)
"""


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """Every Python started from here on finds no Gradio; returns its environment."""
    folder = tmp_path / "hide"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)  # run by each Python as it starts
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(ROOT))))
    return dict(os.environ)


def python(code, environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, env=environment
    )


def test_gradio_is_hidden_and_the_rest_is_there(hidden):
    code = "import importlib.util as u; print(*[u.find_spec(n) is None for n in ('gradio', 'gradio_client', 'numpy')])"
    assert python(code, hidden).stdout.split() == ["True", "True", "False"]


def test_the_command_says_what_it_needs(hidden):
    done = python("import sys; from workbench.cli import main; sys.exit(main(['demo']))", hidden)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip() == (
        f"workbench: The demo needs gradio: python -m pip install {installing('demo')}, or python start.py demo."
    )


def test_from_python_it_is_an_error_of_ours_and_a_replay_needs_none(hidden):
    code = """if True:
        from widgets import demo
        from workbench import WorkbenchError
        print(demo.Replay.__name__, demo.Limits.__name__)
        try:
            demo.build(None)
        except WorkbenchError as error:
            print(error)
    """
    lines = python(code, hidden).stdout.splitlines()
    assert lines == [
        "Replay Limits",
        f"The demo needs gradio: python -m pip install {installing('demo')}, or python start.py demo.",
    ]  # fmt: skip


# jupyter_client and zmq leave their sockets to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_lesson_10_says_so_and_runs_to_its_end(hidden, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    shutil.copy(ROOT / "notebooks" / "10_your_own_demo.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "10_your_own_demo.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    said = {tag: "".join(out.get("text", "") for out in cell.outputs) for tag, cell in cells.items()
            if cell.cell_type == "code"}  # fmt: skip
    assert "Gradio is not installed here" in said["gradio"]
    assert ".[demo]" in said["gradio"]
    assert [said[tag] for tag in ("launch", "ask", "four", "check")] == [""] * 4
    assert "--share puts this machine's model on a public address" in said["refused"]
    assert "what you can give away" in said["close"]
