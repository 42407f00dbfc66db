"""Questions about pictures: scenes of shapes, two of them, a handwritten digit, and what is none of these."""

from __future__ import annotations

import numpy as np

from workbench.pocket.asking import Shown, a, listed, number, pick, sentence, task
from workbench.pocket.stories import STORY_QUESTIONS, story
from workbench.pocket.world import COLOURS, DIGITS, PLACES, SHAPES, Scene, difference

__all__ = ["DESCRIBE", "UNKNOWN", "describe", "picture_said"]

UNKNOWN = "I only know shapes, digits and sounds."


def describe(scene: Scene) -> str:
    """``"A red circle at the top left and a blue star at the center."``, in reading order; ``"Nothing."`` of none."""
    if not scene.things:
        return "Nothing."
    return sentence(listed([f"{a(t.name)} at the {PLACES[t.place]}" for t in scene.things]))


def _place(place: int, rng: np.random.Generator) -> str:
    """A place as somebody would call it, with its preposition."""
    name = PLACES[place]
    kind = rng.random()
    if kind < 0.55:
        return f"{pick(rng, ('at', 'in', 'on'))} the {name}"
    if name == "center":
        return f"in the {pick(rng, ('middle', 'centre', 'center'))}"
    if " " in name:
        upper = name.replace("top", "upper").replace("bottom", "lower")
        return pick(rng, (f"in the {name} corner", f"at the {name.replace(' ', '-')}", f"in the {upper}", f"at {name}"))
    return pick(rng, (f"at the {name} side", f"on the {name} side", f"at {name}", f"in the middle of the {name} side"))


def _colour_word(rng: np.random.Generator) -> str:
    return pick(rng, ("color", "color", "colour"))


# ---- pictures


DESCRIBE = (
    "Describe the image.", "Describe the picture.", "What do you see?", "What is in the image?",
    "What is in the picture?", "Describe this image.", "What can you see?", "What's in this picture?",
    "Describe what you see.", "Describe the scene.", "What does the image show?", "What is this?",
    "Tell me what you see.", "What does this picture show?", "Caption this image.", "What is it?",
)  # fmt: skip


@task("scene", "image", 2.2, empty=True)
def _scene(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = (*DESCRIBE, "Which shapes are there and where?", "What shapes are in the picture?", "List the shapes.")
    return pick(rng, asked), describe(shown.scene)


@task("place", "image", 3.0, empty=True)
def _at_place(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    used = [t.place for t in shown.scene.things]
    place = pick(rng, used) if used and rng.random() < 0.8 else int(rng.integers(9))
    where = _place(place, rng)
    asked = (
        "What is {}?", "What is {}?", "What's {}?", "Which shape is {}?", "What do you see {}?", "What can you see {}?",
        "Tell me what is {}.", "Is there something {}?", "What shape is {}?", "Name the shape {}.",
    )  # fmt: skip
    thing = shown.scene.at(place)
    return pick(rng, asked).format(where), sentence(a(thing.name)) if thing else "Nothing."


@task("where", "image", 3.0)
def _where(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = pick(rng, shown.scene.things)
    colour, shape = target.colour, target.shape
    if rng.random() < 0.12:
        colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
    kind = rng.random()
    if kind < 0.55:
        name, found = f"{colour} {shape}", shown.scene.having(colour, shape)
    elif kind < 0.85:
        name, found = shape, shown.scene.having(shape=shape)
    else:
        name, found = f"{colour} {pick(rng, ('shape', 'thing', 'one'))}", shown.scene.having(colour)
    asked = ("Where is the {}?", "Where is the {}?", "Where's the {}?", "Where do you see the {}?", "Find the {}.",
             "Where can I find the {}?", "In which place is the {}?", "Tell me where the {} is.")  # fmt: skip
    question = pick(rng, asked).format(name)
    if not found:
        return question, "Nowhere."
    return question, sentence("at the " + listed([PLACES[t.place] for t in found]))


@task("colour", "image", 1.4)
def _colour_of(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = pick(rng, shown.scene.things)
    alone = len(shown.scene.having(shape=target.shape)) == 1
    name = (
        f"the {target.shape}"
        if alone and rng.random() < 0.6
        else f"the {pick(rng, ('shape', 'thing', target.shape))} {_place(target.place, rng)}"
    )
    word = _colour_word(rng)
    asked = (f"What {word} is {name}?", f"Which {word} is {name}?", f"What is the {word} of {name}?",
             f"What {word} does {name} have?", f"Tell me the {word} of {name}.")  # fmt: skip
    return pick(rng, asked), sentence(target.colour)


@task("shape", "image", 1.2)
def _shape_of(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = pick(rng, shown.scene.things)
    alone = len(shown.scene.having(colour=target.colour)) == 1
    if alone and rng.random() < 0.6:
        asked: tuple[str, ...] = (f"What shape is {target.colour}?", f"Which shape is {target.colour}?", f"What is {target.colour}?",
                 f"What is the {target.colour} thing?", f"What shape is the {target.colour} one?")  # fmt: skip
    else:
        where = _place(target.place, rng)
        asked = (f"What shape is the thing {where}?", f"What kind of shape is the one {where}?",
                 f"What shape does the {target.colour} thing {where} have?")  # fmt: skip
    return pick(rng, asked), sentence(a(target.shape))


@task("count", "image", 3.2, empty=True)
def _count(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = rng.random()
    any_thing = pick(rng, shown.scene.things) if shown.scene.things else None
    if kind < 0.4:
        name, n = pick(rng, ("shapes", "things", "objects", "figures")), len(shown.scene.things)
    elif kind < 0.7:
        colour = any_thing.colour if any_thing and rng.random() < 0.7 else pick(rng, COLOURS)
        name, n = f"{colour} {pick(rng, ('shapes', 'things', 'ones'))}", len(shown.scene.having(colour))
    else:
        shape = any_thing.shape if any_thing and rng.random() < 0.7 else pick(rng, SHAPES)
        name, n = (f"{shape}es" if shape == "cross" else f"{shape}s"), len(shown.scene.having(shape=shape))
    asked = ("How many {} are there?", "How many {} are there?", "How many {} do you see?", "How many {}?",
             "Count the {}.", "How many {} are in the picture?", "What is the number of {}?",
             "How many {} can you see?", "How many {} are in the image?")  # fmt: skip
    return pick(rng, asked).format(name), number(n)


@task("yes or no", "image", 0.8)
def _is_there(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = pick(rng, shown.scene.things)
    colour, shape = target.colour, target.shape
    if rng.random() < 0.5:
        colour, shape = pick(rng, COLOURS), (shape if rng.random() < 0.5 else pick(rng, SHAPES))
    asked = (
        "Is there a {}?",
        "Do you see a {}?",
        "Is there a {} in the picture?",
        "Can you see a {}?",
        "Is a {} there?",
    )
    found = bool(shown.scene.having(colour, shape))
    return pick(rng, asked).format(f"{colour} {shape}"), "Yes." if found else "No."


@task("story", "image", 0.5, loss=0.35)
def _story(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    return pick(rng, STORY_QUESTIONS), story(shown.scene, rng)


def _sized(shown: Shown) -> bool:
    return any(thing.size for thing in shown.scene.things)


@task("size", "image", 1.4, when=_sized)
def _size(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = pick(rng, [t for t in shown.scene.things if t.size])
    name = target.name if len(shown.scene.having(target.colour, target.shape)) == 1 else None
    name = name if name and rng.random() < 0.6 else f"{pick(rng, ('shape', 'thing'))} {_place(target.place, rng)}"
    asked = (f"Is the {name} small or large?", f"What size is the {name}?", f"How big is the {name}?",
             f"Is the {name} large or small?", f"What is the size of the {name}?")  # fmt: skip
    return pick(rng, asked), sentence(target.size)


# ---- two pictures

_CHANGED = (
    "What changed?", "What changed?", "What has changed?", "What is the difference?", "What is different?",
    "What changed between the pictures?", "Compare the two pictures.", "What is new in the second picture?",
    "Spot the difference.", "What happened?", "How do the images differ?", "What is the difference between the images?",
)  # fmt: skip


@task("what changed", "two", 2.0, empty=True)
def _changed(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    return pick(rng, _CHANGED), difference(shown.scene, shown.after)


@task("one of two", "two", 1.0, empty=True)
def _one_of_two(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    second = rng.random() < 0.5
    which, scene = ("second", shown.after) if second else ("first", shown.scene)
    noun = pick(rng, ("picture", "picture", "image"))
    if rng.random() < 0.5 or not scene.things:
        asked: tuple[str, ...] = (f"Describe the {which} {noun}.", f"What is in the {which} {noun}?",
                                  f"What do you see in the {which} {noun}?")  # fmt: skip
        return pick(rng, asked), describe(scene)
    target = pick(rng, scene.things)
    where = _place(target.place, rng)
    asked = (f"What is {where} in the {which} {noun}?", f"In the {which} {noun}, what is {where}?")
    return pick(rng, asked), sentence(a(target.name))


# ---- handwritten digits, and anything else


@task("digit", "digit", 3.0)
def _digit(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = (
        "Which digit is it?", "Which digit is this?", "What digit is this?", "What digit is written?", "Read the digit.",
        "What number is this?", "Which number do you see?", "What number is written here?", "Read the number.",
        "What is the digit?", "Which digit do you see?", "What does it say?", "Read it.", "Can you read the digit?",
    )  # fmt: skip
    return pick(rng, asked), number(shown.digit)


@task("digit, described", "digit", 0.8)
def _digit_described(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    return pick(rng, DESCRIBE), picture_said(shown)


_CORNERS = ("top left", "top right", "bottom left", "bottom right")


@task("digit of four", "sheet", 3.0)
def _digit_of_four(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    k = int(rng.integers(4))
    where = _place(PLACES.index(_CORNERS[k]), rng)
    asked = (f"Which digit is {where}?", f"What digit is {where}?", f"What is {where}?", f"Which number is {where}?",
             f"Read the digit {where}.", f"What number do you see {where}?")  # fmt: skip
    return pick(rng, asked), number(shown.sheet[k])


@task("four digits", "sheet", 1.0)
def _four_digits(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("Read the digits.", "Which digits are these?", "What digits do you see?", "Read the numbers.", "Read them.",
             "Which numbers do you see?", "What are the digits?", "List the digits.", *DESCRIBE[:8])  # fmt: skip
    return pick(rng, asked), picture_said(shown)


@task("off-world picture", "odd", 2.0)
def _odd(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.7:
        return pick(rng, DESCRIBE), UNKNOWN
    asked = ("Where was this taken?", "Who is this?", "What animal is this?", "What kind of place is this?", "What color is the car?",
             "Is this a photo?", "Where is the dog?", "What is the person doing?", "Where is this?")  # fmt: skip
    return pick(rng, asked), UNKNOWN


def picture_said(shown: Shown) -> str:
    """A picture of any kind, described."""
    if shown.odd:
        return UNKNOWN
    if shown.digit is not None:
        return f"A handwritten {DIGITS[shown.digit]}."
    if shown.sheet is not None:
        return sentence(listed([DIGITS[digit] for digit in shown.sheet]))
    return describe(shown.scene)
