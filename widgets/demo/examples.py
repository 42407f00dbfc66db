"""Something to begin with: scenes and a word of pocket's world, each with a question about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from workbench.pocket.examples import PAIR, SCENE, SEVEN

__all__ = ["EXAMPLES", "gallery"]

EXAMPLES: tuple[tuple[str, list[Path], Path | None], ...] = (
    ("How many shapes are there?", [SCENE], None),
    ("What is at the top left?", [SCENE], None),
    ("How many shapes are there?", [PAIR], None),
    ("What colour is the triangle?", [PAIR], None),
    ("What word do you hear?", [], SEVEN),
)
"""Question, pictures, sound."""


def gallery(inputs: list[Any]) -> gr.Examples:
    """A row of examples that fill the inputs: question, pictures, sound."""
    rows = [[question, [str(p) for p in pictures] or None, str(sound) if sound else None]
            for question, pictures, sound in EXAMPLES]  # fmt: skip
    return gr.Examples(rows, inputs, label="Examples from pocket's world", cache_examples=False)
