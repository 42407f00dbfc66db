"""Batches of the pocket world: step k of seed s is always the same batch, so training can stop and go on anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from workbench.pocket import speech
from workbench.pocket.features import FRAME, frames, ninth, patches
from workbench.pocket.handwriting import draw, sheet
from workbench.pocket.oddities import odd_picture
from workbench.pocket.packing import Branch, Packed, Tree, pack
from workbench.pocket.questions import TASKS, WORDS, Shown, Turn, missing, picture_said, random_turn, sound_said
from workbench.pocket.tones import MOST, random_beeps, timed
from workbench.pocket.world import COLOURS, DIGITS, SHAPES, SIZES, Scene, Thing, changed, random_scene, render

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Mix", "Teller", "batch", "draw_shown", "pair", "pictures", "sounds"]

SYSTEM = (
    "You are a helpful assistant.", "Be short.", "Answer in one sentence.", "You are a small model.", "Be kind.",
    "You know shapes and digits.", "Look at the picture and answer.", "You are a teacher.", "Answer the question.",
    "Be precise.", "You are Gemma.", "Listen well.",
)  # fmt: skip


BOTH_TASKS = ("heard and found", "see and hear")
DRILL_TASKS = ("count", "where")
CROWD_TASKS = ("place", "colour", "shape", "count", "yes or no")


@dataclass(frozen=True)
class Mix:
    """What a batch is made of.

    Attributes:
        rows, length: shape of a batch.
        image, both, audio, text: share of trees with these media.
        budget: tokens an image tree may fill with questions.
        most: questions over one picture.
        crowd, digit, sheet, odd, two: share, among pictures without a sound, of those with four to nine things (many more
            shapes seen for the same work), of a handwritten digit, of four, of what is not of this world, and of pairs.
        few: questions over one picture without shapes, where most of them are alike.
        beeps: share of beeps among sounds without a picture.
        together: share, over a picture and a sound, of questions that need both.
        alike: share of scenes in which something has another's colour or shape.
        still: share of pairs in which nothing changes, before those that ``changed`` leaves alone.
        many: share of beeps that are three at least, before those that are by chance.
        flock: share of scenes in which all things but one at most have one colour or one shape.
        drill: share of questions over a scene that ask how many, or where.
        once: share of sounds without a picture of which one thing is asked; of the others, two: what a second question
            teaches of a sound, its first has taught already.
        strange: share of words whose voice is bent out of the synthesisers' ways (``speech.augment``).
    """

    rows: int = 16
    length: int = 240
    image: float = 0.42
    both: float = 0.08
    audio: float = 0.41
    text: float = 0.09
    budget: int = 225
    most: int = 12
    crowd: float = 0.0
    digit: float = 0.14
    sheet: float = 0.04
    odd: float = 0.04
    two: float = 0.14
    beeps: float = 0.14
    few: int = 3
    together: float = 0.0
    alike: float = 0.0
    still: float = 0.0
    many: float = 0.0
    flock: float = 0.0
    drill: float = 0.0
    strange: float = 0.0
    once: float = 0.0


class Teller:
    """Turns scenes, sounds and questions into trees of token ids, in the chat template's format."""

    def __init__(self, tokenizer) -> None:  # noqa: ANN001
        self.tokenizer = tokenizer
        self.text = lru_cache(50_000)(lambda s: tuple(tokenizer.encode(s, add_special_tokens=False)))
        self.image_token = tokenizer.image_token_id
        self.audio_token = tokenizer.audio_token_id

    def media(self, kind: str, content) -> list[int]:  # noqa: ANN001
        """Placeholders of one picture or sound, with their begin and end."""
        if kind == "image":
            return [*self.text("<|image>"), *([self.image_token] * len(content[0])), *self.text("<image|>")]
        count = len(content[0] if isinstance(content, tuple) else content)
        return [*self.text("<|audio>"), *([self.audio_token] * count), *self.text("<audio|>")]

    def answer(self, turn: Turn, thought: str = "") -> tuple[list[int], list[float]]:
        """A model turn's tokens up to its end, with their loss weights."""
        weight = TASKS[turn.task].loss if turn.task in TASKS else 1.0
        said = f"<|channel>thought\n{thought}<channel|>{turn.answer}" if thought else turn.answer
        ids = [*self.text(said), *self.text("<turn|>")]
        return ids, [weight] * len(ids)

    def branch(self, turns: list[Turn], thought: str = "") -> Branch:
        """A conversation that goes on after the opening of the user's turn and the media."""
        ids: list[int] = []
        weights: list[float] = []
        for k, turn in enumerate(turns):
            asked = [*self.text(("\n<|turn>user\n" if k else "") + turn.question + "<turn|>\n<|turn>model\n")]
            said, loss = self.answer(turn, thought)
            ids += asked + said
            weights += [0.0] * len(asked) + loss
        return Branch(ids, weights, task=turns[-1].task)


def cells(scene: Scene, xy: np.ndarray, before: Scene | None = None) -> np.ndarray:
    """What fills the ninth of the picture each patch lies in.

    Args:
        scene: what the picture shows.
        xy: (N, 2) places of its patches.
        before: what a picture before it shows.

    Returns:
        int64 (N, 4): the shape and the colour, counted from 1, 0 for nothing; 0 for small, 1 for large, -1 for
        neither; 1 where it is not as in ``before``, 0 where it is, -1 without one.
    """
    known = np.tile(np.array([0, 0, -1, -1]), (9, 1))
    sizes = ["", *SIZES]
    for thing in scene.things:
        known[thing.place, :3] = (
            SHAPES.index(thing.shape) + 1,
            COLOURS.index(thing.colour) + 1,
            sizes.index(thing.size) - 1,
        )
    if before is not None:
        known[:, 3] = [scene.at(place) != before.at(place) for place in range(9)]
    return known[ninth(xy, xy.max(axis=0) + 1)]


def written(digits: tuple[int, ...], boxes: list[tuple[float, float, float, float]], xy: np.ndarray) -> np.ndarray:
    """The same for handwritten digits, which count as shapes after ``SHAPES`` and have no colour (-1)."""
    cols, rows = xy.max(axis=0) + 1
    x, y = (xy[:, 0] + 0.5) / cols, (xy[:, 1] + 0.5) / rows
    known = np.tile(np.array([0, -1, -1, -1]), (len(xy), 1))
    for digit, box in zip(digits, boxes, strict=True):
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        known[inside, 0] = len(SHAPES) + 1 + digit
    return known


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: usually the model's own, else another that is resized as the processor would."""
    kind = rng.random()
    if kind < 0.5:
        return 384, 384
    if kind < 0.75:  # whole patches, other aspect ratios
        rows = int(rng.integers(4, 13))
        return int(min(12, 70 // rows)) * 48, rows * 48
    area = float(rng.uniform(100, 520))
    aspect = 2 ** float(rng.uniform(-1.2, 1.2)) if rng.random() < 0.6 else 1.0
    return max(64, int(area * aspect**0.5)), max(64, int(area / aspect**0.5))


def pair(
    before: Scene, after: Scene, rng: np.random.Generator, width: int, height: int, *, anew: bool | None = None
) -> list[Image.Image]:
    """Two pictures of a scene and what became of it.

    Args:
        before, after: what they show.
        rng: all chance comes from it.
        width, height: pixels of each.
        anew: whether the second is another drawing altogether, or the first one with the change; None: one in four is.
    """
    if anew or (anew is None and rng.random() < 0.25):
        return [render(scene, rng, width, height) for scene in (before, after)]
    seed = int(rng.integers(2**31))
    dark = any(thing.colour == "white" for scene in (before, after) for thing in scene.things)
    return [render(scene, np.random.default_rng(seed), width, height, dark) for scene in (before, after)]


def pictures(shown: Shown, rng: np.random.Generator, *, held_out: bool = False) -> list[tuple[str, tuple]]:
    """The pictures of a prompt as media of a ``Tree``: patches, their places, and what each shows (``cells``).

    Args:
        shown: what they are to show.
        rng: all chance comes from it.
        held_out: digits from the scans that training never sees.
    """
    width, height = _size(rng)
    if shown.digit is not None:
        picture, box = draw(shown.digit, rng, width, height, held_out=held_out)
        cut, xy = patches(picture)
        return [("image", (cut, xy, written((shown.digit,), [box], xy)))]
    if shown.sheet is not None:
        picture, boxes = sheet(shown.sheet, rng, width, height, held_out=held_out)
        cut, xy = patches(picture)
        return [("image", (cut, xy, written(shown.sheet, boxes, xy)))]
    if shown.odd:
        return [("image", patches(odd_picture(rng, width, height)))]
    if shown.scene is None:
        return []
    if shown.after is None:
        cut, xy = patches(render(shown.scene, rng, width, height))
        return [("image", (cut, xy, cells(shown.scene, xy)))]
    first, second = (patches(drawn) for drawn in pair(shown.scene, shown.after, rng, width, height))
    return [
        ("image", (*first, cells(shown.scene, first[1]))),
        ("image", (*second, cells(shown.after, second[1], shown.scene))),
    ]


def sounds(shown: Shown, bank: speech.Bank, rng: np.random.Generator, strange: float = 0.0) -> list[tuple[str, tuple]]:
    """The sound of a prompt, if there is one, as media of a ``Tree``: frames, and what each of them ends.

    That is, int64 (F,): of a word its index in ``WORDS`` once six tenths of the sound are over; of beeps, counted on from
    there, how many have begun and whether they are high; else -1.
    """
    if shown.word is not None:
        cut = frames(speech.augment(bank.take(shown.word, rng), rng, strange=strange))
        late = np.arange(1, len(cut) + 1) > 0.6 * len(cut)
        return [("audio", (cut, np.where(late, WORDS.index(shown.word), -1)))]
    if shown.beeps is None:
        return []
    wave, starts = timed(shown.beeps, rng)
    cut = frames(wave)
    begun = np.searchsorted(starts, (np.arange(len(cut)) + 0.5) * FRAME)
    return [("audio", (cut, np.where(begun > 0, len(WORDS) + 2 * (begun - 1) + int(shown.beeps.high), -1)))]


def draw_shown(mix: Mix, rng: np.random.Generator) -> tuple[Shown, bool]:
    """What the next prompt shows, and whether it is a crowded picture."""
    draw = rng.random()
    sees = draw < mix.image + mix.both
    hears = mix.image <= draw < mix.image + mix.both + mix.audio
    word = WORDS[int(rng.integers(len(WORDS)))] if hears else None
    beeps = None
    if hears and not sees and rng.random() < mix.beeps:
        word, beeps = None, random_beeps(rng)
        if _chance(mix.many, rng):
            beeps = replace(beeps, count=int(rng.integers(3, MOST + 1)))
    if not sees:
        return Shown(word=word, beeps=beeps), False
    if not hears:
        kind = rng.random()
        if kind < mix.digit:
            return Shown(digit=int(rng.integers(10))), False
        kind -= mix.digit
        if kind < mix.sheet:
            return Shown(sheet=tuple(int(digit) for digit in rng.integers(10, size=4))), False
        kind -= mix.sheet
        if kind < mix.odd:
            return Shown(odd=True), False
        kind -= mix.odd
        if kind < mix.two:
            scene = random_scene(rng, 1, 3)
            return Shown(scene, after=scene if _chance(mix.still, rng) else changed(scene, rng)), False
        if kind - mix.two < mix.crowd:
            return Shown(random_scene(rng, 4, 9)), True
    scene = random_scene(rng, 0 if rng.random() < 0.06 else 1, 4)
    if len(scene.things) > 1 and _chance(mix.alike, rng):
        scene = _alike(scene, rng)
    if len(scene.things) > 2 and _chance(mix.flock, rng):
        scene = _flock(scene, rng)
    if word is not None and scene.things and rng.random() < 0.6:  # a word that is in the picture
        thing = scene.things[int(rng.integers(len(scene.things)))]
        word = (thing.shape, thing.shape, thing.colour, DIGITS[len(scene.things)])[int(rng.integers(4))]
    return Shown(scene, word, beeps=beeps), False


def _chance(share: float, rng: np.random.Generator) -> bool:
    """True that often; without any draw at 0, so that a recipe without the setting keeps its batches."""
    return share > 0 and rng.random() < share


def _alike(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, one thing with the colour or the shape of another: chance alone makes few of them."""
    things = list(scene.things)
    k, other = (int(x) for x in rng.choice(len(things), 2, replace=False))
    like = things[other]
    things[k] = replace(things[k], colour=like.colour) if rng.random() < 0.5 else replace(things[k], shape=like.shape)
    return Scene(tuple(things))


def _flock(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, all its things but one at most with one colour or one shape."""
    like, odd = (scene.things[int(k)] for k in rng.choice(len(scene.things), 2, replace=False))
    by_colour, all_of_them = rng.random() < 0.5, rng.random() < 0.3

    def joined(thing: Thing) -> Thing:
        if thing is odd and not all_of_them:
            return thing
        return replace(thing, colour=like.colour) if by_colour else replace(thing, shape=like.shape)

    return Scene(tuple(joined(thing) for thing in scene.things))


def _tree(teller: Teller, bank: speech.Bank, mix: Mix, rng: np.random.Generator) -> Tree:
    shown, crowded = draw_shown(mix, rng)
    seen, heard = pictures(shown, rng), sounds(shown, bank, rng, mix.strange)
    media: list = seen + heard if rng.random() < 0.75 else heard + seen
    thought = ""
    if media and not crowded and shown.after is None and rng.random() < 0.05:
        thought = " ".join(([picture_said(shown)] if seen else []) + ([sound_said(shown)] if heard else []))
    system = SYSTEM[int(rng.integers(len(SYSTEM)))] if rng.random() < 0.1 else ""
    head = "<bos>"
    if thought or system:
        head += "<|turn>system\n" + ("<|think|>\n" if thought else "") + system + "<turn|>\n"
    prefix = [*teller.text(head + "<|turn>user\n")]

    def ask() -> Turn:
        odd = missing(shown, rng) if rng.random() < 0.04 else None
        if seen and heard and _chance(mix.together, rng):
            return random_turn(shown, rng, BOTH_TASKS)
        if odd is None and shown.scene is not None and shown.after is None and _chance(mix.drill, rng):
            return random_turn(shown, rng, DRILL_TASKS)
        return odd or random_turn(shown, rng, CROWD_TASKS if crowded else None)

    if media and rng.random() < 0.06:  # the question before the picture or sound
        turn = ask()
        words, loss = teller.answer(turn, thought)
        asked = [*teller.text(turn.question)]
        for kind, content in media:
            asked += teller.media(kind, content)
        asked += teller.text("<turn|>\n<|turn>model\n")
        return Tree(prefix, [], [Branch(asked + words, [0.0] * len(asked) + loss, media, turn.task)])
    for kind, content in media:
        prefix += teller.media(kind, content)
    tree = Tree(prefix, media, [])
    if shown.scene is not None or shown.sheet is not None:
        most = mix.most
    else:
        most = mix.few if seen else 2
        if heard and _chance(mix.once, rng):
            most = 1
    while len(tree.branches) < most:
        turns = [ask() for _ in range(1 if rng.random() < 0.85 else int(rng.integers(2, 4)))]
        branch = teller.branch(turns, thought)
        if len(tree) + len(branch.ids) > mix.budget:
            break
        tree.branches.append(branch)
    return tree


def batch(step: int, seed: int, teller: Teller, bank: speech.Bank, mix: Mix) -> Packed:
    """The batch of a step: trees until the rows are nearly full."""
    rng = np.random.default_rng([seed, step])
    trees: list[Tree] = []
    tokens = 0
    while tokens < 0.94 * mix.rows * mix.length:
        tree = _tree(teller, bank, mix, rng)
        if tree.branches and len(tree) <= mix.length:
            trees.append(tree)
            tokens += len(tree)
    return pack(trees, mix.rows, mix.length, teller.image_token)
