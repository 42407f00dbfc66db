"""The lessons' exercises: every solution is right, wrong answers get hints and then the solution, and the hand-in."""

import json
import re

import numpy as np
import pytest

from workbench import lessons
from workbench.errors import WorkbenchError
from workbench.lessons import checking, handin

ALL = lessons.exercises()
WRONG = {"02": lambda *given: (1, 1), "03": lambda *given: 1.5, "04": lambda *given: -7, "08": lambda *given: "no"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A student's folder, where the notebook runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solved(name):
    names = {}
    exec(ALL[name].solution, names)
    return names["answer"]


# --- exercises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_solution_is_right(name):
    done = lessons.check(name, solved(name))
    assert done.right is True, done
    assert done.said
    assert (done.hint, done.solution, done.attempts) == ("", "", 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wrong", ["text", None, [], -1, float("nan"), np.zeros((2, 2)), print])
def test_a_wrong_answer_of_any_type_is_told_in_words(name, wrong):
    done = lessons.check(name, wrong)
    assert done.right is False
    assert done.said
    assert done.hint == ALL[name].hints[0]


@pytest.mark.parametrize("name", ALL)
def test_exercises_are_written_for_a_student(name):
    one = ALL[name]
    assert re.fullmatch(r"\d\d\.\d", one.name)
    assert len(one.hints) == 2
    assert "answer" in one.solution
    assert one.title


def test_almost_right_answers_are_told_what_is_off():
    def swapped(width, height, budget):
        return solved("02.1")(width, height, budget)[::-1]

    assert "Rows come first" in lessons.check("02.1", swapped).said
    assert "not from the first token" in lessons.check("02.2", lambda s, x, y: solved("02.2")(s, x, y) - s.start).said
    assert "has shape (6, 6912); expected (96, 144, 3)" in lessons.check("02.3", lambda v, r, c: v).said
    assert "At 341 Hz" in lessons.check("03.2", 341).said
    assert "only 0.50" in lessons.check("04.2", lambda p, top_p: 1).said
    assert "followed the wrong draft" in lessons.check("08.1", lambda drafts, words: words).said
    assert "raised SystemExit" in lessons.check("08.2", lambda a, drafts: raise_(SystemExit(3))).said
    assert "is 0.5; expected another number" in lessons.check("08.2", lambda a, drafts: 0.5).said
    assert "raised ZeroDivisionError" in lessons.check("08.2", lambda a, drafts: 1 / 0).said


# --- hints, then the solution -----------------------------------------------------------------------------------------


def test_hints_come_one_by_one_and_then_the_solution():
    first, second, third, fourth = (lessons.check("04.2", WRONG["04"]) for _ in range(4))
    assert [first.hint, second.hint] == list(ALL["04.2"].hints)
    assert (first.solution, second.solution) == ("", "")
    assert third.solution == fourth.solution == ALL["04.2"].solution
    assert (third.hint, third.attempts) == ("", 3)
    assert "One solution:" in repr(third)
    assert "def answer" in third._repr_html_()


def test_no_answer_counts_for_nothing(folder):
    done = lessons.check("02.1", ...)
    assert done.right is None
    assert "○ not answered" in repr(done)
    assert not (folder / checking.RECORD).exists()


def test_what_was_right_stays_right():
    lessons.check("03.2", 350)
    assert lessons.check("03.2", 341).right is False
    assert checking.read()["03.2"]["right"] is True
    assert checking.read()["03.2"]["answer"] == "350"


def test_an_exercise_that_does_not_exist():
    with pytest.raises(WorkbenchError, match=r"no exercise '04.9'; there are 04.1, 04.2, 04.3"):
        lessons.check("04.9", 1)
    with pytest.raises(WorkbenchError, match=r"no exercise 4.2; there are 02.1"):
        lessons.check(4.2, 1)


def test_a_students_text_is_shown_as_text():
    def answer(*given):
        raise ValueError("<script>alert(1)</script>")

    shown = lessons.check("02.1", answer)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("broken", ["[1", "[]", '{"02.1": 3}', '{"02.1": {"attempts": "x"}}'])
def test_a_broken_record_is_said_and_not_overwritten(folder, broken):
    (folder / checking.RECORD).write_text(broken)
    with pytest.raises(WorkbenchError, match="delete it to begin anew"):
        lessons.check("02.1", 1)
    assert (folder / checking.RECORD).read_text() == broken


# --- handing in -------------------------------------------------------------------------------------------------------


def test_a_report_is_one_page_that_holds_no_script_and_reads_back(folder):
    lessons.check("03.2", 341)
    lessons.check("03.2", 350)
    lessons.check("04.2", "</script><b>mine</b>")
    path = lessons.report("Ada & Émile/../x")
    assert path.name == "report-Ada-Émile-x.html"
    page = path.read_text("utf-8")
    assert f"1 of {len(ALL)} exercises right" in page
    assert page.count("<script") == page.count("</script>") == 1
    assert "&lt;b&gt;mine" in page
    assert "default-src 'none'" in page
    table = lessons.collect(folder)
    assert table.columns.tolist() == ["file", "name", "right", "03.2", "04.2"]
    assert table.iloc[0].tolist()[1:] == ["Ada & Émile/../x", 1, "right, 2 tries, hints 1", "not yet, 1 tries"]


def test_a_class_becomes_a_table(folder, tmp_path, monkeypatch):
    for name, answer in (("Bo", 350), ("Cy", 341)):
        (folder / name).mkdir()
        monkeypatch.chdir(folder / name)
        lessons.check("03.2", answer)
        lessons.report(name, folder / f"{name}.html")
    table = lessons.collect(folder)
    assert table["name"].tolist() == ["Bo", "Cy"]
    assert table["03.2"].tolist() == ["right", "not yet, 1 tries"]


def test_a_page_cannot_take_the_columns_of_the_table_or_run_in_a_spreadsheet(folder):
    lessons.check("03.2", 350)
    path = lessons.report("=1+1")
    page = path.read_text("utf-8")
    row = json.dumps(json.loads(handin._DATA.search(page).group(1))["exercises"]["03.2"])
    path.write_text(page.replace('"exercises": {', f'"exercises": {{"right": {row}, "file": {row}, "99.9": {row}, '))
    table = lessons.collect(folder)
    assert table.columns.tolist() == ["file", "name", "right", "03.2"]
    assert table.iloc[0].tolist() == ["report-1-1.html", "'=1+1", 1, "right"]
    path.rename(folder / "=1+1.html")
    assert lessons.collect(folder)["file"].tolist() == ["'=1+1.html"]
    deep = "[" * 100_000
    (folder / "deep.html").write_text(f'<script type="application/json" id="workbench-report">{deep}</script>')
    with pytest.raises(WorkbenchError, match=r"deep\.html"):
        lessons.collect(folder)


def test_reports_that_cannot_be(folder):
    with pytest.raises(WorkbenchError, match="no answers"):
        lessons.report()
    with pytest.raises(WorkbenchError, match="expected a name"):
        lessons.report(3)
    with pytest.raises(WorkbenchError, match="put the reports"):
        lessons.collect(folder)
    for text in ("<p>a page", '<script type="application/json" id="workbench-report">{"name": 1}</script>'):
        (folder / "other.html").write_text(text)
        with pytest.raises(WorkbenchError, match=r"other\.html"):
            lessons.collect(folder)


def test_the_record_is_json_that_a_person_can_read(folder):
    lessons.check("03.2", 350)
    record = json.loads((folder / checking.RECORD).read_text("utf-8"))
    assert record["03.2"]["attempts"] == 1
    assert record["03.2"]["first"] == record["03.2"]["last"]


def raise_(error):
    raise error
