"""What a student hands in: one page with every answer; and a teacher's table of many such pages."""

from __future__ import annotations

import datetime as dt
import html
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__
from workbench.errors import WorkbenchError
from workbench.lessons.checking import is_row, read
from workbench.lessons.registry import exercises

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["collect", "report"]

_DATA = re.compile(r'<script type="application/json" id="workbench-report">(.*?)</script>', re.DOTALL)
_MOST = 4 << 20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would run
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #8888;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}pre{white-space:pre-wrap;margin:0}:root{color-scheme:light dark}"
)


def report(name: str = "", path: str | os.PathLike | None = None) -> Path:
    """Write what was answered in this folder to one HTML page, to hand in.

        lessons.report("Ada")       # report-Ada.html

    The page holds the student's name, and for each exercise the answer, how often it was tried, how many hints were
    shown, and whether the solution was. Nothing else about the student or the machine. It is a record of practice, not
    proof against cheating: who wants to can edit it.

    Args:
        name: Of the student, or of a pair; may be left out.
        path: Where to; None is ``report-NAME.html`` in the present folder.

    Returns:
        The path of the page.

    Raises:
        WorkbenchError: The name is no text, nothing was answered here, or the page cannot be written.
    """
    if not isinstance(name, str) or len(name) > 200:
        raise WorkbenchError(f"name={name!r:.60}: expected a name of at most 200 letters.")
    answered = read()
    if not answered:
        raise WorkbenchError(
            f'There are no answers in {Path.cwd()} yet: run lessons.check("02.1", answer) in a lesson of this folder.'
        )
    plain = re.sub(r"[^\w-]+", "-", name).strip("-")[:40]
    goal = Path(path) if path is not None else Path(f"report-{plain}.html" if plain else "report.html")
    data = {
        "workbench": __version__, "name": name, "made": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "exercises": answered,
    }  # fmt: skip
    try:
        goal.write_text(_page(data), "utf-8")
    except OSError as error:
        raise WorkbenchError(f"{goal} cannot be written ({error.strerror or error}). Pass another path=.") from error
    return goal


def collect(folder: str | os.PathLike) -> pd.DataFrame:
    """A table of the reports in a folder: one row a student, one column an exercise.

        lessons.collect("handed-in").to_csv("class.csv")

    Columns of exercises are those that the lessons have, whatever else a page says. A name, of a file too, that a
    spreadsheet would take for a formula has an apostrophe before it. Cells say ``right`` (with ``, n tries`` and
    ``, hints n`` where so), ``solution shown``, ``not yet``, or nothing.

    Raises:
        WorkbenchError: There is no report in the folder, or one of them is broken; the message names it.
    """
    import pandas as pd

    paths = sorted(p for p in Path(folder).glob("*.html") if p.is_file())
    if not paths:
        raise WorkbenchError(f"{folder} holds no *.html: put the reports of the class there.")
    rows, known = [], exercises()
    for path in paths:
        data = _read(path)
        done = {name: row for name, row in data["exercises"].items() if name in known}
        cells = {name: _cell(row) for name, row in done.items()}
        right = sum(bool(row["right"]) for row in done.values())
        rows.append({"file": _plain(path.name), "name": _plain(data["name"]), "right": right, **cells})
    names = sorted({name for row in rows for name in row} - {"file", "name", "right"})
    return pd.DataFrame(rows, columns=["file", "name", "right", *names]).fillna("")


def _plain(text: str) -> str:
    """A text as a cell that no spreadsheet runs."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _cell(row: dict[str, Any]) -> str:
    if row["right"]:
        tries = f", {row['attempts']} tries" if row["attempts"] > 1 else ""
        after = ", solution shown" if row["solution"] else f", hints {row['hints']}" if row["hints"] else ""
        return f"right{tries}{after}"
    return "solution shown" if row["solution"] else f"not yet, {row['attempts']} tries"


def _read(path: Path) -> dict[str, Any]:
    try:
        page = path.read_text("utf-8") if path.stat().st_size <= _MOST else ""
        found = _DATA.search(page)
        data: Any = json.loads(found.group(1)) if found else None
    except (OSError, ValueError, RecursionError) as error:
        raise WorkbenchError(f"{path} cannot be read ({error}). Take it out of the folder.") from error
    data = data if isinstance(data, dict) else {}
    rows = data.get("exercises")
    if not isinstance(rows, dict) or not all(map(is_row, rows.values())) or not isinstance(data.get("name"), str):
        raise WorkbenchError(f"{path} is no report of the lessons. Take it out of the folder, or ask for it again.")
    return data


def _page(data: dict[str, Any]) -> str:
    known = exercises()
    rows = []
    for name, row in sorted(data["exercises"].items()):
        title = known[name].title if name in known else ""
        cells = (f"{name} {title}", _cell(row), f"<pre>{html.escape(row['answer'])}</pre>")
        rows.append(f"<tr><td>{html.escape(cells[0])}</td><td>{html.escape(cells[1])}</td><td>{cells[2]}</td></tr>")
    right = sum(row["right"] for row in data["exercises"].values())
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no text in it can end the script
    title = html.escape(data["name"] or "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>{right} of {len(known)} exercises right; made {html.escape(data['made'])}.</p>\n"
        "<table><tr><th>Exercise</th><th>Result</th><th>Answer</th></tr>\n" + "\n".join(rows) + "\n</table>\n"
        f'<script type="application/json" id="workbench-report">{embedded}</script>\n</html>\n'
    )
