"""The lessons as pages: run once, and kept as HTML that opens without a kernel and without a network.

    from widgets.gallery import build

    build("gallery")          # gallery/index.html and a page a lesson

Charts are drawn by one copy of plotly's script beside the pages, pictures and sounds are inside them. A view that asks
the model (``Workbench``, ``TokenView`` …) cannot work on a page; in its place stands what to do instead.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.lessons import copies
from workbench.versions import installing

__all__ = ["build", "page"]

_PLOTLY = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_NOTE = "<p><i>Here stands a view that asks the model; it needs a running notebook: <code>workbench lab</code>.</i></p>"
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 0.86rem; line-height: 1.45; }
.highlight { background: #f5f5f5; border-left: 3px solid #888; padding: 0.5rem 0.8rem; margin: 0.8rem 0; }
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link { display: none; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; } td, th { padding: 0.15rem 0.6rem; border-bottom: 1px solid #ccc; }
"""


def build(
    folder: str | os.PathLike,
    *,
    lessons: str | os.PathLike | None = None,
    names: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    timeout_s: int = 180,
) -> list[Path]:
    """Run lessons and write them as pages.

    Args:
        folder: Where to; made when it is not there. Pages of the same names are replaced, nothing else is touched.
        lessons: Where the notebooks lie; None is the workbench's own.
        names: Which of them: names or their beginnings (``"02"``); none is all.
        say: Told the name of each page when it is there.
        timeout_s: The longest that one cell may take.

    Returns:
        The pages, the index first.

    Raises:
        WorkbenchError: No such lesson, one that fails, a folder that cannot be written, or Jupyter is not installed.
    """
    _check_installed()
    source = Path(lessons) if lessons is not None else copies.source()
    chosen = _chosen(source, names)
    goal = Path(folder)
    try:
        goal.mkdir(parents=True, exist_ok=True)
        script = Path(str((find_spec("plotly").submodule_search_locations or [""])[0]))  # type: ignore[union-attr]
        shutil.copyfile(script / "package_data" / "plotly.min.js", goal / "plotly.min.js")
    except OSError as error:
        raise WorkbenchError(f"{goal} cannot be written ({error.strerror or error}). Name another folder.") from error
    made, titles = [], []
    for path in chosen:
        notebook = _run(path, timeout_s)
        titles.append((path.stem, _title(notebook)))
        made.append(goal / f"{path.stem}.html")
        made[-1].write_text(page(notebook), "utf-8")
        if say is not None:
            say(str(made[-1]))
    links = "\n".join(f'<li><a href="{stem}.html">{stem[:2]} {html.escape(title)}</a></li>' for stem, title in titles)
    index = goal / "index.html"
    body = f"<h1>Gemma workbench: the lessons</h1>\n<p>As they ran; nothing here needs a network.</p>\n<ul>{links}</ul>"
    index.write_text(_page("Gemma workbench: the lessons", body, ""), "utf-8")
    return [index, *made]


def page(notebook: Any) -> str:
    """An executed notebook (of nbformat 4) as one HTML page; charts need ``plotly.min.js`` beside it."""
    from nbconvert import HTMLExporter

    charts = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if _PLOTLY in data:
                charts += 1
                data["text/html"] = _chart(data.pop(_PLOTLY), charts)
            elif data.pop(_WIDGET, None) is not None:
                data["text/html"] = _NOTE
    body, more = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    script = '<script src="plotly.min.js"></script>' if charts else ""
    return _page(_title(notebook), body, script, "\n".join(more["inlining"]["css"]))


def _chart(figure: dict[str, Any], number: int) -> str:
    data = json.dumps({"data": figure["data"], "layout": figure["layout"]}).replace("<", "\\u003c")
    size = f"min-height:{int(figure['layout'].get('height', 400))}px"
    draw = f'Plotly.newPlot("chart-{number}", f.data, f.layout, {{responsive: true, displaylogo: false}})'
    return f'<div id="chart-{number}" style="{size}"></div><script>{{const f = {data}; {draw}}}</script>'


def _page(title: str, body: str, head: str, style: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}{style}</style>\n{head}\n'
        f"<main>\n{body}\n</main>\n</html>\n"
    )


def _title(notebook: Any) -> str:
    first = notebook.cells[0].source.splitlines() if notebook.cells else []
    return first[0].lstrip("# ") if first else "Lesson"


def _chosen(source: Path, names: Sequence[str]) -> list[Path]:
    there = sorted(source.glob("*.ipynb"))
    for name in names:
        if not name or not any(path.stem.startswith(name) for path in there):
            raise WorkbenchError(f"There is no lesson {name!r}; there are {', '.join(p.stem for p in there)}.")
    return [path for path in there if not names or any(path.stem.startswith(name) for name in names)]


def _run(path: Path, timeout_s: int) -> Any:
    """Execute a copy in an empty folder."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=timeout_s, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        try:
            # plotly: the figure's numbers, drawn by the page's own script
            client.execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise WorkbenchError(f"{path.name} does not run to its end: {str(error).strip()[-600:]}") from error
        except AssertionError:
            if client.km is not None:
                raise
            raise KeyboardInterrupt from None  # on Ctrl-C nbclient takes its kernel away, and then misses it
    return notebook


def _check_installed() -> None:
    missing = [name for name in ("nbclient", "nbconvert", "ipykernel") if find_spec(name) is None]
    if missing:
        raise WorkbenchError(f"{missing[0]} is not installed: pip install {installing('lab,model')}")
