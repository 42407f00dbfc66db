"""The lessons with exercises run from top to bottom, show their pictures, and nothing in them complains."""

import re
import shutil
from pathlib import Path

import pytest

from workbench import lessons

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
RUN = (
    "02_picture_tokens", "03_sound_tokens", "04_next_word", "05_where_it_looks", "06_attention_or_not",
    "07_what_a_patch_means", "08_drafts", "09_four_bits",
    "10_your_own_demo", "11_the_real_thing",
)  # fmt: skip
LAB = "lab_90"
SAID = {
    "08_drafts": {"the same tokens: True": 2, "all four the same: True": 1},
    "10_your_own_demo": {"the same as here: True": 1},
    "lab_90": {"the same story: True": 1},
}
PICTURES = ("application/vnd.plotly.v1+json", "image/png", "text/html")


def cells(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


# jupyter_client and zmq leave their sockets to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUN, LAB])
def test_a_lesson_runs_from_top_to_bottom(name, tmp_path):
    shutil.copy(NOTEBOOKS / f"{name}.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=400, kernel_name="python3", resources=where).execute()
    shown = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", f"{cell.metadata.get('tags')}: {output.get('text')}"
            shown.setdefault(cell.metadata["tags"][0], []).append(output)
    pictures = [
        tag for tag, outputs in shown.items() if any(set(PICTURES[:2]) & set(o.get("data", ())) for o in outputs)
    ]
    assert len(pictures) >= 3, pictures
    said = "".join(o.get("text", "") for outputs in shown.values() for o in outputs)
    assert not re.search(r"the same[^:\n]*: False", said)
    for line, times in SAID.get(name, {}).items():
        assert said.count(line) == times, line
    for tag, outputs in shown.items():
        if tag.startswith("ex-"):
            assert "not answered" in outputs[-1]["data"]["text/plain"]


@pytest.mark.parametrize("name", RUN)
def test_a_lesson_asks_before_it_shows_and_ends_with_what_to_read(name):
    prose = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    assert prose.count("**Predict**") >= 4
    assert re.search(r"## What to read next\n(.*\n)*- .*\(\d{4}\)", prose)
    assert re.search(r"About \d\d minutes", prose)


@pytest.mark.parametrize("name", RUN)
def test_every_exercise_of_a_lesson_stands_in_it(name):
    code = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "code")
    asked = re.findall(r'lessons\.check\("([\d.]+)", answer\)', code)
    assert sorted(asked) == sorted(lessons.exercises(name[:2]))
    assert code.count("answer = ...") == len(asked)
    prose = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    assert all(f"**Exercise {one}" in prose for one in asked)


def test_the_lab_has_ninety_minutes_and_ends_with_the_report():
    prose = "\n".join(cell.source for cell in cells(LAB) if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells(LAB) if cell.cell_type == "code")
    assert sum(map(int, re.findall(r"^## \d\. .*\((\d+) minutes\)", prose, re.MULTILINE))) == 90
    asked = re.findall(r'lessons\.check\("([\d.]+)", answer\)', code)
    assert set(asked) <= set(lessons.exercises())
    assert str(tuple(asked)).replace("'", '"') in code  # what is looked for before the report is written
    assert "lessons.report(names)" in code


def test_no_lesson_is_left_out():
    assert {name[:2] for name in RUN} == {name.split(".")[0] for name in lessons.exercises()}
