"""Train the pocket model: ``python -m workbench.pocket.train``.

Seeded; resumes from its last checkpoint; Ctrl-C stops it cleanly with a checkpoint; a checkpoint made with other
settings is refused. When the last step is done the weights are written where ``--export`` says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from workbench.errors import DoesNotFit, Incompatible, WorkbenchError
from workbench.pocket.passes import loss_of
from workbench.pocket.recipe import POCKET, Recipe

__all__ = ["main", "train"]

CHECKPOINT = 64_000_000
"""Bytes a checkpoint may take: weights, their mean, the optimizer's moments and the heads; 46 MB with 4 M parameters."""


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
        packed = batch(step, self.recipe.seed, self.teller, self.bank, self.recipe.phase(step).mix)
        return {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}


def batches(recipe: Recipe, tokenizer, bank, first: int, workers: int = 1):  # noqa: ANN001
    """Batches from step ``first`` on, made in the background."""
    from torch.utils.data import DataLoader

    steps = _Steps(recipe, tokenizer, bank)
    return DataLoader(
        steps, batch_size=None, sampler=range(first, recipe.steps), num_workers=workers,
        prefetch_factor=3 if workers else None,
    )  # fmt: skip


def write_checkpoint(
    path: Path, recipe: Recipe, step: int, model, optimizer, curve: list, head=None, mean=None
) -> None:  # noqa: ANN001
    """Replace the checkpoint by a new one; a run killed in between keeps the old one.

    Raises:
        DoesNotFit: the disk has no room for it.
    """
    import torch

    room_for_checkpoint(path.parent)
    partial = path.with_suffix(".partial")
    torch.save(
        {"recipe": asdict(recipe), "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
         "curve": curve, "head": head.state_dict() if head is not None else None,
         "mean": mean.kept if mean is not None else {}}, partial,
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


def resume(path: Path, recipe: Recipe, model, optimizer, head=None, mean=None) -> tuple[int, list]:  # noqa: ANN001
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
        if mean is not None:
            mean.kept = stored["mean"]
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
    from workbench.pocket.aids import Find, Hear, Look

    out.mkdir(parents=True, exist_ok=True)
    room_for_checkpoint(out)
    processor = build.build_processor()
    model = build.build_model(processor.tokenizer, recipe.seed)
    senses.start(model, recipe.seed)
    senses.coarse(model)
    phases = [*recipe.early, recipe.phase(recipe.steps)]
    look = Look(model) if any(phase.look for phase in phases) else None
    hear = Hear(model, late=recipe.late) if any(phase.hear for phase in phases) else None
    find = Find(model, processor.tokenizer) if any(phase.find for phase in phases) else None
    head = torch.nn.ModuleDict({n: aid.head for n, aid in (("look", look), ("hear", hear), ("find", find)) if aid})
    optimizer = Optimizer(model, recipe, head)
    path = out / "checkpoint.pt"
    mean = Mean(model, recipe)
    step, curve = resume(path, recipe, model, optimizer, head, mean) if path.exists() else (0, [])
    if step:
        print(f"going on from step {step} of {recipe.steps}", flush=True)
    bank = speech.bank("train", recipe.voices)
    window = model.config.text_config.sliding_window
    model.train()
    started, first = time.monotonic(), step
    recent: list[tuple[float, float]] = []
    last = min(recipe.steps, stop_after or recipe.steps)
    with asked_to_stop() as stop:
        for data in batches(recipe, processor.tokenizer, bank, step):
            if step >= last or stop.is_set():
                break
            loss, right = loss_of(model, data, window)
            total = loss
            phase = recipe.phase(step)
            for aid, weight in ((look, phase.look), (hear, phase.hear), (find, phase.find)):
                total = total + weight * aid.loss(data) if aid and weight else total
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step(recipe.factor(step))
            step += 1
            mean.add(model, step)
            recent.append((loss.item(), right.item()))
            if step % 20 == 0 or step == recipe.steps:
                late = [sum(x) / len(recent) for x in zip(*recent, strict=True)]
                curve.append([step, *late])
                recent = []
                rate = (time.monotonic() - started) / (step - first)
                left = (recipe.steps - step) * rate
                print(
                    f"step {step}/{recipe.steps}  loss {late[0]:.4f}  tokens right {late[1]:.3f}  "
                    f"{f'shapes seen {look.shapes_right:.2f}  ' if look else ''}{f'words heard {hear.words_right:.2f}  ' if hear else ''}{f'places found {find.places_right:.2f}  ' if find else ''}{rate:.2f} s/step  {left / 60:.0f} min left", flush=True,
                )  # fmt: skip
            if step % every == 0:
                write_checkpoint(path, recipe, step, model, optimizer, curve, head, mean)
    if stop.is_set():
        print(f"stopped at step {step}; run the same command again to go on", flush=True)
    write_checkpoint(path, recipe, step, model, optimizer, curve, head, mean)
    (out / "curve.json").write_text(json.dumps(curve))
    build.save(senses.merged(model), processor, out / "weights")  # of the last step
    if step < recipe.steps:
        return False
    mean.give(model)
    build.save(senses.merged(model), processor, export or out / "weights")
    print(f"done: {recipe.steps} steps, weights in {export or out / 'weights'}", flush=True)
    return True


class Mean:
    """The running mean of the weights of a recipe's last steps (``Recipe.tail``)."""

    def __init__(self, model, recipe: Recipe) -> None:  # noqa: ANN001
        self.first = recipe.steps - round(recipe.tail * recipe.steps)
        self.kept: dict = {}

    def add(self, model, step: int) -> None:  # noqa: ANN001
        """Take in the weights after a step, if it is one of the last."""
        count = step - self.first
        if count == 1:
            self.kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        elif count > 1:
            for name, p in model.named_parameters():
                self.kept[name].lerp_(p.detach(), 1 / count)

    def give(self, model) -> None:  # noqa: ANN001
        """Put the mean in the model's place; nothing where there is none."""
        model.load_state_dict(self.kept, strict=False)


def Optimizer(model, recipe: Recipe, head=None):  # noqa: ANN001, N802
    """The recipe's optimizer for a model and, if there is one, the head of ``Look``."""
    import torch

    from workbench.pocket.optim import Optimizer as Both

    together = torch.nn.ModuleList([model, head]) if head is not None else model
    return Both(together, recipe.muon, recipe.adam)


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a polite kill sets, so that a run ends between two steps and never within one.

    A second Ctrl-C ends it at once. Also in the background, where shells ignore both; on another thread nothing is set.
    """
    stop = threading.Event()

    def heard(number: int, frame: Any) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {name: signal.signal(name, heard) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def main() -> None:
    """The command line."""
    import torch

    from workbench.pocket import WEIGHTS

    parser = argparse.ArgumentParser(prog="python -m workbench.pocket.train", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=POCKET.seed)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"), help="checkpoint and log")
    parser.add_argument("--export", type=Path, default=WEIGHTS, help="where the finished weights go")
    parser.add_argument("--stop-after", type=int, help="stop with a checkpoint at this step")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = replace(POCKET, seed=args.seed)
    try:
        train(recipe, args.out, args.export, stop_after=args.stop_after)
    except WorkbenchError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
