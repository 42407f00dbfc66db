"""Gemma workbench: see where Gemma 4 looked, what it nearly said, and which words were drafted.

    import workbench

    model = workbench.load()                                             # "pocket": embedded, no network
    trace = model.ask("What is at the top left?", images=["scene.png"])
    trace.text

Importing this imports neither torch nor Transformers; they are needed to load a model, not to open a trace.
"""

from typing import TYPE_CHECKING, Any

from workbench.errors import DoesNotFit, Incompatible, MediaError, ModelError, PromptError, TraceError, WorkbenchError

if TYPE_CHECKING:
    from workbench.conversation import messages
    from workbench.diff import compare
    from workbench.loading import load, loaded, unload
    from workbench.planning import plan
    from workbench.trace import Trace

__version__ = "0.1.0.dev0"

__all__ = [
    "DoesNotFit",
    "Incompatible",
    "MediaError",
    "ModelError",
    "PromptError",
    "Trace",
    "TraceError",
    "WorkbenchError",
    "compare",
    "load",
    "loaded",
    "messages",
    "plan",
    "unload",
]

_WHERE = {"Trace": "workbench.trace", "compare": "workbench.diff", "load": "workbench.loading",
          "loaded": "workbench.loading", "messages": "workbench.conversation", "plan": "workbench.planning",
          "unload": "workbench.loading"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
