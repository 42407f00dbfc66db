"""What shapes the pocket model: steps, learning rates, and what its batches are made of, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from workbench.pocket.data import Mix

__all__ = ["POCKET", "Phase", "Recipe"]


@dataclass(frozen=True)
class Phase:
    """Batches and helping losses that hold up to a step.

    Attributes:
        until: the first step that is no longer of it.
        mix, look, hear, find: as in ``Recipe``.
    """

    until: int
    mix: Mix
    look: float
    hear: float
    find: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result. Two runs of equal recipes are the same run.

    Attributes:
        flat: share of the steps before the learning rates begin to fall.
        floor: what is left of them at the end.
        tail: share of the steps, the last ones, whose mean the finished weights are; 0: those of the last step.
        look: weight of a second loss: a linear head, thrown away afterwards, reads off every image token's hidden state
            in the middle of the network what fills that ninth of the picture (see ``aids``).
        hear: weight of a third one: two more such heads read each frame's mel spectrum off the second layer, and off the
            one of index ``late``, towards a word's end, which word it is. A word's answer is one token among hundreds.
        find: weight of a fourth one: a last such head reads off every word for a colour or a shape where there is any.
        mix: what batches are made of.
        early: phases before that, in order, with a mix and helping losses of their own. Eyes and ears come first, and one
            curve of learning rates goes over all of them.
    """

    steps: int = 1000
    seed: int = 1
    muon: float = 0.02
    adam: float = 1e-3
    warmup: int = 60
    flat: float = 0.0
    floor: float = 0.05
    tail: float = 0.0
    clip: float = 1.0
    voices: int = 360
    look: float = 0.0
    hear: float = 0.0
    find: float = 0.0
    late: int = 3
    mix: Mix = field(default_factory=Mix)
    early: tuple[Phase, ...] = ()

    def factor(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, flat, then cosine down to ``floor``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        start = max(self.warmup, self.flat * self.steps)
        done = max(0.0, (step - start) / max(1, self.steps - start))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))

    def phase(self, step: int) -> Phase:
        """What holds at a step."""
        late = Phase(self.steps, self.mix, self.look, self.hear, self.find)
        return next((phase for phase in self.early if step < phase.until), late)


POCKET = Recipe(
    steps=8400, muon=0.02, adam=1e-3, flat=0.4, floor=0.03, tail=0.06, late=2,
    early=(
        Phase(900, Mix(
            rows=24, length=128, image=0.60, both=0.04, audio=0.32, text=0.04, budget=118, most=3, crowd=0.5, digit=0.06,
            sheet=0.04, odd=0.02, two=0.04, beeps=0.2, drill=0.3, once=0.6,
        ), look=1.0, hear=1.0, find=0.2),
        Phase(1800, Mix(
            rows=24, length=160, image=0.40, both=0.11, audio=0.45, text=0.04, budget=152, most=4, crowd=0.3, digit=0.16,
            sheet=0.14, two=0.08, beeps=0.3, drill=0.3, strange=0.15, once=0.6,
        ), look=1.0, hear=1.0, find=0.2),
        Phase(3100, Mix(
            rows=20, length=200, image=0.49, both=0.14, audio=0.33, text=0.04, budget=194, most=6, crowd=0.12, digit=0.1,
            sheet=0.14, two=0.17, beeps=0.32, together=0.45, alike=0.3, still=0.12, many=0.5, flock=0.2, drill=0.3,
            strange=0.25, once=0.6,
        ), look=1.0, hear=0.8, find=0.3),
        Phase(5000, Mix(
            rows=20, length=200, image=0.46, both=0.13, audio=0.35, text=0.06, budget=194, most=6, crowd=0.06, digit=0.08,
            sheet=0.13, two=0.17, beeps=0.32, together=0.45, alike=0.3, still=0.12, many=0.55, flock=0.25, drill=0.34,
            strange=0.25, once=0.6,
        ), look=0.5, hear=0.8, find=0.3),
    ),
    look=0.3, hear=0.8, find=0.25,
    mix=Mix(
        rows=20, length=200, image=0.46, both=0.13, audio=0.35, text=0.06, budget=194, most=6, digit=0.05, sheet=0.1,
        odd=0.05, two=0.16, beeps=0.3, together=0.4, alike=0.35, still=0.12, many=0.6, flock=0.3, drill=0.38,
        strange=0.3, once=0.6,
    ),
)  # fmt: skip
