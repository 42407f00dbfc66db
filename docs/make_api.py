"""Write docs/api.md from the docstrings: ``python docs/make_api.py``.

It stands beside the page it writes and outside of both packages: it reads the two of them, which ``workbench`` may not,
and nobody who installs the workbench needs it. A test fails when the page is not what this makes.

    SECTIONS ──► objects ──► signature by inspect, docstring (Google style) taken apart ──► Markdown, an anchor a name
"""
# ruff: noqa: INP001 (a script beside the page it writes, no package)

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import widgets
import workbench

__all__ = ["PAGE", "Name", "documented", "made", "parse"]

PAGE = Path(__file__).with_name("api.md")
WIDTH = 120

_HEAD = """\
# API

Everything public, with signatures and defaults. This page is made from the docstrings by `python docs/make_api.py`;
change those, not this page. What the ideas behind it are is told in [the other pages](README.md), one a concept.

Errors are named where they are raised; all of them are `workbench.WorkbenchError`. Arrays are numpy's, shapes stand
before their types: `(T,) int32`. Logprobs, entropies and KL are in nats, times in seconds unless a name says `_ms`.
"""

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Load and plan",
        "A model by name, once per kernel; and what it would take, before anything is fetched.",
        ("workbench.load", "workbench.loaded", "workbench.unload", "workbench.plan", "workbench.planning.LoadPlan",
         "workbench.planning.Option", "workbench.machine.Machine", "workbench.machine.Device"),
    ),
    (
        "The model",
        "What `workbench.load` returns. It is an `Inspector`: views ask it for more.",
        ("workbench.model.LoadedModel", "workbench.messages", "workbench.tools.answered"),
    ),
    (
        "The trace",
        "What happened in one run. Opens, shows and compares without torch; see [trace.md](trace.md).",
        ("workbench.Trace", "workbench.trace.Prompt", "workbench.trace.Segment", "workbench.trace.Tokens",
         "workbench.trace.Token", "workbench.trace.Rounds", "workbench.trace.Settings", "workbench.trace.ModelInfo",
         "workbench.trace.Usage", "workbench.trace.Timing", "workbench.toolcalls.Call"),
    ),
    (
        "From traces alone",
        "Comparing, other settings, the flight recorder of drafts, trees of branches. Numpy only.",
        ("workbench.compare", "workbench.diff.TraceDiff", "workbench.sampling.what_if", "workbench.sampling.WhatIf",
         "workbench.flight.*", "workbench.branches.Branches", "workbench.branches.Branch"),
    ),
    (
        "Readings",
        "What an inspector answers, and how answers are kept in a trace.",
        ("workbench.readings.Inspector", "workbench.readings.can", "workbench.readings.keep",
         "workbench.readings.Recorded", "workbench.readings.Attention", "workbench.readings.Map",
         "workbench.readings.Layer", "workbench.readings.Sink", "workbench.readings.Lens",
         "workbench.readings.Attribution", "workbench.readings.Occlusion", "workbench.readings.Filters",
         "workbench.readings.Nearest", "workbench.readings.rank_correlation"),
    ),
    (
        "Media",
        "`ask` takes paths, bytes, files and arrays and calls these itself.",
        ("workbench.media.load_image", "workbench.media.Image", "workbench.media.load_audio", "workbench.media.Audio",
         "workbench.media.load_video", "workbench.media.Video", "workbench.media.patch_grid"),
    ),
    (
        "Views",
        "In a notebook, and as pages; `import widgets` needs no torch.",
        ("widgets.Workbench", "widgets.TokenView", "widgets.AttentionView", "widgets.DraftView", "widgets.DiffView",
         "widgets.MediaInput", "widgets.to_html", "widgets.base.View", "widgets.charts.*", "widgets.figure.write"),
    ),
    (
        "The demo",
        "The views on a link; see [demo.md](demo.md). Needs the `demo` extra.",
        ("widgets.demo.build", "widgets.demo.Demo", "widgets.demo.Limits", "widgets.demo.Replay"),
    ),
    (
        "Lessons",
        "Exercises that check themselves; see [teaching.md](teaching.md).",
        ("workbench.lessons.check", "workbench.lessons.Checked", "workbench.lessons.report",
         "workbench.lessons.collect", "workbench.lessons.exercises", "workbench.lessons.Exercise"),
    ),
    (
        "Errors",
        "Each says what came, what was expected, and what to do; see [errors.md](errors.md).",
        ("workbench.WorkbenchError", "workbench.MediaError", "workbench.PromptError", "workbench.ModelError",
         "workbench.DoesNotFit", "workbench.Incompatible", "workbench.TraceError"),
    ),
)  # fmt: skip

_MADE_FOR_YOU = ("LoadedModel",)  # nobody calls the class
_PARTS = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): ?(.*)$")


@dataclass
class Name:
    """Something public.

    Attributes:
        path: How it is written: ``workbench.load``; a method has its class's path before its name.
        thing: The function, class, method or property.
        members: Of a class: its public methods and properties.
    """

    path: str
    thing: Any
    members: list[Name] = field(default_factory=list)

    @property
    def doc(self) -> dict[str, Any]:
        """The docstring taken apart: see :func:`parse`."""
        return parse(inspect.getdoc(self.thing) or "")

    @property
    def short(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def documented() -> list[tuple[str, str, list[Name]]]:
    """The sections with what stands in them; fails when a name of ``__all__`` is in none."""
    out = []
    for title, intro, paths in SECTIONS:
        names: list[Name] = []
        for path in paths:
            where, _, last = path.rpartition(".")
            module = importlib.import_module(where)
            chosen = module.__all__ if last == "*" else [last]
            names += [Name(f"{where}.{one}", getattr(module, one)) for one in chosen]
        out.append((title, intro, names))
    there = {name.path for _, _, names in out for name in names}
    missing = [f"{m.__name__}.{n}" for m in (workbench, widgets) for n in m.__all__ if f"{m.__name__}.{n}" not in there]
    if missing:
        raise SystemExit(f"docs/make_api.py: put {', '.join(missing)} into a section.")
    classes = [name.thing for _, _, names in out for name in names if inspect.isclass(name.thing)]
    for _, _, names in out:
        for name in names:
            if inspect.isclass(name.thing):
                name.members = _members(name, classes)
    return out


def _members(name: Name, classes: list[type]) -> list[Name]:
    """Public methods and properties of a class that are written in this project, without those of a base listed too."""
    listed = [base for base in name.thing.__mro__[1:] if base in classes]
    found: dict[str, Any] = {}
    for owner in name.thing.__mro__:
        if owner in listed or not owner.__module__.startswith(("workbench", "widgets")):
            continue
        for key, value in vars(owner).items():
            code = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
            kind = inspect.isfunction(code) and (code.__module__ or "").startswith(("workbench", "widgets"))
            plumbing = key.startswith(("_", "answer_")) or any(hasattr(base, key) for base in listed)
            if kind and not plumbing and key not in found:
                found[key] = value if isinstance(value, property) else getattr(name.thing, key)
    return [Name(f"{name.path}.{key}", value) for key, value in found.items()]


# --- docstrings -------------------------------------------------------------------------------------------------------


def parse(doc: str) -> dict[str, Any]:
    """A Google-style docstring as its parts.

    Args:
        doc: Cleaned of its indentation.

    Returns:
        ``text``: the lines before the first part. ``Args``, ``Attributes``, ``Raises``: lists of (names, text).
        ``Returns``, ``Yields``: text. Only the parts that are there.
    """
    parts: dict[str, list[str]] = {"text": []}
    here = "text"
    for line in doc.splitlines():
        if header := _PARTS.match(line):
            here = header[1]
            parts[here] = []
            continue
        if here != "text" and line.strip() and not line.startswith(" "):
            here = "text"  # prose goes on after a part
        parts[here].append(line)
    out: dict[str, Any] = {"text": parts.pop("text")}
    for title, lines in parts.items():
        inner = inspect.cleandoc("\n" + "\n".join(lines)).splitlines()
        out[title] = " ".join(" ".join(inner).split()) if title in ("Returns", "Yields") else _entries(inner)
    return out


def _entries(lines: list[str]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for line in lines:
        entry = _ENTRY.match(line)
        if entry:
            out.append((entry[1], entry[2]))
        elif line.strip() and out:
            out[-1] = (out[-1][0], f"{out[-1][1]} {line.strip()}".strip())
        elif line.strip():
            raise SystemExit(f"docs/make_api.py: no name before {line!r}.")
    return out


# --- Markdown ---------------------------------------------------------------------------------------------------------


class _Links:
    """Where a role such as ``:meth:`ask``` leads."""

    def __init__(self, names: list[Name]) -> None:
        every = [*names, *(member for name in names for member in name.members)]
        self.paths = {one.path for one in every}
        self.by_tail: dict[str, set[str]] = {}
        for one in every:
            parts = one.path.split(".")
            for k in range(len(parts)):
                self.by_tail.setdefault(".".join(parts[k:]), set()).add(one.path)
            real = f"{getattr(one.thing, '__module__', '')}.{getattr(one.thing, '__qualname__', '')}"
            self.by_tail.setdefault(real, set()).add(one.path)

    def find(self, target: str, of: str) -> str | None:
        """The anchor of a role's target, within the class ``of`` first."""
        if f"{of}.{target}" in self.paths:
            return f"{of}.{target}"
        found = self.by_tail.get(target, set())
        return next(iter(found)) if len(found) == 1 else None


def _inline(text: str, links: _Links, of: str) -> str:
    """Prose with its roles as links, its code in single backticks, and nothing that Markdown would take for its own."""

    def role(match: re.Match[str]) -> str:
        shown = match[2].rpartition(".")[2] if match[1] else match[2]
        anchor = links.find(match[2], of)
        return f"[`{shown}`](#{anchor})" if anchor else f"`{shown}`"

    pieces = re.split(r"(:\w+:`~?[\w.]+`|``.+?``|`[^`]+`)", text)
    out = []
    for piece in pieces:
        if piece.startswith(":") and piece.endswith("`"):
            out.append(re.sub(r"^:\w+:`(~?)([\w.]+)`$", role, piece))
        elif piece.startswith("`"):
            inner = piece.strip("`")
            out.append(piece if "`" in inner else f"`{inner}`")
        else:
            plain = piece.replace("<", "&lt;").replace("*", r"\*").replace("](", "]\\(")
            out.append(re.sub(r"(?<!\w)_(?=\w)|(?<=\w)_(?!\w)", r"\_", plain))
    return "".join(out)


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    marked = re.compile(r"^(\s*)([-+#>]|\d+[.)])(\s)")
    return [line if k == 0 else marked.sub(r"\1\\\2\3", line) for k, line in enumerate(lines)]


def _prose(lines: list[str], links: _Links, of: str) -> list[str]:
    """Paragraphs; what is indented is code."""
    out: list[str] = []
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    for block in filter(str.strip, blocks):
        if all(line.startswith("    ") or not line for line in block.splitlines()):
            if out and out[-2:] == ["```", ""]:  # one block goes on
                out[-2:] = ["", *textwrap.dedent(block).splitlines(), "```", ""]
            else:
                out += ["```python", *textwrap.dedent(block).splitlines(), "```", ""]
        else:
            out += [*_wrapped(_inline(" ".join(block.split()), links, of)), ""]
    return out


def _signature(name: Name) -> list[str]:
    """The call with types and defaults, one parameter a line where it is long; empty where nobody calls it."""
    thing = name.thing
    if isinstance(thing, property):
        return []
    if inspect.isclass(thing):
        given = dataclasses.is_dataclass(thing) and not all(
            f.default is not f.default_factory for f in dataclasses.fields(thing)
        )
        if (
            given
            or thing.__name__ in _MADE_FOR_YOU
            or issubclass(thing, Exception)
            or getattr(thing, "_is_protocol", False)
        ):
            return []
    signature = inspect.signature(thing)
    shown, star = [], False
    for p in signature.parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        star = star or p.kind is p.VAR_POSITIONAL
        mark = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        kind = "" if p.annotation is p.empty else f": {_type(p.annotation)}"
        default = "" if p.default is p.empty else f" = {p.default!r}" if kind else f"={p.default!r}"
        shown.append(f"{mark}{p.name}{kind}{default}")
    back = signature.return_annotation
    tail = "" if back is signature.empty or inspect.isclass(thing) else f" -> {_type(back)}"
    call = name.path if not _is_member(name) else ".".join(name.path.split(".")[-2:])
    line = f"{call}({', '.join(shown)}){tail}"
    if len(line) <= 100:
        return [line]
    return [f"{call}(", *(f"    {one}," for one in shown), f"){tail}"]


def _is_member(name: Name) -> bool:
    return name.path.split(".")[-2][:1].isupper()


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _held(thing: Any, names: str) -> str:
    """The type of a dataclass's fields as code; empty for arrays, whose text has shape and type, and for mixed ones."""
    kinds = (
        {_type(f.type) for f in dataclasses.fields(thing) if f.name in names.split(", ")}
        if (dataclasses.is_dataclass(thing))
        else set()
    )
    return f"`{kinds.pop()}`" if len(kinds) == 1 and not any("ndarray" in kind for kind in kinds) else ""


def _shown(name: Name, links: _Links) -> list[str]:
    """One name: anchor, heading, signature, docstring."""
    member = _is_member(name)
    title = ".".join(name.path.split(".")[-2:]) if member else name.path
    kind = ", a property" if isinstance(name.thing, property) else ""
    out = [f'<a id="{name.path}"></a>', "", f"{'####' if member else '###'} `{title}`{kind}", ""]
    if signature := _signature(name):
        out += ["```python", *signature, "```", ""]
    of = name.path.rpartition(".")[0] if member else name.path
    doc = name.doc
    out += _prose(doc["text"], links, of)
    for part in ("Args", "Attributes", "Returns", "Yields", "Raises"):
        if part not in doc:
            continue
        if isinstance(doc[part], str):
            out += [*_wrapped(f"**{part}** {_inline(doc[part], links, of)}"), ""]
            continue
        out += [f"**{part}**", ""]
        for names, text in doc[part]:
            called = ", ".join(f"`{one}`" for one in names.split(", "))
            held = f" ({kind})" if part == "Attributes" and (kind := _held(name.thing, names)) else ""
            out += _wrapped(f"{called}{held}: {_inline(text, links, of)}", "- ", "  ")
        out.append("")
    for one in name.members:
        out += _shown(one, links)
    return out


def made() -> str:
    """The page."""
    sections = documented()
    links = _Links([name for _, _, names in sections for name in names])
    out = [_HEAD, "## Contents", ""]
    for title, _, names in sections:
        out += [f"- [{title}](#{title.lower().replace(' ', '-')})"]
        for name in names:
            out += _wrapped(f"[`{name.path}`](#{name.path})", "  - ", "    ")
            inner = " · ".join(f"[`{one.short}`](#{one.path})" for one in name.members)
            if inner:
                out[-1] += ":"
                out += _wrapped(inner, "    ", "    ")
    out.append("")
    for title, intro, names in sections:
        out += [f"## {title}", "", *_wrapped(intro), ""]
        for name in names:
            out += _shown(name, links)
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(made(), "utf-8")
