"""The frame of every question: what a prompt may show, what a task is, and how people type.

``TASKS`` is the registry: a task says what it must be shown and makes a ``Turn`` (question and answer) from it. A new
kind of question is one function with ``@task`` above it, in ``ask_pictures``, ``ask_sounds`` or ``ask_texts``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.pocket.world import COLOURS, DIGITS, SHAPES, Scene

if TYPE_CHECKING:
    from workbench.pocket.tones import Beeps

__all__ = ["TASKS", "WORDS", "Shown", "Task", "Turn", "as_typed", "task"]

WORDS = DIGITS + COLOURS + SHAPES


@dataclass(frozen=True)
class Shown:
    """What a prompt holds: at most one kind of picture and at most one kind of sound.

    Attributes:
        scene: a picture of shapes.
        word: a spoken word.
        after: a second picture, of the same scene with at most one change.
        digit: a picture of a handwritten digit.
        sheet: a picture of four of them, in reading order.
        beeps: a sound of beeps.
        odd: a picture of something that is not of this world.
    """

    scene: Scene | None = None
    word: str | None = None
    after: Scene | None = None
    digit: int | None = None
    sheet: tuple[int, ...] | None = None
    beeps: Beeps | None = None
    odd: bool = False

    @property
    def kinds(self) -> frozenset[str]:
        """What can be asked about: some of ``image, two, digit, sheet, odd, audio, beeps``."""
        there = {
            "image": self.scene is not None and self.after is None,
            "two": self.after is not None,
            "digit": self.digit is not None,
            "sheet": self.sheet is not None,
            "odd": self.odd,
            "audio": self.word is not None,
            "beeps": self.beeps is not None,
        }
        return frozenset(name for name, yes in there.items() if yes)

    @property
    def sees(self) -> bool:
        """Whether there is a picture of any kind."""
        return self.scene is not None or self.digit is not None or self.sheet is not None or self.odd

    @property
    def hears(self) -> bool:
        """Whether there is a sound of any kind."""
        return self.word is not None or self.beeps is not None


@dataclass(frozen=True)
class Turn:
    """A question, its answer and the task it belongs to."""

    question: str
    answer: str
    task: str


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        name: as in the card.
        make: Shown and a generator to (question, answer).
        needs: the kinds of ``Shown`` that must be there: ``"image"`` (a scene), ``"audio"`` (a word), ``"both"`` of
            these, ``"two"`` pictures, a ``"digit"``, a ``"sheet"`` of them, ``"beeps"``, an ``"odd"`` picture, or
            ``"none"`` (asked with anything or nothing).
        weight: how often it is asked among the tasks that fit.
        loss: weight of its answer's tokens in training.
        empty: whether it can be asked about a scene without any thing.
        when: what else must be true of what is shown.
    """

    name: str
    make: Callable[[Shown, np.random.Generator], tuple[str, str]]
    needs: str
    weight: float
    loss: float = 1.0
    empty: bool = False
    when: Callable[[Shown], bool] | None = None

    def fits(self, shown: Shown) -> bool:
        """Whether the question makes sense for what is shown."""
        if self.needs == "none":
            return True
        needed = {"image", "audio"} if self.needs == "both" else {self.needs}
        if not needed <= shown.kinds:
            return False
        if not self.empty and shown.scene is not None and not shown.scene.things:
            return False
        return self.when is None or self.when(shown)

    def turn(self, shown: Shown, rng: np.random.Generator) -> Turn:
        """Ask it."""
        question, answer = self.make(shown, rng)
        return Turn(as_typed(question, rng), answer, self.name)


TASKS: dict[str, Task] = {}


def task(
    name: str,
    needs: str,
    weight: float,
    loss: float = 1.0,
    *,
    empty: bool = False,
    when: Callable[[Shown], bool] | None = None,
):
    """Register the function below as a task."""

    def register(make: Callable[[Shown, np.random.Generator], tuple[str, str]]):  # noqa: ANN202
        TASKS[name] = Task(name, make, needs, weight, loss, empty, when)
        return make

    return register


def as_typed(question: str, rng: np.random.Generator) -> str:
    """As people type: with or without capitals, final punctuation, and now and then a slip of a letter."""
    kind = rng.random()
    if kind < 0.3:
        question = question.lower()
    elif kind < 0.33:
        question = question.upper()
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    if rng.random() < 0.03 and len(question) > 12:
        k = int(rng.integers(1, len(question)))
        question = question[:k] + question[k + 1 :]
    if rng.random() < 0.04:
        question = f"{question} please"
    return question


def pick(rng: np.random.Generator, options):  # noqa: ANN001, ANN201
    """One of some options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def a(name: str) -> str:
    """``"a circle"``."""
    return f"a {name}"


def listed(parts: list[str]) -> str:
    """``"x, y and z"``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def number(n: int) -> str:
    """``"Three."``."""
    return sentence(DIGITS[n])
