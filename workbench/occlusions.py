"""Occlusion as data: how much less probable an answer gets when a patch, a frame or a word is hidden. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TraceError
from workbench.maps import Map, all_segments, check_run, frozen, laid_out, places

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = ["Occlusion"]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What hiding each place does to the logprob of some tokens.

    Attributes:
        map: Drop of their summed logprob in nats: positive where hiding the place makes them less probable. Of the
            same type as attention's maps; for words, NaN at positions that were not hidden.
        tokens: (n,) int32 generated tokens that were measured.
        base: Their summed logprob in nats with nothing hidden.
        fine: (map.values.size,) bool: False where a whole tile was hidden at once and the drop shared among its places.
        how: What stood in for what was hidden: ``mean``, ``grey``, ``blur``; ``silence``, ``noise``; ``mean`` of words.
        size: Places a side of the block around each place that was hidden with it; 1: the place alone.
        passes: Variants that were run.
        identity: Of the model.
        run: What tells the run it is of from others; empty where that is not known.
        against: Token id of the word that the one token was measured against; None where it was measured alone. Then
            ``map`` and ``base`` are of the difference of the two logprobs.
    """

    map: Map
    tokens: np.ndarray
    base: float
    fine: np.ndarray
    how: str
    size: int
    passes: int
    identity: tuple[str, ...]
    run: str = ""
    against: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", frozen(self.tokens, np.int32))
        object.__setattr__(self, "fine", frozen(self.fine, bool))
        if self.fine.shape != (self.map.values.size,):
            raise TraceError(f"An occlusion of {self.map.values.size} places that says of {self.fine.shape} how fine.")

    def __repr__(self) -> str:
        where = f"{self.map.kind}{'' if self.map.media is None else f' {self.map.media}'}"
        block = "" if self.size == 1 else f" in blocks of {self.size}"
        return f"Occlusion({where} by {self.how}{block}, tokens {self.tokens.tolist()}, {self.passes} variants)"

    @property
    def values(self) -> np.ndarray:
        """``map.values``: (rows, cols), (frames,) or (positions,) float32, nats."""
        return self.map.values

    def to_reading(self) -> dict[str, Any]:
        """For ``Trace.readings``."""
        meta = {
            "kind": "occlusion", "over": self.map.kind, "media": self.map.media or 0, "how": self.how,
            "size": self.size, "tokens": self.tokens.tolist(), "base": self.base, "passes": self.passes,
            "identity": list(self.identity), "run": self.run, "about": self.map.about, "unit": self.map.unit,
        }  # fmt: skip
        if self.against is not None:
            meta["against"] = self.against
        return {"meta": meta, "arrays": {"values": self.map.values.ravel(), "fine": self.fine}}

    @classmethod
    def from_reading(cls, reading: Mapping[str, Any], trace: Trace) -> Occlusion:
        """From ``Trace.readings``, of the same trace.

        Raises:
            TraceError: It is not what :meth:`to_reading` gives.
        """
        try:
            meta, arrays = reading["meta"], reading["arrays"]
            run = check_run(str(meta.get("run", "")), trace)
            n = len(trace.prompt) + len(trace.tokens)
            segments = all_segments(trace.prompt.segments, trace.segments, n)
            more: dict[str, Any] = {"unit": str(meta["unit"]), "about": str(meta["about"])}
            if meta["over"] == "text":
                made = Map("text", None, arrays["values"], np.arange(n), **more)
            else:
                found = places(segments, str(meta["over"]), int(meta["media"]))
                made = laid_out(found, str(meta["over"]), int(meta["media"]), arrays["values"], **more)
            return cls(
                map=made, tokens=np.array([int(k) for k in meta["tokens"]], np.int32), base=float(meta["base"]),
                fine=arrays["fine"], how=str(meta["how"]), size=int(meta.get("size", 1)), passes=int(meta["passes"]),
                identity=tuple(meta["identity"]), run=run,
                against=None if meta.get("against") is None else int(meta["against"]),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TraceError(f"A reading of an occlusion in this trace is broken: {error!r}.") from error
