"""Reading the flight recorder: what a trace's rounds of drafts say about acceptance and speed. Numpy only.

    trace = model.ask("Tell me a story about the picture.", images=["scene.png"], draft=4)
    flight.acceptance_by_position(trace.rounds)     # [0.93 0.88 0.85 0.80]
    print(flight.verdict(trace))

A draft is *judged* when every draft before it in its round was kept (and the run did not end before it): only then did
the model look at it. What was proposed after a rejected draft was never judged and counts for nothing here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.columns import Rounds
from workbench.errors import TraceError
from workbench.trace import Trace

__all__ = [
    "Estimate",
    "Speedup",
    "acceptance_by_kind",
    "acceptance_by_modality",
    "acceptance_by_position",
    "histogram",
    "interval",
    "judged",
    "kept",
    "other_length",
    "piece_kind",
    "table",
    "tokens_a_round",
    "verdict",
]


_CONTROL = re.compile(r"<\|[^<>|]+\|?>|<[^<>|]+\|>|<(?:bos|eos|pad|unk|mask)>")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TOLD = 5  # pairs: all on one side, whichever, are chance in one case of 16
_INTERVAL = 6  # numbers from which their range, and what lies within, holds the median in 95 of 100 cases


def interval(numbers: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by order statistics; with fewer than six numbers, the smallest and largest."""
    ordered, n = sorted(numbers), len(numbers)
    skip, tail = 0, 0.5**n
    while skip < (n - 1) // 2 and tail + math.comb(n, skip + 1) * 0.5**n <= 0.025:
        skip += 1
        tail += math.comb(n, skip) * 0.5**n
    return ordered[skip], ordered[n - 1 - skip]


def judged(rounds: Rounds) -> np.ndarray:
    """(R, k) bool: drafts the model looked at."""
    return ~np.isnan(rounds.target_logprob)


def kept(rounds: Rounds) -> np.ndarray:
    """(R, k) bool: drafts that became part of the answer."""
    return np.arange(rounds.draft_ids.shape[1])[None] < rounds.accepted[:, None]


def acceptance_by_position(rounds: Rounds) -> np.ndarray:
    """(k,) float64: share of i-th drafts kept, of those judged; NaN where none was."""
    tried = judged(rounds).sum(0)
    return np.divide(kept(rounds).sum(0), tried, out=np.full(len(tried), np.nan), where=tried > 0)


def tokens_a_round(rounds: Rounds) -> float:
    """Mean tokens a round emitted: its kept drafts and the model's own word; NaN without rounds."""
    if not len(rounds):
        return float("nan")
    return float(np.mean(rounds.accepted + (rounds.emitted_id >= 0)))


def histogram(rounds: Rounds) -> np.ndarray:
    """(k + 1,) int64: how many rounds kept 0, 1 … k drafts."""
    return np.bincount(rounds.accepted, minlength=rounds.draft_ids.shape[1] + 1)


def piece_kind(piece: str) -> str:
    """What kind of token a piece is: ``control, byte, space, punctuation, digits, word start`` or ``word part``."""
    bare = piece.strip()
    if _CONTROL.fullmatch(piece):
        return "control"
    if _BYTE.fullmatch(piece):
        return "byte"
    if not bare:
        return "space"
    if all(not c.isalnum() for c in bare):
        return "punctuation"
    if all(c.isdigit() for c in bare):
        return "digits"
    return "word start" if piece[0].isspace() or bare[0].isupper() else "word part"


def acceptance_by_kind(trace: Trace) -> dict[str, tuple[int, int]]:
    """Drafts kept and judged for each kind of drafted token (:func:`piece_kind`)."""
    counts: dict[str, list[int]] = {}
    pieces = trace.tokens.top_pieces
    good = kept(trace.rounds)
    for r, i in np.argwhere(judged(trace.rounds)):
        token = int(trace.rounds.draft_ids[r, i])
        count = counts.setdefault(piece_kind(pieces.get(token, f"<{token}>")), [0, 0])
        count[0] += int(good[r, i])
        count[1] += 1
    return {kind: (k, n) for kind, (k, n) in sorted(counts.items())}


def acceptance_by_modality(traces: Iterable[Trace]) -> dict[str, tuple[int, int]]:
    """Drafts kept and judged over many traces, by what their prompts held: ``text``, ``image``, ``image+audio``."""
    counts: dict[str, list[int]] = {}
    for trace in traces:
        u = trace.usage
        name = "+".join(m for m, n in (("image", u.image), ("audio", u.audio), ("video", u.video)) if n) or "text"
        count = counts.setdefault(name, [0, 0])
        count[0] += int(kept(trace.rounds).sum())
        count[1] += int(judged(trace.rounds).sum())
    return {name: (k, n) for name, (k, n) in sorted(counts.items())}


@dataclass(frozen=True)
class Estimate:
    """What another draft length would have done.

    Attributes:
        drafts: The length.
        tokens_a_round: Estimated mean.
        known: Whether every position up to it was judged in this run, in rounds of one length. Otherwise the last known
            share stands in for drafts that were never made; and where the drafter chose the lengths (``draft="auto"``),
            it went on where it was sure, so that shares at later positions are those of easy places, and the estimate
            is too high.
    """

    drafts: int
    tokens_a_round: float
    known: bool


def other_length(rounds: Rounds, drafts: int) -> Estimate:
    """Tokens a round at another draft length, from the acceptance by position of this run: always an estimate.

    It assumes that drafts at the positions where such rounds would have started are kept as often as those that were
    made. What a drafter would have proposed there is not known without running it.

    Raises:
        TraceError: There are no rounds, or no such length.
    """
    if not len(rounds) or not judged(rounds).any():
        raise TraceError("This run has no rounds of drafts to estimate from: ask with draft=4, say.")
    if isinstance(drafts, bool) or not isinstance(drafts, (int, np.integer)) or drafts < 0:
        raise TraceError(f"drafts={drafts!r}: expected a whole number of 0 or more.")
    share = acceptance_by_position(rounds)
    share = share[~np.isnan(share)]
    longer = np.concatenate([share, np.full(max(0, drafts - len(share)), share[-1])])[:drafts]
    one_length = len(np.unique(rounds.proposed[:-1])) <= 1  # the last round ends where the answer does
    return Estimate(int(drafts), float(1 + np.cumprod(longer).sum()), bool(drafts <= len(share)) and one_length)


@dataclass(frozen=True, eq=False)
class Speedup:
    """Drafted against undrafted, the same answer, run in turns.

    Attributes:
        drafts: As asked: a number or "auto".
        drafted_s, plain_s: (repeats,) float64 seconds from the first token to the last of each run; of one that ended
            elsewhere, what as many tokens as the others' would have taken.
        ratio: Median of plain / drafted over the pairs; above 1 drafting paid off.
        low, high: 95 % interval of that median (:func:`interval`); below six pairs the least and largest ratio.
        pass_s: Rows of a pass to its median seconds, measured on their own behind the same prompt.
        draft_s: Median seconds of one draft, measured so too.
        parted: Runs that said other words than the trace: in 16 bits, rows of another number are rounded otherwise.
    """

    drafts: int | str
    drafted_s: np.ndarray
    plain_s: np.ndarray
    ratio: float
    low: float
    high: float
    pass_s: Mapping[int, float]
    draft_s: float
    parted: int = 0

    @classmethod
    def of(
        cls, drafts: int | str, drafted_s: Any, plain_s: Any, pass_s: Mapping[int, float], draft_s: float,
        parted: int = 0,
    ) -> Speedup:  # fmt: skip
        """From the seconds of runs in pairs."""
        drafted, plain = np.asarray(drafted_s, float), np.asarray(plain_s, float)
        ratios = plain / drafted
        low, high = interval(ratios.tolist())
        return cls(drafts, drafted, plain, float(np.median(ratios)), low, high, dict(pass_s), draft_s, parted)

    def break_even(self, drafts: int) -> float:
        """Drafts a round of this many must keep on average to be as quick as single steps.

        Raises:
            TraceError: A pass over one row or over ``drafts + 1`` rows was not measured.
        """
        for rows in (1, drafts + 1):
            if rows not in self.pass_s:
                raise TraceError(f"A pass over {rows} rows was not measured; measured: {sorted(self.pass_s)}.")
        return (self.pass_s[drafts + 1] + drafts * self.draft_s) / self.pass_s[1] - 1

    def __str__(self) -> str:
        n = len(self.plain_s)
        kind = "95 % " if n >= _INTERVAL else ""
        parted = f", {self.parted} of the runs said other words" if self.parted else ""
        return f"{self.ratio:.2f}× ({kind}{self.low:.2f} to {self.high:.2f}, {n} pair{'s' * (n != 1)}){parted}"


def table(trace: Trace) -> str:
    """One line a round: what was drafted, what was kept, and the target's word after it; for a terminal."""
    if not len(trace.rounds):
        return "no rounds: nothing was drafted"
    piece = trace.tokens.top_pieces
    r = trace.rounds
    lines = ["round     kept  draft ms  verify ms  drafts: kept | rejected → the target's word"]
    for k in range(len(r)):
        n, kept = int(r.proposed[k]), int(r.accepted[k])
        drafts = [piece.get(int(i), f"<{int(i)}>") for i in r.draft_ids[k][:n]]
        after = piece.get(int(r.emitted_id[k]), f"<{int(r.emitted_id[k])}>") if r.emitted_id[k] >= 0 else "(end)"
        said = f"{''.join(drafts[:kept])!r} | {''.join(drafts[kept:])!r} → {after!r}"
        lines.append(f"{k:>5}  {kept:>3} / {n:<2} {r.draft_s[k] * 1e3:>8.1f}  {r.verify_s[k] * 1e3:>9.1f}  {said}")
    return "\n".join(lines)


def verdict(trace: Trace, speedup: Speedup | None = None) -> str:
    """In a sentence or two whether drafting paid off in this run.

    Args:
        trace: A run.
        speedup: Of ``model.speedup(trace)``; without it only acceptance can be told.

    Returns:
        Text for people: drafts kept and tokens a round; with ``speedup`` also the ratio and where it breaks even. Of
        fewer than five pairs it says no more than their ratio.
    """
    rounds = trace.rounds
    proposed, accepted = int(rounds.proposed.sum()), int(rounds.accepted.sum())
    if not proposed:
        why = "drafting was off" if trace.settings.draft == 0 else "no draft was worth making"
        said = f"Nothing was drafted: {why}"
        return f"{said}." if speedup is None else f"{said}. With draft={speedup.drafts!r}{_told(speedup)}."
    said = f"{accepted} of {proposed} drafts kept, {tokens_a_round(rounds):.1f} tokens a round"
    if speedup is None:
        return f"{said}. Whether that was quicker is not in a trace: model.speedup(trace) measures it."
    usual = int(np.bincount(rounds.proposed).argmax())
    costs = ""
    if {1, usual + 1} <= set(speedup.pass_s):
        times = speedup.pass_s[usual + 1] / speedup.pass_s[1]
        costs = (
            f" Verifying {usual + 1} tokens costs {times:.1f} single steps here; a round of {usual} breaks even at "
            f"{speedup.break_even(usual):.1f} drafts kept."
        )
    return f"{said}{_told(speedup)}.{costs}"


def _told(speedup: Speedup) -> str:
    """What the pairs say, to go on from what was drafted."""
    if len(speedup.plain_s) < _TOLD:
        return f"; {speedup}: too few to tell"
    if speedup.low > 1:
        return f": {speedup.ratio:.2f}× as quick as without"
    if speedup.high < 1:
        return f", yet {speedup.ratio:.2f}×: slower than without"
    return f"; no difference to a run without can be told ({speedup})"
