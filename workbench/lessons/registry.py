"""What an exercise is, and where all of them are found.

An exercise's check computes what is right, from the model at hand where it is about the model: no answer is written
down anywhere. Each has hints, and a solution that is a few lines of Python which end in ``answer``; a test runs every
solution against its check.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError

__all__ = ["LESSONS", "Exercise", "Wrong", "called", "exercise", "exercises", "find", "numbers", "whole"]

LESSONS = ("02", "03", "04", "05", "06", "07", "08", "09", "10", "11")
"""Lessons that have exercises; those of lesson 02 stand in ``workbench.lessons.lesson_02``."""

_ALL: dict[str, Exercise] = {}


class Wrong(Exception):  # noqa: N818 (it is no error: it says what is not right yet)
    """Raised by a check; its text tells the student what came and what was expected."""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson, with its check.

    Attributes:
        name: Lesson and number: ``"04.2"``.
        title: A few words, for the report.
        hints: Shown one by one, after each wrong answer.
        solution: Python that ends with ``answer = …``; shown after the last hint.
        test: Takes the answer; raises :class:`Wrong`, or returns what there is to say about a right one.
    """

    name: str
    title: str
    hints: tuple[str, ...]
    solution: str
    test: Callable[[Any], str]


def exercise(
    name: str, title: str, *, hints: tuple[str, ...], solution: str
) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    """Enter a check under a name."""

    def enter(test: Callable[[Any], str]) -> Callable[[Any], str]:
        _ALL[name] = Exercise(name, title, hints, solution.strip() + "\n", test)
        return test

    return enter


def exercises(lesson: str | None = None) -> dict[str, Exercise]:
    """All exercises in order, or those of one lesson (``"04"``), by name."""
    for number in LESSONS:
        importlib.import_module(f"workbench.lessons.lesson_{number}")
    return {name: _ALL[name] for name in sorted(_ALL) if lesson is None or name.split(".")[0] == lesson}


def find(name: Any) -> Exercise:
    """The exercise of a name.

    Raises:
        WorkbenchError: There is none; the message says which there are.
    """
    known = exercises()
    if isinstance(name, str) and name in known:
        return known[name]
    near = [n for n in known if isinstance(name, str) and n.split(".")[0] == name.split(".")[0]]
    raise WorkbenchError(f"There is no exercise {name!r}; there are {', '.join(near or known)}.")


# --- for checks -------------------------------------------------------------------------------------------------------


def called(answer: Any, *given: Any, shown: str) -> Any:
    """What the student's function returns.

    Args:
        answer: What was handed to the check.
        given: Its arguments.
        shown: The call in words, for messages: ``"answer(480, 336, 70)"``.

    Raises:
        Wrong: It is no function, or raised something.
    """
    if not callable(answer):
        raise Wrong(f"This exercise wants a function; {_short(answer)} is {type(answer).__name__}.")
    try:
        out = answer(*given)
    except (Exception, SystemExit) as error:  # whatever a student's code does wrong is the student's to read
        raise Wrong(f"{shown} raised {type(error).__name__}: {error}") from error
    if out is None:
        raise Wrong(f"{shown} returned None. Is there a return in it?")
    return out


def numbers(value: Any, like: Any, shown: str, *, within: float = 1e-4) -> None:
    """Compare an array with what is right.

    Raises:
        Wrong: It is no array of numbers, of another shape, or too far off.
    """
    right = np.asarray(like, np.float64)
    try:
        got = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"{shown} is {_short(value)}; expected numbers.") from None
    if got.shape != right.shape:
        raise Wrong(f"{shown} has shape {got.shape}; expected {right.shape}.")
    off = np.abs(got - right)
    if not np.isfinite(got).all() or (off > within * np.maximum(1, np.abs(right))).any():
        if not right.ndim:
            raise Wrong(f"{shown} is {_short(got[()])}; expected another number.")
        where = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(off, nan=np.inf).argmax()), off.shape))
        raise Wrong(f"{shown} has the right shape, but a wrong number at {list(where)}: {_short(got[where])}.")


def whole(value: Any, shown: str) -> int:
    """A whole number.

    Raises:
        Wrong: It is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"{shown} is {_short(value)}; expected a whole number.") from None
    if number != int(number) if np.isfinite(number) else True:
        raise Wrong(f"{shown} is {_short(value)}; expected a whole number.")
    return int(number)


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:59] + "…"
