"""Packed weights against 16 bit: ``python -m benchmarks.quantization [--rows 1 5 64 300] [--cpu-time]``.

Speed: one linear layer, its weights as int4 in groups of 32, int8 with a scale a row, or bfloat16; the rows are those
of one token, of a pass over four drafts, and of prompts. torchao's int8 joins in where it is installed. Quality: the
pocket model, packed, scores the answers it gives unpacked, word by word; what is told is KL in nats a token (exact,
over the whole vocabulary) and how often the likeliest word stays the likeliest.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import Row, arguments, clock, finish, pairs

__all__ = ["main", "quality"]

LAYERS = {"12B up": (15_360, 3840), "12B down": (3840, 15_360), "300M up": (3072, 1024)}
QUESTIONS = ("What is at the top left?", "Tell me a story about the picture.", "How many shapes are there?", "Hello")
ONE_ROW = 1 / 1.5  # the budget: at least 1.5 times as quick as bfloat16 at one row
BYTES = 0.63


def speed(name: str, rows: Sequence[int], repeats: int) -> list[Row]:
    """A layer's products in every scheme against bfloat16."""
    import torch
    from torch import nn

    from workbench import grid
    from workbench.packed import Int4Linear, Int8Linear, held_bytes

    height, width = LAYERS[name]
    plain = nn.Linear(width, height, bias=False, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    int4, int8 = (kind(height, width, torch.bfloat16) for kind in (Int4Linear, Int8Linear))
    int4.take(*grid.to_grid(plain.weight)[:2], "cpu")
    int8.take(*grid.to_int8(plain.weight), "cpu")
    schemes: dict[str, Any] = {"int4": int4, "int8": int8}
    for layer in schemes.values():
        layer.finish()
    if importlib.util.find_spec("torchao"):
        schemes["torchao int8"] = _torchao(plain)
    out = []
    for count in rows:
        x = torch.randn(count, width).bfloat16()

        def timed(layer: Any, x: Any = x) -> Callable[[], float]:
            def once() -> float:
                times, began = 0, time.perf_counter()
                while True:
                    layer(x)
                    times += 1
                    if (spent := time.perf_counter() - began) > 0.05:
                        return spent / times

            return once

        for scheme, layer in schemes.items():
            ours, theirs = pairs(timed(layer), timed(plain), repeats=repeats)
            budget = ONE_ROW if (scheme, count) == ("int4", 1) else None
            bytes_a_weight = held_bytes(layer) / (height * width)
            assert scheme != "int4" or bytes_a_weight <= BYTES
            facts = {"bytes_a_weight": bytes_a_weight, "rows": count}
            words = f"{name} ({height}×{width}), {count} rows: {scheme}"
            out.append(Row(words, ours, "bfloat16", theirs, budget, facts))
    return out


def _torchao(plain: Any) -> Any:
    import copy

    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    one = torch.nn.Sequential(copy.deepcopy(plain))
    quantize_(one, Int8WeightOnlyConfig())
    return one


def quality(questions: Sequence[str] = QUESTIONS) -> list[dict[str, Any]]:
    """KL and agreement of pocket in each scheme with pocket as it is, over answers about a picture."""
    import workbench
    from workbench.packed import held_bytes
    from workbench.pocket import WEIGHTS

    picture = WEIGHTS.parent / "examples" / "scene.png"
    plain = workbench.load("pocket", drafter=False, progress=False)
    answers = [plain.ask(q, images=[picture], temperature=0, max_new_tokens=48) for q in questions]
    out = []
    for scheme in ("int8", "int4", "int4+16"):
        model = workbench.load("pocket", drafter=False, quantization=scheme, progress=False)
        scored = [model.score(answer, reference=plain) for answer in answers]
        kl = np.concatenate([workbench.compare(a, b).kl for a, b in zip(scored, answers, strict=True)])
        same = np.concatenate([a.tokens.rank == 0 for a in scored])
        rounding = getattr(model.transformer.hf_quantizer, "rounding", None)
        out.append({
            "scheme": scheme, "kl": float(np.nanmean(kl)), "agree": float(same.mean()), "tokens": len(same),
            "bytes": held_bytes(model.transformer), "plain_bytes": held_bytes(plain.transformer),
            "relative_error": rounding.relative if rounding else None,
        })  # fmt: skip
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__, repeats=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 5, 64, 300], help="rows of a pass")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of CPU in one thread, on a busy machine")
    args = parser.parse_args(argv)
    print(
        "| pocket held as | KL, nats a token | likeliest the same | tokens | bytes of unpacked |\n" + "|---" * 5 + "|"
    )
    for q in quality(QUESTIONS[:1] if args.quick else QUESTIONS):
        share = q["bytes"] / q["plain_bytes"]
        print(f"| {q['scheme']} | {q['kl']:.4f} | {q['agree']:.1%} | {q['tokens']} | {share:.2f} |")
    print()
    rows = []
    with clock(cpu=args.cpu_time):
        for name in args.layers:
            rows += speed(name, args.rows, 1 if args.quick else args.repeats)
        return finish(rows, args)


if __name__ == "__main__":
    sys.exit(main())
