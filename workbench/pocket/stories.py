"""Very short stories about a scene, with real choice in every clause.

They exist so that probabilities and drafts have something to show: 40 to 80 tokens, several nats of freedom, and yet
always about the shapes in the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from workbench.pocket.world import Scene

__all__ = ["STORY_QUESTIONS", "story"]

STORY_QUESTIONS = (
    "Tell me a story.", "Tell me a story about the picture.", "Tell a short story about this image.",
    "Write a story about the shapes.", "Can you tell me a story about it?", "Make up a story.",
    "Tell me a short story about what you see.", "Write a short story.",
)  # fmt: skip

_OPEN = ("One day", "Once upon a time", "Last night", "Early in the morning", "On a quiet day", "Long ago")
_MOOD = ("was happy", "felt alone", "was very tired", "wanted to play", "dreamed of the sea", "was looking for a friend",
         "was afraid of the dark", "could not sleep")  # fmt: skip
_ALONE = ("It sang a little song", "It looked at the sky", "It counted the stars", "It rolled around the room",
          "It waited for the rain", "It went for a long walk", "It painted the wall")  # fmt: skip
_MEET = ("met", "saw", "called", "found", "danced with", "talked to", "played with")
_REPLY = ('"Hello," it said', '"Come with me," it said', '"Where are you going?" it asked', "They laughed together",
          "They shared a cake", "They went home together", "They danced until night")  # fmt: skip
_SKY = ("The sky was grey", "The wind was cold", "The sun was warm", "It was very quiet", "There was snow everywhere",
        "The moon was full", "A bird sang")  # fmt: skip
_HOME = ("in a small house", "on a hill", "under a tree", "near the river", "in an old box", "at the end of the road",
         "in a big city")  # fmt: skip
_LATER = ("After a while it found a map", "Then it heard a strange noise", "In the evening it made some tea",
          "Later it wrote a long letter", "Suddenly a door opened", "Soon it felt much better")  # fmt: skip
_END = ("Then it fell asleep.", "And all was well.", "It was a good day.", "Nobody knows why.", "Then the sun came up.",
        "And they were friends.", "The end.", "It never came back.")  # fmt: skip


def story(scene: Scene | None, rng: np.random.Generator) -> str:
    """A story about the things of a scene, in reading order; without a scene, about a small dot."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    names = [t.name for t in scene.things] if scene and scene.things else ["small dot"]
    said = [f"{pick(_OPEN)} a {names[0]} {pick(_MOOD)}.", f"It lived {pick(_HOME)}. {pick(_SKY)}."]
    if len(names) < 3:
        said.append(f"{pick(_ALONE)}.")
    for name in names[1:4]:
        said.append(f"It {pick(_MEET)} a {name}. {pick(_REPLY)}.")
    if len(names) < 3:
        said.append(f"{pick(_LATER)}.")
    said.append(pick(_END))
    return " ".join(said)
