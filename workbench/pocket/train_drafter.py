"""Train the pocket drafter on the frozen pocket model: ``python -m workbench.pocket.train_drafter``.

Its loss at each of the drafts of a round is the cross-entropy against the target's own distribution. Seeded and
resumable as the model's training is.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.pocket.data import Mix
from workbench.pocket.recipe import Recipe
from workbench.pocket.train import asked_to_stop, batches, resume, write_checkpoint

__all__ = ["DraftRecipe", "main", "train_drafter"]


@dataclass(frozen=True)
class DraftRecipe(Recipe):
    """Everything that shapes the drafter.

    Attributes:
        drafts: depth of a round in training.
        target: hash of the target's weights; a drafter of another target is not gone on with.
    """

    steps: int = 450
    seed: int = 11
    muon: float = 0.02
    adam: float = 2e-3
    drafts: int = 4
    target: str = ""
    mix: Mix = field(default_factory=lambda: Mix(rows=12, image=0.5, both=0.08, audio=0.3, text=0.12))


def train_drafter(
    recipe: DraftRecipe, weights: Path, out: Path, export: Path | None = None, stop_after: int | None = None
) -> bool:
    """Train, or go on training; as ``workbench.pocket.train.train``.

    Args:
        recipe: the settings; ``target`` is filled in here.
        weights: the target's folder.
        out: folder of the checkpoint.
        export: where the finished drafter goes; None leaves it in ``out/drafter``.
        stop_after: stop (with a checkpoint) at this step.

    Returns:
        True when the last step is done.
    """
    from dataclasses import replace

    import torch

    from workbench.pocket import drafter as d
    from workbench.pocket import evaluate, speech
    from workbench.pocket.optim import Optimizer

    out.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()[:16]
    recipe = replace(recipe, target=digest)
    processor, target = evaluate.load(weights)
    target.requires_grad_(False)
    model = d.build_drafter(target, recipe.seed)
    model.config.target_weights = digest  # so that a drafter of other weights is noticed
    optimizer = Optimizer(model, recipe.muon, recipe.adam)
    path = out / "checkpoint.pt"
    step, curve = resume(path, recipe, model, optimizer) if path.exists() else (0, [])
    bank = speech.bank("train", recipe.voices)
    cap = target.config.text_config.final_logit_softcapping
    last = min(recipe.steps, stop_after or recipe.steps)
    started, first = time.monotonic(), step
    recent: list[list[float]] = []
    with asked_to_stop() as stop:
        for data in batches(recipe, processor.tokenizer, bank, step):
            if step >= last or stop.is_set():
                break
            states = d.target_states(target, data)
            with torch.no_grad():
                wanted = cap * torch.tanh(target.lm_head(states[0][data["rows"], data["cols"]]) / cap)
                wanted = wanted.softmax(-1)
            loss = torch.zeros(())
            right = []
            for k, (start, logits) in enumerate(d.draft_logits(model, target, data, states, recipe.drafts)):
                goal = wanted[start + k + 1]
                loss = loss - (goal * logits.log_softmax(-1)).sum(-1).mean() / recipe.drafts
                right.append((logits.argmax(-1) == goal.argmax(-1)).float().mean().item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step(recipe.factor(step))
            step += 1
            recent.append([loss.item(), *right])
            if step % 20 == 0 or step == recipe.steps:
                mean = [sum(x) / len(recent) for x in zip(*recent, strict=True)]
                curve.append([step, *mean])
                recent = []
                rate = (time.monotonic() - started) / (step - first)
                agree = " ".join(f"{x:.3f}" for x in mean[1:])
                print(
                    f"step {step}/{recipe.steps}  loss {mean[0]:.4f}  agrees {agree}  {rate:.2f} s/step  "
                    f"{(recipe.steps - step) * rate / 60:.0f} min left", flush=True,
                )  # fmt: skip
            if step % 100 == 0:
                write_checkpoint(path, recipe, step, model, optimizer, curve)
    if stop.is_set():
        print(f"stopped at step {step}; run the same command again to go on", flush=True)
    write_checkpoint(path, recipe, step, model, optimizer, curve)
    d.save_drafter(model, out / "drafter")
    if step < recipe.steps:
        return False
    if export is not None:
        d.save_drafter(model, export)
    print(f"done: {recipe.steps} steps, drafter in {export or out / 'drafter'}", flush=True)
    return True


def main() -> None:
    """The command line."""
    import torch

    from workbench.pocket import DRAFTER, WEIGHTS

    defaults = DraftRecipe()
    parser = argparse.ArgumentParser(
        prog="python -m workbench.pocket.train_drafter", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the target")
    parser.add_argument("--out", type=Path, default=Path("runs/drafter"), help="checkpoint and log")
    parser.add_argument("--export", type=Path, default=DRAFTER, help="where the finished drafter goes")
    parser.add_argument("--stop-after", type=int, help="stop with a checkpoint at this step")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        train_drafter(
            DraftRecipe(steps=args.steps, seed=args.seed), args.weights, args.out, args.export, args.stop_after
        )
    except WorkbenchError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
