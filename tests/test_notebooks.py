"""The lessons run from top to bottom, in a folder of their own, and say what they promise."""

import re
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

LESSONS = Path(__file__).resolve().parents[1] / "notebooks"


def text_of(cell):
    """What a cell printed or showed, as plain text."""
    outputs = cell.get("outputs", [])
    return "\n".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs)


@pytest.fixture(scope="module")
def welcome(tmp_path_factory):
    """The executed notebook: its cells by their tags, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("lesson, with spaces")
    shutil.copy(LESSONS / "00_welcome.ipynb", folder)
    notebook = nbformat.read(folder / "00_welcome.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises at the first cell that fails
    return {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}, folder


# jupyter_client and zmq leave their sockets to the garbage collector
quiet = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@quiet
@pytest.mark.slow
def test_the_easy_answers_are_right(welcome):
    cells, _ = welcome
    assert text_of(cells["count"]) == "'Three.'"
    assert "Seven." in text_of(cells["hear"])
    (shown,) = cells["both"]["outputs"]
    assert "seven" in shown["data"]["text/html"]


@quiet
@pytest.mark.slow
def test_what_the_words_around_it_say_is_so(welcome):
    cells, folder = welcome
    first, second, third = re.findall(r"^seed \d: (.+)$", text_of(cells["dice"]), re.MULTILINE)
    assert first == third != second
    assert "the same story: True" in text_of(cells["seed"])
    assert "70 tokens: 7 rows of 10" in text_of(cells["grid"])
    assert "I only know shapes, digits and sounds." in text_of(cells["limits"])
    assert "I see no picture." in text_of(cells["limits"])
    assert "not-a-picture.png" in text_of(cells["refused"])
    assert (folder / "my-first.trace").exists()


@quiet
@pytest.mark.slow
def test_traces_and_pictures_are_shown_and_nothing_complains(welcome):
    cells, _ = welcome
    for name in ("trace", "hard", "hear", "both", "save", "ask-own", "pair"):
        (shown,) = [o for o in cells[name]["outputs"] if o["output_type"] == "execute_result"]
        assert "text/html" in shown["data"], name
    for name in ("picture", "grid", "patch", "own"):
        assert any("image/png" in o.get("data", {}) for o in cells[name]["outputs"]), name
    for name, cell in cells.items():
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", f"{name}: {output['text']}"


@quiet
@pytest.mark.slow
def test_the_workbench_in_a_notebook(tmp_path):
    shutil.copy(LESSONS / "01_workbench.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "01_workbench.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    for name in ("bench", "tokens"):
        (shown,) = cells[name]["outputs"]
        assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(shown["data"]), name
    assert len(text_of(cells["sound"])) > 3  # some word: it is drawn
    assert (tmp_path / "first.trace").stat().st_size > 1000
    assert "default-src 'none'" in (tmp_path / "first.html").read_text("utf-8")
    for name, cell in cells.items():
        assert not [output for output in cell["outputs"] if output.get("name") == "stderr"], name


def test_no_cell_needs_a_file_from_outside_or_the_network():
    for path in LESSONS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not re.search(r"https?://", cell.source), path.name
                source = re.sub(r'api_name="/\w+"', "", cell.source)  # an endpoint of the demo, no path
                assert not re.search(r"[\"'](/|~|[A-Z]:\\)", source), path.name
