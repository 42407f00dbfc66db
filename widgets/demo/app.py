"""The page: Gradio's inputs on the left, on the right the notebook's views, drawn by the same JavaScript.

    build(model)              gr.Blocks, ready to be launched
    build(model).launch()     on this machine only; no analytics, no run history, no public link

Gradio carries questions and words; the answers themselves come by ticket (:mod:`widgets.demo.guard`).
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import textwrap
from collections.abc import AsyncIterator
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from widgets import esm
from widgets.demo.desk import Desk, Question, Update, Visitor, words
from widgets.demo.direct import direct
from widgets.demo.examples import gallery
from widgets.demo.guard import Guard, client, routes
from widgets.demo.line import Limits
from widgets.demo.replay import Replay
from workbench.errors import MediaError, PromptError

__all__ = ["Demo", "build"]

_OWN, _GREEDY, _MINE = "the model's own", "greedy: always the likeliest word", "set by hand"
_VIEWS = ("token_view", "attention_view", "draft_view")
_HIDE = "footer .built-with, footer .settings { display: none !important; }"
_RUNS = itertools.count(1)


class Demo(gr.Blocks):
    """The app. ``launch`` takes Gradio's arguments, and is safe where Gradio's defaults are open.

    Attributes:
        desk: Who takes the questions; ``desk.close()`` ends all runs.
    """

    def __init__(self, desk: Desk, **more: Any) -> None:
        super().__init__(analytics_enabled=False, **more)  # Gradio's own sweep would take the examples along
        self.desk = desk

    def launch(self, *given: Any, **how: Any) -> Any:
        """As ``gr.Blocks.launch``; what is not given is set so that nothing is open, counted or recorded."""
        limits, uploads = self.desk.limits, self.desk.uploads
        app = {"routes": routes(self.desk), "middleware": [Middleware(Guard, self.desk)],
               "lifespan": lambda server: uploads.serve(server, get_upload_folder()),
               "docs_url": None, "redoc_url": None, "openapi_url": None}  # fmt: skip
        defaults: dict[str, Any] = {
            "server_name": "127.0.0.1", "share": False, "show_error": False, "max_file_size": limits.upload,
            "footer_links": ["api"], "run_history": False, "enable_monitoring": False, "ssr_mode": False, "pwa": False,
            "mcp_server": False, "strict_cors": True, "state_session_capacity": 2000, "css": _HIDE,
            "max_threads": limits.waiting + 32, "app_kwargs": {**app, **how.pop("app_kwargs", {})},
            "allowed_paths": [*map(str, uploads.offered), *(how.pop("allowed_paths", None) or [])],
        }  # fmt: skip
        with direct(str(how.get("server_name") or "127.0.0.1")):  # Gradio asks its own server before it goes on
            return super().launch(*given, **{**defaults, **how})

    def close(self, *given: Any, **how: Any) -> None:
        """End every run, then the server."""
        self.desk.close()
        super().close(*given, **how)


def build(model: Any, *, limits: Limits | None = None, title: str = "Gemma workbench") -> Demo:
    """The demo of a model.

    Args:
        model: What ``workbench.load`` returns, a :class:`~widgets.demo.replay.Replay`, or anything with ``ask`` and
            ``info``.
        limits: What visitors may do; the default suits a class.
        title: Of the page.

    Returns:
        A ``gr.Blocks``. Its API has one function, ``/ask``.
    """
    desk = Desk(model, limits or Limits())
    demo = Demo(desk, title=title)
    one = {"concurrency_id": "model", "concurrency_limit": desk.limits.waiting + 8}
    with demo:
        gr.Markdown(f"# {title}\nAsk, with pictures and a sound, and see where the model looked, what it nearly said "
                    "and which of its words were drafted.")  # fmt: skip
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                inputs = _recorded(model) if isinstance(model, Replay) else _asked(model, desk.limits)
                with gr.Row():
                    run = gr.Button("Run", variant="primary", elem_id="run")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=3, min_width=360):
                answer = _answer()
        if not isinstance(model, Replay):
            gallery(inputs[:3])  # across the page: its columns are as wide as the inputs' names

        async def on_run(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
            number = f"{next(_RUNS)}.{secrets.token_hex(4)}"

            def made() -> Question:
                return Question(str(values[0] or "")) if isinstance(model, Replay) else _question(*values)

            async for update in _updates(desk, made, _visitor(request)):
                yield _shown(update, number)

        # Coroutines all: Gradio runs other functions on threads, and the desk belongs to the event loop.
        async def on_upload(request: gr.Request, pictures: Any, sound: str | None) -> None:
            desk.uploads.hold(_visitor(request).session, [*(path for path, _ in pictures or []), sound])

        async def on_stop(request: gr.Request) -> None:
            desk.stop(_visitor(request).session)

        async def on_leave(request: gr.Request) -> None:
            desk.leave(_visitor(request).session)

        how: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "once", **one}
        run.click(on_run, inputs, answer, **how)
        if not isinstance(model, Replay):
            for medium in inputs[1:3]:
                medium.change(
                    on_upload, inputs[1:3], None, queue=False, api_visibility="private", show_progress="hidden"
                )
        stop.click(on_stop, None, None, queue=False, api_visibility="private", show_progress="hidden")
        demo.unload(on_leave)
        gr.api(_api(demo), api_name="ask", api_description=_API, **one)
    desk.uploads.offer(path for block in demo.blocks.values() for path in block.temp_files)  # copies of the examples
    demo.queue(max_size=200, default_concurrency_limit=8)
    return demo


# --- the page ---------------------------------------------------------------------------------------------------------


def _asked(model: Any, limits: Limits) -> list[Any]:
    """The inputs of a question, in the order of :func:`_question`."""
    question = gr.Textbox(label="Question", lines=3, max_lines=10, placeholder="What do you want to know?",
                          elem_id="question", value="How many shapes are there?")  # fmt: skip
    pictures = gr.Gallery(label=f"Pictures (up to {limits.pictures})", type="filepath", file_types=["image"], columns=3,
                          object_fit="contain", height=220, interactive=True, elem_id="pictures")  # fmt: skip
    sound = gr.Audio(label="Sound (30 s are heard)", type="filepath", sources=["microphone", "upload"], elem_id="sound")
    with gr.Accordion("Settings", open=False):
        how = gr.Dropdown([_OWN, _GREEDY, _MINE], value=_OWN, label="Choice of words")
        temperature = gr.Slider(0.05, 3, 1.0, step=0.05, label="Temperature (by hand)")
        top_k = gr.Slider(0, 200, 64, step=1, label="Top-k (by hand; 0 is off)")
        top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top-p (by hand; 1 is off)")
        seed = gr.Textbox(label="Seed", placeholder="drawn", max_lines=1)
        drafts = ["auto", *map(str, range(9))] if getattr(model, "drafter", None) is not None else ["0"]
        draft = gr.Dropdown(drafts, value=drafts[0], label="Drafts a round (0 is none)")
        most = gr.Slider(1, limits.tokens, min(64, limits.tokens), step=1, label="At most, tokens")
    return [question, pictures, sound, how, temperature, top_k, top_p, seed, draft, most]


def _recorded(model: Replay) -> list[Any]:
    names = list(model.traces)
    shown = [(f"{name}: {textwrap.shorten(trace.question, 90, placeholder=' …')}", name)
             for name, trace in model.traces.items()]  # fmt: skip
    return [gr.Dropdown(shown, value=names[0], label="Recorded answer", elem_id="recorded")]


def _answer() -> gr.HTML:
    """Where the answer is drawn; see ``demo_page.js``."""
    views = ",\n".join(f"{name}: {esm.expression(name)}" for name in _VIEWS)
    style = "".join(esm.style(name) for name in (*_VIEWS, "demo_page"))
    script = (
        f"const start = {esm.expression('demo_page')};\n"
        f"start({{ element, props, watch, views: {{ {views} }}, style: {json.dumps(style)} }});"
    )
    first = {"state": "idle", "run": "", "message": "The answer appears here."}
    return gr.HTML(first, elem_id="answer", html_template="<div></div>", js_on_load=script)


def _shown(update: Update, number: str) -> dict[str, Any]:
    """What ``demo_page.js`` is told."""
    ticket = update.run.ticket if update.run is not None else None
    return {"run": number, "state": update.state, "message": update.message, "ticket": ticket,
            "rows": [list(row) for row in update.rows]}  # fmt: skip


# --- from Gradio's values to a question -------------------------------------------------------------------------------


def _question(
    text: str | None, pictures: Any, sound: str | None, how: str, temperature: float, top_k: float, top_p: float,
    seed: str | None, draft: str, most: float,
) -> Question:  # fmt: skip
    drawn: dict[str, Any] = {}
    if how == _GREEDY:
        drawn = {"temperature": 0.0}
    elif how == _MINE:
        drawn = {"temperature": float(temperature), "top_k": int(top_k), "top_p": float(top_p)}
    seed = (seed or "").strip()
    if seed and not (seed.isdecimal() and len(seed) < 19):
        raise PromptError(f"Seed {seed[:40]!r}: expected a whole number of 0 or more, or nothing to have one drawn.")
    return Question(
        str(text or ""), pictures=[path for path, _ in pictures or []], sounds=[sound] if sound else [],
        seed=int(seed) if seed else None, draft=draft if draft == "auto" else int(draft), max_new_tokens=int(most),
        **drawn,
    )  # fmt: skip


def _visitor(request: gr.Request) -> Visitor:
    peer = request.client.host if request.client else ""
    return Visitor(str(request.session_hash), client(request.headers, peer))


async def _updates(desk: Desk, made: Any, visitor: Visitor) -> AsyncIterator[Update]:
    """What the desk says; an error is its last word, for the visitor to read."""
    told = desk.ask_of(made, visitor)
    try:
        async for update in told:
            yield update
    except Exception as error:  # noqa: BLE001 (whatever it is: told in words that give nothing away)
        yield Update("failed", words(error))
    finally:
        await told.aclose()


# --- the API ----------------------------------------------------------------------------------------------------------

_API = (
    "Ask the model one question, with pictures and sounds. Gives the answer so far, again and again, and what is known "
    "about it; the last one has the finish, the counts, and where the trace and its page can be fetched."
)


def _api(demo: Demo) -> Any:
    desk = demo.desk

    async def ask(
        question: str, request: gr.Request, images: list[dict] | None = None, audio: list[dict] | None = None,
        temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
        seed: int | None = None, draft: str | None = "auto", max_new_tokens: int | None = 64,
    ) -> AsyncIterator[tuple[str, dict]]:  # fmt: skip
        def made() -> Question:
            if not isinstance(question, str):
                raise PromptError(f"question is {type(question).__name__}: expected text.")
            for name, value in (("max_new_tokens", max_new_tokens), ("seed", seed), ("top_k", top_k)):
                if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                    raise PromptError(f"{name}={value!r:.40}: expected a whole number.")
            said = "auto" if draft is None else str(draft)
            rounds: int | str = int(said) if said.isdecimal() and len(said) < 3 else said[:20]
            return Question(
                question, pictures=_named(images), sounds=_named(audio), temperature=temperature, top_k=top_k,
                top_p=top_p, seed=seed, draft=rounds,
                max_new_tokens=min(64, desk.limits.tokens) if max_new_tokens is None else max_new_tokens,
            )  # fmt: skip

        told = desk.ask_of(made, _visitor(request))
        try:
            async for update in told:
                yield _said(update)
        except Exception as error:  # whatever it is: told in words that give nothing away
            raise gr.Error(words(error), print_exception=False) from error
        finally:
            await told.aclose()

    return ask


def _said(update: Update) -> tuple[str, dict[str, Any]]:
    """An update as the API gives it."""
    about: dict[str, Any] = {"state": update.state, "message": update.message}
    if update.run is None:
        return "".join(piece for piece, _, _ in update.rows), about
    trace, base = update.run.trace, f"workbench/{update.run.ticket}"
    about |= {
        "finish": trace.finish, "tokens": len(trace), "prompt_tokens": len(trace.prompt), "model": trace.model.name,
        "seconds": trace.timing.total_s, "seed": trace.settings.seed, "trace": f"{base}/answer.trace",
        "page": f"{base}/answer.html",
    }  # fmt: skip
    return trace.text, about


def _named(files: Any) -> list[Any]:
    """What stands where the paths of files should; the desk says whether they are.

    Raises:
        MediaError: It is no list.
    """
    if files is None:
        return []
    if not isinstance(files, list):
        raise MediaError(f"Files are {type(files).__name__}: expected a list of uploaded files.")
    return [file.get("path") if isinstance(file, dict) else file for file in files]
