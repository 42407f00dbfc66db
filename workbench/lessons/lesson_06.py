"""Exercises of lesson 06: is attention an explanation?"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []


@exercise(
    "06.1", "where hiding costs most",
    hints=(
        "blocks.values has what the answer loses without each patch and its neighbours. Where is it largest?",
        "argmax counts patch by patch; numpy.unravel_index(number, blocks.values.shape) makes (row, column) of it.",
    ),
    solution="""
import numpy as np
import workbench
from workbench.pocket.examples import SCENE

model = workbench.load()
trace = model.ask("What is at the top left?", images=[SCENE], temperature=0)
blocks = model.occlude(trace, size=3)
answer = np.unravel_index(blocks.values.argmax(), blocks.values.shape)
""",
)  # fmt: skip
def worst(answer: Any) -> str:
    """The (row, column) that the answer about SCENE's top left loses most without."""
    from workbench.loading import load
    from workbench.pocket.examples import SCENE

    if not isinstance(answer, (tuple, list, np.ndarray)) or np.shape(answer) != (2,):
        raise Wrong(f"{answer!r:.60} is no place; expected two numbers, (row, column).")
    row, col = (whole(n, "Your answer") for n in answer)
    model = load(progress=False)
    values = model.occlude(model.ask("What is at the top left?", images=[SCENE], temperature=0), size=3).values
    if not (0 <= row < values.shape[0] and 0 <= col < values.shape[1]):
        raise Wrong(
            f"There is no patch ({row}, {col}): the grid has {values.shape[0]} rows and {values.shape[1]} columns."
        )
    if values[row, col] < values.max() - 0.001 * abs(values.max()):
        raise Wrong(
            f"Without the block around ({row}, {col}) the answer loses {values[row, col]:.2g} nats. Another costs more."
        )
    return (
        f"Without the block around ({row}, {col}) the answer loses {values[row, col]:.1f} nats, which makes it "
        f"{np.exp(values[row, col]):,.0f} times less probable."
    )


@exercise(
    "06.2", "how far two maps agree",
    hints=(
        "Replace every number by its rank in its own map: the smallest becomes 0. argsort of argsort does that.",
        "Then it is the usual correlation of the two rows of ranks: numpy.corrcoef(a, b)[0, 1].",
    ),
    solution="""
import numpy as np

def answer(a, b):
    rank_a, rank_b = (np.argsort(np.argsort(one.ravel())) for one in (a, b))
    return np.corrcoef(rank_a, rank_b)[0, 1]
""",
)  # fmt: skip
def agreement(answer: Any) -> str:
    """A function of two maps that returns the correlation of their ranks."""
    rng = np.random.default_rng(6)
    a = rng.permutation(12.0 * np.arange(12)).reshape(3, 4)
    for name, b in (
        ("itself, squared", a**2),
        ("minus itself", -a),
        ("another map", rng.permutation(a.ravel()).reshape(3, 4)),
    ):
        ranks = [np.argsort(np.argsort(one.ravel())) for one in (a, b)]
        shown = f"answer(a, b) where b is {name}"
        numbers(called(answer, a, b, shown=shown), float(np.corrcoef(ranks[0], ranks[1])[0, 1]), shown, within=1e-6)
    return "Ranks do not care about the scale, so nats and shares of attention can be compared."
