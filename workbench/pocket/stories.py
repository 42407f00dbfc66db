"""Very short stories about a scene, with real choice in every clause.

They exist so that probabilities and drafts have something to show: 25 to 60 tokens, several nats of freedom, and yet
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
_END = ("Then it fell asleep.", "And all was well.", "It was a good day.", "Nobody knows why.", "Then the sun came up.",
        "And they were friends.", "The end.", "It never came back.")  # fmt: skip


def story(scene: Scene | None, rng: np.random.Generator) -> str:
    """A story about the things of a scene, in reading order; without a scene, about a small dot."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    names = [t.name for t in scene.things] if scene else ["small dot"]
    said = [f"{pick(_OPEN)} a {names[0]} {pick(_MOOD)}."]
    if len(names) == 1:
        said.append(f"{pick(_ALONE)}.")
    for name in names[1:]:
        said.append(f"It {pick(_MEET)} a {name}. {pick(_REPLY)}.")
    said.append(pick(_END))
    return " ".join(said)
