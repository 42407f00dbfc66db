"""Exercises of lesson 04: the next word."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []


@exercise(
    "04.1", "probabilities at a temperature",
    hints=(
        "Divide the logits by the temperature first, then take the soft-max: exp of each, divided by the sum of all.",
        "exp of a large number is infinite. Take the largest logit away from all of them first: nothing changes.",
    ),
    solution="""
import numpy as np

def answer(logits, temperature):
    heat = (logits - logits.max()) / temperature
    return np.exp(heat) / np.exp(heat).sum()
""",
)  # fmt: skip
def softmax(answer: Any) -> str:
    """A function of logits and a temperature."""
    rng = np.random.default_rng(4)
    cases = [(rng.normal(0, 3, 7), t) for t in (1.0, 0.5, 2.0)] + [(np.array([1000.0, 999.0, 0.0]), 1.0)]
    for logits, temperature in cases:
        heat = (logits - logits.max()) / temperature
        right = np.exp(heat) / np.exp(heat).sum()
        shown = f"answer({np.round(logits, 1).tolist()}, {temperature})"
        with np.errstate(over="ignore", invalid="ignore"):
            got = called(answer, logits, temperature, shown=shown)
        numbers(got, right, shown, within=1e-6)
    return "Low temperatures sharpen the distribution, high ones flatten it; the order of the words stays."


@exercise(
    "04.2", "how many words top-p keeps",
    hints=(
        "Sort from the most probable down, and add up. A word stays as long as the sum before it is below top_p.",
        "The word that crosses the line stays: what is kept must hold at least top_p. So the first one always stays.",
    ),
    solution="""
import numpy as np

def answer(probabilities, top_p):
    falling = np.sort(probabilities)[::-1]
    before = np.cumsum(falling) - falling
    return int((before < top_p).sum())
""",
)  # fmt: skip
def nucleus(answer: Any) -> str:
    """A function of probabilities and top_p."""
    cases = (([0.5, 0.25, 0.15, 0.1], 0.7), ([0.1, 0.5, 0.15, 0.25], 0.8), ([0.9, 0.06, 0.04], 0.5),
             ([0.05] * 20, 0.33), ([0.6, 0.3, 0.1], 0.95), ([0.5, 0.25, 0.25], 0.75))  # fmt: skip
    for case, top_p in cases:
        p = np.array(case)
        falling = np.sort(p)[::-1]
        right = int((np.cumsum(falling) - falling < top_p - 1e-12).sum())
        shown = f"answer({case if len(case) < 9 else '20 times 0.05'}, {top_p})"
        got = whole(called(answer, p, top_p, shown=shown), shown)
        if got != right:
            held = falling[:got].sum() if got > 0 else 0
            few = f"those hold only {held:.2f}" if held < top_p - 1e-9 else "fewer would do"
            raise Wrong(f"{shown} is {got}: {few}.")
    return "A sure model is left with one word, an unsure one with many: top-p adapts where top-k cannot."


@exercise(
    "04.3", "where a coin decided",
    hints=(
        "trace.tokens.margin is how far the first choice lies above the second, in nats. You want the smallest.",
        "numpy's argmin gives the place of the smallest number.",
    ),
    solution="""
import workbench
from workbench.pocket.examples import SCENE

story = workbench.load().ask("Tell me a story.", images=[SCENE], temperature=0)
answer = int(story.tokens.margin.argmin())
""",
)  # fmt: skip
def closest(answer: Any) -> str:
    """The index of the token with the smallest margin in the greedy story about SCENE."""
    from workbench.loading import load
    from workbench.pocket.examples import SCENE

    story = load(progress=False).ask("Tell me a story.", images=[SCENE], temperature=0)
    k = whole(answer, "Your answer")
    tokens = story.tokens
    if not 0 <= k < len(tokens):
        raise Wrong(f"There is no token {k}: this story has {len(tokens)}, counted from 0.")
    if tokens.margin[k] > tokens.margin.min():
        raise Wrong(
            f"At token {k}, {tokens.piece[k]!r}, the first choice is {np.exp(tokens.margin[k]):.1f} times as probable "
            "as the second. There is a closer call."
        )
    first, second = (piece for piece, _ in tokens.alternatives(k)[:2])
    return f"{first!r} was only {np.exp(tokens.margin[k]):.2f} times as probable as {second!r}."
