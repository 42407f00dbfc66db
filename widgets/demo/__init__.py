"""The demo: the workbench on a link, for many visitors and one model. Needs the ``demo`` extra.

from widgets import demo

demo.build(model).launch()         # gr.Blocks, on this machine only
workbench demo                     # the same from a terminal; --share, --auth, --check, --replay

app.py       the page and its API          guard.py     which requests are let through; /health and tickets
desk.py      one question, to its answer   line.py      who waits, and what one visitor may ask for
runs.py      answers that are kept         replay.py    saved traces in the place of a model
uploads.py   visitors' files: whose, and until when
command.py   the command: links, rehearsal, shutdown    options.py   what can be typed
"""

from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.versions import installing

if TYPE_CHECKING:
    from widgets.demo.app import Demo, build
    from widgets.demo.line import Limits
    from widgets.demo.replay import Replay

__all__ = ["Demo", "Limits", "Replay", "build"]

_WHERE = {"Demo": "app", "Limits": "line", "Replay": "replay", "build": "app"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'widgets.demo' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"widgets.demo.{_WHERE[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise WorkbenchError(
            f"The demo needs gradio: python -m pip install {installing('demo')}, or python start.py demo."
        ) from error


def __dir__() -> list[str]:
    return [*__all__]
