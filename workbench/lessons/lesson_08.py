"""Exercises of lesson 08: drafts."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []


@exercise(
    "08.1", "what one round emits",
    hints=(
        "Go through the drafts from the left. What happens at the first one that is not the model's own word?",
        "The model's own word at that place is emitted in its stead. If all were right, its next word comes for free.",
    ),
    solution="""
def answer(drafts, words):
    out = []
    for draft, word in zip(drafts, words):
        out.append(word)
        if draft != word:
            return out
    return out + [words[len(drafts)]]
""",
)  # fmt: skip
def one_round(answer: Any) -> str:
    """A function of k drafts and the model's k + 1 own words that returns what is emitted."""
    cases: tuple[tuple[list[str], list[str], list[str]], ...] = (
        (["a", "red", "star"], ["a", "red", "circle", "."], ["a", "red", "circle"]),
        (["a", "red", "circle"], ["a", "red", "circle", "."], ["a", "red", "circle", "."]),
        (["the", "red", "circle"], ["a", "red", "circle", "."], ["a"]),
        (["a", "blue", "circle"], ["a", "red", "circle", "."], ["a", "red"]),
        ([], ["a"], ["a"]),
    )
    for drafts, words, right in cases:
        shown = f"answer({drafts}, {words})"
        got = called(answer, list(drafts), list(words), shown=shown)
        got = list(got) if isinstance(got, (list, tuple, np.ndarray)) else got
        if got != right:
            raise Wrong(f"{shown} is {got!r}. " + _about(got, words, right))
    return "Every word that comes out is the model's own: a bad draft costs time, never words."


def _about(got: Any, words: list[str], right: list[str]) -> str:
    if not isinstance(got, list):
        return "Expected a list of words."
    if any(w not in words for w in got):
        return "There is a word in it that the model did not say."
    if len(got) < len(right):
        return "A round emits at least one word, and a word of the model's after the drafts it kept."
    return "After a draft that was wrong, the model's other words are of no use: they followed the wrong draft."


@exercise(
    "08.2", "words a round",
    hints=(
        "The model's own word comes in every round. The first draft adds one with probability a. And the second?",
        "The second draft counts only if the first was kept too: a². Add 1 + a + a² + … to the last one's.",
    ),
    solution="""
def answer(a, drafts):
    return sum(a**i for i in range(drafts + 1))
""",
)  # fmt: skip
def words_a_round(answer: Any) -> str:
    """A function of the share of drafts kept and their number."""
    for a, drafts in ((0.5, 1), (0.5, 3), (0.8, 4), (0.0, 5), (1.0, 5), (0.9, 0)):
        shown = f"answer({a}, {drafts})"
        right = float(sum(a**i for i in range(drafts + 1)))
        numbers(called(answer, a, drafts, shown=shown), right, shown, within=1e-6)
    return "With a = 0.8 the first four drafts add 2.4 words, the next four only 1.0."


@exercise(
    "08.3", "the best number of drafts",
    hints=(
        "A round of k drafts takes k · draft_s + pass_s[k + 1] seconds. How many words does it give?",
        "Words a second: (1 + a + … + a**k) / (k · draft_s + pass_s[k + 1]). Take the k with the most; 0 counts too.",
    ),
    solution="""
def answer(a, draft_s, pass_s):
    def speed(k):
        return sum(a**i for i in range(k + 1)) / (k * draft_s + pass_s[k + 1])

    return max(range(len(pass_s)), key=speed)
""",
)  # fmt: skip
def best(answer: Any) -> str:
    """A function of acceptance, seconds a draft and seconds a pass by rows that returns a number of drafts."""
    flat = {rows: 1.0 + 0.02 * rows for rows in range(1, 10)}
    steep = {rows: 0.2 + 0.8 * rows for rows in range(1, 10)}
    for name, a, draft_s, pass_s in (
        ("wide passes cost little", 0.8, 0.05, flat),
        ("wide passes cost little, drafts are bad", 0.2, 0.05, flat),
        ("every row costs", 0.8, 0.05, steep),
    ):
        speed = [sum(a**i for i in range(k + 1)) / (k * draft_s + pass_s[k + 1]) for k in range(len(pass_s))]
        shown = f"answer({a}, {draft_s}, pass_s) where {name}"
        got = whole(called(answer, a, draft_s, dict(pass_s), shown=shown), shown)
        if not 0 <= got < len(speed):
            raise Wrong(
                f"{shown} is {got}; passes of 1 to {len(speed)} rows were given, so 0 to {len(speed) - 1} drafts."
            )
        if got != int(np.argmax(speed)):
            raise Wrong(f"{shown} is {got}, {speed[got]:.2f} words a second. There is a quicker number.")
    return "Where every row costs, the best number can be 0: drafting does not always pay."
