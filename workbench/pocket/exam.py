"""The pocket model's exam: prompts that training never saw, each branch with the row of the card it counts for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.pocket import speech
from workbench.pocket.ask_pictures import DESCRIBE, picture_said
from workbench.pocket.asking import pick
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

__all__ = ["IMAGE_TASKS", "Case", "parts", "tree"]

IMAGE_TASKS = ("scene", "place", "where", "colour", "shape", "count", "size", "yes or no")
TEXT_TASKS = ("counting", "sums", "spelling")


@dataclass
class Case:
    """Questions side by side about the same media.

    Attributes:
        media: ``("image", a PIL picture)`` and ``("audio", (N,) float32 at 16 kHz)``, in order.
        turns: the questions, with their right answers.
        rows: of the card, one a question; none: the tasks' names.
        system: the system turn.
        history: earlier turns about the media, before each of the questions.
    """

    media: list[tuple[str, Any]]
    turns: list[Turn]
    rows: list[str] | None = None
    system: str = ""
    history: tuple[Turn, ...] = ()


def parts(seed: int, size: int, progress: bool) -> dict[str, Callable[[], Iterator[Case]]]:
    """The parts of the exam by name; each is made when it is called, and as it is gone through, in this order.

    Args:
        seed: all chance comes from it, the speed and pitch of every spoken word too.
        size: held-out pictures a part.
        progress: say what is synthesised.

    Raises:
        MediaError: a synthesiser, or its voice, is missing.
    """
    rng = np.random.default_rng(seed)
    takes = max(1, size // 15)
    each = {"espeak": takes, "flite": takes // 2 + 1, "festival": takes // 2 + 1}  # of a word
    # synthesised before anything is asked: a voice that is missing is said at once
    banks = {split: speech.bank(split, n, seed=seed, progress=progress) for split, n in each.items()}

    def heard(split: str, row: str) -> Callable[[], Iterator[Case]]:
        return lambda: _words(rng, banks[split], row)

    return {
        "pictures": lambda: _pictures(rng, size),
        "other renderer": lambda: _other_renderer(rng, size),
        "digits": lambda: _digits(rng, size),
        "pairs": lambda: _pairs(rng, size),
        "unseen espeak-ng voices": heard("espeak", "word, unseen espeak-ng voices"),
        "unseen flite voice": heard("flite", "word, unseen flite voice"),
        "festival": heard("festival", "word, festival (a trained speaker, another engine)"),
        "beeps": lambda: _beeps(rng, size),
        "sound and picture": lambda: _mixed(rng, banks["espeak"], size // 2),
        "text and turns": lambda: _talk(rng, size // 2),
        "everything else": lambda: _else(rng, size // 2),
        "more shapes than trained on": lambda: _crowds(rng, size // 5),
    }


def tree(teller: Teller, case: Case) -> Tree:
    """A case as the model reads it: its questions side by side behind its media."""
    head = "<bos>" + (f"<|turn>system\n{case.system}<turn|>\n" if case.system else "") + "<|turn>user\n"
    prefix = [*teller.text(head)]
    media = [(kind, patches(m) if kind == "image" else frames(m)) for kind, m in case.media]
    for kind, content in media:
        prefix += teller.media(kind, content)
    branches: list[Branch] = []
    for turn, row in zip(case.turns, case.rows or [turn.task for turn in case.turns], strict=True):
        branch = teller.branch([*case.history, turn])
        last = len(teller.answer(turn)[0])
        branch.weights = [0.0] * (len(branch.ids) - last) + branch.weights[-last:]
        branch.task = row
        branches.append(branch)
    return Tree(prefix, media, branches)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    area, aspect = float(rng.uniform(100, 700)), 2 ** float(rng.uniform(-1, 1))
    return max(64, int(area * aspect**0.5)), max(64, int(area / aspect**0.5))


def _row(task: str, scene: Scene) -> str:
    """Descriptions count by how many shapes there are."""
    if task == "scene":
        return "scene, 4 shapes" if len(scene.things) == 4 else "scene, 1 to 3 shapes"
    return task


def _pictures(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Held-out pictures of the training renderer, every image task once."""
    for _ in range(count):
        scene = random_scene(rng, 1, 4)
        shown = Shown(scene)
        tasks = [t for t in (*IMAGE_TASKS, "story") if TASKS[t].fits(shown)]
        turns = [TASKS[t].turn(shown, rng) for t in tasks]
        rows = [_row(t, scene) for t in tasks]
        yield Case([("image", render(scene, rng, *_size(rng)))], turns, rows)


def _other_renderer(rng: np.random.Generator, count: int) -> Iterator[Case]:
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
        yield Case([("image", drawn)], turns, rows)


def _digits(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Scans of handwriting that training never sees."""
    for k in range(count):
        shown = Shown(digit=k % 10)
        drawn, _ = draw(k % 10, rng, *_size(rng), held_out=True)
        yield Case([("image", drawn)], [TASKS["digit"].turn(shown, rng)])
        if k % 2 == 0:
            four = Shown(sheet=tuple(int(digit) for digit in rng.integers(10, size=4)))
            drawn, _ = sheet(four.sheet, rng, *_size(rng), held_out=True)
            turns = [TASKS[t].turn(four, rng) for t in ("digit of four", "four digits")]
            yield Case([("image", drawn)], turns)


def _pairs(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Two pictures of one scene: the same drawing with a change, and, one time in three, drawn anew."""
    for k in range(count):
        before = random_scene(rng, 1, 3)
        shown = Shown(before, after=changed(before, rng))
        drawn = pair(before, shown.after, rng, *_size(rng), anew=k % 3 == 2)
        media = [("image", picture) for picture in drawn]
        turns = [TASKS[t].turn(shown, rng) for t in ("what changed", "one of two")]
        rows = ["what changed, drawn anew" if k % 3 == 2 else "what changed", "one of two"]
        yield Case(media, turns, rows)


def _words(rng: np.random.Generator, bank: speech.Bank, row: str) -> Iterator[Case]:
    """Every recording of a bank once: one that was asked twice would tell nothing new."""
    for word, recorded in bank.takes.items():
        for take in recorded:
            sound = speech.augment(take.astype(np.float32) / 32767, rng)
            yield Case([("audio", sound)], [TASKS["word"].turn(Shown(None, word), rng)], [row])


def _beeps(rng: np.random.Generator, count: int) -> Iterator[Case]:
    for _ in range(count):
        beeps = random_beeps(rng)
        turns = [TASKS[t].turn(Shown(beeps=beeps), rng) for t in ("beeps", "high or low")]
        yield Case([("audio", beep(beeps, rng))], turns)


def _mixed(rng: np.random.Generator, bank: speech.Bank, count: int) -> Iterator[Case]:
    """A picture and a sound, in either order; the word is a shape's or a colour's, which half the time is to be seen."""
    for k in range(count):
        scene = random_scene(rng, 1, 3)
        word = WORDS[10 + k % (len(WORDS) - 10)]
        if k % 2:
            thing = scene.things[int(rng.integers(len(scene.things)))]
            word = thing.shape if rng.random() < 0.67 else thing.colour
        picture = ("image", render(scene, rng))
        sound = ("audio", speech.augment(bank.take(word, rng), rng))
        media = [picture, sound] if rng.random() < 0.5 else [sound, picture]
        turns = [TASKS[t].turn(Shown(scene, word), rng) for t in ("heard and found", "see and hear", "word", "place")]
        yield Case(media, turns, ["heard and found", "see and hear", "both: word", "both: place"])


def _talk(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Text alone, a later turn about a picture, and a system prompt."""
    for k in range(count):
        yield Case([], [TASKS[t].turn(Shown(), rng) for t in TEXT_TASKS])
        scene = random_scene(rng, 1, 3)
        picture = ("image", render(scene, rng))
        history = [random_turn(Shown(scene), rng, IMAGE_TASKS), TASKS["place"].turn(Shown(scene), rng)]
        yield Case([picture], history[1:], ["second turn"], history=(history[0],))
        turn = TASKS["place"].turn(Shown(scene), rng)
        yield Case([picture], [turn], ["with a system prompt"], SYSTEM[k % len(SYSTEM)])


def _else(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """What is not there, and what is not of this world."""
    questions = off_world_questions(held_out=True)
    for k in range(count):
        nothing = missing(Shown(), rng)
        if nothing is not None:
            yield Case([], [nothing])
        scene = random_scene(rng, 1, 3)
        media = [("image", render(scene, rng))] if k % 2 else []
        odd = Turn(as_typed(questions[k % len(questions)], rng), UNKNOWN, "off-world, unseen questions")
        yield Case(media, [odd])
        shown = Shown(odd=True)
        for row, picture in (
            ("off-world picture", odd_picture(rng, *_size(rng))),
            ("off-world, parts of two photos", photo(rng)),
        ):  # described: what is asked of odd pictures alone would tell without a look
            turn = Turn(as_typed(pick(rng, DESCRIBE), rng), picture_said(shown), row)
            yield Case([("image", picture)], [turn], [row])


def _crowds(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Five to eight shapes: training shows four at most (or more without a question about all of them)."""
    for k in range(count):
        scene = random_scene(rng, 5 + k % 4, 5 + k % 4)
        shown = Shown(scene)
        tasks = ("scene", "place", "where", "count", "colour", "shape")
        turns = [TASKS[t].turn(shown, rng) for t in tasks]
        yield Case([("image", render(scene, rng, *_size(rng)))], turns, [f"{t}, 5 to 8 shapes" for t in tasks])
