"""Workbench: everything in one cell. Media, question, settings; Run, Stop, words as they come; runs and their views.

The answer is computed on a thread, so the notebook stays usable and Stop works while it runs. One run at a time:

    Run ──► thread: model.ask(on_token=…, stop=…) ──► TokenView.stream, some times a second
                         │ done, stopped                    │ failed
                         ▼                                  ▼
              traces, all views, history             words under the buttons; what was there stays
"""

from __future__ import annotations

import html
import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets

from widgets.attention_view import AttentionView
from widgets.base import View, explain
from widgets.bench_parts import halted, label, new_media, row, short, summary, system_text
from widgets.draft_view import DraftView
from widgets.export import to_html
from widgets.media_input import MediaInput
from widgets.settings_form import SettingsForm
from widgets.token_view import TokenView
from workbench.errors import ModelError, PromptError, TraceError
from workbench.trace import Token, Trace

__all__ = ["Workbench"]

_FLUSH_S = 0.08  # words are sent this often: quick enough to read along, slow enough not to hold the model up
_RUNS_LISTED = 200
_WIDE = {"width": "auto"}


class Workbench(ipywidgets.VBox):
    """A model, ready to be asked and looked into.

        Workbench(model)

    Args:
        model: A loaded model, or anything with its ``ask``, ``info`` and what an Inspector has.
        trace: A trace to begin with.

    Attributes:
        media: The :class:`~widgets.media_input.MediaInput`.
        question: The text box.
        traces: Every run so far, oldest first.
        trace: The one that is shown; None before the first.
        running: Whether a run is going on.

    Raises:
        ModelError: ``model`` cannot be asked.
    """

    traces = traitlets.Tuple(help="Runs, oldest first.")
    trace = traitlets.Instance(Trace, allow_none=True, help="What is shown.")
    running = traitlets.Bool(default_value=False)

    def __init__(self, model: Any, trace: Trace | None = None, **more: Any) -> None:
        if not callable(getattr(model, "ask", None)):
            raise ModelError(
                f"A Workbench takes what workbench.load() gives; {type(model).__name__} {model!r:.60} is none."
            )
        self.model = model
        self._stop = threading.Event()
        self._ending = threading.RLock()  # so that no "Stopping …" comes after the last word on a run
        self._thread: threading.Thread | None = None
        self._waiting: list[Token] = []
        self._began = self._flushed = 0.0
        self._sent = 0
        self._listing = False
        self._freed: list[AttentionView] = []  # whose question a run has ended

        standard = getattr(getattr(getattr(model, "processor", None), "image_processor", None), "max_soft_tokens", 280)
        self.media = MediaInput(default_image_tokens=standard)
        self.question = ipywidgets.Textarea(
            placeholder="What do you want to know?", rows=2, layout=_WIDE, description="Question",
            style={"description_width": "4.5rem"},
        )  # fmt: skip
        self.settings = SettingsForm(bool(getattr(model, "drafter", None)))
        self.run_button = ipywidgets.Button(
            description="Run", icon="play", button_style="primary", tooltip="Ask the model"
        )
        self.stop_button = ipywidgets.Button(
            description="Stop",
            icon="stop",
            disabled=True,
            tooltip="End the run after the next token",
        )
        self.follow = ipywidgets.Checkbox(
            description="go on from the answer below", value=False, indent=False, disabled=True,
            layout={"width": "auto"},
        )  # fmt: skip
        self.progress = ipywidgets.IntProgress(layout={"width": "8rem", "visibility": "hidden"})
        self.status = ipywidgets.HTML(layout={"flex": "1 1 auto"})
        self.history = ipywidgets.Dropdown(
            description="Runs", layout={"flex": "1 1 20rem", "width": "auto", "min_width": "0"}, disabled=True
        )
        self.path = ipywidgets.Text("answer.trace", description="File", layout={"width": "16rem"})
        self.save_button = ipywidgets.Button(
            description="Save trace",
            icon="save",
            disabled=True,
            tooltip="With its media, to open without the model",
        )
        self.export_button = ipywidgets.Button(
            description="Export page", icon="file", disabled=True, tooltip="One HTML file that works offline"
        )
        self.views: dict[str, View] = {"Answer": TokenView(), "Where it looked": AttentionView(), "Drafts": DraftView()}
        self.tabs = ipywidgets.Tab(list(self.views.values()), titles=list(self.views))
        super().__init__(
            [
                self.media,
                self.question,
                self.settings,
                row(self.run_button, self.stop_button, self.follow, self.progress, self.status),
                row(self.history),
                self.tabs,
                row(self.path, self.save_button, self.export_button),
            ],
            **{"layout": {"max_width": "60rem"}, **more},  # as wide as the views in it
        )
        for view in self.views.values():
            view.inspector = _Branching(self) if view is self.answer else model
            if view is not self.answer:
                traitlets.link((self.answer, "selected"), (view, "selected"))
        self.add_class("wb-bench")
        self._wire()
        if trace is not None:
            self._say_failed(self._keep(trace))

    @property
    def answer(self) -> TokenView:
        """The view that words come into."""
        view = self.views["Answer"]
        assert isinstance(view, TokenView)  # noqa: S101 (made above)
        return view

    def _wire(self) -> None:
        self.run_button.on_click(lambda _button: self._say_errors(self.run))
        self.stop_button.on_click(lambda _button: self.stop())
        self.save_button.on_click(lambda _button: self._say_errors(self.save))
        self.export_button.on_click(lambda _button: self._say_errors(self._export_beside))
        self.history.observe(self._picked, names="value")
        self.answer.observe(self._branched, names="trace")

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Ask, on a thread. Returns at once; :meth:`wait` waits.

        Raises:
            PromptError: There is no question, a setting is no number, or a run is going on.
        """
        question = self.question.value.strip()
        if not question:
            raise PromptError("Write a question first.")
        if sending := self.media.sending:
            raise PromptError(
                f"{sending} file{'s are' if sending > 1 else ' is'} still on the way: press Run again when "
                f"{'they are' if sending > 1 else 'it is'} there, or cancel."
            )
        settings = self.settings.values()
        images, audio = self.media.images, self.media.audio
        history = self.trace if self.follow.value else None
        if history is not None:
            images, audio = new_media(images, history.images), new_media(audio, history.audio)
            settings["system"] = system_text(settings["system"], history)
        self._start(settings["max_new_tokens"])
        self._free()
        self.answer.selected = -1  # what was picked was a word of another answer
        self.tabs.selected_index = 0

        def work() -> None:
            try:
                trace = self.model.ask(
                    question, images=images, audio=audio, history=history, image_tokens=self.media.image_tokens,
                    on_token=self._token, stop=self._stop, **settings,
                )  # fmt: skip
                failed = self._keep(trace)
                with self._ending:
                    self._say(" ".join(filter(None, [summary(trace), failed])), bad=bool(failed))
                    self._state(running=False)
            except Exception as error:  # noqa: BLE001 (whatever it is belongs under the buttons, where the user looks)
                self._broke_off(error)

        self._thread = threading.Thread(target=work, name="workbench run", daemon=True)
        self._thread.start()

    def _start(self, most: int) -> None:
        with self._ending:  # a click and a branch come on threads of their own
            if self.running:
                raise PromptError("A run is going on: wait for it, or press Stop.")
            self._stop = threading.Event()
            self._waiting, self._sent = [], 0
            self._began = self._flushed = time.monotonic()
            self._state(running=True)
        self.progress.max, self.progress.value = most, 0
        self._say("Reading the prompt …")

    def _broke_off(self, error: BaseException) -> None:
        """End a run and say why; what was there before stands again, and without it the words that came stay."""
        failed = [explain(error)]
        with self._ending:
            try:
                if self.trace is None:
                    self.answer.broke_off("broke off")
                again = [view for view in self._freed if self.trace is not None]  # it asks anew
                for view in (*again, *((self.answer,) if self.trace is not None and self._sent else ())):
                    try:
                        view.refresh()
                    except Exception as more:  # noqa: BLE001 (as _show: the others are drawn, and the words are given)
                        failed.append(explain(more))
                self._say(" ".join(failed), bad=True)
            finally:
                self._state(running=False)

    def branch(self, trace: Trace, *, at: int, token: int | str) -> Trace:
        """Say another token at one place of a run, with words as they come; Stop ends it.

        Raises:
            PromptError: A run is going on.
            WorkbenchError: As for ``model.branch``.
        """
        self._start(trace.settings.max_new_tokens)
        self._free()
        try:
            new: Trace = self.model.branch(trace, at=at, token=token, on_token=self._token, stop=self._stop)
        except BaseException as error:  # the kernel's Interrupt too: nothing is running after it
            self._broke_off(error)
            raise
        with self._ending:
            self._say(summary(new))
            self._state(running=False)
        return new

    def stop(self) -> None:
        """End the run after the next token, and what the views ask: a page waits behind it. Its trace is kept."""
        with self._ending:
            if self.running:
                self._stop.set()
                self._free()
                self._say("Stopping …")

    def wait(self, timeout: float | None = None) -> Trace | None:
        """Wait for the run to end; gives the trace that is shown then."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.trace

    def _token(self, token: Token) -> None:
        """Called by the model for each token, on the thread of the run."""
        self._waiting.append(token)
        now = time.monotonic()
        if now - self._flushed < _FLUSH_S and token.index:
            return
        self.answer.stream(self._sent, self._waiting)
        self._sent += len(self._waiting)
        self._waiting, self._flushed = [], now
        self.progress.value = self._sent
        if not self._stop.is_set():
            self._say(f"{self._sent} tokens, {self._sent / max(1e-6, now - self._began):.1f} a second")

    # --- runs --------------------------------------------------------------------------------------------------------

    def _keep(self, trace: Trace) -> str:
        """Remember a run and show it; gives what of it cannot be shown."""
        self.traces = (*self.traces, trace)
        first = max(0, len(self.traces) - _RUNS_LISTED)
        options = [(f"{k + 1} · {label(t)}", k) for k, t in enumerate(self.traces) if k >= first]
        self._listing = True  # new options pick the first of them, which nobody asked for
        self.history.options = options
        self.history.value = len(self.traces) - 1
        self._listing = False
        return self._show(trace)

    def _picked(self, change: Any) -> None:
        if not self._listing and change.new is not None:
            self._say_failed(self._show(self.traces[change.new]))

    def _show(self, trace: Trace) -> str:
        """Show a run in all views, also when one of them cannot; gives the reasons of those, in words."""
        self.trace = trace
        failed = []
        for name, view in self.views.items():
            same = view.trace is trace
            try:
                view.trace = trace
                if same and view is self.answer and self._sent:
                    view.refresh()  # in the place of words that came one by one
            except Exception as error:  # noqa: BLE001 (the other views still go to this run; the words are given)
                failed.append(f"{name}: {explain(error)}")
            else:
                failed += [f"{name}: {view.error}"] if view.error else []
        self._sent = 0
        self._enable()
        return " ".join(failed)

    def _say_failed(self, failed: str) -> None:
        if failed:
            self._say(failed, bad=True)

    def _branched(self, change: Any) -> None:
        """The answer's view went to another trace by itself: a branch, or back from one."""
        new = change.new
        if new is None or new is self.trace:
            return
        self._sent = 0  # it is drawn already, in the place of the words that came
        known = [k for k, trace in enumerate(self.traces) if trace is new]
        if known and known[0] in dict(self.history.options).values():
            self.history.value = known[0]
        elif known:  # too old for the list
            self._say_failed(self._show(new))
        else:
            self._say_failed(self._keep(new))

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | None = None) -> Path:
        """Write the shown trace to a file.

        Raises:
            TraceError: There is none, or the file cannot be written.
        """
        target = self._target(path, ".trace")
        self._shown().save(target)
        self._say(f"Saved: {target.resolve()}")
        return target

    def export(self, path: str | None = None) -> Path:
        """Write the views of the shown trace as one offline page.

        Raises:
            TraceError: There is no trace, or the file cannot be written.
        """
        target = self._write_page(path)
        self._say(f"Exported: {target.resolve()}")
        return target

    def _write_page(self, path: str | None = None, stop: threading.Event | None = None) -> Path:
        trace, target = self._shown(), self._target(path, ".html")
        where = AttentionView(trace, self.model)  # of its own: Stop ends what the page asks, and no look of a reader
        where.halt(stop)
        try:
            shown = {**self.views, "Where it looked": where}
            to_html([view for name, view in shown.items() if name != "Drafts" or len(trace.rounds)], target)
        finally:
            where.close()
        return target

    def _export_beside(self) -> None:
        """Export on a thread, as a run is made: a page asks the model about every word, and Stop ends that."""
        self._start(1)
        self._say("Exporting …")

        def work() -> None:
            try:
                said, bad = f"Exported: {self._write_page(stop=self._stop).resolve()}", False
            except Exception as error:  # noqa: BLE001 (as for a run)
                said, bad = explain(error), True
            with self._ending:
                self._say(said, bad=bad)
                self._state(running=False)

        self._thread = threading.Thread(target=work, name="workbench export", daemon=True)
        self._thread.start()

    def _free(self) -> None:
        """End what the views ask of the model: a run would wait behind it."""
        self._freed = halted(self.views.values())

    def _target(self, path: str | None, ending: str) -> Path:
        name = (path or self.path.value).strip()
        if not name:
            raise TraceError("Write a file name first.")
        try:
            target = Path(name).expanduser()
            if target.name in ("", "..") or name.endswith(("/", os.sep)) or target.is_dir():
                raise TraceError(f"{name!r} is a folder; write the name of a file too.")
            if target.suffix in (".trace", ".html"):
                target = target.with_suffix(ending)
            elif target.suffix != ending:
                target = target.with_name(target.name + ending)
            free = target
            for number in itertools.count(2) if path is None else ():  # a button that is pressed twice loses nothing
                if not free.exists():
                    break
                free = target.with_name(f"{target.stem} {number}{ending}")
        except (OSError, RuntimeError) as error:  # too long a name, a folder that is closed, no home
            words = getattr(error, "strerror", None) or error
            raise TraceError(f"{short(name, 80)!r} cannot be written: {words}. Name another file.") from error
        return free

    def _shown(self) -> Trace:
        if self.trace is None:
            raise TraceError("There is no answer yet: press Run first.")
        return self.trace

    # --- words to the user -------------------------------------------------------------------------------------------

    def _state(self, *, running: bool) -> None:
        self.running = running
        self.run_button.disabled, self.stop_button.disabled = running, not running
        self._enable()
        self.progress.layout.visibility = "visible" if running else "hidden"

    def _enable(self) -> None:
        """What acts on the answer that is shown, while none comes in its place."""
        for widget in (self.history, self.save_button, self.export_button, self.follow):
            widget.disabled = self.running or self.trace is None

    def _say(self, words: str, *, bad: bool = False) -> None:
        role, style = ("alert", "color:var(--jp-error-color1,#b3400a)") if bad else ("status", "")
        style = f"line-height:1.4;white-space:normal;{style}"
        self.status.value = f'<span role="{role}" style="{style}">{html.escape(words)}</span>'

    def _say_errors(self, act: Any) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (as for a run: whatever it is belongs under the buttons)
            self._say(explain(error), bad=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        data, metadata = made if isinstance(made, tuple) else (made, {})
        return {**(data or {}), "text/plain": repr(self), "text/html": self.answer.picture()}, metadata

    def __repr__(self) -> str:
        return f"Workbench({self.model!r}: {len(self.traces)} runs)"


class _Branching:
    """The model, as the answer's view asks it: a branch is a run of the bench."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._bench.model, name)  # what it cannot do, it cannot do here
        return self._bench.branch if name == "branch" else own
