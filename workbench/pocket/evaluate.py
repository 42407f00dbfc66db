"""Measure the pocket model: ``python -m workbench.pocket.evaluate`` prints a table and writes ``CARD.md``.

Exact match means every token of the answer, its end included, is the model's first choice given those before it. That
is the same as greedy decoding giving exactly the right answer, and a few hundred prompts then fit one forward pass.
The weights measured are those stored (bf16), computed with in float32, under the corrected masks.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.pocket import speech
from workbench.pocket.data import SYSTEM, Teller
from workbench.pocket.features import frames, patches
from workbench.pocket.packing import Branch, Tree, pack
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
from workbench.pocket.world import plain_render, random_scene, render

__all__ = ["Scores", "load", "measure", "score"]

IMAGE_TASKS = ("scene", "place", "where", "colour", "shape", "count", "yes or no")


@dataclass
class Scores:
    """Right answers and questions asked, by row of the card, and what stories measure.

    Attributes:
        right, asked: row name to count.
        heard: row of a voice split to Counter of (said, answered) words.
        story_entropy: mean nats a token of the model's own distribution along stories.
    """

    right: Counter = field(default_factory=Counter)
    asked: Counter = field(default_factory=Counter)
    heard: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    story_entropy: float = float("nan")

    def share(self, row: str) -> float:
        """Exact match of a row."""
        return self.right[row] / self.asked[row] if self.asked[row] else float("nan")


def load(folder: Path):  # noqa: ANN201
    """Processor and model of a folder, as stored, float32."""
    import torch
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    return processor, AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()


def score(model, teller: Teller, trees: list[Tree], scores: Scores, rows: int = 16, length: int = 288) -> None:  # noqa: ANN001
    """Add the exact matches of every branch of ``trees``; a branch's ``task`` names its row."""
    import torch

    from workbench.pocket.train import hidden_states

    cap = model.config.text_config.final_logit_softcapping
    window = model.config.text_config.sliding_window
    queue = sorted(trees, key=len)
    entropies: list[float] = []
    while queue:
        chosen: list[Tree] = []
        free = rows * length * 0.85
        while queue and len(queue[-1]) <= free:
            free -= len(queue[-1])
            chosen.append(queue.pop())
        packed = pack(chosen, rows, length, teller.image_token)
        extra = rows
        while len(packed.tasks) < sum(len(t.branches) for t in chosen):  # first fit left one out: one row more
            extra += 1
            packed = pack(chosen, extra, max(length, *(len(t) for t in chosen)), teller.image_token)
        data = {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}
        with torch.inference_mode():
            hidden = hidden_states(model, data, window)[data["rows"], data["cols"]]
            logits = cap * torch.tanh(model.lm_head(hidden) / cap)
            hit = (logits.argmax(-1) == data["targets"]).numpy()
            logprobs = logits.log_softmax(-1)
            entropy = -(logprobs.exp() * logprobs).sum(-1).numpy()
            guess = logits.argmax(-1).numpy()
        for k, name in enumerate(packed.tasks):
            mine = packed.which == k
            scores.asked[name] += 1
            scores.right[name] += bool(hit[mine].all())
            if name.startswith("word"):
                said = teller.tokenizer.decode(packed.targets[mine][:1])
                scores.heard[name][said, teller.tokenizer.decode(guess[mine][:1])] += 1
            if name == "story":
                entropies += entropy[mine].tolist()
    if entropies:
        scores.story_entropy = float(np.mean(entropies))


def _image_trees(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """Held-out pictures of the training renderer, every image task once."""
    for _ in range(count):
        scene = random_scene(rng)
        shown = Shown(scene)
        media = [("image", patches(render(scene, rng, *_size(rng))))]
        yield _tree(teller, media, [TASKS[t].turn(shown, rng) for t in (*IMAGE_TASKS, "story")])


def _size(rng: np.random.Generator) -> tuple[int, int]:
    area, aspect = float(rng.uniform(100, 700)), 2 ** float(rng.uniform(-1, 1))
    return max(64, int(area * aspect**0.5)), max(64, int(area / aspect**0.5))


def _other_trees(teller: Teller, rng: np.random.Generator, count: int) -> Iterator[Tree]:
    """The second renderer: 64 to 2,000 px, PNG and JPEG, hard and smooth edges, tall and wide."""
    from PIL import Image

    for k in range(count):
        scene = random_scene(rng)
        side, aspect = float(np.exp(rng.uniform(np.log(80), np.log(1800)))), 2 ** float(rng.uniform(-0.8, 0.8))
        width, height = (min(2000, max(64, int(x))) for x in (side * aspect**0.5, side / aspect**0.5))
        background = None if k % 2 else ("black", "dimgray", "midnightblue")[k // 2 % 3]
        drawn = plain_render(scene, width, height, background, float(rng.uniform(0.3, 0.44)), k % 3 == 0)
        if k % 4 == 0:
            packed = io.BytesIO()
            drawn.save(packed, "JPEG", quality=80)
            drawn = Image.open(packed).convert("RGB")
        turns = [TASKS[t].turn(Shown(scene), rng) for t in ("scene", "place", "where", "count", "colour")]
        tree = _tree(teller, [("image", patches(drawn))], turns)
        for branch in tree.branches:
            branch.task += ", other renderer"
        yield tree


def _sound_trees(teller: Teller, rng: np.random.Generator, bank: speech.Bank, row: str, takes: int) -> Iterator[Tree]:
    for word in WORDS:
        for _ in range(takes):
            sound = frames(speech.augment(bank.take(word, rng), rng))
            tree = _tree(teller, [("audio", sound)], [TASKS["word"].turn(Shown(None, word), rng)])
            tree.branches[0].task = row
            yield tree


def _mixed_trees(teller: Teller, rng: np.random.Generator, bank: speech.Bank, count: int) -> Iterator[Tree]:
    """A picture and a sound, a later turn, a system prompt, nothing to see, and the rest of the world."""
    for k in range(count):
        scene, word = random_scene(rng), WORDS[k % len(WORDS)]
        shown = Shown(scene, word)
        picture = ("image", patches(render(scene, rng)))
        sound = ("audio", frames(speech.augment(bank.take(word, rng), rng)))
        both = [picture, sound] if k % 2 else [sound, picture]
        turns = [TASKS[t].turn(shown, rng) for t in ("see and hear", "word", "place")]
        tree = _tree(teller, both, turns)
        for branch, row in zip(tree.branches, ("see and hear", "both: word", "both: place"), strict=True):
            branch.task = row
        yield tree
        history = [random_turn(Shown(scene), rng, IMAGE_TASKS), TASKS["place"].turn(Shown(scene), rng)]
        later = teller.branch(history)
        last = len(teller.answer(history[-1])[0])
        later.weights = [0.0] * (len(later.ids) - last) + later.weights[-last:]
        later.task = "second turn"
        yield Tree([*teller.text("<bos><|turn>user\n"), *teller.media(*picture)], [picture], [later])
        tree = _tree(teller, [picture], [TASKS["place"].turn(Shown(scene), rng)], SYSTEM[k % len(SYSTEM)])
        tree.branches[0].task = "with a system prompt"
        yield tree
        nothing = missing(Shown(), rng)
        yield _tree(teller, [], [nothing])
        questions = off_world_questions(held_out=True)
        odd = Turn(as_typed(questions[k % len(questions)], rng), UNKNOWN, "off-world, unseen questions")
        yield _tree(teller, [picture] if k % 2 else [], [odd])


def _tree(teller: Teller, media: list, turns: list[Turn], system: str = "") -> Tree:
    head = "<bos>" + (f"<|turn>system\n{system}<turn|>\n" if system else "") + "<|turn>user\n"
    prefix = [*teller.text(head)]
    for kind, content in media:
        prefix += teller.media(kind, content)
    branches: list[Branch] = [teller.branch([turn]) for turn in turns]
    return Tree(prefix, media, branches)


def measure(folder: Path, size: int = 300, seed: int = 77, progress: bool = True) -> Scores:
    """Measure a folder's weights on ``size`` held-out pictures, as many of the second renderer, and unseen voices."""
    processor, model = load(folder)
    teller = Teller(processor.tokenizer)
    rng = np.random.default_rng(seed)
    scores = Scores()
    takes = max(1, size // 15)
    espeak = speech.bank("espeak", 20, progress=progress)
    parts = {
        "pictures": lambda: _image_trees(teller, rng, size),
        "other renderer": lambda: _other_trees(teller, rng, size),
        "unseen espeak-ng voices": lambda: _sound_trees(teller, rng, espeak, "word, unseen espeak-ng voices", takes),
        "unseen flite voice": lambda: _sound_trees(
            teller, rng, speech.bank("flite", 12, progress=progress), "word, unseen flite voice", takes // 2 + 1
        ),
        "festival": lambda: _sound_trees(
            teller, rng, speech.bank("festival", 4, progress=progress), "word, festival (engine never heard)", takes // 2 + 1
        ),
        "mixed": lambda: _mixed_trees(teller, rng, espeak, size // 2),
    }  # fmt: skip
    for name, make in parts.items():
        started = time.monotonic()
        score(model, teller, list(make()), scores)
        if progress:
            print(f"  measured {name} in {time.monotonic() - started:.0f} s", flush=True)
    return scores


def main() -> None:
    """The command line."""
    import torch

    from workbench.pocket import CARD, DRAFTER, WEIGHTS, card

    parser = argparse.ArgumentParser(prog="python -m workbench.pocket.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--drafter", type=Path, default=DRAFTER)
    parser.add_argument("--size", type=int, default=300, help="held-out pictures a part")
    parser.add_argument("--curve", type=Path, default=None, help="a training run's curve.json")
    parser.add_argument("--no-card", action="store_true", help="print only")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = measure(args.weights, args.size)
    print(card.table(scores))
    kept = None
    if (args.drafter / "config.json").exists():
        kept = measure_drafts(args.weights, args.drafter)
        if kept is not None:
            print(card.drafts_table(kept))
    if not args.no_card:
        curve = json.loads(args.curve.read_text()) if args.curve and args.curve.exists() else None
        CARD.write_text(card.write(scores, args.weights, curve, kept), encoding="utf-8")
        print(f"written to {CARD}")


def measure_drafts(weights: Path, folder: Path):  # noqa: ANN201 (an Acceptance)
    """The drafter's acceptance, or None (and a word) when it was trained for another target."""
    import hashlib

    from workbench.pocket.acceptance import accept
    from workbench.pocket.drafter import load_drafter

    drafter = load_drafter(folder)
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()[:16]
    if drafter.config.to_dict().get("target_weights") not in (None, digest):
        print(f"the drafter in {folder} was trained for other weights: not measured")
        return None
    processor, model = load(weights)
    return accept(model, drafter, processor)


if __name__ == "__main__":
    main()
