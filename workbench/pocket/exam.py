"""The pocket model's exam: prompts that training never saw, each branch with the row of the card it counts for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np

from workbench.pocket import speech
from workbench.pocket.data import SYSTEM, Teller, pair
from workbench.pocket.features import frames, patches
from workbench.pocket.handwriting import draw, sheet
from workbench.pocket.oddities import odd_picture, photo
from workbench.pocket.packing import Branch, Tree
from workbench.pocket.questions import (
    TASKS,
    UNKNOWN,
    WORDS,
    Shown,
    Turn,
    as_typed,
    missing,
    off_world_questions,
    random_turn,
)
from workbench.pocket.tones import beep, random_beeps
from workbench.pocket.world import Scene, changed, plain_render, random_scene, render

__all__ = ["IMAGE_TASKS", "parts"]

IMAGE_TASKS = ("scene", "place", "where", "colour", "shape", "count", "size", "yes or no")
TEXT_TASKS = ("counting", "sums", "spelling")


def parts(teller: Teller, rng: np.random.Generator, size: int, progress: bool) -> dict[str, Callable[[], list[Tree]]]:
    """The parts of the exam by name; each is made when it is called, in this order.

    Args:
        teller: writes prompts.
        rng: all chance comes from it.
        size: held-out pictures a part.
        progress: say what is synthesised.
    """
    takes = max(1, size // 15)

    def heard(split: str, voices: int, row: str, each: int) -> Callable[[], list[Tree]]:
        return lambda: list(_words(teller, rng, speech.bank(split, voices, progress=progress), row, each))

    return {
        "pictures": lambda: list(_pictures(teller, rng, size)),
        "other renderer": lambda: list(_other_renderer(teller, rng, size)),
        "digits": lambda: list(_digits(teller, rng, size)),
        "pairs": lambda: list(_pairs(teller, rng, size)),
        "unseen espeak-ng voices": heard("espeak", 20, "word, unseen espeak-ng voices", takes),
        "unseen flite voice": heard("flite", 12, "word, unseen flite voice", takes // 2 + 1),
        "festival": heard("festival", 4, "word, festival (engine never heard)", takes // 2 + 1),
        "beeps": lambda: list(_beeps(teller, rng, size)),
        "sound and picture": lambda: list(_mixed(teller, rng, speech.bank("espeak", 20, progress=progress), size // 2)),
        "text and turns": lambda: list(_talk(teller, rng, size // 2)),
        "everything else": lambda: list(_else(teller, rng, size // 2)),
    }


def _tree(teller: Teller, media: list, turns: list[Turn], rows: list[str] | None = None, system: str = "") -> Tree:
    """Questions side by side about the same media; ``rows`` of the card, where they are not the tasks' names."""
    head = "<bos>" + (f"<|turn>system\n{system}<turn|>\n" if system else "") + "<|turn>user\n"
    prefix = [*teller.text(head)]
    for kind, content in media:
        prefix += teller.media(kind, content)
    branches: list[Branch] = [teller.branch([turn]) for turn in turns]
    for branch, row in zip(branches, rows or [turn.task for turn in turns], strict=True):
        branch.task = row
    return Tree(prefix, media, branches)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    area, aspect = float(rng.uniform(100, 700)), 2 ** float(rng.uniform(-1, 1))
    return max(64, int(area * aspect**0.5)), max(64, int(area / aspect**0.5))


def _row(task: str, scene: Scene) -> str:
    """Descriptions count by how many shapes there are."""
    if task == "scene":
        return "scene, 4 shapes" if len(scene.things) == 4 else "scene, 1 to 3 shapes"
    return task


def _pictures(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """Held-out pictures of the training renderer, every image task once."""
    for _ in range(count):
        scene = random_scene(rng, 1, 4)
        shown = Shown(scene)
        tasks = [t for t in (*IMAGE_TASKS, "story") if TASKS[t].fits(shown)]
        turns = [TASKS[t].turn(shown, rng) for t in tasks]
        rows = [_row(t, scene) for t in tasks]
        yield _tree(teller, [("image", patches(render(scene, rng, *_size(rng))))], turns, rows)


def _other_renderer(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """The second renderer: 80 to 2,000 px, PNG and JPEG, hard and smooth edges, tall and wide."""
    from PIL import Image

    for k in range(count):
        scene = random_scene(rng, 1, 4)
        side, aspect = float(np.exp(rng.uniform(np.log(80), np.log(1800)))), 2 ** float(rng.uniform(-0.8, 0.8))
        width, height = (min(2000, max(64, int(x))) for x in (side * aspect**0.5, side / aspect**0.5))
        background = None if k % 2 else ("black", "dimgray", "midnightblue")[k // 2 % 3]
        drawn = plain_render(scene, width, height, background, float(rng.uniform(0.3, 0.44)), k % 3 == 0)
        if k % 4 == 0:
            packed = io.BytesIO()
            drawn.save(packed, "JPEG", quality=80)
            drawn = Image.open(packed).convert("RGB")
        tasks = ("scene", "place", "where", "count", "colour")
        turns = [TASKS[t].turn(Shown(scene), rng) for t in tasks]
        rows = [f"{_row(t, scene)}, other renderer" for t in tasks]
        yield _tree(teller, [("image", patches(drawn))], turns, rows)


def _digits(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """Scans of handwriting that training never sees."""
    for k in range(count):
        shown = Shown(digit=k % 10)
        drawn, _ = draw(k % 10, rng, *_size(rng), held_out=True)
        yield _tree(teller, [("image", patches(drawn))], [TASKS["digit"].turn(shown, rng)])
        if k % 2 == 0:
            four = Shown(sheet=tuple(int(digit) for digit in rng.integers(10, size=4)))
            drawn, _ = sheet(four.sheet, rng, *_size(rng), held_out=True)
            turns = [TASKS[t].turn(four, rng) for t in ("digit of four", "four digits")]
            yield _tree(teller, [("image", patches(drawn))], turns)


def _pairs(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """Two pictures of one scene: the same drawing with a change, and, one time in three, drawn anew."""
    for k in range(count):
        before = random_scene(rng, 1, 3)
        shown = Shown(before, after=changed(before, rng))
        drawn = pair(before, shown.after, rng, *_size(rng), anew=k % 3 == 2)
        media = [("image", patches(picture)) for picture in drawn]
        turns = [TASKS[t].turn(shown, rng) for t in ("what changed", "one of two")]
        rows = ["what changed, drawn anew" if k % 3 == 2 else "what changed", "one of two"]
        yield _tree(teller, media, turns, rows)


def _words(teller: Teller, rng: np.random.Generator, bank: speech.Bank, row: str, takes: int) -> Iterator[Tree]:
    for word in WORDS:
        for _ in range(takes):
            sound = frames(speech.augment(bank.take(word, rng), rng))
            yield _tree(teller, [("audio", sound)], [TASKS["word"].turn(Shown(None, word), rng)], [row])


def _beeps(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    for _ in range(count):
        beeps = random_beeps(rng)
        turns = [TASKS[t].turn(Shown(beeps=beeps), rng) for t in ("beeps", "high or low")]
        yield _tree(teller, [("audio", frames(beep(beeps, rng)))], turns)


def _mixed(teller: Teller, rng: np.random.Generator, bank: speech.Bank, count: int) -> Iterator[Tree]:
    """A picture and a sound, in either order; the word is a shape's or a colour's, which half the time is to be seen."""
    for k in range(count):
        scene = random_scene(rng, 1, 3)
        word = WORDS[10 + k % (len(WORDS) - 10)]
        if k % 2:
            thing = scene.things[int(rng.integers(len(scene.things)))]
            word = thing.shape if rng.random() < 0.67 else thing.colour
        picture = ("image", patches(render(scene, rng)))
        sound = ("audio", frames(speech.augment(bank.take(word, rng), rng)))
        media = [picture, sound] if rng.random() < 0.5 else [sound, picture]
        turns = [TASKS[t].turn(Shown(scene, word), rng) for t in ("heard and found", "see and hear", "word", "place")]
        yield _tree(teller, media, turns, ["heard and found", "see and hear", "both: word", "both: place"])


def _talk(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """Text alone, a later turn about a picture, and a system prompt."""
    for k in range(count):
        yield _tree(teller, [], [TASKS[t].turn(Shown(), rng) for t in TEXT_TASKS])
        scene = random_scene(rng, 1, 3)
        picture = ("image", patches(render(scene, rng)))
        history = [random_turn(Shown(scene), rng, IMAGE_TASKS), TASKS["place"].turn(Shown(scene), rng)]
        later = teller.branch(history)
        last = len(teller.answer(history[-1])[0])
        later.weights = [0.0] * (len(later.ids) - last) + later.weights[-last:]
        later.task = "second turn"
        yield Tree([*teller.text("<bos><|turn>user\n"), *teller.media(*picture)], [picture], [later])
        turn = TASKS["place"].turn(Shown(scene), rng)
        yield _tree(teller, [picture], [turn], ["with a system prompt"], SYSTEM[k % len(SYSTEM)])


def _else(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """What is not there, and what is not of this world."""
    questions = off_world_questions(held_out=True)
    for k in range(count):
        nothing = missing(Shown(), rng)
        if nothing is not None:
            yield _tree(teller, [], [nothing])
        scene = random_scene(rng, 1, 3)
        media = [("image", patches(render(scene, rng)))] if k % 2 else []
        odd = Turn(as_typed(questions[k % len(questions)], rng), UNKNOWN, "off-world, unseen questions")
        yield _tree(teller, media, [odd])
        shown = Shown(odd=True)
        for row, picture in (
            ("off-world picture", odd_picture(rng, *_size(rng))),
            ("off-world, parts of two photos", photo(rng)),
        ):
            yield _tree(teller, [("image", patches(picture))], [TASKS["off-world picture"].turn(shown, rng)], [row])
