"""DraftView: the rounds of multi-token prediction, what was drafted, what was kept, and whether it paid."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from widgets.base import View
from widgets.buffers import array
from workbench import flight
from workbench.errors import WorkbenchError
from workbench.readings import stopping
from workbench.trace import Trace

__all__ = ["DraftView"]

_ROUNDS = 1000


class DraftView(View):
    """The flight recorder.

        DraftView(trace)                     # rounds, charts, replay, what if
        DraftView(trace, inspector=model)    # also measures the speed-up on this machine

    Picking a round selects its first token in linked views, and the other way round.
    """

    NAME: ClassVar[str] = "draft_view"
    TITLE: ClassVar[str] = "Drafts, round by round"

    def describe(self, trace: Trace) -> dict[str, Any]:
        """Columns of the rounds as arrays, words as JSON."""
        all_, n = trace.rounds, min(len(trace.rounds), _ROUNDS)
        k = int(all_.proposed[:n].max(initial=0))
        ids = np.unique([*all_.draft_ids[:n].ravel(), *all_.emitted_id[:n]])
        names = {**{int(i): p for i, p in zip(trace.tokens.token_id, trace.tokens.piece, strict=True)},
                 **trace.tokens.top_pieces}  # fmt: skip
        # the first token of each round; a round that ended before its first token starts where the next one does
        first = np.searchsorted(np.maximum.accumulate(trace.tokens.round), np.arange(n))
        # and behind its last one: under draft="auto" plain tokens may stand before the next round
        last = first + np.bincount(trace.tokens.round[trace.tokens.round >= 0], minlength=n)[:n]
        table = np.s_[:n, :k]
        return {
            "verdict": flight.verdict(trace),
            "pieces": list(trace.tokens.piece),
            "hidden": len(all_) - n,
            "rounds": {
                "count": n, "k": k, "names": [[int(i), names.get(int(i), f"<{i}>")] for i in ids if i >= 0],
                "draft": array(all_.draft_ids[table], np.int32), "q": array(all_.draft_logprob[table], np.float32),
                "p": array(all_.target_logprob[table], np.float32), "proposed": array(all_.proposed[:n], np.int32),
                "accepted": array(all_.accepted[:n], np.int32), "emitted": array(all_.emitted_id[:n], np.int32),
                "first": array(first, np.int32), "last": array(last, np.int32),
                "draftTime": array(all_.draft_s[:n], np.float64), "verifyTime": array(all_.verify_s[:n], np.float64),
            },
        }  # fmt: skip

    def answer_speedup(self) -> dict[str, Any]:
        """Run the same answer with and without drafts, in turns; the verdict in a sentence."""
        if self.reasons["speedup"] or self.trace is None:
            raise WorkbenchError(self.reasons["speedup"])
        speedup = self.inspector.speedup
        measured = speedup(self.trace, repeats=5, **stopping(speedup, self._stop))
        return {"verdict": flight.verdict(self.trace, measured)}
