"""Train the pocket model: ``python -m workbench.pocket.train``.

Seeded; resumes from its last checkpoint; Ctrl-C stops it cleanly with a checkpoint; a checkpoint made with other
settings is refused. When the last step is done the weights are written where ``--export`` says.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from workbench.errors import DoesNotFit, Incompatible, WorkbenchError
from workbench.pocket.data import Mix

__all__ = ["Recipe", "main", "train"]

CHECKPOINT = 64_000_000
"""Bytes a checkpoint may take: weights, the optimizer's moments and the heads of training; 31 MB with 4 M parameters."""


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result. Two runs of equal recipes are the same run.

    Attributes:
        look: weight of a second loss: a linear head, thrown away afterwards, reads off every image token's hidden state
            in the middle of the network what fills that ninth of the picture (see ``aids``).
        hear: weight of a third one: two more such heads read each frame's mel spectrum off the second layer, and off the
            one of index ``late``, towards a word's end, which word it is. A word's answer is one token among hundreds.
        begin: folder of the weights to start from, with their tokenizer; empty for random ones.
        retokenize: learn a new tokenizer all the same: for a world whose words are others now.
    """

    steps: int = 1000
    seed: int = 1
    muon: float = 0.02
    adam: float = 1e-3
    warmup: int = 60
    floor: float = 0.05
    clip: float = 1.0
    voices: int = 360
    look: float = 0.0
    hear: float = 0.0
    late: int = 3
    begin: str = ""
    retokenize: bool = False
    mix: Mix = field(default_factory=Mix)

    def factor(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, then cosine down to ``floor``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


STAGES = {
    1: Recipe(
        steps=1000, look=1.0,
        mix=Mix(rows=24, length=128, image=0.62, both=0.04, audio=0.3, text=0.04, budget=118, most=2, crowd=0.7),
    ),
    2: Recipe(
        steps=1200, look=0.3, hear=1.0,
        mix=Mix(rows=24, length=160, image=0.3, both=0.1, audio=0.57, text=0.03, budget=152, most=4, crowd=0.2),
    ),
    3: Recipe(
        steps=2000, muon=0.018, adam=1e-3, look=0.2, hear=0.5,
        mix=Mix(rows=20, length=200, image=0.52, both=0.12, audio=0.3, text=0.06, budget=194, most=6, crowd=0.15),
    ),
    4: Recipe(
        steps=3400, muon=0.018, adam=1e-3, look=0.3, hear=0.5,
        mix=Mix(
            rows=20, length=200, image=0.54, both=0.14, audio=0.26, text=0.06, budget=194, most=6, crowd=0.04,
            digit=0.18, sheet=0.24, two=0.2, beeps=0.5,
        ),
    ),
    5: Recipe(
        steps=1500, muon=0.012, adam=7e-4, look=0.2, hear=0.5,
        mix=Mix(
            rows=20, length=200, image=0.5, both=0.22, audio=0.2, text=0.08, budget=194, most=6, digit=0.09,
            sheet=0.08, odd=0.05, two=0.18, beeps=0.5,
        ),
    ),
    6: Recipe(
        steps=2200, muon=0.016, adam=9e-4, look=0.2, hear=0.5, late=2,
        mix=Mix(
            rows=20, length=200, image=0.42, both=0.3, audio=0.22, text=0.06, budget=194, most=6, digit=0.08,
            sheet=0.1, odd=0.05, two=0.24, beeps=0.5, together=0.45, alike=0.4, still=0.12, many=0.5,
        ),
    ),
    7: Recipe(
        steps=1500, muon=0.012, adam=7e-4, look=0.2, hear=0.5, late=2,
        mix=Mix(
            rows=20, length=200, image=0.52, both=0.18, audio=0.24, text=0.06, budget=194, most=6, digit=0.07,
            sheet=0.07, odd=0.05, two=0.2, beeps=0.4, together=0.35, alike=0.3, still=0.12, many=0.6, flock=0.3,
            drill=0.35,
        ),
    ),
    8: Recipe(
        steps=1400, muon=0.013, adam=8e-4, floor=0.02, look=0.2, hear=0.5, late=2,
        mix=Mix(
            rows=20, length=200, image=0.56, both=0.14, audio=0.25, text=0.05, budget=194, most=6, digit=0.05,
            sheet=0.11, odd=0.04, two=0.24, beeps=0.3, together=0.35, alike=0.3, still=0.12, many=0.5, flock=0.35,
            drill=0.3, strange=0.5,
        ),
    ),
}  # fmt: skip


class _Steps:
    """A map-style dataset: index = step."""

    def __init__(self, recipe: Recipe, tokenizer, bank) -> None:  # noqa: ANN001
        from workbench.pocket.data import Teller

        self.recipe, self.bank, self.tokenizer = recipe, bank, tokenizer
        self.teller: Teller | None = None

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> dict:
        import torch

        from workbench.pocket.data import Teller, batch

        torch.set_num_threads(1)
        if self.teller is None:
            self.teller = Teller(self.tokenizer)
        packed = batch(step, self.recipe.seed, self.teller, self.bank, self.recipe.mix)
        return {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}


def batches(recipe: Recipe, tokenizer, bank, first: int, workers: int = 1):  # noqa: ANN001
    """Batches from step ``first`` on, made in the background."""
    from torch.utils.data import DataLoader

    steps = _Steps(recipe, tokenizer, bank)
    return DataLoader(
        steps, batch_size=None, sampler=range(first, recipe.steps), num_workers=workers,
        prefetch_factor=3 if workers else None,
    )  # fmt: skip


def media_inputs(data: dict) -> dict:
    """The pictures and sounds of a packed batch, as the model's forward and ``generate`` take them."""
    media = {}
    if len(data["image_patches"]):
        media["pixel_values"] = data["image_patches"].float() * (1 / 255)
        media["image_position_ids"] = data["image_xy"]
    if len(data["audio_frames"]):
        media["input_features"] = data["audio_frames"]
        media["input_features_mask"] = data["audio_mask"]
    return media


def hidden_states(model, data: dict, window: int):  # noqa: ANN001
    """The model's last hidden states (B, T, H) of a packed batch, under the right masks."""
    from workbench.pocket.packing import masks

    attention = masks(data["tree"], data["branch"], data["block"], data["position"], window)
    return model.model(
        input_ids=data["ids"],
        attention_mask=attention,
        position_ids=data["position"],
        use_cache=False,
        **media_inputs(data),
    ).last_hidden_state


def loss_of(model, data: dict, window: int):  # noqa: ANN001
    """Weighted cross-entropy of the answers, and the share of answer tokens predicted right."""
    import torch
    from torch.nn import functional as f

    hidden = hidden_states(model, data, window)[data["rows"], data["cols"]]
    cap = model.config.text_config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(hidden) / cap)
    each = f.cross_entropy(logits, data["targets"], reduction="none")
    weights = data["weights"]
    right = ((logits.argmax(-1) == data["targets"]) & (weights == 1)).sum() / (weights == 1).sum()
    return (each * weights).sum() / weights.sum(), right


def write_checkpoint(path: Path, recipe: Recipe, step: int, model, optimizer, curve: list, head=None) -> None:  # noqa: ANN001
    """Replace the checkpoint by a new one; a run killed in between keeps the old one.

    Raises:
        DoesNotFit: the disk has no room for it.
    """
    import torch

    room_for_checkpoint(path.parent)
    partial = path.with_suffix(".partial")
    torch.save(
        {"recipe": asdict(recipe), "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
         "curve": curve, "head": head.state_dict() if head is not None else None}, partial,
    )  # fmt: skip
    partial.replace(path)


def room_for_checkpoint(folder: Path) -> None:
    """Look whether the disk has room for one more checkpoint: torch's own words when it is full say nothing of it.

    Raises:
        DoesNotFit: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < CHECKPOINT:
        raise DoesNotFit(
            f"The disk of {folder} has {free / 1e6:.0f} MB free; a checkpoint takes {CHECKPOINT / 1e6:.0f} MB beside the "
            "last one, which stays as it is. Make room and run the same command again to go on from it."
        )


def resume(path: Path, recipe: Recipe, model, optimizer, head=None) -> tuple[int, list]:  # noqa: ANN001
    """Go on from a checkpoint: its step and curve.

    Raises:
        Incompatible: it belongs to another configuration, or cannot be read.
    """
    import torch

    try:
        stored = torch.load(path, weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch.load of a broken file raises whatever the bytes lead to)
        raise Incompatible(
            f"{path} is no checkpoint of a training run ({error}). Delete it, or give another --out."
        ) from None
    ours = json.loads(json.dumps(asdict(recipe)))
    theirs = json.loads(json.dumps(stored["recipe"]))
    if ours != theirs:
        parts = {k: (theirs.get(k), ours.get(k)) for k in ours.keys() | theirs.keys() if theirs.get(k) != ours.get(k)}
        said = "; ".join(f"{k}: checkpoint {a!r}, asked {b!r}" for k, (a, b) in sorted(parts.items()))
        raise Incompatible(
            f"{path} belongs to another configuration ({said}). Give the same settings, another --out, or delete it."
        )
    try:
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        if head is not None:
            head.load_state_dict(stored["head"])
    except (RuntimeError, ValueError) as error:
        raise Incompatible(
            f"{path} holds a model of another shape. Give another --out, or delete it. ({error})"
        ) from None
    return stored["step"], stored["curve"]


def train(
    recipe: Recipe, out: Path, export: Path | None = None, every: int = 100, stop_after: int | None = None
) -> bool:
    """Train, or go on training.

    Args:
        recipe: the settings.
        out: folder of the checkpoint and the log.
        export: where the finished weights go; None leaves them in ``out/weights``.
        every: steps between checkpoints.
        stop_after: stop (with a checkpoint) at this step, as Ctrl-C would.

    Returns:
        True when the last step is done.

    Raises:
        DoesNotFit: the disk has no room for a checkpoint.
        Incompatible: ``out`` holds a checkpoint of another configuration.
        MediaError: a speech synthesiser is missing.
    """
    import torch

    from workbench.pocket import build, senses, speech
    from workbench.pocket.aids import Hear, Look
    from workbench.pocket.graft import begin

    out.mkdir(parents=True, exist_ok=True)
    room_for_checkpoint(out)
    processor = build.build_processor(None if recipe.retokenize else recipe.begin or None)
    model = build.build_model(processor.tokenizer, recipe.seed)
    if recipe.begin:
        new = begin(model, processor.tokenizer, recipe.begin)
        if new:
            print(f"{new} pieces of the tokenizer are new to the weights of {recipe.begin}", flush=True)
    else:
        senses.start(model, recipe.seed)
    senses.coarse(model)
    look = Look(model) if recipe.look else None
    hear = Hear(model, late=recipe.late) if recipe.hear else None
    head = torch.nn.ModuleDict({n: aid.head for n, aid in (("look", look), ("hear", hear)) if aid})
    optimizer = Optimizer(model, recipe, head)
    path = out / "checkpoint.pt"
    step, curve = resume(path, recipe, model, optimizer, head) if path.exists() else (0, [])
    if step:
        print(f"going on from step {step} of {recipe.steps}", flush=True)
    bank = speech.bank("train", recipe.voices)
    window = model.config.text_config.sliding_window
    model.train()
    started, first = time.monotonic(), step
    recent: list[tuple[float, float]] = []
    last = min(recipe.steps, stop_after or recipe.steps)
    try:
        for data in batches(recipe, processor.tokenizer, bank, step):
            if step >= last:
                break
            loss, right = loss_of(model, data, window)
            total = loss
            for aid, weight in ((look, recipe.look), (hear, recipe.hear)):
                total = total + weight * aid.loss(data) if aid else total
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step(recipe.factor(step))
            step += 1
            recent.append((loss.item(), right.item()))
            if step % 20 == 0 or step == recipe.steps:
                mean = [sum(x) / len(recent) for x in zip(*recent, strict=True)]
                curve.append([step, *mean])
                recent = []
                rate = (time.monotonic() - started) / (step - first)
                left = (recipe.steps - step) * rate
                print(
                    f"step {step}/{recipe.steps}  loss {mean[0]:.4f}  tokens right {mean[1]:.3f}  "
                    f"{f'shapes seen {look.shapes_right:.2f}  ' if look else ''}{f'words heard {hear.words_right:.2f}  ' if hear else ''}{rate:.2f} s/step  {left / 60:.0f} min left", flush=True,
                )  # fmt: skip
            if step % every == 0:
                write_checkpoint(path, recipe, step, model, optimizer, curve, head)
    except KeyboardInterrupt:
        print(f"stopped at step {step}; run the same command again to go on", flush=True)
    write_checkpoint(path, recipe, step, model, optimizer, curve, head)
    (out / "curve.json").write_text(json.dumps(curve))
    plain = senses.merged(model)
    build.save(plain, processor, out / "weights")
    if step < recipe.steps:
        return False
    if export is not None:
        build.save(plain, processor, export)
    print(f"done: {recipe.steps} steps, weights in {export or out / 'weights'}", flush=True)
    return True


def Optimizer(model, recipe: Recipe, head=None):  # noqa: ANN001, N802
    """The recipe's optimizer for a model and, if there is one, the head of ``Look``."""
    import torch

    from workbench.pocket.optim import Optimizer as Both

    together = torch.nn.ModuleList([model, head]) if head is not None else model
    return Both(together, recipe.muon, recipe.adam)


def interruptible() -> None:
    """Let Ctrl-C and a polite kill stop a run cleanly, also one started in the background, where shells ignore them."""
    import signal

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)


def main() -> None:
    """The command line."""
    import torch

    from workbench.pocket import WEIGHTS

    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m workbench.pocket.train", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="default: as the stage has them")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--muon", type=float, help="learning rate of the layers' matrices; default: the stage's")
    parser.add_argument("--adam", type=float, help="learning rate of everything else; default: the stage's")
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"), help="checkpoint and log")
    parser.add_argument("--export", type=Path, default=WEIGHTS, help="where the finished weights go")
    parser.add_argument("--stop-after", type=int, help="stop with a checkpoint at this step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--stage", type=int, choices=tuple(STAGES), default=1,
        help="1: crowded pictures and few questions, to see and hear; 2: more to hear, from --begin's weights; "
        "3: all questions; 4: more of the hard ones (digits, pairs, beeps); 5: small rates; 6: what was rare and wrong; 7: counts; 8: pairs and counts, in strange voices",
    )  # fmt: skip
    parser.add_argument("--begin", default="", help="folder of the weights to start from; none: random ones")
    parser.add_argument("--retokenize", action="store_true", help="with --begin: learn a new tokenizer all the same")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    interruptible()
    stage = STAGES[args.stage]
    recipe = replace(
        stage, steps=args.steps or stage.steps, seed=args.seed, muon=args.muon or stage.muon,
        adam=args.adam or stage.adam, begin=args.begin, retokenize=args.retokenize,
    )  # fmt: skip
    try:
        train(recipe, args.out, args.export, stop_after=args.stop_after)
    except WorkbenchError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
