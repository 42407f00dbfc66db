"""What can be asked about the world, in many wordings, and the one right answer to each."""

from __future__ import annotations

import numpy as np

from workbench.pocket.ask_pictures import UNKNOWN, describe, picture_said
from workbench.pocket.ask_sounds import sound_said
from workbench.pocket.ask_texts import off_world_questions
from workbench.pocket.asking import TASKS, WORDS, Shown, Task, Turn, as_typed, pick
from workbench.pocket.tones import Beeps
from workbench.pocket.world import random_scene

__all__ = [
    "TASKS", "UNKNOWN", "WORDS", "Shown", "Task", "Turn", "as_typed", "describe", "missing", "off_world_questions",
    "picture_said", "random_turn", "sound_said",
]  # fmt: skip

BLIND = "I see no picture."
DEAF = "I hear nothing."


def missing(shown: Shown, rng: np.random.Generator) -> Turn | None:
    """A question about a picture or a sound that is not there; None when both are."""
    lacks = [medium for medium, there in (("image", shown.sees), ("audio", shown.hears)) if not there]
    if not lacks:
        return None
    need = pick(rng, lacks)
    pretend = Shown(random_scene(rng, 1, 1), pick(rng, WORDS), digit=3, sheet=(1, 2, 3, 4), beeps=Beeps(2, high=True))
    about = ("image", "image", "image", "digit") if need == "image" else ("audio", "audio", "beeps")
    chosen = pick(rng, about)
    kinds = [t for t in TASKS.values() if t.needs == chosen and t.fits(pretend) and t.name != "story"]
    turn = pick(rng, kinds).turn(pretend, rng)
    return Turn(turn.question, BLIND if need == "image" else DEAF, "missing")


def random_turn(shown: Shown, rng: np.random.Generator, tasks: tuple[str, ...] | None = None) -> Turn:
    """One question that fits what is shown, tasks drawn by their weights."""
    kinds = [t for t in TASKS.values() if t.fits(shown) and (tasks is None or t.name in tasks)]
    weights = np.array([t.weight for t in kinds])
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))].turn(shown, rng)
