"""How many of the drafter's drafts the target keeps, greedy, on held-out prompts.

Answers are the target's own greedy ones; since a draft is only ever judged after right drafts, all positions can be
drafted at once and the rounds played afterwards, exactly as decoding would.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from workbench.pocket import speech
from workbench.pocket.data import Teller, pictures, sounds
from workbench.pocket.packing import Branch, Tree, pack
from workbench.pocket.questions import TASKS, WORDS, Shown, Task, random_turn
from workbench.pocket.tones import random_beeps
from workbench.pocket.world import changed, random_scene

__all__ = ["Acceptance", "accept", "play", "shown_for"]


@dataclass
class Acceptance:
    """Rounds played.

    Attributes:
        kept: (rounds, drafts) by group: whether a draft was kept; NaN where the answer had ended before it.
        emitted: tokens emitted a round, by group; a group is a task, a modality, or ``"all"``.
    """

    kept: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    emitted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def by_position(self, group: str) -> list[float]:
        """Share of drafts kept at each position of a round, of those that were judged."""
        shares = np.array(self.kept[group])
        judged = (~np.isnan(shares)).sum(0)
        return np.divide(np.nansum(shares, 0), judged, out=np.full(len(judged), np.nan), where=judged > 0).tolist()

    def tokens_a_round(self, group: str) -> float:
        """Mean tokens a verification emits."""
        return float(np.mean(self.emitted[group]))


def play(right: np.ndarray, drafts: int) -> list[tuple[list[float], int]]:
    """Play the rounds of one answer.

    Args:
        right: (N, drafts) bool: at start s, whether draft i (of token s + i + 1) is the target's; the answer has N
            tokens, of which the first comes from the prefill.
        drafts: drafts a round.

    Returns:
        For each round which drafts were kept (NaN past the end and after the first miss) and tokens emitted.
    """
    n = len(right)
    at, rounds = 0, []
    while at < n - 1:
        kept: list[float] = []
        for i in range(drafts):
            if at + i + 1 >= n:
                break
            kept.append(float(right[at, i]))
            if not right[at, i]:
                break
        good = int(sum(kept))
        emitted = min(good + 1, n - 1 - at)
        rounds.append((kept + [float("nan")] * (drafts - len(kept)), emitted))
        at += emitted
    return rounds


def _answers(model, teller: Teller, tree: Tree, most: int = 90) -> list[int]:
    """The target's greedy answer to a tree of one branch without its answer."""
    import torch

    from workbench.masks import correct
    from workbench.pocket.passes import media_inputs

    correct(model)
    packed = pack([tree], 1, len(tree), teller.image_token)
    data = {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}
    kinds = (data["ids"] == teller.image_token).long() + 3 * (data["ids"] == teller.audio_token).long()
    out = model.generate(
        input_ids=data["ids"], attention_mask=torch.ones_like(data["ids"]), mm_token_type_ids=kinds,
        max_new_tokens=most, do_sample=False, **media_inputs(data),
    )  # fmt: skip
    return out[0, data["ids"].shape[1] :].tolist()


def prompts(teller: Teller, rng: np.random.Generator, count: int):
    """``count`` held-out prompts of every task: (modality, task, prefix, media, question ids)."""
    bank = speech.bank("espeak", 20, progress=False)
    for task in TASKS.values():
        for _ in range(count):
            shown = shown_for(task, rng)
            seen, heard = pictures(shown, rng, held_out=True), sounds(shown, bank, rng)
            media: list[tuple] = [*seen, *heard]
            turn = random_turn(shown, rng, (task.name,))
            modality = "image and sound" if seen and heard else "image" if seen else "sound" if heard else "text"
            prefix = [*teller.text("<bos><|turn>user\n")]
            for kind, content in media:
                prefix += teller.media(kind, content)
            yield modality, task.name, prefix, media, [*teller.text(f"{turn.question}<turn|>\n<|turn>model\n")]


def shown_for(task: Task, rng: np.random.Generator) -> Shown:
    """Something that a task's question can be asked about."""
    shown = _shown_of(task.needs, rng)
    while not task.fits(shown):
        shown = _shown_of(task.needs, rng)
    return shown


def _shown_of(needs: str, rng: np.random.Generator) -> Shown:
    scene = random_scene(rng, 1, 3) if needs in ("image", "both", "two") else None
    return Shown(
        scene,
        WORDS[int(rng.integers(len(WORDS)))] if needs in ("audio", "both") else None,
        after=changed(scene, rng) if scene is not None and needs == "two" else None,
        digit=int(rng.integers(10)) if needs == "digit" else None,
        sheet=tuple(int(digit) for digit in rng.integers(10, size=4)) if needs == "sheet" else None,
        beeps=random_beeps(rng) if needs == "beeps" else None,
        odd=needs == "odd",
    )


def accept(model, drafter, processor, count: int = 12, drafts: int = 4, seed: int = 78) -> Acceptance:
    """Greedy acceptance of ``count`` held-out prompts a task at ``drafts`` drafts a round."""
    import torch

    from workbench.pocket.drafter import draft_logits, target_states

    teller = Teller(processor.tokenizer)
    result = Acceptance()
    for modality, task, prefix, media, asked in prompts(teller, np.random.default_rng(seed), count):
        branch = Branch(asked, [0.0] * (len(asked) - 1) + [1.0])
        said = _answers(model, teller, Tree(prefix, media, [branch]))
        branch = Branch(asked + said, [0.0] * len(asked) + [1.0] * len(said), task=task)
        tree = Tree(prefix, media, [branch])
        packed = pack([tree], 1, len(tree), teller.image_token)
        data = {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}
        right = np.zeros((len(said), drafts), bool)
        with torch.inference_mode():
            for i, (start, logits) in enumerate(draft_logits(drafter, model, data, target_states(model, data), drafts)):
                right[start.numpy(), i] = (logits.argmax(-1) == data["targets"][start + i + 1]).numpy()
        for kept, emitted in play(right, drafts):
            for group in ("all", task, modality):
                result.kept[group].append(kept)
                result.emitted[group].append(emitted)
    return result
