"""What the Workbench and the demo say of a run, and what a question adds to a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets

from widgets.attention_view import AttentionView
from widgets.base import View
from widgets.draft_view import DraftView
from workbench.columns import SOURCES
from workbench.display import tokens_a_second
from workbench.errors import PromptError
from workbench.trace import Trace

__all__ = ["ended", "halted", "label", "new_media", "row", "short", "summary", "system_text"]


def ended(trace: Trace) -> str:
    """How a run ended, how many tokens it has, and how quickly they came."""
    n, quick = len(trace), tokens_a_second(trace)
    rate = "" if quick is None else f", {quick:.1f} a second"
    how = {"stopped": "Stopped", "max_new_tokens": "Cut at the limit", "context": "Context full"}
    return f"{how.get(trace.finish, 'Done')}: {n} token{'s' * (n != 1)}{rate}"


def summary(trace: Trace) -> str:
    """The same, and how long the first token took."""
    return f"{ended(trace)}; first after {trace.timing.first_token_s:.2f} s."


def halted(views: Iterable[View]) -> list[View]:
    """End what views ask of a model by themselves; those that were asking."""
    return [view for view in views if isinstance(view, (AttentionView, DraftView)) and view.halt()]


def label(trace: Trace) -> str:
    """A run in a list."""
    branched = "↳ " if (trace.tokens.source == SOURCES.index("forced")).any() else ""
    return f"{branched}{short(trace.question, 40)} → {short(trace.text, 50)}"


def short(text: str, most: int) -> str:
    """A text on one line, cut to so many letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def row(*children: Any) -> ipywidgets.Box:
    """Widgets side by side, as far as there is room."""
    return ipywidgets.Box(
        children, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "0.3rem 0.6rem"}
    )


def new_media(media: list[Any], before: tuple[Any, ...]) -> list[Any]:
    """Of the media beside a question, those that the conversation does not hold already."""
    known = {one.sha256 for one in before}
    return [one for one in media if one.sha256 not in known]


def system_text(said: str | None, history: Trace) -> str | None:
    """The system text to go on with: none where the conversation has it.

    Raises:
        PromptError: It has another one.
    """
    first = history.prompt.messages[0]
    if not said or first["role"] not in ("system", "developer"):
        return said
    parts = first["content"]
    before = parts if isinstance(parts, str) else "".join(part.get("text", "") for part in parts)
    if before.strip() != said.strip():
        raise PromptError(
            'The conversation below began with another system text. Put that back, or untick "go on from the answer '
            'below" to begin anew.'
        )
    return None
