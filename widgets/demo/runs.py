"""Answers of a demo, kept in memory for those who asked: each behind a ticket that nobody can guess.

Nothing is written to a disk, and nothing lists the tickets. A ticket opens the views of one answer, what they may ask,
and the downloads. An answer is forgotten when its visitor leaves, has newer ones, or after a while.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from widgets.attention_view import AttentionView
from widgets.base import View
from widgets.buffers import in_page
from widgets.demo.line import Limits
from widgets.draft_view import DraftView
from widgets.export import page
from widgets.token_view import TokenView
from workbench.errors import TraceError, WorkbenchError
from workbench.readings import can, keep, stopping
from workbench.trace import Trace

__all__ = ["ASKED_OF_THE_MODEL", "Run", "Runs"]

ASKED_OF_THE_MODEL = ("agree", "attend", "heads", "lens", "occlude")
"""Questions of the views that make the model run; the others are answered from the trace."""

_ALLOWED = (*ASKED_OF_THE_MODEL, "sound", "spectrogram")
_NOT_HERE = {
    "branch": "Saying another word and going on from there is done in a notebook: Workbench(model).",
    "speedup": "The speed is measured in a notebook, on a machine that does nothing else: DraftView(trace, model).",
}
_KEPT_READINGS = 16 << 20  # bytes of attention that a downloaded trace takes along at most
_KEPT_ATTENTION = 8 << 20  # bytes of attention behind the views of one answer
_MEDIA = 512 << 20  # bytes of decoded media of all answers together
_DROPPED_OLDEST = "This answer is no longer kept: ask again."
_log = logging.getLogger(__name__)


class Run:
    """One answer, and what its visitor may do with it.

    Args:
        trace: What happened.
        inspector: The model, or whoever can answer about the trace.
        visitor: Whose it is.
        address: Where from.
    """

    def __init__(self, trace: Trace, inspector: Any, visitor: str, address: str = "") -> None:
        self.trace, self.inspector, self.visitor, self.address = trace, inspector, visitor, address
        self.ticket = secrets.token_urlsafe(18)
        self.made = time.monotonic()
        self.bytes = sum(m.pixels.nbytes for m in trace.images) + sum(m.samples.nbytes for m in trace.audio)
        self._lock = threading.Lock()
        self._attention: AttentionView | None = None
        self._closed = False

    def views(self) -> list[dict[str, Any]]:
        """What the page draws: for each view its name and the traits it starts from, binary parts as base64."""
        shown: list[View] = [TokenView(self.trace, self.inspector)]
        with self._held():
            shown.append(self._where())
        shown.append(DraftView(self.trace, self.inspector))
        made = []
        try:
            for view in shown:
                data = {**view.data, "reasons": {**view.reasons, **_NOT_HERE}}
                state = {"data": in_page(data), "selected": -1, "measure": "probability", "error": view.error}
                made.append({"view": view.NAME, "state": state})
        finally:
            for view in shown:
                if view.NAME != AttentionView.NAME:
                    view.close()
        return made

    def answer(self, question: Mapping[str, Any], stop: threading.Event | None = None) -> Any:
        """Answer what a view asks, as JSON.

        Args:
            question: As the view sends it.
            stop: An event that ends it.

        Raises:
            WorkbenchError: There is no answer, with the reason.
        """
        name = question.get("ask")
        if name in _NOT_HERE:
            raise WorkbenchError(_NOT_HERE[str(name)])
        if name not in _ALLOWED:
            raise WorkbenchError(f"{str(name)[:40]!r} is nothing that can be asked here.")
        with self._held():
            try:
                where = self._where()
                where.halt(stop)
                return in_page(where.answer(question))
            except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError) as error:
                _log.info("a question that cannot be read: %.200r", dict(question), exc_info=error)
                raise TraceError("This question cannot be read: expected one that the views here ask.") from error

    def page(self, stop: threading.Event | None = None) -> str:
        """The views as one offline page, with every word's attention; ``stop`` ends it."""
        with self._views(stop) as shown:
            return page(shown)

    def file(self, stop: threading.Event | None = None) -> bytes:
        """The trace as a file, with its attention where that is not too large; ``stop`` ends it."""
        self._keep_attention(stop)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answer.trace"
            self.trace.save(path)
            return path.read_bytes()

    def close(self) -> None:
        """Let go of everything, at once or when what is being answered is done. Never waits."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._release()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        if self._closed and self._attention is not None:
            self._attention.close()
            self._attention = None
        self._lock.release()

    def _where(self) -> AttentionView:
        if self._attention is None:
            self._attention = AttentionView(self.trace, self.inspector)
            self._attention.kept_most = _KEPT_ATTENTION
        return self._attention

    @contextlib.contextmanager
    def _views(self, stop: threading.Event | None) -> Iterator[list[View]]:
        looked = AttentionView(self.trace, self.inspector)
        looked.halt(stop)
        made = [TokenView(self.trace, self.inspector), looked]
        if len(self.trace.rounds):
            made.append(DraftView(self.trace, self.inspector))
        try:
            yield made
        finally:
            for view in made:
                view.close()

    def _keep_attention(self, stop: threading.Event | None) -> None:
        size = 4 * len(self.trace) * len(self.trace.ids) * len(self.trace.model.layers) * 8
        if self.trace.readings or size > _KEPT_READINGS or can(self.inspector, "attend", self.trace):
            return
        if len(self.trace):
            attend = self.inspector.attend
            self.trace = keep(self.trace, attend(self.trace, **stopping(attend, stop)))


class Runs:
    """All answers that are kept."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """Keep one; the oldest go when there are too many, or too much."""
        self._runs[run.ticket] = run
        mine = [r for r in self._runs.values() if r.visitor == run.visitor]
        for old in mine[: -self._limits.kept_each]:
            self._forget(old)
        self.tidy()
        while len(self._runs) > 1 and (
            len(self._runs) > self._limits.kept or sum(r.bytes for r in self._runs.values()) > _MEDIA
        ):
            self._forget(self._most_held())

    def _most_held(self) -> Run:
        """The oldest answer of the address that has most: who asks without end pushes out his own."""
        held = Counter(run.address for run in self._runs.values())
        most = max(held.values())
        return next(run for run in self._runs.values() if held[run.address] == most)

    def get(self, ticket: str) -> Run:
        """The answer behind a ticket.

        Raises:
            TraceError: There is none, or none any more.
        """
        self.tidy()
        run = self._runs.get(ticket)
        if run is None:
            raise TraceError(_DROPPED_OLDEST)
        return run

    def drop(self, visitor: str) -> None:
        """Forget a visitor's answers."""
        for run in [r for r in self._runs.values() if r.visitor == visitor]:
            self._forget(run)

    def tidy(self) -> None:
        """Forget what is too old."""
        before = time.monotonic() - self._limits.kept_s
        for run in [r for r in self._runs.values() if r.made < before]:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.ticket, None)
        run.close()
