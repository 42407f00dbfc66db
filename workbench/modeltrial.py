"""What the checks of a model share: the model, its answer about a picture and a sound, and memory watched."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from workbench.features import senses_of

if TYPE_CHECKING:
    from workbench.model import LoadedModel
    from workbench.trace import Trace

__all__ = ["QUESTION", "Found", "Tried", "Watch", "picture", "sound"]

QUESTION = "Describe the picture and the sound in a few words."
"""What every check asks."""


@dataclass(frozen=True)
class Found:
    """What a check found: ``ok``, ``note`` or ``wrong``, words, and figures."""

    level: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Tried:
    """The model under test, and what the checks have asked of it.

    Attributes:
        name: As it was asked for.
        tokens: Words of each answer.
        trace: The undrafted greedy answer about a picture and a sound; made once.
    """

    name: str
    model: LoadedModel
    tokens: int
    trace: Trace | None = None

    @property
    def media(self) -> dict[str, Any]:
        """A picture of 3:2 and 1.3 s of sound, as far as this model takes them."""
        senses = senses_of(self.model.transformer.config)
        given = {"images": [picture()], "audio": [(sound(), 16_000)]}
        return {kind: media for kind, media in given.items() if kind.removesuffix("s") in senses}

    def answer(self) -> Trace:
        """The trace, asked for when it is first needed."""
        if self.trace is None:
            self.trace = self.model.ask(QUESTION, **self.media, temperature=0, draft=0, max_new_tokens=self.tokens)
        return self.trace

    @property
    def dtype(self) -> str:
        """Of the numbers that are computed with."""
        return self.model.info.dtype


class Watch:
    """The most memory this process held of its own while the block ran: bytes, None where the system does not say.

    Pages of files come and go and are left out. On a GPU, its own count is added.
    """

    def __init__(self) -> None:
        self.peak: int | None = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        import torch

        self._done.clear()
        if torch.cuda.is_available():
            for k in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(k)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        import torch

        if torch.cuda.is_available():
            held = [int(torch.cuda.max_memory_allocated(k)) for k in range(torch.cuda.device_count())]
            self.peak = (self.peak or 0) + sum(held)

    def _look(self) -> None:
        while True:
            now = _own_memory()
            if now is None:
                return
            self.peak = max(self.peak or 0, now)
            if self._done.wait(0.05):
                return


def _own_memory() -> int | None:
    try:
        with Path("/proc/self/status").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None


def picture() -> np.ndarray:
    """640 × 400: a large disc on a slope of colours."""
    y, x = np.mgrid[:400, :640]
    pixels = np.stack([x * 255 // 640, y * 255 // 400, np.full_like(x, 90)], axis=-1)
    pixels[(x - 200) ** 2 + (y - 180) ** 2 < 110**2] = (230, 40, 30)
    return pixels.astype(np.uint8)


def sound() -> np.ndarray:
    """20,800 samples: two tones, one after the other."""
    t = np.arange(20_800) / 16_000
    return (0.3 * np.sin(2 * np.pi * np.where(t < 0.65, 440, 660) * t)).astype(np.float32)
