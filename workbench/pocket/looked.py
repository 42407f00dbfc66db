"""Whether pocket is worth looking into: does a head point at what is asked about, and does hiding it change the answer?

Measured through the workbench itself, on held-out scenes and voices. The head is chosen on the first half of them and
judged on the second, so that the best of many by chance does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.pocket import speech
from workbench.pocket.questions import WORDS
from workbench.pocket.world import PLACES, random_scene, render

__all__ = ["Looked", "look", "table"]

SIDE = 384
_TOKEN = 1  # "A red circle.": the token after the article, the first that had to look


@dataclass(frozen=True)
class Looked:
    """Shares from 0 to 1, and which head they are of.

    Attributes:
        pointed, heard: the strongest patch of the head lies in the ninth asked about, its strongest frame within the word.
        head, ear: (layer, head) of each.
        mattered: the block whose hiding costs the colour most lies in the ninth asked about; nats: what it costs, the
            median of the scenes.
        changed: covering the thing asked about changed the answer; other: covering another thing did.
        asked: scenes and sounds each.
    """

    pointed: float
    head: tuple[int, int]
    heard: float
    ear: tuple[int, int]
    mattered: float
    nats: float
    changed: float
    other: float
    asked: int


def _box(place: int) -> tuple[float, float, float, float]:
    third = SIDE / 3
    return place % 3 * third, place // 3 * third, (place % 3 + 1) * third, (place // 3 + 1) * third


def _place(x: float, y: float) -> int:
    return int(min(y, SIDE - 1) * 3 // SIDE) * 3 + int(min(x, SIDE - 1) * 3 // SIDE)


def _best(hits: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Of (N, layers, heads): the share of the second half in which the best head of the first half hits."""
    half = len(hits) // 2
    chosen = np.unravel_index(hits[:half].mean(0).argmax(), hits.shape[1:])
    return float(hits[half:, chosen[0], chosen[1]].mean()), (int(chosen[0]), int(chosen[1]))


def look(model, bank: speech.Bank, count: int = 100, seed: int = 79) -> Looked:
    """Measure a loaded model.

    Args:
        model: a ``workbench.model.LoadedModel`` of this world.
        bank: voices; held-out ones, for a fair figure.
        count: scenes, and sounds.
        seed: all chance comes from it.
    """
    rng = np.random.default_rng(seed)
    pointed: list[np.ndarray] = []
    drops: list[tuple[bool, float]] = []
    changed: list[bool] = []
    other: list[bool] = []
    for _ in range(count):
        scene = random_scene(rng, 2, 4)
        asked, spare = (scene.things[k] for k in rng.permutation(len(scene.things))[:2])
        picture = np.asarray(render(scene, rng, SIDE, SIDE))
        question = f"What is at the {PLACES[asked.place]}?"
        trace = model.ask(question, images=[picture], temperature=0)
        pointed.append(model.attend(trace, tokens=_TOKEN).points_at(0, _box(asked.place), token=_TOKEN))
        hidden = model.occlude(trace, token=_TOKEN)
        worst = int(hidden.values.argmax())
        left, top, right, bottom = hidden.map.boxes[worst]
        inside = _place((left + right) / 2, (top + bottom) / 2) == asked.place
        drops.append((inside, float(hidden.values.flat[worst])))
        for place, found in ((asked.place, changed), (spare.place, other)):
            left, top, right, bottom = (round(x) for x in _box(place))
            covered = picture.copy()
            covered[top:bottom, left:right] = np.median(picture, axis=(0, 1)).astype(np.uint8)
            found.append(model.ask(question, images=[covered], temperature=0).text != trace.text)
    heard: list[np.ndarray] = []
    for k in range(count):
        wave = bank.take(WORDS[k % len(WORDS)], rng)
        wave = wave / max(1e-6, float(np.abs(wave).max()))
        lead = int(rng.uniform(0.1, 0.4) * speech.RATE)
        sound = np.concatenate([np.zeros(lead), wave, np.zeros(speech.RATE // 4)])
        sound = (0.5 * sound + 0.001 * rng.standard_normal(len(sound))).astype(np.float32)
        trace = model.ask("What word do you hear?", audio=[(sound, speech.RATE)], temperature=0)
        attention = model.attend(trace, tokens=0)
        rows = [[attention.on_audio(0, token=0, layer=layer.index, head=int(head)) for head in attention.heads]
                for layer in attention.layers]  # fmt: skip
        middle = (np.argmax(rows, axis=-1) + 0.5) * 0.04
        heard.append((middle > lead / speech.RATE) & (middle < (lead + len(wave)) / speech.RATE))
    eye, ear = _best(np.array(pointed)), _best(np.array(heard))
    mattered, nats = float(np.mean([hit for hit, _ in drops])), float(np.median([drop for _, drop in drops]))
    return Looked(*eye, *ear, mattered, nats, float(np.mean(changed)), float(np.mean(other)), count)


def table(looked: Looked) -> str:
    """Markdown."""
    where = [f"layer {layer}, head {head}" for layer, head in (looked.head, looked.ear)]
    rows = (
        ("a head's strongest patch lies on the thing asked about", looked.pointed, where[0]),
        ("a head's strongest frame lies within the word", looked.heard, where[1]),
        ("the patches whose hiding costs most lie on it", looked.mattered, f"a median of {looked.nats:.1f} nats"),
        ("covering the thing asked about changes the answer", looked.changed, f"{looked.asked} scenes"),
        ("covering another thing changes it", looked.other, f"{looked.asked} scenes"),
    )
    said = [f"| {what} | {share:.2f} | {of} |" for what, share, of in rows]
    return "\n".join(["| what is looked at | share | |", "|---|---:|---|", *said])
