"""A checkpoint of 12B's exact shapes, random weights, through ``workbench.load``: ``python -m benchmarks.full_size``.

Both source forms are written to a temporary folder, one after the other (plain bfloat16: 24 GB; compressed-tensors
``pack-quantized``: 8 GB); the drafter is left out, and counted from its published parameters. Each is loaded in an
interpreter of its own, asked about a picture and a sound for ten tokens, and its memory watched: held bytes are
parameters and buffers, the peak is anonymous memory (pages of the files come and go); with ``--device cuda`` it is what
torch took there. Then ``workbench quantize`` writes the packed form and that is loaded. ``--shape``: a smaller one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import shapes

__all__ = ["main", "write"]

DRAFTER = 2 * 423_000_000  # bytes: 423 M parameters in 16 bit
HELD, PEAK, SECOND = 9e9, 11e9, 0.25  # budgets at full shape: bytes, bytes, and the packed load's time over the first's

RUN = """
import io, json, sys, threading, time
import numpy as np
import workbench
from benchmarks.decode import picture, sound
from workbench.packed import held_bytes

peak, done = [0], threading.Event()
def anonymous():
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], anonymous())
import torch, transformers
threading.Thread(target=watch, daemon=True).start()
began = time.perf_counter()
on = sys.argv[3]
taken = torch.cuda.max_memory_allocated if on.startswith("cuda") else lambda: peak[0]
model = workbench.load(sys.argv[1], quantization=sys.argv[2] or None, device=on, progress=False)
load_s, load_peak = time.perf_counter() - began, taken()
before = held_bytes(model.transformer)
trace = model.ask("What is this?", images=[picture()], audio=[(sound(), 16_000)], temperature=0, max_new_tokens=10)
done.set()
steps = np.diff(trace.tokens.time_s)
block = torch.ones(1 << 26, dtype=torch.int64, device=on)
def read():
    began = time.perf_counter(); block.max().item(); return block.nbytes / (time.perf_counter() - began)
print(json.dumps({
    "load_s": load_s, "load_peak": load_peak, "held": before, "held_after": held_bytes(model.transformer),
    "peak": max(taken(), load_peak), "tokens": len(trace.tokens), "first_s": float(trace.tokens.time_s[0]),
    "step_s": float(np.median(steps)), "bandwidth": max(read() for _ in range(5)),
}))
"""


def write(shape: shapes.Shape, folder: Path, *, packed: bool) -> None:
    """A random checkpoint: plain bfloat16, or compressed-tensors' ``pack-quantized``, in files of about 2 GB."""
    import torch
    from transformers import AutoProcessor, GenerationConfig

    from workbench.pocket import WEIGHTS
    from workbench.quantization import planned
    from workbench.repack import Files

    processor = AutoProcessor.from_pretrained(WEIGHTS, local_files_only=True)
    processor.image_processor.max_soft_tokens = shape.image_tokens
    folder.mkdir(parents=True)
    processor.save_pretrained(folder)
    _fill(folder / "tokenizer.json", shape.vocab)
    model = shapes.build(shape, dtype="bfloat16", device="meta").transformer
    four_bit = {n for n, p in planned(model, "int4+16", {}).items() if p.kind == "int4"} if packed else set()
    defaults = GenerationConfig.from_pretrained(WEIGHTS)
    defaults.eos_token_id = None
    defaults.save_pretrained(folder)
    config = shapes.config(shape, processor.tokenizer)
    config.dtype = torch.bfloat16
    if packed:
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
        config.quantization_config = {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }  # fmt: skip
    config.architectures = ["Gemma4UnifiedForConditionalGeneration"]
    config.save_pretrained(folder)
    out = Files(folder)
    for key, tensor in _random(model, four_bit):
        out.add(key, tensor)
    out.close()


def _fill(path: Path, vocab: int) -> None:
    """Give a tokenizer as many words as the model has: the loader refuses one of far fewer."""
    made = json.loads(path.read_text("utf-8"))
    words = made["model"]["vocab"]
    words |= {f"filler {k}": k for k in range(max(words.values()) + 1, vocab)}
    path.write_text(json.dumps(made, ensure_ascii=False), "utf-8")


def _random(model: Any, four_bit: set[str]) -> Iterator[tuple[str, Any]]:
    """Every tensor of a model: random, from one block of numbers that is used again and again."""
    import torch

    block = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02
    integers = torch.randint(-(1 << 31), 1 << 31, (1 << 22,), generator=torch.Generator().manual_seed(0)).int()

    def fill(source: torch.Tensor, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = torch.Size(size).numel()
        return source.to(dtype).repeat(-(-count // len(source)))[:count].view(size).clone()

    for key, tensor in model.state_dict().items():
        name, _dot, last = key.rpartition(".")
        if key == "lm_head.weight":
            continue  # tied
        if last == "weight" and name in four_bit:
            rows, columns = tensor.shape
            yield f"{name}.weight_packed", fill(integers, (rows, columns // 8), torch.int32)
            yield f"{name}.weight_scale", fill(block.abs() * 0.2, (rows, columns // 32), torch.bfloat16)
            yield f"{name}.weight_shape", torch.tensor([rows, columns])
        elif "norm" in name.rpartition(".")[2] or tensor.ndim == 0 or last == "layer_scalar":
            yield key, torch.full(tensor.shape, 0.25 if "q_norm" in name or "k_norm" in name else 1.0).bfloat16()
        else:
            yield key, fill(block, tuple(tensor.shape), torch.bfloat16)


def _say(text: str) -> None:
    """How far it is: the whole takes an hour on two cores."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _told(made: dict[str, Any]) -> str:
    return (f"loaded in {made['load_s']:.0f} s; {made['held'] / 1e9:.2f} GB held, {made['load_peak'] / 1e9:.2f} at the "
            f"most; first token after {made['first_s']:.0f} s, then {made['step_s']:.2f} s each")  # fmt: skip


def _run(folder: Path, quantization: str, device: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), quantization, device], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{folder.name} failed:\n{done.stderr[-3000:]}")
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert made["held"] == made["held_after"], "the weights did not stay packed"
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Write, load, ask, print; the exit code is 1 when a budget is not met at full shape."""
    import argparse

    from workbench import repack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="12B")
    parser.add_argument("--forms", nargs="+", choices=("plain", "packed"), default=["packed", "plain"])
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    args = parser.parse_args(argv)
    shape = shapes.SHAPES[args.shape]
    full = args.shape == "12B"
    needed = 34e9 if full and "plain" in args.forms else 18e9 if full else 4e9
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        if (free := shutil.disk_usage(name).free) < needed:
            raise SystemExit(f"{name} has {free / 1e9:.1f} GB free; {needed / 1e9:.0f} GB are needed.")
        root, rows = Path(name), {}
        for form in args.forms:
            _say(f"writing random weights of {shape.name}, {form}")
            write(shape, root / form, packed=form == "packed")
            _say("loading them as int4, and asking about a picture and a sound")
            rows[form] = _run(root / form, "int4", args.device)
            _say(_told(rows[form]))
            if form == "plain":  # packed weights are kept as they come
                _say("keeping them packed, as `workbench quantize` does")
                began = time.perf_counter()
                repack.quantize(root / form, root / "kept")
                wrote = time.perf_counter() - began
                _say(f"written in {wrote:.0f} s; loading that")
                rows["kept"] = {**_run(root / "kept", "", args.device), "write_s": wrote}
                _say(_told(rows["kept"]))
            shutil.rmtree(root / form)
    print(
        "| source | load s | held GB | peak GB | first token s | s a token | bytes a token / bandwidth |\n|"
        + "---|" * 7
    )
    for form, r in rows.items():
        floor = r["held"] / r["bandwidth"] / r["step_s"]
        print(f"| {form} | {r['load_s']:.1f} | {r['held'] / 1e9:.2f} | {r['peak'] / 1e9:.2f} | {r['first_s']:.2f} "
              f"| {r['step_s']:.3f} | {floor:.2f} |")  # fmt: skip
    held, peak = (max(r[k] for r in rows.values()) + DRAFTER for k in ("held", "load_peak"))
    ratio = rows["kept"]["load_s"] / rows["plain"]["load_s"] if "kept" in rows else None
    if ratio is not None:
        print(f"\nthe packed folder loads in {ratio:.2f} of the time of the plain one (budget {SECOND})")
    print(f"\nwith a drafter of 0.85 GB: held {held / 1e9:.2f} GB (budget {HELD / 1e9:.0f} at 12B), "
          f"peak while loading {peak / 1e9:.2f} GB (budget {PEAK / 1e9:.0f})")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(full and (held > HELD or peak > PEAK or (ratio is not None and ratio > SECOND)))


if __name__ == "__main__":
    sys.exit(main())
