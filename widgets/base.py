"""What every view of a trace is: a widget that draws ``data``, and answers what its JavaScript side asks.

    trace, inspector ──describe()──► data (JSON and binary arrays) ──► NAME.js draws it
                                        ▲                                  │ a question: {"ask": "branch", …}
                                     answer_branch() ◄─────────────────────┘ answered on a thread, errors in words

A view never holds a model; an inspector is asked, and ``reasons`` says why it cannot be.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import anywidget
import ipywidgets
import traitlets

from widgets import esm
from widgets.buffers import LIMIT, in_page, size, split
from workbench.display import to_html
from workbench.errors import WorkbenchError
from workbench.readings import QUESTIONS, can
from workbench.trace import Trace

__all__ = ["Panel", "View", "explain", "question_key"]


class Panel(anywidget.AnyWidget):
    """A widget whose JavaScript side draws ``data``, and asks.

    Attributes:
        error: What went wrong last, in words; shown under the view.
    """

    NAME: ClassVar[str] = ""
    """The JavaScript and style files, without their endings."""

    data = traitlets.Dict(help="What is drawn.").tag(sync=True)
    error = traitlets.Unicode("", help="What went wrong, in words.").tag(sync=True)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.__dict__.get("NAME"):  # not the class that ipywidgets derives of each object's own
            cls._esm = esm.module(cls.NAME)
            cls._css = esm.style(cls.NAME)

    _own_layout: ipywidgets.Layout | None = None  # that ipywidgets made for it

    def __init__(self, **more: Any) -> None:
        self._busy = threading.Lock()
        super().__init__(**more)
        given = isinstance(more.get("layout"), ipywidgets.Layout)
        self._own_layout = None if given else self.layout
        self.on_msg(self._heard)

    def close(self) -> None:
        """Let go of it, and of the layout that ipywidgets made for it."""
        super().close()
        if self._own_layout is not None:
            self._own_layout.close()

    # --- what is asked -----------------------------------------------------------------------------------------------

    def answer(self, question: Mapping[str, Any], buffers: Any = ()) -> Any:
        """Answer a question of the JavaScript side: ``{"ask": NAME, …}`` goes to ``answer_NAME(…)``.

        Raises:
            WorkbenchError: There is no such question, or it has no answer; the words are shown in the view.
        """
        rest = {key: value for key, value in question.items() if key not in ("ask", "id", "plain")}
        handler = getattr(self, f"answer_{question.get('ask')}", None)
        if handler is None:
            raise WorkbenchError(f"{type(self).__name__} has no answer to {question.get('ask')!r}.")
        return handler(**rest, **({"buffers": buffers} if buffers else {}))

    def answer_data(self) -> dict[str, Any]:
        """What is drawn: asked for by hosts that lost the binary parts of the trait, and answered in base64."""
        return dict(self.data)

    def _heard(self, _widget: Any, content: Any, buffers: Any) -> None:
        """A message came: answer on a thread, so that the kernel stays free, one at a time; and say so when asked."""
        if not isinstance(content, dict):
            return
        if "ping" in content:
            self.send({"pong": content["ping"]})
        elif "ask" in content:
            threading.Thread(target=self._reply, args=(content, buffers), daemon=True).start()

    def _reply(self, content: Mapping[str, Any], buffers: Any) -> None:
        try:
            with self._busy:
                answer = self.answer(content, buffers)
            value, out = (in_page(answer), []) if content.get("plain") else split(answer)
            self.send({"reply": content.get("id"), "value": value, "buffers": len(out)}, out)
        except Exception as error:  # noqa: BLE001 (whatever it is belongs under the view, where the user looks)
            self.send({"reply": content.get("id"), "error": explain(error)})


class View(Panel):
    """A view of one trace.

    Args:
        trace: What to show; None shows that there is nothing yet.
        inspector: Whom to ask for more: a loaded model, for instance. Without one, the rest is greyed out.

    Attributes:
        trace: May be set again; what is drawn follows.
        selected: The generated token that is picked, counted from 0; -1 for none. Link it between views.
    """

    TITLE: ClassVar[str] = ""
    """What stands above it in a page."""

    SAVED: ClassVar[tuple[str, ...]] = ("data", "selected")
    """The traits that a page needs."""

    LATE: ClassVar[tuple[str, ...]] = ()
    """Parts of ``data``, as ``"tokens.nearly"``, that the first sight of a page does without."""

    trace = traitlets.Instance(Trace, allow_none=True, help="What is shown.")
    inspector = traitlets.Any(None, help="Answers questions about the trace; an Inspector.")
    selected = traitlets.Int(-1, help="Generated token that is picked; -1 for none.").tag(sync=True)

    def __init__(self, trace: Trace | None = None, inspector: Any = None, **more: Any) -> None:
        self._stop = threading.Event()
        super().__init__(trace=trace, inspector=inspector, **more)
        self._drawings = itertools.count(1)
        self._all: dict[str, Any] = {}  # what is drawn, also where that is too large for a message: a page has no limit
        self.refresh()
        self.observe(self._changed, names=["trace", "inspector"])

    def halt(self, stop: threading.Event | None = None) -> bool:
        """End what the inspector is being asked here, so that the model is free; it is told in words.

        Args:
            stop: The event that ends what is asked from now on, instead of one of the view's own.

        Returns:
            Whether anything was being asked.
        """
        self._stop.set()
        self._stop = threading.Event() if stop is None else stop
        return self._busy.locked()

    # --- what is drawn -----------------------------------------------------------------------------------------------

    def describe(self, trace: Trace) -> dict[str, Any]:
        """What the JavaScript side draws for a trace: JSON, and arrays made by ``buffers.array``."""
        raise NotImplementedError

    @property
    def reasons(self) -> dict[str, str]:
        """For each question, why the inspector cannot be asked it about this trace; empty when it can."""
        if self.trace is None:
            return dict.fromkeys(QUESTIONS, "There is no trace yet.")
        return {question: can(self.inspector, question, self.trace) for question in QUESTIONS}

    def refresh(self) -> None:
        """Draw the trace again.

        One that is too large for a message to the browser leaves the view empty, and ``error`` says by how much.

        Raises:
            WorkbenchError: It cannot be drawn; the view is empty then too.
        """
        trace, words = self.trace, ""
        # a number of its own: traitlets and the browser both leave out what equals what was there
        drawing = {"serial": next(self._drawings)}
        try:
            self._all = {} if trace is None else {**self.describe(trace), "reasons": self.reasons, **drawing}
            if size(self._all) > LIMIT:
                words = _too_large(self._all)
        except Exception as error:
            self._all, words = {}, explain(error)
            raise
        finally:
            with self.hold_sync():
                if trace is not None and self.selected >= len(trace):
                    self.selected = -1
                self.error = words
                self.data = drawing if words else self._all

    def _changed(self, _change: Any) -> None:
        self.refresh()

    # --- in a page without a kernel ----------------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Any]:
        """The traits a page needs; what only an inspector could answer is greyed out with the reason."""
        if self.trace is not None and not self._all:
            self.refresh()  # it could not be drawn: say why, instead of a page with nothing in it
        state = {name: getattr(self, name) for name in self.SAVED}
        reason = "This is a saved page: open the trace with its model to ask for more."
        state["data"] = {**self._all, "reasons": dict.fromkeys(QUESTIONS, reason)}
        return state

    def saved_answers(self) -> dict[str, Any]:
        """Answers to keep in a page, by :func:`question_key`."""
        return {}

    def opening_questions(self) -> tuple[str, ...]:
        """Those of them that the first sight of the page needs."""
        return ()

    # --- where no script runs ----------------------------------------------------------------------------------------

    def picture(self) -> str:
        """The view as HTML without a script, for saved notebooks and code hosts."""
        return to_html(self.trace) if self.trace is not None else "<p>Nothing has been asked yet.</p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        data, metadata = made if isinstance(made, tuple) else (made, {})
        return {**(data or {}), "text/plain": repr(self), "text/html": self.picture()}, metadata

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.trace!r})"


def _too_large(data: Mapping[str, Any]) -> str:
    """How much too large for a message, of what, and what helps."""
    pictures = data.get("pictures") or ()
    part = f", {size(pictures) / 1e6:.1f} of it for {len(pictures)} pictures," if pictures else ""
    fewer = "fewer pictures, " if pictures else ""
    return (
        f"This view needs {size(data) / 1e6:.1f} MB{part} and a message to the browser takes {LIMIT / 1e6:.1f}. "
        f"Ask with {fewer}a smaller top= or fewer tokens; a page of it (to_html) has no such limit."
    )


def question_key(**question: Any) -> str:
    """A question as a page looks its answer up; ``questionKey`` of ``lib/page.js`` gives the same."""
    return json.dumps([[name, question[name]] for name in sorted(question)], separators=(",", ":"), ensure_ascii=False)


def explain(error: BaseException) -> str:
    """An error's words; its kind too where it is not one of ours."""
    return str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
