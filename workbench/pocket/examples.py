"""Three small files to begin with: two pictures and a spoken word, of pocket's world, and what is right about each.

``python -m workbench.pocket.examples`` makes them again, in seconds; the word needs the program espeak-ng. The pictures
are drawn by the renderer, and spoken in a voice, that training never sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["EXAMPLES", "HERE", "PAIR", "SCENE", "SEVEN", "Example", "make"]

HERE = Path(__file__).resolve().parent / "examples"
SCENE = HERE / "scene.png"
"""A red circle at the top left, a blue star at the right, a yellow square at the bottom; 480×336 pixels."""
PAIR = HERE / "pair.png"
"""A green cross at the top right and a purple triangle at the bottom left; 336×432 pixels."""
SEVEN = HERE / "seven.wav"
"""The word "seven"; 16 kHz, mono."""


@dataclass(frozen=True)
class Example:
    """A file, a question about it, and the right answer."""

    path: Path
    question: str
    answer: str


EXAMPLES = (
    Example(SCENE, "How many shapes are there?", "Three."),
    Example(SEVEN, "What word do you hear?", "Seven."),
    Example(PAIR, "How many shapes are there?", "Two."),
)
"""Easy questions, which pocket answers right."""


def make(folder: Path = HERE) -> list[Path]:
    """Draw the pictures and speak the word, anew.

    Raises:
        MediaError: espeak-ng is not installed.
    """
    import numpy as np
    import soundfile

    from workbench.pocket.speech import RATE, Voice, synthesise
    from workbench.pocket.world import PLACES, Scene, Thing, plain_render

    def scene(**things: str) -> Scene:
        named = {place.replace(" ", "_"): k for k, place in enumerate(PLACES)}
        words = [(name.split(), named[place]) for place, name in things.items()]
        return Scene(tuple(Thing(colour, shape, place) for (colour, shape), place in words))

    folder.mkdir(parents=True, exist_ok=True)
    three = scene(top_left="red circle", right="blue star", bottom="yellow square")
    two = scene(top_right="green cross", bottom_left="purple triangle")
    plain_render(three, 480, 336, smooth=True).save(folder / SCENE.name, optimize=True)
    plain_render(two, 336, 432, background="#dfe6ee", smooth=True).save(folder / PAIR.name, optimize=True)
    word = synthesise("seven", Voice("espeak", "en-us+m7", speed=0.9))
    silence = np.zeros(RATE // 5, np.float32)
    soundfile.write(folder / SEVEN.name, np.concatenate([silence, 0.7 * word, silence]), RATE, subtype="PCM_16")
    return [folder / path.name for path in (SCENE, PAIR, SEVEN)]


if __name__ == "__main__":
    for path in make():
        print(f"{path}  {path.stat().st_size:,} bytes")
