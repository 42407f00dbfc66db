"""Exercises of lesson 09: four bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers

__all__: list[str] = []


@exercise(
    "09.1", "the best scale",
    hints=(
        "For each scale: codes = round(group / scale), cut to −8…7 with numpy.clip. What do they give back?",
        "The error of a scale is ((codes * scale - group) ** 2).sum(). Return the scale whose error is smallest.",
    ),
    solution="""
import numpy as np

def answer(group, scales):
    def error(scale):
        codes = np.clip(np.round(group / scale), -8, 7)
        return ((codes * scale - group) ** 2).sum()
    return min(scales, key=error)
""",
)  # fmt: skip
def best_scale(answer: Any) -> str:
    """A function of 32 weights and some scales that returns the scale with the smallest square error."""
    rng = np.random.default_rng(9)
    for turn in range(30):  # among so many some tell absolute errors, and codes up to 8, from what is asked for
        group = rng.normal(size=32) * 0.1
        peak = group[np.abs(group).argmax()]
        scales = [float(peak / q) for q in (-8, 7, -8.6, 7.6, -9.2)]
        scales = scales[turn % 5 :] + scales[: turn % 5]
        errors = [float(((_round(group, s) - group) ** 2).sum()) for s in scales]
        uncut = [float(((np.round(group / s) * s - group) ** 2).sum()) for s in scales]
        shown = "answer(group, [" + ", ".join(f"{s:.4f}" for s in scales) + "])"
        got = called(answer, group.copy(), list(scales), shown=shown)
        right = scales[int(np.argmin(errors))]
        if isinstance(got, (int, float, np.number)) and abs(got - right) > 1e-9:
            if abs(got - scales[int(np.argmin(uncut))]) < 1e-9:
                raise Wrong(f"{shown} is {got:.4f}: the best one, if codes could be any number. They go from −8 to 7.")
            if not any(abs(got - s) < 1e-9 for s in scales):
                raise Wrong(f"{shown} is {got:.4f}, which is none of these scales.")
        numbers(got, right, shown, within=1e-9)
    return "The largest weight may be cut off, if that makes the steps finer for the other 31."


def _round(group: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(np.clip(np.round(group / scale), -8, 7) * scale)


@exercise(
    "09.2", "two codes in a byte",
    hints=(
        "The low half of a byte is packed & 15, the high half packed >> 4. The even columns lie in the low halves.",
        "Make an array with twice as many columns; out[:, ::2] are its even columns, out[:, 1::2] the others.",
    ),
    solution="""
import numpy as np

def answer(packed):
    out = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    out[:, ::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out
""",
)  # fmt: skip
def two_in_a_byte(answer: Any) -> str:
    """A function of packed bytes (rows, columns / 2) that returns the codes (rows, columns)."""
    rng = np.random.default_rng(4)
    for rows, columns in ((1, 4), (3, 8), (2, 32)):
        codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
        packed = (codes[:, ::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
        shown = f"answer(packed), packed of shape {packed.shape},"
        got = called(answer, packed.copy(), shown=shown)
        swapped = np.stack((packed >> 4, packed & 15), axis=-1).reshape(rows, columns)
        if np.shape(got) == codes.shape and np.array_equal(got, swapped):
            raise Wrong(f"{shown} has each pair the wrong way round: the even column lies in the low half.")
        apart = np.concatenate((packed & 15, packed >> 4), axis=1)
        if columns > 2 and np.shape(got) == codes.shape and np.array_equal(got, apart):
            raise Wrong(f"{shown} has all even columns first and then all odd ones: they alternate.")
        numbers(got, codes, shown)
    return "A multiplication can do this on the way, so that the 16-bit numbers never lie in memory."


@exercise(
    "09.3", "how far apart two opinions are",
    hints=(
        "The mean of log p − log q, each word weighted with its probability p. And p is exp(log p).",
        "A word of probability 0 counts nothing, but 0 · ∞ is not a number: leave those words out.",
    ),
    solution="""
import numpy as np

def answer(log_p, log_q):
    there = np.isfinite(log_p)
    log_p, log_q = log_p[there], log_q[there]
    return (np.exp(log_p) * (log_p - log_q)).sum()
""",
)  # fmt: skip
def divergence(answer: Any) -> str:
    """A function of two arrays of logprobs that returns KL(p ‖ q) in nats."""
    cases = (
        ("equal", [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]),
        ("a surer p", [0.9, 0.05, 0.05], [0.5, 0.25, 0.25]),
        ("a surer q", [0.5, 0.25, 0.25], [0.9, 0.05, 0.05]),
        ("a p with a probability of 0", [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]),
    )
    for name, p, q in cases:
        both = np.array(p), np.array(q)
        with np.errstate(divide="ignore"):
            logs = [np.log(one) for one in both]
        shown = f"answer(log_p, log_q) for {name}"
        there = both[0] > 0
        right = float((both[0][there] * (logs[0] - logs[1])[there]).sum())
        with np.errstate(invalid="ignore"):
            got = called(answer, *(one.copy() for one in logs), shown=shown)
        back = both[1] > 0
        with np.errstate(divide="ignore"):
            other = float((both[1][back] * (logs[1] - logs[0])[back]).sum())
        if isinstance(got, (int, float, np.number)) and abs(got - other) < 1e-9 < abs(right - other):
            raise Wrong(f"{shown} is {got:.4f}: that is KL(q ‖ p). The weights are p's.")
        numbers(got, right, shown, within=1e-6)
    return "It is 0 only for equal opinions, and it is not the same the other way round."
