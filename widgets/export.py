"""A trace as one page without kernel, network or server: the views of the notebook, with the same JavaScript.

The page holds the views' modules, the data they draw, and the answers to what they may ask; what is not needed at first
sight comes last. A content security policy in it forbids every request, so that nothing it contains can phone home,
whatever a model wrote.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from widgets import esm
from widgets.base import View
from widgets.buffers import in_page
from workbench.display import to_html as static
from workbench.errors import TraceError
from workbench.trace import Trace

__all__ = ["page", "to_html"]

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data: blob:; base-uri 'none'; form-action 'none'"
)
_PIECE = 1 << 16
_STYLE = (
    "html{color-scheme:light dark}body{margin:0 auto;padding:1.2rem;max-width:62rem;"
    'font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;background:Canvas;color:CanvasText}'
    "h1{font-size:1.15rem;line-height:1.35;margin:0 0 1rem;overflow-wrap:anywhere}"
    "h2{font-size:.95rem;margin:1.6rem 0 .5rem}"
    "footer{margin:1.6rem 0 .6rem;font-size:12px;opacity:.75}@media(max-width:480px){body{padding:.6rem}}"
)


def to_html(what: Trace | View | Iterable[View], path: str | os.PathLike, *, title: str | None = None) -> Path:
    """Write views as one HTML file that works offline.

        to_html(trace, "a.html")
        to_html(AttentionView(trace, model), "where.html")    # with its answers

    Args:
        what: A trace (all views that have something to show of it), a view, or several views.
        path: The file. One that is there is replaced, once the new one is complete.
        title: Shown on top and in the tab; the question, if not given.

    Returns:
        The path.

    Raises:
        TraceError: The file cannot be written, there is nothing to show, or ``what`` is neither trace nor views.
    """
    text = page(what, title=title)
    target = Path(os.path.expanduser(path))  # noqa: PTH111 (Path's own fails at an unknown user)
    try:
        part = target.with_name(f"{target.name}.part")
        part.write_text(text, "utf-8")
        part.replace(target)
    except (OSError, ValueError) as error:  # ValueError: no name, a zero byte in it, half a character in the title
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{target} cannot be written: {reason}. Name another file.") from error
    return target


def page(what: Trace | View | Iterable[View], *, title: str | None = None) -> str:
    """The same as text."""
    if isinstance(what, Trace):
        views = _views(what)
        try:
            return page(views, title=title)
        finally:
            for view in views:
                view.close()
    views = [what] if isinstance(what, View) else list(what) if isinstance(what, Iterable) else None
    if views is None or isinstance(what, (str, bytes)) or not all(isinstance(view, View) for view in views):
        raise TraceError(f"A page takes a trace or views; {type(what).__name__} {what!r:.60} is neither.")
    shown = [(view, view.trace) for view in views if view.trace is not None]
    if not shown:
        raise TraceError("There is nothing to show: no view has a trace yet.")
    names = list(dict.fromkeys(view.NAME for view, _ in shown))
    saved, rest = zip(*(_parted(view, f"view-{k}") for k, (view, _) in enumerate(shown)), strict=True)
    first = shown[0][1]
    head = title or first.question[:200] or "A trace"
    styles = "".join(dict.fromkeys(esm.style(name) for name in names))
    modules = ",\n".join(f"{json.dumps(name)}: {esm.expression(name)}" for name in names)
    sections = "".join(
        f'<h2>{html.escape(view.TITLE)}</h2><div id="view-{k}"></div>' for k, (view, _) in enumerate(shown)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html.escape(head)}</title>\n<style>{_STYLE}{styles}</style></head>\n"
        f"<body><main><h1>{html.escape(head)}</h1><noscript>{static(first)}</noscript>{sections}</main>"
        f"<footer>{html.escape(_made_by(first))}</footer>\n"
        f'<script type="application/json" id="saved">{_json(saved)}</script>\n'
        f"<script>\n{esm.library('page')}\n"
        f"showPage({{\n{modules}\n}}, JSON.parse(document.getElementById('saved').textContent));\n"
        f"</script>\n{_pieces(_json(rest))}\n</body></html>\n"
    )


def _views(trace: Trace) -> list[View]:
    """Those that have something to show of a trace."""
    from widgets.attention_view import AttentionView
    from widgets.draft_view import DraftView
    from widgets.token_view import TokenView

    looked = AttentionView(trace)
    views: list[View] = [TokenView(trace)]
    if looked.reasons["attend"] and looked.reasons["occlude"]:
        looked.close()
    else:
        views.append(looked)
    return [*views, DraftView(trace)] if len(trace.rounds) else views


def _parted(view: View, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a view needs to be seen, and what it needs once someone points at it."""
    state, answers = view.saved_state(), view.saved_answers()
    first = {key: answers.pop(key) for key in view.opening_questions() if key in answers}
    late: dict[str, Any] = {}
    for path in view.LATE if view.selected < 0 else ():  # a word that is picked is seen with all there is to it
        *names, last = path.split(".")
        owner = state["data"] = dict(state["data"])  # copies along the way: the view keeps its own whole
        for name in names:
            inner = owner[name] = dict(owner.get(name, {}))
            owner = inner
        if last in owner:  # a view that could not be drawn has none
            late[path] = owner.pop(last)
    return (
        {"view": view.NAME, "id": place, "state": state, "answers": first, "late": list(late)},
        {"answers": answers, "late": late},
    )


def _pieces(text: str) -> str:
    """Script elements that hold a text together: between them a browser finds time to paint."""
    parts = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return "\n".join(f'<script type="application/json" class="rest">{part}</script>' for part in parts)


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, with binary as base64."""
    text = json.dumps(in_page(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _made_by(trace: Trace) -> str:
    m = trace.model
    which = f"{m.name} ({m.variant}, revision {m.revision}, weights {m.weights_hash[:12]})"
    return f"{which}. Gemma workbench. {trace.created}"
