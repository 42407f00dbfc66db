"""TokenView: the answer as words, coloured by how sure the model was, with what it nearly said."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import traitlets

from widgets.base import View
from widgets.buffers import array
from workbench.columns import SOURCES
from workbench.display import FINISH, tokens_a_second
from workbench.errors import WorkbenchError
from workbench.trace import Token, Trace

__all__ = ["TokenView"]

_WIRE = 4 << 20  # bytes of alternatives sent; more than that of 5,000 tokens with 80 each
_PROMPT_PIECES = 20_000


class TokenView(View):
    """The answer, word by word.

        TokenView(trace)                    # hover, focus, colour by probability, entropy or rank
        TokenView(trace, inspector=model)   # a click on an alternative says that instead, and goes on from there

    Attributes:
        measure: What colours the words: ``probability``, ``entropy`` or ``rank``.
        tail: Tokens that a running answer has added (see :meth:`stream`).
    """

    NAME: ClassVar[str] = "token_view"
    TITLE: ClassVar[str] = "The answer, word by word"
    SAVED: ClassVar[tuple[str, ...]] = ("data", "selected", "measure")
    LATE: ClassVar[tuple[str, ...]] = ("tokens.nearly",)

    measure = traitlets.Enum(("probability", "entropy", "rank"), "probability").tag(sync=True)
    tail = traitlets.Dict().tag(sync=True)

    def __init__(self, trace: Trace | None = None, inspector: Any = None, **more: Any) -> None:
        self._parents: dict[int, tuple[Trace, Trace]] = {}  # by id of the branch, held so that it stays its own
        super().__init__(trace, inspector, **more)

    def describe(self, trace: Trace) -> dict[str, Any]:
        """Columns of the tokens as arrays, words and names as JSON."""
        t = trace.tokens
        kept = max(1, min(t.top_ids.shape[1], _WIRE // (9 * max(1, len(t)))))
        top = np.s_[:, :kept]
        used, places = np.unique(t.top_ids[top], return_inverse=True)
        start = len(trace.prompt)
        segments = [(s.kind, s.start - start, s.stop - start) for s in trace.segments] or [("text", 0, len(t))]
        return {
            "tokens": {
                "piece": list(t.piece), "kept": kept,
                "id": array(t.token_id, np.int32), "logprob": array(t.logprob, np.float32),
                "filtered": array(np.isneginf(t.sample_logprob), np.uint8), "entropy": array(t.entropy, np.float32),
                "rank": array(t.rank, np.int32), "source": array(t.source, np.int8),
                "round": array(t.round, np.int32), "time": array(t.time_s, np.float32),
                "nearly": {
                    "names": [[int(i), t.top_pieces.get(int(i), f"<{i}>")] for i in used],
                    "which": array(places.reshape(len(t), kept), np.uint16 if len(used) < 1 << 16 else np.int32),
                    "logprob": array(t.top_logprob[top], np.float32),
                    "filtered": array(np.isneginf(t.top_sample_logprob[top]), np.uint8),
                },
            },
            "special": [k for kind, first, last in segments if kind == "control" for k in range(first, last)],
            "groups": _groups(segments), "prompt": _prompt(trace), "summary": _summary(trace),
            "parents": int(id(trace) in self._parents), "greedy": trace.settings.temperature == 0,
        }  # fmt: skip

    def stream(self, first: int, tokens: list[Token]) -> None:
        """Show tokens of a running answer as they come.

        Args:
            first: The index of the first of them; 0 clears what was shown.
            tokens: Those that came since the last call.
        """
        rows = [[t.piece, t.logprob, SOURCES.index(t.source)] for t in tokens]
        if first == 0:
            self.tail = {}  # an answer that begins as one did that broke off is sent all the same
        self.tail = {"from": first, "rows": rows}

    def broke_off(self, words: str) -> None:
        """A running answer ended with an error: the words that came stay, and it is said that no more come."""
        self.tail = {"from": 0, "rows": [], "ended": words}

    def answer_branch(self, at: int, token: int, serial: int | None = None) -> dict[str, Any]:
        """Say another token at one place and go on; the new trace is shown, the old one is kept for ``back``.

        Args:
            at: The place, counted from 0.
            token: The other token.
            serial: That of the ``data`` which was clicked in; None is whatever is shown.
        """
        trace = self.trace
        self._still(serial)
        if self.reasons["branch"] or trace is None:
            raise WorkbenchError(self.reasons["branch"])
        new = self.inspector.branch(trace, at=int(at), token=int(token))
        self._parents[id(new)] = new, trace
        self.trace = new
        self.selected = int(at)
        return {}

    def _still(self, serial: int | None) -> None:
        """Refuse what was asked about an answer that is not shown any more, as by the second of two quick clicks."""
        if serial is not None and serial != self.data.get("serial"):
            raise WorkbenchError("Another answer has come in the place of the one you clicked in. Click in this one.")

    def answer_back(self, serial: int | None = None) -> dict[str, Any]:
        """Back to the trace that this one branched from."""
        self._still(serial)
        if id(self.trace) not in self._parents:
            raise WorkbenchError("This answer has not branched from another.")
        self.trace = self._parents[id(self.trace)][1]
        return {}


def _groups(segments: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Lists of words: thoughts and tool calls each folded in one of their own, what is between them together."""
    groups: list[dict[str, Any]] = []
    for kind, first, last in segments:
        folded = kind in ("thought", "tool")
        if groups and not folded and not groups[-1]["folded"]:
            groups[-1]["to"] = last
            continue
        label = f"{kind.capitalize()}: {last - first} tokens" if folded else "Answer"
        groups.append({"label": label, "from": first, "to": last, "folded": folded})
    return groups


def _prompt(trace: Trace) -> dict[str, Any]:
    room, segments = _PROMPT_PIECES, []
    for s in trace.prompt.segments:
        media = s.media is not None and s.kind in ("image", "audio", "video")
        pieces = None if media else list(trace.prompt.pieces[s.start : min(s.stop, s.start + max(0, room))])
        room -= len(pieces or ())
        segments.append({"kind": s.kind, "start": s.start, "length": len(s), "media": s.media, "pieces": pieces})
    return {"segments": segments[:2000], "cut": room < 0 or len(segments) > 2000}


def _summary(trace: Trace) -> list[list[str]]:
    m, u, s, timing, n = trace.model, trace.usage, trace.settings, trace.timing, len(trace.tokens)
    kind = " · ".join(x for x in (m.quantization, m.dtype, m.device) if x and x != "none")
    items = [[m.name, kind], [f"{n:,}", f"token{'s' * (n != 1)} in {timing.total_s:.2f} s"]]
    if (speed := tokens_a_second(trace)) is not None:
        items.append([f"{speed:.1f}", "tokens/s"])
    items.append([f"{u.prompt:,}", "in the prompt" + (f" ({u.cached:,} from cache)" if u.cached else "")])
    if len(trace.rounds):
        items.append([f"{int(trace.rounds.accepted.sum())} of {int(trace.rounds.proposed.sum())}", "drafts kept"])
    items.append(["", FINISH.get(trace.finish, trace.finish)])
    items.append(["", "greedy" if s.temperature == 0 else f"temperature {s.temperature:g} · seed {s.seed}"])
    return items
