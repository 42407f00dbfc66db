"""BertViz and CircuitsVis, asked for a page of the same attention, where they are installed.

    python -m pip install --no-deps --target artifacts/peers bertviz circuitsvis importlib_metadata==8.7.0 zipp

That folder is looked into besides what the environment has, and never first. ``--no-deps``, because what they would
bring along (boto3 and others, for models of their own) is not needed for a page. BertViz's page takes three libraries
from the network; to open one without, they are read from ``npm install --prefix artifacts/peers requirejs d3@5
jquery@2``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["INSTALL", "PEERS", "SCRIPTS", "alone", "missing", "page", "version"]

FOLDER = Path(__file__).resolve().parents[1] / "artifacts" / "peers"
INSTALL = "python -m pip install --no-deps --target artifacts/peers bertviz circuitsvis importlib_metadata==8.7.0 zipp"
SCRIPTS = "npm install --prefix artifacts/peers requirejs d3@5 jquery@2"
PEERS = {"BertViz": "bertviz", "CircuitsVis": "circuitsvis.attention"}
"""Modules by the peers' names."""

# jquery names itself to require.js; d3 does not, and would be taken for a second nameless module
_D3 = """define('d3', [], () => {{
const module = {{ exports: {{}} }}, exports = module.exports, define = 0;
{}
return module.exports; }});"""
_LIBRARIES = {"require": "requirejs/require.js", "d3": "d3/dist/d3.min.js", "jquery": "jquery/dist/jquery.min.js"}


def _module(name: str) -> Any:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(PEERS[name])


def missing(name: str) -> str:
    """Why a peer cannot be asked; empty when it can."""
    try:
        _module(name)
    except ImportError as error:
        return f"not installed ({error.name or error})"
    return ""


def version(name: str) -> str:
    """The release that is asked."""
    from importlib import metadata

    _module(name)
    return metadata.version(name.lower())


def page(name: str, weights: np.ndarray, tokens: Sequence[str]) -> str:
    """A page of one head, as the peer makes it; libraries that it fetches are not in it.

    Args:
        name: One of :data:`PEERS`.
        weights: (T, T) float32.
        tokens: (T,) words.

    Raises:
        ImportError: The peer is not installed.
    """
    if name == "BertViz":
        import torch

        made = _module(name).head_view([torch.from_numpy(weights)[None, None]], list(tokens), html_action="return")
        return str(made.data)
    return str(_module(name).attention_pattern(list(tokens), weights))


def alone(name: str, weights: np.ndarray, tokens: Sequence[str]) -> str | None:
    """The same as one page that needs no network; None where its libraries are not on this disk."""
    if name == "BertViz":
        files = {key: FOLDER / "node_modules" / path for key, path in _LIBRARIES.items()}
        if not all(file.exists() for file in files.values()):
            return None
        made = page(name, weights, tokens)
        first = made.index("<script src=")
        made = made[:first] + made[made.index("</script>", first) + len("</script>") :]
        require, d3, jquery = (file.read_text("utf-8").replace("</script", "<\\/script") for file in files.values())
        d3 = _D3.format(d3)
        made = made.replace("require.config({", "const ignored = ({", 1)
        scripts = "".join(f"<script>{text}</script>" for text in (require, jquery, d3))
    else:
        made, scripts = _module(name).attention_pattern(list(tokens), weights).local_src, ""
    return f'<!DOCTYPE html><html><head><meta charset="utf-8">{scripts}</head><body>{made}</body></html>'
