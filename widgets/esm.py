"""One ES module a view, made of its own file and what it takes from ``lib/``.

A widget's module cannot import relatively (it has no address of its own), and neither can a page opened from a disk. So
``import { h } from "./lib/dom.js";`` is replaced by that file. There is no build step and no other syntax: every import
is one line of plain names, and no two files of ``lib/`` declare the same name. Node runs the same files as they lie.

    NAME.js ──► module(NAME)       for a notebook: ``export default { render }``
            └─► expression(NAME)   for a page: a JavaScript expression with the same value
"""

from __future__ import annotations

import functools
import importlib.resources
import re

__all__ = ["expression", "library", "module", "style"]

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(?:lib/)?([a-z_]+)\.js";\n', re.MULTILINE)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
_EXPORTED = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)


@functools.cache
def module(name: str) -> str:
    """The ES module of a view, with everything it imports in it.

    Args:
        name: The file's name without ``.js``.

    Raises:
        ValueError: A file imports a name that is not exported, imports in another way, or declares a name twice.
    """
    parts: dict[str, str] = {}
    _collect(f"{name}.js", parts)
    seen: dict[str, str] = {}
    for file, text in parts.items():
        for declared in _DECLARED.findall(text):
            if declared in seen:
                raise ValueError(f"{file} and {seen[declared]} both declare {declared}: rename one.")
            seen[declared] = file
    return "".join(re.sub(r"^export (?!default)", "", text, flags=re.MULTILINE) for text in parts.values())


def expression(name: str) -> str:
    """The same as an expression whose value is the module's default export: for a script inside a page."""
    head, default, rest = module(name).partition("\nexport default ")
    if not default:
        raise ValueError(f"{name}.js has no default export.")
    return f"(() => {{\n{head}\nreturn {rest}}})()"


@functools.cache
def library(name: str) -> str:
    """A file of ``lib/`` as plain script, with everything it imports in it: for a page."""
    return module(f"lib/{name}")


@functools.cache
def style(name: str) -> str:
    """The style sheet of a view: what all share, then its own."""
    return _read("lib/base.css") + _read(f"{name}.css")


def _read(file: str) -> str:
    return importlib.resources.files("widgets").joinpath(file).read_text("utf-8")


def _collect(file: str, parts: dict[str, str]) -> None:
    """Add a file after the files it imports, each once."""
    text = _read(file)
    for names, other in _IMPORT.findall(text):
        path = f"lib/{other}.js"
        if path not in parts:
            _collect(path, parts)
        missing = {n.strip() for n in names.split(",")} - set(_EXPORTED.findall(parts[path]))
        if missing:
            raise ValueError(f"{file} imports {', '.join(sorted(missing))} from {path}, which does not export it.")
    rest = _IMPORT.sub("", text)
    left = re.search(r"^import\b.*", rest, re.MULTILINE)
    if left:
        raise ValueError(f'{file}: write this import as import {{ a, b }} from "./lib/x.js";: {left.group()}')
    parts[file] = rest
