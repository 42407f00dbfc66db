"""Questions about sounds, and about a sound and a picture together."""

from __future__ import annotations

import numpy as np

from workbench.pocket.ask_pictures import describe
from workbench.pocket.asking import Shown, a, listed, number, pick, sentence, task
from workbench.pocket.world import COLOURS, DIGITS, PLACES, SHAPES

__all__ = ["sound_said"]


# ---- sounds


@task("word", "audio", 3.0)
def _word(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = (
        "What word do you hear?", "Which word do you hear?", "What is the word?", "What do you hear?", "What was said?",
        "Which word is it?", "What word was spoken?", "Which word was said?", "What does the voice say?",
        "What is being said?", "Transcribe the audio.", "Write down the word.", "What did you hear?", "What word is this?",
        "Transcribe the sound.", "Listen. What is the word?", "Which word is spoken?",
    )  # fmt: skip
    return pick(rng, asked), sentence(shown.word)


@task("sound", "audio", 0.7)
def _sound(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("Describe the sound.", "Describe the audio.", "Describe what you hear.", "What kind of sound is it?",
             "Tell me about the sound.", "What is in the audio?")  # fmt: skip
    return pick(rng, asked), sound_said(shown)


@task("kind of word", "audio", 0.4)
def _kind(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = "digit" if shown.word in DIGITS else "color" if shown.word in COLOURS else "shape"
    asked = (
        "Is it a digit, a color or a shape?",
        "What kind of word is it?",
        "Is the word a digit, a colour or a shape?",
    )
    return pick(rng, asked), sentence(a(kind))


# ---- beeps


@task("beeps", "beeps", 2.4)
def _beeps(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    noun = pick(rng, ("beeps", "beeps", "tones", "sounds"))
    asked = (f"How many {noun} do you hear?", f"How many {noun} are there?", f"Count the {noun}.", f"How many {noun}?",
             f"How many {noun} did you hear?", f"What is the number of {noun}?")  # fmt: skip
    return pick(rng, asked), number(shown.beeps.count)


@task("high or low", "beeps", 1.0)
def _pitch(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    noun = pick(rng, ("beeps", "beeps", "tones", "sounds"))
    asked = (f"Are the {noun} high or low?", f"Are the {noun} low or high?", "High or low?", "Is it high or low?",
             f"What pitch do the {noun} have?", "Is the pitch high or low?")  # fmt: skip
    return pick(rng, asked), "High." if shown.beeps.high else "Low."


@task("beeps, described", "beeps", 0.7)
def _beeps_described(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("Describe the sound.", "Describe the audio.", "Describe what you hear.", "What kind of sound is it?",
             "Tell me about the sound.", "What is in the audio?", "What do you hear?", "What did you hear?")  # fmt: skip
    return pick(rng, asked), sound_said(shown)


def sound_said(shown: Shown) -> str:
    """A sound of any kind, described."""
    if shown.beeps is None:
        return f'A voice says "{shown.word}".'
    noun = "beep" if shown.beeps.count == 1 else "beeps"
    return sentence(f"{DIGITS[shown.beeps.count]} {'high' if shown.beeps.high else 'low'} {noun}")


# ---- sound and picture together


@task("see and hear", "both", 0.9, empty=True)
def _both(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("What do you see and hear?", "Describe the image and the sound.", "Describe the picture and the sound.",
             "Tell me what you see and hear.", "Describe everything.")  # fmt: skip
    return pick(rng, asked), f"{describe(shown.scene)} {sound_said(shown)}"


@task("heard and found", "both", 4.0, empty=True)
def _heard(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    word = shown.word
    if word in DIGITS:
        asked: tuple[str, ...] = ("Are there as many shapes as you hear?", "Is that how many shapes there are?",
                                  "Is the number you hear the number of shapes?")  # fmt: skip
        return pick(rng, asked), "Yes." if DIGITS.index(word) == len(shown.scene.things) else "No."
    found = shown.scene.having(colour=word) if word in COLOURS else shown.scene.having(shape=word)
    colour = pick(rng, ("color", "color", "colour"))
    kind = pick(rng, ("shape", "shape", "thing")) if word in SHAPES else colour
    way = rng.random()
    if way < 0.6 or (not found and way < 0.75):
        asked = (f"Where is the {kind} you hear?", f"Where is the {kind} you hear?", "Where is it?", "Where do you see what you hear?",
                 f"Find the {kind} you hear.", f"Where's the {kind} that is said?", "Where is what you hear?",
                 f"Where is the {kind} that the voice says?")  # fmt: skip
        return pick(rng, asked), sentence("at the " + listed([PLACES[t.place] for t in found])) if found else "Nowhere."
    if way < 0.75:
        asked = (f"How many of the {kind} you hear are there?", "How many of what you hear are there?",
                 f"How many shapes have the {colour} you hear?" if word in COLOURS else "How many of them do you see?")  # fmt: skip
        return pick(rng, asked), number(len(found))
    if way < 0.85 or len(found) != 1:
        asked = (
            f"Is the {kind} you hear in the picture?",
            f"Do you see the {kind} you hear?",
            "Do you see what you hear?",
        )
        return pick(rng, asked), "Yes." if found else "No."
    if word in COLOURS:
        asked = (f"Which shape has the {colour} you hear?", f"What shape has the {colour} you hear?", f"What is of the {colour} you hear?")  # fmt: skip
        return pick(rng, asked), sentence(a(found[0].shape))
    asked = (f"What {colour} is the {kind} you hear?", f"Which {colour} has the {kind} you hear?", f"What {colour} is what you hear?")  # fmt: skip
    return pick(rng, asked), sentence(found[0].colour)
