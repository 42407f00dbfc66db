"""Checking an answer: right, or a hint; after the last hint, a solution. What was tried is kept beside the notebook."""

from __future__ import annotations

import datetime as dt
import html
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.lessons.registry import Exercise, Wrong, find

__all__ = ["RECORD", "Checked", "check", "is_row", "read", "write"]

RECORD = ".workbench-answers.json"
"""What was answered so far, in the folder that the notebook runs in."""

_LONGEST = 2000


@dataclass(frozen=True)
class Checked:
    """What became of an answer. A notebook shows it in words.

    Attributes:
        exercise: Its name.
        right: Whether the answer was right; None when there was none.
        said: What there is to say about it.
        hint: The next hint; empty when the answer was right or there is none left.
        solution: Python; empty until all hints were shown.
        attempts: Wrong and right answers so far.
    """

    exercise: str
    right: bool | None
    said: str
    hint: str = ""
    solution: str = ""
    attempts: int = 0

    def __repr__(self) -> str:
        mark = {True: "✓ right", False: "✗ not yet", None: "○ not answered"}[self.right]
        lines = [f"{self.exercise}  {mark}. {self.said}"]
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        if self.solution:
            lines.append(f"One solution:\n\n{self.solution}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        mark = {True: "✓ Right.", False: "✗ Not yet.", None: "○ Not answered."}[self.right]
        edge = {True: "#009e73", False: "#d55e00", None: "#888888"}[self.right]
        hint = f"<div><b>Hint:</b> {html.escape(self.hint)}</div>" if self.hint else ""
        code = f"<div>One solution:</div><pre>{html.escape(self.solution)}</pre>" if self.solution else ""
        return (
            f'<div role="status" style="border-left: 4px solid {edge}; padding: 0.2em 0.8em">'
            f"<b>{html.escape(self.exercise)} {mark}</b> {html.escape(self.said)}{hint}{code}</div>"
        )


def check(exercise: str, answer: Any = ...) -> Checked:
    """Check an answer to an exercise of the lessons.

        lessons.check("04.2", answer)

    The first wrong answers get a hint each; the one after the last hint gets a solution. What was tried is kept in
    ``.workbench-answers.json`` in the present folder, for :func:`workbench.lessons.report`.

    Args:
        exercise: Lesson and number.
        answer: A value or a function, as the exercise says; ``...`` is no answer yet, and counts for nothing.

    Returns:
        Whether it was right, and what there is to say about it: the last line of a cell shows it.

    Raises:
        WorkbenchError: There is no such exercise, or the record cannot be read or written.
    """
    asked = find(exercise)
    record = read()
    mine = record.get(asked.name, {"attempts": 0, "hints": 0, "solution": False, "right": False, "answer": ""})
    if answer is ...:
        return Checked(asked.name, None, "Put your answer in the place of the dots.", attempts=int(mine["attempts"]))
    hint = solution = ""
    right = False
    try:
        said = _judged(asked, answer)
        right = True
    except Wrong as wrong:
        said = str(wrong)
        if mine["hints"] < len(asked.hints):
            hint = asked.hints[mine["hints"]]
        else:
            solution = asked.solution
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    if right or not mine["right"]:  # once right, a later slip changes nothing
        made = {
            "attempts": mine["attempts"] + 1, "hints": mine["hints"] + bool(hint),
            "solution": mine["solution"] or bool(solution), "right": right, "answer": _shown(answer),
            "last": now, "first": mine.get("first", now),
        }  # fmt: skip
        mine = mine if mine["right"] else made
        write({**record, asked.name: mine})
    return Checked(asked.name, right, said, hint, solution, int(mine["attempts"]))


def read(folder: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """What was answered in a folder, by exercise; empty where nothing was.

    Raises:
        WorkbenchError: The record is broken.
    """
    path = Path(folder or ".") / RECORD
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(record, dict) or not all(map(is_row, record.values())):
        raise _unreadable(path, "it is no record of answers")
    return record


def write(record: dict[str, dict[str, Any]]) -> None:
    """Keep what was answered; a crash leaves the old record or the new one.

    Raises:
        WorkbenchError: The folder cannot be written.
    """
    path = Path(RECORD)
    part = path.with_name(f"{RECORD}.{os.getpid()}")
    try:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(
            f"{path.absolute()} cannot be written ({error.strerror or error}). It keeps your answers; run the "
            "lesson in a folder of your own: workbench lab DIR"
        ) from error


def _unreadable(path: Path, why: str) -> WorkbenchError:
    return WorkbenchError(f"{path.absolute()} cannot be read ({why}). It keeps your answers; delete it to begin anew.")


def is_row(row: Any) -> bool:
    """Whether this is what is kept of one exercise."""
    kinds = {"attempts": int, "hints": int, "solution": bool, "right": bool, "answer": str}
    return isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in kinds.items())


def _judged(asked: Exercise, answer: Any) -> str:
    """What a check says; of what it cannot even read, which shapes and types can be many, that."""
    try:
        return asked.test(answer)
    except (TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise Wrong(
            f"Your answer, or what it returned, is of a form that cannot be compared ({type(error).__name__}: {error})."
        ) from error


def _shown(answer: Any) -> str:
    """An answer as text: a function's source where Python knows it."""
    text = repr(answer)
    if callable(answer):
        try:
            text = inspect.getsource(answer)
        except (OSError, TypeError):  # made by exec, or not in Python: its name must do
            text = repr(answer)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
