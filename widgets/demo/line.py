"""Many visitors, one model: the line in front of it, and what one visitor may ask for.

Everything here runs on the server's event loop, so nothing needs a lock. A place in the line is held until the model is
really free again, whoever left before:

    place = line.join(visitor)          refused in words when the line is full, or the visitor has places enough
    await place.turn(0.5)               True when it is this one's turn; meanwhile place.words() says how long still
    place.leave()                       in any case; whoever stands next is woken
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from workbench.errors import WorkbenchError

__all__ = ["Busy", "Limits", "Line", "Place", "Rate"]

_VISITORS = 10_000  # whose last minute is remembered
_FIRST_GUESS = 5.0  # seconds of a turn, before one was measured


class Busy(WorkbenchError):  # noqa: N818 (what a visitor is told; nothing went wrong)
    """A visitor has to wait, or has asked for too much; the words are for the visitor."""


@dataclass(frozen=True)
class Limits:
    """What a demo allows.

    Attributes:
        waiting: Visitors in the line, the one whose turn it is included.
        places: Places one visitor may hold in the line.
        per_minute: Questions one visitor may ask a minute; looks into an answer (attention, lens) count a fifth.
        per_address: The same for one network address, which a whole class may share.
        tokens: Most tokens of an answer.
        letters: Most characters of a prompt.
        pictures, sounds: Most of each in one question.
        upload: Bytes of one file.
        disk: Bytes of all visitors' uploads together.
        seconds: After so many an answer is stopped, and kept as far as it is.
        kept: Answers kept in memory for their visitors to look into.
        kept_each: The same for one visitor, whose last ones stay.
        kept_s: Seconds after which an answer is forgotten.
    """

    waiting: int = 16
    places: int = 2
    per_minute: int = 20
    per_address: int = 400
    tokens: int = 256
    letters: int = 8000
    pictures: int = 4
    sounds: int = 2
    upload: int = 20 << 20
    disk: int = 1 << 30
    seconds: float = 120.0
    kept: int = 64
    kept_each: int = 3
    kept_s: float = 3600.0


class Rate:
    """Who asked how often within the last minute.

    Args:
        per_minute: Allowed; a visitor's next one is refused until the oldest is a minute old.
        what: What is counted, as its refusal calls it.
    """

    def __init__(self, per_minute: int, what: str = "questions") -> None:
        self.per_minute, self.what = per_minute, what
        self._asked: OrderedDict[str, deque[tuple[float, float]]] = OrderedDict()

    def count(self, visitor: str, weight: float = 1.0) -> None:
        """Note one more.

        Raises:
            Busy: It is one too many; it is not noted.
        """
        now = time.monotonic()
        asked = self._asked.setdefault(visitor, deque())
        self._asked.move_to_end(visitor)
        while len(self._asked) > _VISITORS:
            self._asked.popitem(last=False)
        while asked and asked[0][0] <= now - 60:
            asked.popleft()
        if sum(w for _, w in asked) + weight > self.per_minute + 1e-9:
            wait = int(60 - (now - asked[0][0])) + 1 if asked else 60
            raise Busy(
                f"That was {self.per_minute} {self.what} within a minute, which is the most this demo takes from one "
                f"visitor. Please ask again in {wait} s."
            )
        asked.append((now, weight))


class Place:
    """One visitor's place in a line; see the module's first lines."""

    def __init__(self, line: Line, visitor: str) -> None:
        self._line, self.visitor = line, visitor
        self._ready = asyncio.Event()
        self._began: float | None = None
        self._left = False

    @property
    def ahead(self) -> int:
        """How many are before this one, the one whose turn it is included."""
        return self._line.places.index(self) if not self._left else 0

    async def turn(self, seconds: float) -> bool:
        """Wait for the turn, so many seconds at most; whether it has come."""
        try:
            await asyncio.wait_for(self._ready.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def words(self) -> str:
        """Where this place is, and how long it will take."""
        ahead = self.ahead
        return f"In line: {ahead} before you, about {max(1, round(self._line.estimate(ahead)))} s."

    def leave(self) -> None:
        """Give the place up; the second time it does nothing."""
        if self._left:
            return
        if self._began is not None:
            self._line.measured(time.monotonic() - self._began)
        self._line.places.remove(self)
        self._left = True
        self._line.call()

    def start(self) -> None:
        """It is this one's turn."""
        if self._began is None:
            self._began = time.monotonic()
            self._ready.set()


class Line:
    """Who waits for the model, first come, first served.

    Attributes:
        places: In order; the first one has its turn.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places: list[Place] = []
        self._mean = _FIRST_GUESS

    def join(self, visitor: str) -> Place:
        """Take a place at the end.

        Raises:
            Busy: The line is full, or the visitor has places enough.
        """
        mine = sum(place.visitor == visitor for place in self.places)
        if mine >= self.limits.places:
            raise Busy(
                f"You have {mine} question{'s' * (mine != 1)} in line already: wait for an answer, or press Stop."
            )
        if len(self.places) >= self.limits.waiting:
            raise Busy(
                f"The model is busy: {len(self.places)} visitors are in line, which is as many as fit. Please try "
                f"again in about {max(1, round(self.estimate(len(self.places))))} s."
            )
        place = Place(self, visitor)
        self.places.append(place)
        self.call()
        return place

    def call(self) -> None:
        """Tell the first in line that it is their turn."""
        if self.places:
            self.places[0].start()

    def estimate(self, ahead: int) -> float:
        """Seconds until somebody with so many before them has a turn: what turns took lately, times how many."""
        return ahead * self._mean

    def measured(self, seconds: float) -> None:
        """A turn took so long."""
        self._mean += 0.2 * (seconds - self._mean)
