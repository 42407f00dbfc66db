"""`workbench gallery`: lessons run once become pages that need neither a kernel nor a network."""

import re

import pytest

from workbench import cli
from workbench.errors import WorkbenchError

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbconvert")
from widgets import gallery  # noqa: E402 (after what it needs)

CHART = {"data": [{"type": "bar", "x": ["</script><b>"], "y": [1]}], "layout": {"height": 300}}


def executed():
    """A notebook as it stands after a run, with every kind of output that the lessons have."""
    new = nbformat.v4
    show = [
        new.new_output("execute_result", {"application/vnd.plotly.v1+json": CHART}, execution_count=1),
        new.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "V"}
        ),
        new.new_output("display_data", {"text/html": "<div>a trace</div>", "text/plain": "Trace()"}),
        new.new_output("stream", name="stdout", text="7 rows <b>"),
    ]
    cells = [new.new_markdown_cell("# A title & more\n\nWords."), new.new_code_cell("x = 1", outputs=show)]
    return new.new_notebook(cells=cells)


def test_a_page_needs_nothing_from_outside():
    page = gallery.page(executed())
    outside = re.findall(r"(?:src|href)=[\"'](?!plotly\.min\.js|#|data:)([^\"']+)|@import|import\(", page)
    assert outside == []
    assert "http" not in re.sub(r"http://www\.w3\.org\S+", "", page)


def test_every_kind_of_output_is_on_the_page():
    page = gallery.page(executed())
    assert "<title>A title &amp; more</title>" in page
    assert page.count("Plotly.newPlot") == 1
    assert "\\u003c/script>\\u003cb>" in page  # what a chart holds cannot end its script
    assert "needs a running notebook" in page
    assert "<div>a trace</div>" in page
    assert "7 rows &lt;b&gt;" in page


def test_a_page_without_charts_loads_no_script():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Words")])
    assert "<script" not in gallery.page(notebook)


@pytest.fixture
def lessons(tmp_path):
    """Two lessons: a short one with a chart, and one that fails."""
    chart = "import plotly.graph_objects as go\ngo.Figure(go.Bar(y=[1, 2]))"
    for name, code in (("02_short", chart), ("03_broken", "1 / 0")):
        cells = [nbformat.v4.new_markdown_cell(f"# {name}"), nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


# jupyter_client and zmq leave their sockets to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_lessons_are_run_and_listed(lessons):
    told = []
    index, page = gallery.build(lessons / "out", lessons=lessons, names=["02"], say=told.append)
    assert index.read_text("utf-8").count('<a href="02_short.html">02 02_short</a>') == 1
    assert "Plotly.newPlot" in page.read_text("utf-8")
    assert told == [str(page)]
    assert (lessons / "out" / "plotly.min.js").stat().st_size > 1_000_000
    assert not list(lessons.glob("*.html"))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lesson_that_fails_is_named(lessons):
    with pytest.raises(WorkbenchError, match=r"(?s)03_broken\.ipynb does not run to its end.*ZeroDivisionError"):
        gallery.build(lessons / "out", lessons=lessons, names=["03"])


def test_a_lesson_that_is_not_there_is_told_before_anything_runs(tmp_path, capsys):
    assert cli.main(["gallery", str(tmp_path / "out"), "--lesson", "77"]) == 1
    assert "There is no lesson '77'; there are 00_welcome" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told(lessons):
    (lessons / "file").write_text("")
    with pytest.raises(WorkbenchError, match="Name another folder"):
        gallery.build(lessons / "file", lessons=lessons, names=["02"])
