"""Measure the pocket model: ``python -m workbench.pocket.evaluate`` prints a table and writes ``CARD.md``.

Exact match means every token of the answer, its end included, is the model's first choice given those before it. That
is the same as greedy decoding giving exactly the right answer, and a few hundred prompts then fit one forward pass.
The weights measured are those stored (bf16), computed with in float32, under the corrected masks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.errors import WorkbenchError
from workbench.pocket.data import Teller
from workbench.pocket.exam import parts, tree
from workbench.pocket.packing import Tree, pack

__all__ = ["CARD_SEED", "Scores", "load", "measure", "score"]


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

    from workbench.pocket.passes import hidden_states

    cap = model.config.text_config.final_logit_softcapping
    window = model.config.text_config.sliding_window
    queue = sorted(trees, key=len)
    length = max(length, len(queue[-1]))
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
            packed = pack(chosen, extra, length, teller.image_token)
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


CARD_SEED = 101
"""Of the card's exam. Weights and recipes are chosen by another one (``--seed 77``): what chose them flatters them."""


def measure(folder: Path, size: int = 300, seed: int = CARD_SEED, progress: bool = True) -> Scores:
    """Measure a folder's weights on the exam (``exam.parts``) with ``size`` held-out pictures a part."""
    processor, model = load(folder)
    teller = Teller(processor.tokenizer)
    scores = Scores()
    for name, make in parts(seed, size, progress).items():
        started = time.monotonic()
        score(model, teller, [tree(teller, case) for case in make()], scores)
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
    parser.add_argument(
        "--seed", type=int, default=CARD_SEED, help="of the exam; choose by another one than the card's"
    )
    parser.add_argument("--curve", type=Path, help="the run's curve.json, for the card")
    parser.add_argument("--no-card", action="store_true", help="print only")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        curve = json.loads(args.curve.read_text("utf-8")) if args.curve else []
    except (OSError, ValueError) as error:
        raise SystemExit(f"A learning curve cannot be read: {error}") from None
    try:
        scores = measure(args.weights, args.size, args.seed)
    except WorkbenchError as error:
        raise SystemExit(str(error)) from None
    print(card.table(scores))
    kept = None
    if (args.drafter / "config.json").exists():
        kept = measure_drafts(args.weights, args.drafter)
        if kept is not None:
            print(card.drafts_table(kept))
    if not args.no_card:
        looks, shown = _looked_at(args.weights, args.drafter, CARD.with_name("samples.jpg"))
        CARD.write_text(card.write(scores, args.weights, curve, kept, looks, shown), encoding="utf-8")
        print(f"{looks}\n{shown}\nwritten to {CARD}")


def _looked_at(weights: Path, drafter: Path, sheet: Path) -> tuple[str, str]:
    """What ``looked`` and ``contact`` have to say of the weights, through the workbench; draws the sheet."""
    import workbench
    from workbench.pocket import contact, looked, sample, speech

    model = workbench.load(weights, drafter=drafter if (drafter / "config.json").exists() else False, progress=False)
    picked = contact.chosen(sample.read(sample.HERE))
    contact.draw(picked).save(sheet, quality=88)
    looks = looked.table(looked.look(model, speech.bank("espeak", 20, progress=False)))
    return looks, contact.answers(model, picked)


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
