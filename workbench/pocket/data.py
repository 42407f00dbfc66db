"""Batches of the pocket world: step k of seed s is always the same batch, so training can stop and go on anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workbench.pocket import speech
from workbench.pocket.features import frames, patches
from workbench.pocket.packing import Branch, Packed, Tree, pack
from workbench.pocket.questions import TASKS, WORDS, Shown, Turn, describe, missing, random_turn
from workbench.pocket.world import COLOURS, SHAPES, random_scene, render

__all__ = ["Mix", "Teller", "batch"]

SYSTEM = (
    "You are a helpful assistant.", "Be short.", "Answer in one sentence.", "You are a small model.", "Be kind.",
    "You know shapes and digits.", "Look at the picture and answer.", "You are a teacher.", "Answer the question.",
    "Be precise.", "You are Gemma.", "Listen well.",
)  # fmt: skip


CROWD_TASKS = ("place", "colour", "shape", "count", "yes or no")


@dataclass(frozen=True)
class Mix:
    """What a batch is made of.

    Attributes:
        rows, length: shape of a batch.
        image, both, audio, text: share of trees with these media.
        budget: tokens an image tree may fill with questions.
        most: questions over one picture.
        crowd: share of pictures with four to nine things: many more shapes seen for the same work.
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
        return [*self.text("<|audio>"), *([self.audio_token] * len(content)), *self.text("<audio|>")]

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


def cells(scene, xy: np.ndarray) -> np.ndarray:  # noqa: ANN001
    """What fills the ninth of the picture each patch lies in: (N, 2) shape and colour, counted from 1; 0 is nothing."""
    cols, rows = xy.max(axis=0) + 1
    place = (xy[:, 1] + 0.5) * 3 // rows * 3 + (xy[:, 0] + 0.5) * 3 // cols
    known = np.zeros((9, 2), np.int64)
    for thing in scene.things:
        known[thing.place] = SHAPES.index(thing.shape) + 1, COLOURS.index(thing.colour) + 1
    return known[place.astype(np.int64)]


def _picture(scene, rng: np.random.Generator):  # noqa: ANN001, ANN202
    """A scene as patches with what each shows (``cells``)."""
    cut, xy = _drawn(scene, rng)
    return cut, xy, cells(scene, xy)


def _drawn(scene, rng: np.random.Generator):  # noqa: ANN001, ANN202
    """A scene as patches: usually drawn at the model's size, else at another and resized as the processor would."""
    kind = rng.random()
    if kind < 0.5:
        return patches(render(scene, rng))
    if kind < 0.75:  # drawn at the model's size, other aspect ratios
        rows = int(rng.integers(4, 13))
        cols = int(min(12, 70 // rows))
        return patches(render(scene, rng, cols * 48, rows * 48))
    area = float(rng.uniform(100, 520))
    aspect = 2 ** float(rng.uniform(-1.2, 1.2)) if rng.random() < 0.6 else 1.0
    width, height = max(64, int(area * aspect**0.5)), max(64, int(area / aspect**0.5))
    return patches(render(scene, rng, width, height))


def _tree(teller: Teller, bank: speech.Bank, mix: Mix, rng: np.random.Generator) -> Tree:
    draw = rng.random()
    sees = draw < mix.image + mix.both
    hears = mix.image <= draw < mix.image + mix.both + mix.audio
    crowded = mix.crowd > 0 and rng.random() < mix.crowd
    scene = (random_scene(rng, 4, 9) if crowded else random_scene(rng)) if sees else None
    word = WORDS[int(rng.integers(len(WORDS)))] if hears else None
    said = WORDS.index(word) if word else -1
    shown = Shown(scene, word)
    media = []
    if sees:
        media.append(("image", _picture(scene, rng)))
    if hears:
        media.append(("audio", frames(speech.augment(bank.take(word, rng), rng))))
    if rng.random() < 0.25:
        media.reverse()
    thought = ""
    if media and not (crowded and sees) and rng.random() < 0.06:
        thought = " ".join(([describe(scene)] if sees else []) + ([f'A voice says "{word}".'] if hears else []))
    system = SYSTEM[int(rng.integers(len(SYSTEM)))] if rng.random() < 0.1 else ""
    head = "<bos>"
    if thought or system:
        head += "<|turn>system\n" + ("<|think|>\n" if thought else "") + system + "<turn|>\n"
    prefix = [*teller.text(head + "<|turn>user\n")]

    def ask() -> Turn:
        odd = missing(shown, rng) if rng.random() < 0.04 else None
        return odd or random_turn(shown, rng, CROWD_TASKS if crowded and sees else None)

    if media and rng.random() < 0.06:  # the question before the picture or sound
        turn = ask()
        words, loss = teller.answer(turn, thought)
        asked = [*teller.text(turn.question)]
        for kind, content in media:
            asked += teller.media(kind, content)
        asked += teller.text("<turn|>\n<|turn>model\n")
        return Tree(prefix, [], [Branch(asked + words, [0.0] * len(asked) + loss, media, turn.task)], said)
    for kind, content in media:
        prefix += teller.media(kind, content)
    tree = Tree(prefix, media, [], said)
    most = mix.most if sees else 2
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
