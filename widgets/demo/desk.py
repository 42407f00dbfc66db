"""One question from a visitor to the answer: checked, in line, answered on a thread, words as they come.

desk.ask(question, …) ──► Update, Update, …      waiting: place and seconds; running: words; done: a ticket
             │ the visitor left, pressed Stop, or took too long: the model stops after the word it is at
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from widgets.bench_parts import ended
from widgets.demo.line import Limits, Line, Rate
from widgets.demo.runs import Run, Runs
from widgets.demo.uploads import Uploads
from workbench.columns import SOURCES
from workbench.errors import MediaError, PromptError, WorkbenchError
from workbench.media import load_audio, load_image
from workbench.trace import Token, Trace

__all__ = ["Desk", "Question", "Update", "Visitor", "words"]

_FLUSH_S = 0.08  # words are sent this often
_WAIT_S = 0.5  # so often somebody in line is told where he is; what is sent is also how a closed tab is noticed
_FAILED = "Something failed here that should not; whoever runs this demo finds it in the log. Please try again."
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visitor:
    """Who asks: a tab of a browser or a client, at an address."""

    session: str
    address: str


@dataclass(frozen=True)
class Question:
    """What is asked; pictures and sounds are paths."""

    text: str
    pictures: Sequence[str] = ()
    sounds: Sequence[str] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    draft: int | str = "auto"
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Update:
    """How far an answer is.

    Attributes:
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        message: A sentence for the visitor.
        rows: Piece, logprob and source of every token so far.
        run: The answer, when it is done.
    """

    state: str
    message: str = ""
    rows: tuple[tuple[str, float, int], ...] = ()
    run: Run | None = None


class Desk:
    """Takes questions of many visitors to one model.

    Args:
        model: Anything with ``ask`` and ``info``; what it has of an Inspector's methods, views may ask.
        limits: What is allowed.
        uploads: The files that may be asked about; none if not given.

    All methods but ``close`` belong to the server's event loop.
    """

    def __init__(self, model: Any, limits: Limits, uploads: Uploads | None = None) -> None:
        self.model, self.limits = model, limits
        self.uploads = uploads or Uploads()
        self.line = Line(limits)
        self.runs = Runs(limits)
        self._rate, self._address = Rate(limits.per_minute), Rate(limits.per_address)
        self._fetched = Rate(100 * limits.per_address, "looks")  # a class behind one address, each with an answer
        self._stops: dict[str, set[threading.Event]] = {}
        self.answered = 0

    # --- asking ------------------------------------------------------------------------------------------------------

    async def ask_of(self, made: Callable[[], Question], visitor: Visitor) -> AsyncGenerator[Update, None]:
        """As :meth:`ask`, of a question that is yet to be made; making it may raise."""
        told = self.ask(made(), visitor)
        try:
            async for update in told:
                yield update
        finally:
            await told.aclose()

    async def ask(self, question: Question, visitor: Visitor) -> AsyncGenerator[Update, None]:
        """Answer, telling how far it is. Closing the generator ends the run.

        Raises:
            WorkbenchError: The question cannot be taken; nothing was done.
        """
        question = self._checked(question)
        self._count(visitor)
        self.uploads.hold(visitor.session, [*question.pictures, *question.sounds])
        place = self.line.join(visitor.session)
        stop = self._stoppable(visitor.session)
        thread: asyncio.Task[Trace] | None = None
        try:
            while not await place.turn(_WAIT_S):
                if stop.is_set():
                    raise WorkbenchError("Stopped before it was your turn.")
                yield Update("waiting", place.words())
            yield Update("running", "Reading …")
            rows: list[tuple[str, float, int]] = []
            notes: list[str] = []
            thread = asyncio.create_task(asyncio.to_thread(self._answer, question, stop, rows, notes))
            self._leave(place, thread)  # the next one's turn comes with the model, whoever still reads here
            async for sent in self._words(thread, rows, stop):
                yield Update("running", f"{sent} token{'s' * (sent != 1)} …", tuple(rows))
            trace = thread.result()
            if stop not in self._stops.get(visitor.session, ()):
                return  # left meanwhile: nobody will look at it
            inspector = self.model.inspector(trace) if hasattr(self.model, "inspector") else self.model
            run = Run(trace, inspector, visitor.session, visitor.address)
            self.runs.add(run)
            self.answered += 1
            yield Update("done", " ".join([f"{ended(trace)}.", *notes]), tuple(rows), run)
        finally:
            self._ended(visitor.session, stop)
            self._leave(place, thread)

    def _stoppable(self, session: str) -> threading.Event:
        """An event that :meth:`stop` and :meth:`leave` set, until :meth:`_ended`."""
        stop = threading.Event()
        self._stops.setdefault(session, set()).add(stop)
        return stop

    def _ended(self, session: str, stop: threading.Event) -> None:
        stop.set()
        mine = self._stops.get(session, set())
        mine.discard(stop)
        if not mine:
            self._stops.pop(session, None)

    async def _words(
        self, thread: asyncio.Task[Trace], rows: list[tuple[str, float, int]], stop: threading.Event
    ) -> AsyncIterator[int]:
        """How many words there are, some times a second, until the thread is done or has had its time."""
        loop = asyncio.get_running_loop()
        until, sent, told = loop.time() + self.limits.seconds, -1, loop.time()
        while not thread.done():
            await asyncio.wait([thread], timeout=_FLUSH_S)
            now = loop.time()
            if now > until:
                stop.set()
            if len(rows) != sent or now - told > 1:
                sent, told = len(rows), now
                yield sent

    def _answer(
        self, question: Question, stop: threading.Event, rows: list[tuple[str, float, int]], notes: list[str]
    ) -> Trace:
        """On a thread: read the media, ask the model."""
        read = self.uploads.read  # a loader's own word on a file that was deleted meanwhile would tell the path
        pictures = [load_image(read(path), name=Path(path).name) for path in question.pictures]
        sounds = [load_audio(read(path), name=Path(path).name) for path in question.sounds]
        media: list[Any] = [*pictures, *sounds]
        notes += [f"{medium.name}: {note}" for medium in media for note in medium.notes]

        def heard(token: Token) -> None:
            rows.append((token.piece, token.logprob, SOURCES.index(token.source)))

        trace: Trace = self.model.ask(
            question.text, images=pictures, audio=sounds, max_new_tokens=question.max_new_tokens,
            temperature=question.temperature, top_k=question.top_k, top_p=question.top_p, seed=question.seed,
            draft=question.draft, on_token=heard, stop=stop,
        )  # fmt: skip
        return trace

    def _leave(self, place: Any, thread: asyncio.Task[Trace] | None) -> None:
        """Give the place up, once the model has let go."""
        if thread is None or thread.done():
            place.leave()
            return

        def done(task: asyncio.Task[Trace]) -> None:
            place.leave()
            if not task.cancelled():
                task.exception()  # seen, so that nothing is logged: nobody is left to tell

        thread.add_done_callback(done)

    def _checked(self, q: Question) -> Question:
        """The question, its files as paths that nobody can bend any more."""
        limits = self.limits
        if not q.text.strip():
            raise PromptError("Write a question first.")
        if len(q.text) > limits.letters:
            raise PromptError(
                f"This question has {len(q.text):,} characters and this demo takes {limits.letters:,}: shorten it."
            )
        for what, got, most in (("pictures", q.pictures, limits.pictures), ("sounds", q.sounds, limits.sounds)):
            if len(got) > most:
                raise MediaError(f"{len(got)} {what}: this demo takes {most} with one question.")
        if not 1 <= q.max_new_tokens <= limits.tokens:
            raise PromptError(
                f"max_new_tokens={q.max_new_tokens}: expected a whole number from 1 to {limits.tokens}, which is the "
                "longest answer of this demo."
            )
        pictures, sounds = ([self.uploads.taken(path) for path in paths] for paths in (q.pictures, q.sounds))
        for path in (*pictures, *sounds):
            size = path.stat().st_size
            if size > limits.upload:
                raise MediaError(f"A file of {size / 1e6:.1f} MB: this demo takes {limits.upload / 1e6:.0f} MB.")
        return replace(q, pictures=[str(path) for path in pictures], sounds=[str(path) for path in sounds])

    def _count(self, visitor: Visitor, weight: float = 1.0) -> None:
        self._rate.count(visitor.session, weight)
        self._address.count(visitor.address, weight)

    # --- looking into an answer --------------------------------------------------------------------------------------

    async def look(
        self, ticket: str, work: Callable[[Run, threading.Event], Any], address: str, *, model: bool = True
    ) -> Any:
        """Do something with an answer on a thread; in line with everybody else if the model has to run.

        Args:
            ticket: Of the answer.
            work: Gets the answer, and an event that is set when it is to end: its visitor pressed Stop or left, or it
                took too long.
            address: Where from.
            model: Whether the model has to run.

        Raises:
            WorkbenchError: There is no such answer, it cannot be done now, or it was ended.
        """
        run = self.runs.get(ticket)
        if not model:
            self._fetched.count(address)
            return await asyncio.to_thread(work, run, threading.Event())
        self._count(Visitor(run.visitor, address), 0.2)
        place = self.line.join(f"{run.visitor} looks")
        stop = self._stoppable(run.visitor)
        thread: asyncio.Task[Any] | None = None
        try:
            while not await place.turn(_WAIT_S):
                if stop.is_set():
                    raise WorkbenchError("Stopped before it was your turn.")
            thread = asyncio.create_task(asyncio.to_thread(work, run, stop))
            await asyncio.wait([thread], timeout=self.limits.seconds)
            if late := not thread.done():
                stop.set()
            try:
                return await asyncio.shield(thread)
            except WorkbenchError as error:
                if late:
                    raise WorkbenchError(
                        f"This took longer than {self.limits.seconds:.0f} s and was ended: it is the most that one "
                        "question is given here."
                    ) from error
                raise
        finally:
            self._ended(run.visitor, stop)
            self._leave(place, thread)

    # --- leaving -----------------------------------------------------------------------------------------------------

    def stop(self, session: str) -> bool:
        """End what a visitor has asked for, in line or running; whether there was anything."""
        stops = self._stops.get(session, set())
        for stop in stops:
            stop.set()
        return bool(stops)

    def leave(self, session: str) -> None:
        """A visitor has left: end his runs, forget his answers, delete his files unless another has the same."""
        self.stop(session)
        self._stops.pop(session, None)
        self.runs.drop(session)
        self.uploads.leave(session)

    def close(self) -> None:
        """The server ends: end every run. From any thread."""
        for stops in list(self._stops.values()):
            for stop in list(stops):
                stop.set()


def words(error: BaseException) -> str:
    """What a visitor is told of an error: ours in its words. Any other may tell of this machine, so it is logged."""
    if isinstance(error, WorkbenchError):
        return str(error)
    _log.error("a visitor was told that something failed", exc_info=error)
    return _FAILED
