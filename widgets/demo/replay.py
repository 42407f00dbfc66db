"""Saved traces in the place of a model: each is said again at the speed at which it was recorded. No torch.

workbench demo --replay DIR
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import TraceError
from workbench.readings import Recorded
from workbench.trace import Trace

__all__ = ["Replay"]

_LONGEST_PAUSE = 5.0  # seconds before the first word, however long the model took to read


class Replay:
    """Answers from traces.

    Args:
        folder: Where the ``.trace`` files are.

    Attributes:
        traces: By name, in the order of the names.
        left_out: Why each file that cannot be opened is not among them.

    Raises:
        TraceError: There is no such folder, or none in it that can be opened.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise TraceError(f"{os.fspath(folder)!r}: there is no such folder.")
        files = sorted(place.glob("*.trace"))
        if not files:
            raise TraceError(
                f"{os.fspath(folder)!r} holds no .trace files. Save some first: workbench ask QUESTION --save a.trace"
            )
        self.traces: dict[str, Trace] = {}
        self.left_out: list[str] = []
        for file in files:
            try:
                self.traces[file.stem] = Trace.load(file)
            except TraceError as error:
                self.left_out.append(str(error))
        if not self.traces:
            raise TraceError(f"None of the {len(files)} traces can be opened. {self.left_out[0]}")
        self.info = next(iter(self.traces.values())).model

    def __repr__(self) -> str:
        return f"Replay({', '.join(self.traces)})"

    def ask(self, question: str, *, on_token: Any = None, stop: threading.Event | None = None, **_more: Any) -> Trace:
        """Say the trace of this name again, word by word, as long after each other as they were recorded.

        Raises:
            TraceError: There is no trace of that name.
        """
        if question not in self.traces:
            raise TraceError(f"{question[:80]!r} was not recorded; there are: {', '.join(self.traces)}.")
        trace, stop = self.traces[question], stop or threading.Event()
        began = time.monotonic()
        late = max(0.0, trace.timing.first_token_s - _LONGEST_PAUSE)
        for token in trace.tokens:
            pause = token.time_s - late - (time.monotonic() - began)
            if stop.wait(max(0.0, pause)):
                return replace(trace, finish="stopped")
            if on_token is not None:
                on_token(token)
        return trace

    def inspector(self, trace: Trace) -> Recorded:
        """Who answers about a trace: what was kept in it."""
        return Recorded(trace)
