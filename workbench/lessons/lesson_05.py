"""Exercises of lesson 05: where it looks."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers

__all__: list[str] = []


@exercise(
    "05.1", "attention from queries and keys",
    hints=(
        "Each score is the product of the query with one key: keys @ query. What makes shares of scores?",
        "The soft-max of lesson 04. But first the future: keys after the query's own position get no share.",
    ),
    solution="""
import numpy as np

def answer(query, keys, position):
    scores = keys @ query
    scores[position + 1:] = -np.inf
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
""",
)  # fmt: skip
def weights(answer: Any) -> str:
    """A function of a query, keys and the query's position that returns the share of each key."""
    rng = np.random.default_rng(5)
    keys, query = rng.normal(size=(5, 4)), rng.normal(size=4)
    for position in (4, 2, 0):
        scores = np.where(np.arange(5) <= position, keys @ query, -np.inf)
        right = np.exp(scores - scores.max())
        shown = f"answer(query, keys, {position})"
        got = called(answer, query.copy(), keys.copy(), position, shown=shown)
        try:
            numbers(got, right / right.sum(), shown)
        except Wrong as wrong:
            scaled = np.sqrt(right)  # of scores divided by √d, d = 4
            try:
                numbers(got, scaled / scaled.sum(), shown)
            except Wrong:
                raise wrong from None
            raise Wrong(
                f"{shown} divides the scores by √d, as many models do. Gemma 4 does not: leave it out."
            ) from None
    return (
        "One head does this for every position, in every layer; then it takes the mean of the values by these shares."
    )


@exercise(
    "05.2", "who may look at whom",
    hints=(
        "Full layers: k <= q. Sliding layers: the same, and also q - k < window.",
        "Within a picture a sliding layer looks ahead too: k <= q or same_picture. The window is for looking back.",
    ),
    solution="""
def answer(q, k, sliding, window, same_picture):
    if not sliding:
        return k <= q
    return q - k < window and (k <= q or same_picture)
""",
)  # fmt: skip
def allowed(answer: Any) -> str:
    """A function that says whether a query at q may look at a key at k."""
    cases = [(q, k, sliding, 4, same) for q in (0, 5) for k in range(10) for sliding in (True, False)
             for same in (True, False)]  # fmt: skip
    for q, k, sliding, window, same in cases:
        right = (q - k < window and (k <= q or same)) if sliding else k <= q
        shown = f"answer({q}, {k}, sliding={sliding}, window={window}, same_picture={same})"
        got = called(answer, q, k, sliding, window, same, shown=shown)
        if not isinstance(got, (bool, np.bool_)):
            raise Wrong(f"{shown} is {got!r:.60}; expected True or False.")
        if bool(got) != right:
            why = "it may" if right else "it may not"
            raise Wrong(f"{shown} is {got}, but {why}: think of {'a sliding' if sliding else 'a full'} layer.")
    return "This is all there is to a mask. In 12B five sliding layers come for each full one, in pocket two."
