"""Exercises of lesson 07: what a patch comes to mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []


@exercise(
    "07.1", "a lens by hand",
    hints=(
        "Divide by the root of the mean square, multiply by the gain; then words @ that is a number for each word.",
        "The rank of word w is how many words have a larger product than it has: (logits > logits[w]).sum().",
    ),
    solution="""
import numpy as np

def answer(hidden, gain, words, w):
    normed = hidden / np.sqrt((hidden ** 2).mean()) * gain
    logits = words @ normed
    return (logits > logits[w]).sum()
""",
)  # fmt: skip
def by_hand(answer: Any) -> str:
    """A function of a hidden state, the norm's gain, the words' rows and a word that returns the word's rank."""
    rng = np.random.default_rng(7)
    # exact in floating point, so that a word's product is the same number whether it is taken alone or with the others
    words, gain = rng.integers(-40, 41, (12, 5)).astype(float), np.array([0.25, 3.0, -1.0, 0.5, 2.0])
    for length in (2.0, 16.0):
        hidden = rng.choice([-length, length], 5)
        logits, bare = words @ (hidden * gain), words @ hidden
        for w in range(len(words)):
            shown = f"answer(hidden, gain, words, {w})"
            right = int((logits > logits[w]).sum())
            got = whole(called(answer, hidden.copy(), gain.copy(), words.copy(), w, shown=shown), shown)
            if got == right:
                continue
            if got == int((bare > bare[w]).sum()):
                raise Wrong(f"{shown} is {got}: that is the rank without the gain.")
            if got in (right + 1, len(words) - 1 - right):
                raise Wrong(f"{shown} is {got}; rank 0 is the likeliest word, 1 the next, and so on.")
            raise Wrong(f"{shown} is {got}; {right} words have a larger product.")
    return "This is all that a lens does. Dividing by the length changes no rank; the gain does."


@exercise(
    "07.2", "when it was decided",
    hints=(
        "Look from the end: go back from the last row for as long as the rank is 0.",
        "Where is the last row whose rank is not 0? The answer is the row after it; or 0, when there is none.",
    ),
    solution="""
import numpy as np

def answer(rank):
    later = np.flatnonzero(np.asarray(rank) != 0)
    return later[-1] + 1 if len(later) else 0
""",
)  # fmt: skip
def decided(answer: Any) -> str:
    """A function of ranks layer by layer that returns the first row from which on the rank is 0."""
    cases = ([9, 1, 0, 0], [0, 3, 0, 0], [5, 4, 2, 0], [0, 0, 0], [0, 0, 1, 0], [2, 0, 0, 1, 0, 0])
    for rank in cases:
        shown = f"answer(np.array({rank}))"
        got = whole(called(answer, np.array(rank), shown=shown), shown)
        right = max((k + 1 for k, r in enumerate(rank) if r), default=0)
        if got == right:
            continue
        if 0 <= got < right and rank[got] == 0:
            raise Wrong(f"{shown} is {got}, but after that row the word was overtaken once more.")
        raise Wrong(f"{shown} is {got}; from which row on is the rank 0 to the end?")
    return "Decided by this lens, that is: the model may have known it before, in other directions."


@exercise(
    "07.3", "guessing without looking",
    hints=(
        "Who may not look says the same kind every time. Which kind is the best to say, going by the training patches?",
        "numpy.unique(train, return_counts=True) counts them; then (test == that kind).mean().",
    ),
    solution="""
import numpy as np

def answer(train, test):
    kinds, counts = np.unique(train, return_counts=True)
    return (np.asarray(test) == kinds[counts.argmax()]).mean()
""",
)  # fmt: skip
def guessing(answer: Any) -> str:
    """A function of the kinds of training and of test patches: how often the best constant guess is right."""
    cases = (
        (["star", "star", "cross"], ["star", "cross", "cross", "cross"], 0.25),
        (["circle", "star", "circle", "circle"], ["circle", "circle", "star", "cross", "circle"], 0.6),
        (["cross", "star", "star"], ["cross", "cross"], 0.0),
    )
    for train, test, right in cases:
        shown = f"answer({train}, {test})"
        got = called(answer, np.array(train), np.array(test), shown=shown)
        best = max(test.count(kind) for kind in test) / len(test)
        if isinstance(got, (int, float, np.number)) and best != right and abs(got - best) < 1e-9:
            raise Wrong(f"{shown} is {got}: that guess was chosen by looking at the test patches.")
        numbers(got, right, shown, within=1e-6)
    return "With many kinds of one sort this can be .9: an accuracy says nothing without it."
