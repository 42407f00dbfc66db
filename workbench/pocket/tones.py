"""Beeps: one to five pure tones, high or low, of one pitch in a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Beeps", "beep", "random_beeps", "timed"]

RATE = 16_000
MOST = 5
HERTZ = {True: (1100.0, 2600.0), False: (180.0, 520.0)}
"""What counts as high and as low."""


@dataclass(frozen=True)
class Beeps:
    """How many, and whether they are high."""

    count: int
    high: bool


def random_beeps(rng: np.random.Generator) -> Beeps:
    """Any number up to five, high or low."""
    return Beeps(int(rng.integers(1, MOST + 1)), bool(rng.random() < 0.5))


def beep(beeps: Beeps, rng: np.random.Generator, longest: float = 1.6) -> np.ndarray:
    """The sound, every time another way: pitch, length, pause, tone colour, level and noise.

    Returns:
        (N,) float32 -1..1 at 16 kHz, at most ``longest`` seconds.
    """
    return timed(beeps, rng, longest)[0]


def timed(beeps: Beeps, rng: np.random.Generator, longest: float = 1.6) -> tuple[np.ndarray, np.ndarray]:
    """The same, and the samples at which the beeps begin, (count,) int64."""
    low, high = HERTZ[beeps.high]
    pitch = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    # at least a frame of sound and one of pause: what 40 ms cannot hold cannot be counted
    share = float(rng.uniform(0.35, 0.65))
    period = float(rng.uniform(0.16, min(0.42, (longest - 0.08) / beeps.count)))
    length, pause = int(max(0.06, period * share) * RATE), int(max(0.07, period * (1 - share)) * RATE)
    t = np.arange(length) / RATE
    tone = np.sin(2 * np.pi * pitch * t)
    if rng.random() < 0.4:  # buzzers and flutes: a few overtones
        for k in (2, 3):
            tone += rng.uniform(0, 0.4) * np.sin(2 * np.pi * k * pitch * t + rng.uniform(0, 6))
    ramp = max(8, int(rng.uniform(0.002, 0.015) * RATE))
    edge = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / ramp)
    tone = tone * edge / np.abs(tone).max()
    wave = np.concatenate([part for _ in range(beeps.count) for part in (tone, np.zeros(pause))])[:-pause]
    room = max(0, int(longest * RATE) - len(wave))
    lead = int(rng.uniform(0, min(room, 0.5 * RATE)))
    tail = int(rng.uniform(0, min(room - lead, 0.4 * RATE)))
    wave = np.concatenate([np.zeros(lead), wave, np.zeros(tail)])[: int(longest * RATE)].astype(np.float32)
    if rng.random() < 0.8:
        wave += rng.standard_normal(len(wave), dtype=np.float32) * 10 ** float(rng.uniform(-3.6, -1.6))
    starts = lead + np.arange(beeps.count) * (length + pause)
    return np.clip(wave * 10 ** float(rng.uniform(-1.4, 0)), -1, 1).astype(np.float32), starts
