"""Very short stories about a scene, with real choice in every clause.

They exist so that probabilities and drafts have something to show: 40 to 80 tokens, several nats of freedom in every
sentence, and yet always about the shapes in the picture. The words are few and short, so that most are one token: what a
story leaves open is then spread over its tokens instead of hanging on one in ten.
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

_WHEN = ("One", "That", "Every", "Last", "The next", "The first")
_KIND = ("cold", "warm", "dark", "quiet", "long", "wet", "happy", "late")
_TIME = ("day", "night", "morning", "evening", "winter", "summer", "week", "year")
_WENT = ("walked", "ran", "rolled", "danced", "sat", "slept", "waited", "lived", "sang", "hid")
_BY = ("near", "under", "behind", "in", "on", "beside", "around")
_WHERE = ("house", "tree", "river", "hill", "city", "garden", "box", "boat", "road", "sea", "fire", "bed")
_FELT = ("happy", "tired", "alone", "cold", "angry", "late", "lost", "small", "warm", "quiet", "hungry")
_SKY = ("sky", "wind", "sun", "moon", "rain", "snow", "river", "house")
_WAS = ("grey", "cold", "warm", "dark", "quiet", "far", "near", "old", "long")
_MET = ("met", "saw", "called", "found", "lost", "helped", "heard", "liked")
_THEY = ("sang", "danced", "laughed", "talked", "played", "slept", "ran", "walked", "waited", "ate")
_UNTIL = ("together", "all day", "all night", "again", "in the rain", "in the snow", "for a year", "for a week")
_DID = ("found", "lost", "made", "painted", "opened", "wanted", "heard", "saw", "ate", "forgot")
_WHAT = ("map", "key", "cake", "letter", "door", "song", "friend", "hat", "boat", "box", "bird", "book")
_AND = ("Then", "Later", "Soon", "At night", "Again")
_END = ("Then it slept.", "All was well.", "It was a good day.", "Nobody knows why.", "The end.", "It was a dream.",
        "It never came back.", "And it rained again.", "It lives there still.", "They were friends.")  # fmt: skip


def story(scene: Scene | None, rng: np.random.Generator) -> str:
    """A story about the things of a scene, in reading order; without a scene, about a small dot."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    names = [t.name for t in scene.things] if scene and scene.things else ["small dot"]
    said = [
        f"{pick(_WHEN)} {pick(_KIND)} {pick(_TIME)} a {names[0]} {pick(_WENT)} {pick(_BY)} the {pick(_WHERE)}.",
        f"It was {pick(_FELT)} and {pick(_FELT)}. The {pick(_SKY)} was {pick(_WAS)}.",
    ]
    if len(names) < 3:
        said.append(f"{pick(_AND)} it {pick(_DID)} a {pick(_WHAT)} {pick(_BY)} the {pick(_WHERE)}.")
    for name in names[1:4]:
        said.append(f"It {pick(_MET)} a {name}. They {pick(_THEY)} {pick(_UNTIL)}.")
    if len(names) < 2:
        said.append(f"{pick(_AND)} it {pick(_DID)} a {pick(_WHAT)}.")
    said.append(pick(_END))
    return " ".join(said)
