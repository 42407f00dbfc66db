"""How many drafts the next round is worth: from what was accepted so far and what verifying costs on this device.

A round of k drafts emits 1 + a1 + a1·a2 + … tokens on average, where a_i is the share of i-th drafts kept among those
judged, and takes k drafts and one pass over k + 1 rows. On a GPU that pass costs about what one row does; on a CPU it
can cost several times as much, and then no acceptance makes long rounds worth their time. So both are measured while
decoding. The fixed length with the most tokens a second says what a second is worth; within a round, drafting then goes
on for as long as one more draft promises more tokens than its seconds are worth. How likely a draft is to be kept is
read from how sure the drafter was of it, by what became of drafts it was as sure of.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from statistics import median

__all__ = ["Pace"]

LONGEST = 8
_FIRST = (4, 0, 2)  # lengths tried before anything is known: long, none (what a plain step costs), short
_KEPT = 15  # timings remembered a length
_MEMORY = 0.9  # weight of earlier runs against one more round
_TRUST = 6.0  # rounds of this run that weigh as much as all earlier runs
_SURE = 4  # timings of a length after which its median is believed
_EDGES = tuple(math.log(p) for p in (0.3, 0.5, 0.7, 0.85, 0.95, 0.99))  # kinds of sureness, as the drafter's logprob
_TYPICAL = (0.2, 0.4, 0.6, 0.78, 0.9, 0.97, 0.995)  # what is believed of each before anything is known
_FADING = 0.98  # weight of earlier drafts of a kind against one more
_PROBE = 24  # plain tokens until a draft is tried again, doubled each time it did not pay


class Pace:
    """The costs of one model on one device, and the acceptance of its drafter, over all its runs.

    Args:
        longest: Most drafts a round.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self._passes: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._drafts: deque[float] = deque(maxlen=4 * _KEPT)
        self._kept: dict[bool, list[list[float]]] = {
            sampled: [[0.0, 0.0] for _ in range(longest)] for sampled in (False, True)
        }
        self._sure: dict[bool, list[list[float]]] = {
            sampled: [[2.0 * typical, 2.0] for typical in _TYPICAL] for sampled in (False, True)
        }
        # the same of the draft after one of which the drafter was so sure: easy words come together
        self._after = {sampled: [[2.0 * 0.8, 2.0] for _ in _TYPICAL] for sampled in (False, True)}

    def ran(self, rows: int, seconds: float) -> None:
        """A pass of the target over so many rows took so long."""
        self._passes[rows].append(seconds)

    def drafted(self, count: int, seconds: float) -> None:
        """So many drafts took so long."""
        self._drafts.append(seconds / count)

    def judged(self, accepted: int, logprobs: Sequence[float], sampled: bool) -> None:
        """A round kept ``accepted`` of the drafts that were judged, of which the drafter was so sure (nats)."""
        for i, logprob in enumerate(logprobs[: accepted + 1]):
            noted = [(self._kept[sampled], i, _MEMORY), (self._sure[sampled], bisect(_EDGES, logprob), _FADING)]
            if i:
                noted.append((self._after[sampled], bisect(_EDGES, logprobs[i - 1]), _FADING))
            for table, at, fading in noted:
                hits, tries = table[at]
                table[at] = [hits * fading + (i < accepted), tries * fading + 1]

    def promise(self, logprobs: Sequence[float], sampled: bool) -> float:
        """How likely drafts of which the drafter was so sure (nats) are all kept, and one more after them."""
        at = [bisect(_EDGES, logprob) for logprob in logprobs]
        shares = [self._sure[sampled][k] for k in at] + [self._after[sampled][at[-1]]]
        return math.prod(hits / tries for hits, tries in shares)

    def another(self) -> float:
        """Seconds one more draft adds to a round: its own, and one more row of the pass, on the line through them all.

        A line, because the difference of two medians is mostly their noise. It leaves out a single row, which many
        devices multiply in another way, where there are two other lengths.
        """
        known = {rows: timed for rows, timed in self._passes.items() if timed}
        if len(known) > 2:
            known.pop(1, None)
        weights = {rows: float(len(timed)) for rows, timed in known.items()}
        total = sum(weights.values()) or 1.0
        middle = sum(rows * w for rows, w in weights.items()) / total
        spread = sum(w * (rows - middle) ** 2 for rows, w in weights.items())
        rise = sum(w * (rows - middle) * median(known[rows]) for rows, w in weights.items())
        return self.draft_s() + (max(0.0, rise / spread) if spread else 0.0)

    def draft_s(self) -> float:
        """Seconds a draft takes: measured, or a seventh of a plain step."""
        return median(self._drafts) if self._drafts else 0.15 * self._seconds(1)

    def cost(self, drafts: int) -> float:
        """Seconds a round of this many drafts takes: measured, or on the line through what was measured."""
        return self._seconds(drafts + 1) + drafts * self.draft_s()

    def hoped(self, drafts: int) -> float | None:
        """What such a round might take if its few timings were unlucky; None where there are none, or enough.

        A length that was slow the one time it was tried, because the machine was busy, would otherwise never be tried
        again.
        """
        timed = self._passes.get(drafts + 1)
        if not timed or len(timed) >= _SURE:
            return None
        return self.cost(drafts) - median(timed) + min(*timed, self._seconds_without(drafts + 1))

    def _seconds_without(self, rows: int) -> float:
        """What other lengths say about this one: shorter ones, where there are two."""
        known = {r: median(t) for r, t in self._passes.items() if t and r != rows}
        shorter = {r: seconds for r, seconds in known.items() if r < rows}
        return _on_line(shorter if len(shorter) > 1 else known, rows)

    def _seconds(self, rows: int) -> float:
        if self._passes.get(rows):
            return median(self._passes[rows])
        return _on_line({r: median(t) for r, t in self._passes.items() if t}, rows)

    def run(self, sampled: bool) -> Chooser:
        """A chooser for one run."""
        return Chooser(self, sampled)

    def acceptance(self, sampled: bool) -> list[float]:
        """Share of i-th drafts kept among those judged, over earlier runs.

        Of the first, 0.7 is believed where nothing is known; of a later one, what is believed of the one before it: a
        drafter that is right four times in a row deserves a fifth try.
        """
        out, believed = [], 0.7
        for hits, tries in self._kept[sampled]:
            believed = (hits + believed) / (tries + 1.0)
            out.append(believed)
        return out

    def tries(self, sampled: bool) -> list[float]:
        """How many i-th drafts that rests on, older ones counting less."""
        return [tries for _, tries in self._kept[sampled]]


class Chooser:
    """One run's choices: starts from the model's experience and comes to trust its own."""

    def __init__(self, pace: Pace, sampled: bool) -> None:
        self.pace = pace
        self.sampled = sampled
        self._prior = pace.acceptance(sampled)
        self._trust = [min(_TRUST, tries + 1.0) for tries in pace.tries(sampled)]
        self._own = [[0.0, 0.0] for _ in range(pace.longest)]
        self._first = [k for k in _FIRST if not pace._passes.get(k + 1)]  # noqa: SLF001 (one thing in two classes)
        self._plain = 0
        self._patience = _PROBE
        self._rate: float | None = None  # tokens a second at the best fixed length; None while a length is tried out

    def next(self, room: int) -> int:
        """Most drafts of the next round, at most ``room``; ``further`` may end it sooner."""
        self._rate = None
        if room <= 0:
            return 0
        if self._first:
            return min(self._first.pop(0), room)
        best = max(range(min(room, self.pace.longest) + 1), key=lambda k: self.expected(k) / self.pace.cost(k))
        rate, tried = self.expected(best) / self.pace.cost(best), False
        for k in range(min(room, self.pace.longest) + 1):
            hoped = self.pace.hoped(k)
            if hoped is not None and self.expected(k) / hoped > rate:
                best, rate, tried = k, self.expected(k) / hoped, True
        if best:
            self._plain, self._patience = 0, _PROBE
            if tried:
                return best
            self._rate = rate
            return min(room, self.pace.longest)
        self._plain += 1
        if self._plain >= self._patience:
            self._plain, self._patience = 0, 2 * self._patience
            return 1
        return 0

    def further(self, logprobs: Sequence[float]) -> bool:
        """Whether one more draft is worth its seconds after these (nats, as the drafter has them)."""
        if self._rate is None:
            return True
        return self.pace.promise(logprobs, self.sampled) > self._rate * self.pace.another()

    def expected(self, drafts: int) -> float:
        """Tokens that a round of this many drafts emits, on average."""
        kept = [
            (p * trust + hits) / (trust + tries)
            for p, trust, (hits, tries) in zip(self._prior[:drafts], self._trust, self._own, strict=False)
        ]
        return 1.0 + sum(math.prod(kept[: i + 1]) for i in range(drafts))

    def judged(self, accepted: int, logprobs: Sequence[float]) -> None:
        """As :meth:`Pace.judged`, for this run and for later ones."""
        for i in range(min(accepted + 1, len(logprobs))):
            self._own[i][0] += i < accepted
            self._own[i][1] += 1
        self.pace.judged(accepted, logprobs, self.sampled)


def _on_line(known: dict[int, float], rows: int) -> float:
    """Seconds of a pass over so many rows, on the line between its neighbours among what is known."""
    if len(known) < 2:
        return next(iter(known.values()), 1.0)
    below = max((r for r in known if r < rows), default=min(known))
    above = min((r for r in known if r > rows), default=max(known))
    if below == above:  # beyond all: the line through the outermost two
        below, above = sorted(known)[-2:] if rows > max(known) else sorted(known)[:2]
    slope = max(0.0, (known[above] - known[below]) / (above - below))
    return max(known[below] + slope * (rows - below), 1e-9)


def fixed(drafts: int) -> Callable[[int], int]:
    """Always the same length, cut to the room left."""
    return lambda room: min(drafts, max(room, 0))
