"""What nobody can check for you: the embedded model on every device and in every scheme of this machine.

    workbench doctor --selftest

Each combination loads pocket, scores one answer, and compares every word's logprob with that of the CPU in float32;
then it times a step. Pocket is float32 by itself, and most kernels for packed weights take bfloat16 alone, so packed
schemes are tried in both. The table is meant to be pasted into an issue by people whose hardware we do not have.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.machine import machine
from workbench.pocket import WEIGHTS

__all__ = ["SCHEMES", "Result", "run", "table"]

_HALF = " in 16 bits"
SCHEMES = ("none", "int8", "int4", "int8" + _HALF, "int4" + _HALF)
# Largest change of a logprob, in nats: rounding of other kernels where weights are the same, and what packing may cost
_LIMITS = {"none": 0.02, "int8": 0.5, "int4": 0.4, "int8" + _HALF: 0.5, "int4" + _HALF: 0.5}
_SAME = 0.02
_SAME_HALF = 0.25  # a bfloat16 of a logit has steps of up to an eighth


@dataclass(frozen=True)
class Result:
    """One combination.

    Attributes:
        kernel: What multiplies int4 layers there (see :mod:`workbench.packed`); empty for others.
        largest: Largest change of a word's logprob against the CPU in float32, in nats; None where it failed.
        same: Change against the CPU in the same scheme, which is rounding alone; None for the CPU itself.
        step_s: Median seconds from word to word.
        bytes: Of parameters and buffers.
        wrong: What failed, in words; empty when all is well.
    """

    device: str
    scheme: str
    kernel: str = ""
    largest: float | None = None
    same: float | None = None
    step_s: float | None = None
    bytes: int = 0
    wrong: str = ""


def run(
    devices: Sequence[str] | None = None, *, report: Callable[[Result], Any] | None = None, tokens: int = 12
) -> list[Result]:
    """Try every combination; what fails is in its result, and the others go on.

    Args:
        devices: Names as ``load`` takes them; None is all there are, the CPU first.
        report: Called with each result as it comes.
        tokens: Words of the answer.
    """
    import workbench

    names = list(devices) if devices is not None else [d.name for d in reversed(machine().devices)]
    plain = workbench.load("pocket", device="cpu", drafter=False, progress=False)
    answer = plain.ask("Tell me a story.", temperature=0, max_new_tokens=tokens)
    known: dict[str, Any] = {}  # logprobs on the CPU, by scheme
    out = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
        half = shutil.copytree(WEIGHTS, Path(room) / "pocket-16")
        config = half / "config.json"
        config.write_text(config.read_text("utf-8").replace('"float32"', '"bfloat16"'), "utf-8")
        for device in names:
            for scheme in SCHEMES:
                try:
                    result = _one(device, scheme, half, answer, known)
                except (WorkbenchError, RuntimeError, NotImplementedError) as error:
                    result = Result(device, scheme, wrong=(str(error).splitlines() or [type(error).__name__])[0])
                out.append(result)
                if report:
                    report(result)
    return out


def _one(device: str, scheme: str, half: Path, answer: Any, known: dict[str, Any]) -> Result:
    import numpy as np

    import workbench
    from workbench.packed import Int4Linear, held_bytes, layers

    asked = None if scheme == "none" else scheme.removesuffix(_HALF)
    source = half if scheme.endswith(_HALF) else "pocket"
    model = workbench.load(source, device=device, quantization=asked, drafter=False, progress=False)
    try:
        scored = model.score(answer).tokens.logprob.astype(float)
        known.setdefault(scheme, scored)  # the CPU comes first
        before = held_bytes(model.transformer)
        again = model.ask("Tell me a story.", temperature=0, max_new_tokens=len(scored))
        took = float(np.median(np.diff(again.tokens.time_s))) if len(again.tokens) > 1 else float("nan")
        largest = float(np.abs(scored - answer.tokens.logprob).max())
        same = float(np.abs(scored - known[scheme]).max())
        kernels = sorted({layer.kernel for _, layer in layers(model.transformer) if isinstance(layer, Int4Linear)})
        wrong = ""
        if not np.isfinite(scored).all():
            wrong = "logprobs that are not finite"
        elif largest > _LIMITS[scheme] or same > (_SAME_HALF if source is half else _SAME):
            wrong = f"off by {max(largest, same):.3g} nats"
        elif held_bytes(model.transformer) != before:
            wrong = "the weights did not stay packed"
        return Result(device, scheme, ", ".join(kernels), largest, same, took, before, wrong)
    finally:
        if asked is not None or not device.startswith("cpu"):
            workbench.unload(next(n for n, m in workbench.loaded().items() if m is model))


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    head = ("device", "weights", "kernel", "off, nats", "off the CPU's", "a word, ms", "MB", "")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in results:
        off, cpu = ("-" if x is None else f"{x:.2g}" for x in (r.largest, r.same))
        step = "-" if r.step_s is None else f"{r.step_s * 1e3:.1f}"
        cells = (r.device, r.scheme, r.kernel or "-", off, cpu, step, f"{r.bytes / 1e6:.1f}", r.wrong or "ok")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
