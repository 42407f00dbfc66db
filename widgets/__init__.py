"""The views of a trace: widgets, figures and offline HTML. Imports workbench, never torch or transformers.

from widgets import TokenView, to_html

TokenView(trace)               # in a notebook
to_html(trace, "a.html")       # the same as one offline file
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from widgets.attention_view import AttentionView
    from widgets.bench import Workbench
    from widgets.diff_view import DiffView
    from widgets.draft_view import DraftView
    from widgets.export import to_html
    from widgets.media_input import MediaInput
    from widgets.token_view import TokenView

__all__ = ["AttentionView", "DiffView", "DraftView", "MediaInput", "TokenView", "Workbench", "to_html"]

_WHERE = {
    "AttentionView": "widgets.attention_view",
    "DiffView": "widgets.diff_view",
    "DraftView": "widgets.draft_view",
    "MediaInput": "widgets.media_input",
    "TokenView": "widgets.token_view",
    "Workbench": "widgets.bench",
    "to_html": "widgets.export",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'widgets' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
