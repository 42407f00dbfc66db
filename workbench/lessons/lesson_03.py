"""Exercises of lesson 03: a sound becomes tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []

_RATE, _FRAME = 16_000, 640


@exercise(
    "03.1", "how many tokens a sound takes",
    hints=(
        "A token is 640 samples at 16,000 a second. How many milliseconds is that?",
        "The last frame is filled up with silence, so a part of a frame is a token too: round up.",
    ),
    solution="""
import math

def answer(milliseconds):
    return math.ceil(milliseconds / 40)
""",
)  # fmt: skip
def frames(answer: Any) -> str:
    """A function of milliseconds."""
    for milliseconds in (40, 41, 1000, 1250, 5, 30_000):
        shown = f"answer({milliseconds})"
        got = whole(called(answer, milliseconds, shown=shown), shown)
        if got != -(-milliseconds // 40):
            raise Wrong(f"{shown} is {got}; the model makes another number of tokens of it.")
    return "25 tokens a second; half a minute is 750, the most that Gemma was trained to hear."


@exercise(
    "03.2", "a tone whose tokens are all alike",
    hints=(
        "Two frames are alike when the wave stands at the same place at the beginning of both.",
        "A whole number of swings must fit into 40 ms. How many swings does a tone of f hertz make in 0.04 s?",
    ),
    solution="""
answer = 350  # 14 swings in 40 ms, as any multiple of 25 Hz has a whole number
""",
)  # fmt: skip
def alike(answer: Any) -> str:
    """A frequency between 310 and 390 Hz."""
    try:
        hertz = float(answer)
    except (TypeError, ValueError):
        raise Wrong(f"{answer!r:.60} is no frequency; expected a number of hertz.") from None
    if not 310 < hertz < 390:
        raise Wrong(f"{hertz:g} Hz; expected one between 310 and 390.")
    wave = np.sin(2 * np.pi * hertz * np.arange(4 * _FRAME) / _RATE).reshape(4, _FRAME)
    apart = float(np.abs(wave[1:] - wave[0]).max())
    if apart > 1e-3:
        raise Wrong(f"At {hertz:g} Hz the second frame differs from the first by up to {apart:.2f}.")
    return f"{hertz:g} Hz makes {hertz * 0.04:g} whole swings in 40 ms: every token is the same 640 numbers."


@exercise(
    "03.3", "the pitch that each filter listens to",
    hints=(
        "numpy.fft.rfft of a row of 640 weights gives 321 numbers; the largest one (in size) is the filter's pitch.",
        "Entry k stands for k · 16000 / 640 = 25·k hertz. numpy.fft.rfftfreq(640, 1 / 16000) says so too.",
    ),
    solution="""
import numpy as np

def answer(weights):
    spectrum = np.abs(np.fft.rfft(weights, axis=1))
    return 25.0 * spectrum.argmax(axis=1)
""",
)  # fmt: skip
def pitches(answer: Any) -> str:
    """A function of (filters, 640) weights that returns hertz."""
    rng = np.random.default_rng(3)
    hertz = np.array([100.0, 2500.0, 400.0, 7000.0])
    time = np.arange(_FRAME) / _RATE
    waves = np.cos(2 * np.pi * hertz[:, None] * time + rng.uniform(0, 6, (4, 1))) + 0.01 * rng.normal(size=(4, _FRAME))
    numbers(called(answer, waves, shown="answer(weights)"), hertz, "answer(weights) of four pure tones", within=1e-6)
    return "Try it on the model's own filters: which pitches did they settle on?"
