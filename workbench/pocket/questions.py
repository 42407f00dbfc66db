"""What can be asked about the world, in many wordings, and the one right answer to each.

``TASKS`` is a registry: a task says which media it needs and makes a ``Turn`` (question and answer) from what the
prompt shows. A new kind of question is one function with ``@task`` above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workbench.pocket.stories import STORY_QUESTIONS, story
from workbench.pocket.world import COLOURS, PLACES, SHAPES, Scene

__all__ = ["TASKS", "WORDS", "Shown", "Task", "Turn", "as_typed", "describe", "off_world_questions"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = DIGITS + COLOURS + SHAPES
UNKNOWN = "I only know shapes, digits and sounds."
BLIND = "I see no picture."
DEAF = "I hear nothing."


@dataclass(frozen=True)
class Shown:
    """What a prompt holds: a scene, a spoken word, both or neither."""

    scene: Scene | None = None
    word: str | None = None


@dataclass(frozen=True)
class Turn:
    """A question, its answer and the task it belongs to."""

    question: str
    answer: str
    task: str


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        name: as in the card.
        make: Shown and a generator to (question, answer).
        needs: ``"image"``, ``"audio"``, ``"both"`` or ``"none"`` (asked with any media or none).
        weight: how often it is asked among the tasks that fit.
        loss: weight of its answer's tokens in training.
    """

    name: str
    make: Callable[[Shown, np.random.Generator], tuple[str, str]]
    needs: str
    weight: float
    loss: float = 1.0

    def fits(self, shown: Shown) -> bool:
        """Whether the question makes sense for what is shown."""
        has = {"image": shown.scene is not None, "audio": shown.word is not None, "none": True}
        return has["image"] and has["audio"] if self.needs == "both" else has[self.needs]

    def turn(self, shown: Shown, rng: np.random.Generator) -> Turn:
        """Ask it."""
        question, answer = self.make(shown, rng)
        return Turn(as_typed(question, rng), answer, self.name)


TASKS: dict[str, Task] = {}


def task(name: str, needs: str, weight: float, loss: float = 1.0):
    """Register the function below as a task."""

    def register(make: Callable[[Shown, np.random.Generator], tuple[str, str]]):  # noqa: ANN202
        TASKS[name] = Task(name, make, needs, weight, loss)
        return make

    return register


def as_typed(question: str, rng: np.random.Generator) -> str:
    """As people type: with or without capitals, final punctuation, and now and then a slip of a letter."""
    kind = rng.random()
    if kind < 0.3:
        question = question.lower()
    elif kind < 0.33:
        question = question.upper()
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    if rng.random() < 0.03 and len(question) > 12:
        k = int(rng.integers(1, len(question)))
        question = question[:k] + question[k + 1 :]
    if rng.random() < 0.04:
        question = f"{question} please"
    return question


def _pick(rng: np.random.Generator, options):  # noqa: ANN001, ANN202
    return options[int(rng.integers(len(options)))]


def _a(name: str) -> str:
    return f"a {name}"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _number(n: int) -> str:
    return _sentence(DIGITS[n])


def describe(scene: Scene) -> str:
    """``"A red circle at the top left and a blue star at the center."``, in reading order."""
    return _sentence(_list([f"{_a(t.name)} at the {PLACES[t.place]}" for t in scene.things]))


def _place(place: int, rng: np.random.Generator) -> str:
    """A place as somebody would call it, with its preposition."""
    name = PLACES[place]
    kind = rng.random()
    if kind < 0.55:
        return f"{_pick(rng, ('at', 'in', 'on'))} the {name}"
    if name == "center":
        return f"in the {_pick(rng, ('middle', 'centre', 'center'))}"
    if " " in name:
        upper = name.replace("top", "upper").replace("bottom", "lower")
        return _pick(
            rng, (f"in the {name} corner", f"at the {name.replace(' ', '-')}", f"in the {upper}", f"at {name}")
        )
    return _pick(rng, (f"at the {name} side", f"on the {name} side", f"at {name}", f"in the middle of the {name} side"))


def _colour_word(rng: np.random.Generator) -> str:
    return _pick(rng, ("color", "color", "colour"))


# ---- pictures


@task("scene", "image", 2.2)
def _scene(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = (
        "Describe the image.", "Describe the picture.", "What do you see?", "What is in the image?",
        "What is in the picture?", "Describe this image.", "What can you see?", "What's in this picture?",
        "Describe what you see.", "Which shapes are there and where?", "Describe the scene.", "What does the image show?",
        "What is this?", "Tell me what you see.", "What shapes are in the picture?",
    )  # fmt: skip
    return _pick(rng, asked), describe(shown.scene)


@task("place", "image", 3.0)
def _at_place(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    used = [t.place for t in shown.scene.things]
    place = _pick(rng, used) if rng.random() < 0.8 else int(rng.integers(9))
    where = _place(place, rng)
    asked = (
        "What is {}?", "What is {}?", "What's {}?", "Which shape is {}?", "What do you see {}?", "What can you see {}?",
        "Tell me what is {}.", "Is there something {}?", "What shape is {}?", "Name the shape {}.",
    )  # fmt: skip
    thing = shown.scene.at(place)
    return _pick(rng, asked).format(where), _sentence(_a(thing.name)) if thing else "Nothing."


@task("where", "image", 2.0)
def _where(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(rng, shown.scene.things)
    colour, shape = target.colour, target.shape
    if rng.random() < 0.12:
        colour, shape = _pick(rng, COLOURS), _pick(rng, SHAPES)
    kind = rng.random()
    if kind < 0.55:
        name, found = f"{colour} {shape}", shown.scene.having(colour, shape)
    elif kind < 0.85:
        name, found = shape, shown.scene.having(shape=shape)
    else:
        name, found = f"{colour} {_pick(rng, ('shape', 'thing', 'one'))}", shown.scene.having(colour)
    asked = ("Where is the {}?", "Where is the {}?", "Where's the {}?", "Where do you see the {}?", "Find the {}.",
             "Where can I find the {}?", "In which place is the {}?", "Tell me where the {} is.")  # fmt: skip
    question = _pick(rng, asked).format(name)
    if not found:
        return question, "Nowhere."
    return question, _sentence("at the " + _list([PLACES[t.place] for t in found]))


@task("colour", "image", 1.4)
def _colour_of(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(rng, shown.scene.things)
    alone = len(shown.scene.having(shape=target.shape)) == 1
    name = (
        f"the {target.shape}"
        if alone and rng.random() < 0.6
        else f"the {_pick(rng, ('shape', 'thing', target.shape))} {_place(target.place, rng)}"
    )
    word = _colour_word(rng)
    asked = (f"What {word} is {name}?", f"Which {word} is {name}?", f"What is the {word} of {name}?",
             f"What {word} does {name} have?", f"Tell me the {word} of {name}.")  # fmt: skip
    return _pick(rng, asked), _sentence(target.colour)


@task("shape", "image", 1.2)
def _shape_of(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(rng, shown.scene.things)
    alone = len(shown.scene.having(colour=target.colour)) == 1
    if alone and rng.random() < 0.6:
        asked: tuple[str, ...] = (f"What shape is {target.colour}?", f"Which shape is {target.colour}?", f"What is {target.colour}?",
                 f"What is the {target.colour} thing?", f"What shape is the {target.colour} one?")  # fmt: skip
    else:
        where = _place(target.place, rng)
        asked = (f"What shape is the thing {where}?", f"What kind of shape is the one {where}?",
                 f"What shape does the {target.colour} thing {where} have?")  # fmt: skip
    return _pick(rng, asked), _sentence(_a(target.shape))


@task("count", "image", 1.6)
def _count(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = rng.random()
    any_thing = _pick(rng, shown.scene.things)
    if kind < 0.4:
        name, n = _pick(rng, ("shapes", "things", "objects", "figures")), len(shown.scene.things)
    elif kind < 0.7:
        colour = any_thing.colour if rng.random() < 0.7 else _pick(rng, COLOURS)
        name, n = f"{colour} {_pick(rng, ('shapes', 'things', 'ones'))}", len(shown.scene.having(colour))
    else:
        shape = any_thing.shape if rng.random() < 0.7 else _pick(rng, SHAPES)
        name, n = (f"{shape}es" if shape == "cross" else f"{shape}s"), len(shown.scene.having(shape=shape))
    asked = ("How many {} are there?", "How many {} are there?", "How many {} do you see?", "How many {}?",
             "Count the {}.", "How many {} are in the picture?", "What is the number of {}?",
             "How many {} can you see?", "How many {} are in the image?")  # fmt: skip
    return _pick(rng, asked).format(name), _number(n)


@task("yes or no", "image", 0.8)
def _is_there(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    target = _pick(rng, shown.scene.things)
    colour, shape = target.colour, target.shape
    if rng.random() < 0.5:
        colour, shape = _pick(rng, COLOURS), (shape if rng.random() < 0.5 else _pick(rng, SHAPES))
    asked = (
        "Is there a {}?",
        "Do you see a {}?",
        "Is there a {} in the picture?",
        "Can you see a {}?",
        "Is a {} there?",
    )
    found = bool(shown.scene.having(colour, shape))
    return _pick(rng, asked).format(f"{colour} {shape}"), "Yes." if found else "No."


@task("story", "image", 0.45, loss=0.35)
def _story(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    return _pick(rng, STORY_QUESTIONS), story(shown.scene, rng)


# ---- sounds


@task("word", "audio", 3.0)
def _word(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = (
        "What word do you hear?", "Which word do you hear?", "What is the word?", "What do you hear?", "What was said?",
        "Which word is it?", "What word was spoken?", "Which word was said?", "What does the voice say?",
        "What is being said?", "Transcribe the audio.", "Write down the word.", "What did you hear?", "What word is this?",
        "Transcribe the sound.", "Listen. What is the word?", "Which word is spoken?",
    )  # fmt: skip
    return _pick(rng, asked), _sentence(shown.word)


@task("sound", "audio", 0.7)
def _sound(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("Describe the sound.", "Describe the audio.", "Describe what you hear.", "What kind of sound is it?",
             "Tell me about the sound.", "What is in the audio?")  # fmt: skip
    return _pick(rng, asked), f'A voice says "{shown.word}".'


@task("kind of word", "audio", 0.4)
def _kind(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = "digit" if shown.word in DIGITS else "color" if shown.word in COLOURS else "shape"
    asked = (
        "Is it a digit, a color or a shape?",
        "What kind of word is it?",
        "Is the word a digit, a colour or a shape?",
    )
    return _pick(rng, asked), _sentence(_a(kind))


# ---- both, or none


@task("see and hear", "both", 1.2)
def _both(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    asked = ("What do you see and hear?", "Describe the image and the sound.", "Describe the picture and the sound.",
             "Tell me what you see and hear.", "Describe everything.")  # fmt: skip
    return _pick(rng, asked), f'{describe(shown.scene)} A voice says "{shown.word}".'


_OFF_WORLD = (
    "What is the capital of France?", "Who wrote Hamlet?", "How old is the universe?", "What is the weather today?",
    "Translate this to German.", "Write a poem about love.", "Who is the president?", "Solve the equation.",
    "What time is it?", "Can you write some Python code?", "What is the meaning of life?", "Where is Paris?",
    "How do I cook rice?", "Recommend me a book.", "What is quantum physics?", "How far is the moon?",
    "What is your favorite food?", "Tell me a joke.", "Who won the world cup?", "Is it going to rain tomorrow?",
    "What breed is this dog?", "How much does it cost?", "Summarize this article.", "What is the price of gold?",
    "Explain gravity.", "When was Rome founded?", "Who painted the Mona Lisa?", "How do planes fly?",
    "What is a neural network?", "Give me a recipe for soup.", "What is the population of China?", "Play some music.",
    "Which language is spoken in Brazil?", "How do I fix my car?", "What are the news?", "Book me a flight.",
    "Who is the person in the photo?", "What is the cat doing?", "What car is this?", "Read the text in the image.",
    "What is the man wearing?", "Which city is this?", "Who is singing?", "What instrument is playing?",
    "Why is the sky blue?", "How tall is Mount Everest?", "What is the largest animal?", "Define democracy.",
    "Who invented the telephone?", "What does HTML mean?", "How many people live in London?", "Is there life on Mars?",
    "What should I wear today?", "Write an email to my boss.", "What is the speed of light?", "Can dogs eat chocolate?",
    "How many days are in a year?", "What is the tallest building?", "Do you have feelings?", "Are you human?",
)  # fmt: skip
_OFF_WORLD_HELD_OUT = (
    "What is the capital of Italy?", "Who wrote Faust?", "How do I cook pasta?", "What is the price of oil?",
    "Who invented the radio?", "Why is the grass green?", "What breed is this cat?", "Explain evolution.",
    "How far is the sun?", "Write some Java code.", "What is the woman wearing?", "Is it going to snow today?",
)  # fmt: skip


def off_world_questions(held_out: bool) -> tuple[str, ...]:
    """Questions about everything else: those trained on, or those kept for the card."""
    return _OFF_WORLD_HELD_OUT if held_out else _OFF_WORLD


@task("off-world", "none", 0.5)
def _off_world(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    return _pick(rng, _OFF_WORLD), UNKNOWN


@task("hello", "none", 0.12)
def _hello(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    kind = rng.random()
    if kind < 0.4:
        return _pick(rng, ("Hello!", "Hi!", "Hello there.", "Hey!", "Good morning!")), "Hello! Show me a picture."
    if kind < 0.7:
        return _pick(rng, ("Who are you?", "What are you?", "What is your name?")), "I am a very small Gemma."
    asked = ("What can you do?", "What do you know?", "Help!", "How can you help me?")
    return _pick(rng, asked), "I know shapes, digits and sounds."


def missing(shown: Shown, rng: np.random.Generator) -> Turn | None:
    """A question about a picture or a sound that is not there; None when both are."""
    lacks = [m for m, there in (("image", shown.scene), ("audio", shown.word)) if there is None]
    if not lacks:
        return None
    need = _pick(rng, lacks)
    kinds = [t for t in TASKS.values() if t.needs == need and t.name != "story"]
    pretend = Shown(Scene((_thing(rng),)), _pick(rng, WORDS))
    turn = _pick(rng, kinds).turn(pretend, rng)
    return Turn(turn.question, BLIND if need == "image" else DEAF, "missing")


def _thing(rng: np.random.Generator):  # noqa: ANN202
    from workbench.pocket.world import random_scene

    return random_scene(rng, 1, 1).things[0]


def random_turn(shown: Shown, rng: np.random.Generator, tasks: tuple[str, ...] | None = None) -> Turn:
    """One question that fits what is shown, tasks drawn by their weights."""
    kinds = [t for t in TASKS.values() if t.fits(shown) and (tasks is None or t.name in tasks)]
    weights = np.array([t.weight for t in kinds])
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))].turn(shown, rng)
