"""Packed weights against 16 bit and others' packing: ``python -m benchmarks.quantization [--cpu-time] [--exam]``.

Speed: one linear layer, its weights as int4 in groups of 32, as int8 with a scale a row, or as others hold them
(:mod:`benchmarks.packed_peers`: torchao, bitsandbytes and llama.cpp, where they are installed), against bfloat16; the
rows are those of one token, of a pass over four drafts, and of prompts. For every scheme is said how far its products
are from those of the weights before rounding, and from those of its own rounded weights: the latter is what its
arithmetic costs. All are root mean square errors over the root mean square of the product, computed in float32.

Quality: the pocket model, packed, scores the answers it gives unpacked, word by word; what is told is KL in nats a
token (exact, over the whole vocabulary) and how often the likeliest word stays the likeliest; with ``--exam`` also how
many questions of the sample of pocket's exam are answered right. llama.cpp does not run pocket, so its rounding of the
weights is judged alone, with the same layers in it as ``int4+16`` has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import packed_peers
from benchmarks.measure import Row, arguments, clock, finish, rounds, wait
from benchmarks.packed_peers import PEERS, Scheme, held, missing, of_torch

__all__ = ["main", "quality", "schemes", "speed"]

LAYERS = {"12B up": (15_360, 3840), "12B down": (3840, 15_360), "12B q": (4096, 3840), "300M up": (3072, 1024)}
QUESTIONS = ("What is at the top left?", "Tell me a story about the picture.", "How many shapes are there?", "Hello")
ONE_ROW = 1 / 1.5  # the budget: at least 1.5 times as quick as bfloat16 at one row
BYTES = 0.63
PLAIN, AIM = "bfloat16", "llama.cpp Q4_0"
_BY_NAME = {"nf4": "bitsandbytes NF4", "torchao-int8": "torchao int8"}  # as ``load`` takes it: the peer's name here


def schemes(weight: Any, device: str = "cpu") -> dict[str, Scheme]:
    """A weight (N, K), bfloat16, in every scheme there is here; on a GPU those of others are left out."""
    import torch
    from torch import nn

    from workbench import grid
    from workbench.packed import Int4Linear, Int8Linear

    height, width = weight.shape
    out = {}
    for name, dtype in ((PLAIN, torch.bfloat16), ("float32", torch.float32)):
        plain = nn.Linear(width, height, bias=False, dtype=dtype, device="meta")
        plain.weight = nn.Parameter(weight.to(device, dtype), requires_grad=False)
        out[name] = of_torch(plain, weight.float)
    int4, int8 = (kind(height, width, torch.bfloat16) for kind in (Int4Linear, Int8Linear))
    coded, whole = grid.to_grid(weight)[:2], grid.to_int8(weight)
    int4.take(*coded, device)
    int8.take(*whole, device)
    for layer in (int4, int8):
        layer.finish()
    out["int4"] = of_torch(int4, lambda: grid.values(coded[0], coded[1].float()))
    out["int8"] = of_torch(int8, lambda: whole[0].float() * whole[1].float()[:, None])
    return (
        out
        if device != "cpu"
        else out | {name: make(weight) for name, (_module, _package, make) in PEERS.items() if not missing(name)}
    )


def speed(name: str, rows: Sequence[int], repeats: int, device: str = "cpu") -> list[Row]:
    """A layer's products in every scheme against bfloat16, and int4's against llama.cpp's where it is installed."""
    import torch

    height, width = LAYERS[name]
    weight = torch.nn.Linear(width, height, bias=False, dtype=torch.bfloat16).weight.detach()
    held_as = schemes(weight, device)
    errors: dict[str, dict[int, tuple[float, float]]] = {scheme: {} for scheme in held_as}
    xs = {count: torch.randn(count, width).bfloat16() for count in rows}
    ready = {count: {scheme: one.prepare(x.to(device)) for scheme, one in held_as.items()} for count, x in xs.items()}
    with torch.inference_mode():
        for scheme, one in held_as.items():
            values = one.values()
            for count, x in xs.items():
                first = x[:8].float()  # of each pass; a float32 product of them all takes long
                got = one.read(ready[count][scheme]())[:8].float().cpu()
                errors[scheme][count] = _off(got, first @ weight.float().T), _off(got, first @ values.T)
            del values
        out = []
        for count in rows:
            ways = {scheme: _timed(run, device) for scheme, run in ready[count].items()}
            began = time.monotonic()
            seconds = rounds(ways, repeats=repeats)
            print(f"{name}, {count} rows done in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            for scheme, one in held_as.items():
                if scheme == PLAIN:
                    continue
                error, arithmetic = errors[scheme][count]
                facts = {
                    "layer": name, "scheme": scheme, "rows": count, "bytes_a_weight": one.bytes / (height * width),
                    "error": error, "arithmetic": arithmetic,
                }  # fmt: skip
                assert scheme != "int4" or facts["bytes_a_weight"] <= BYTES
                words = f"{name} ({height}×{width}), {count} rows: {scheme}"
                budget = ONE_ROW if (scheme, count) == ("int4", 1) else None
                out.append(Row(words, seconds[scheme], PLAIN, seconds[PLAIN], budget, facts))
                if scheme == "int4" and AIM in held_as:
                    out.append(Row(words, seconds[scheme], AIM, seconds[AIM], None, facts))
    return out


def _off(got: Any, expected: Any) -> float:
    return float((got - expected).norm() / expected.norm())


def _timed(run: Callable[[], Any], device: str) -> Callable[[], float]:
    def once() -> float:
        times, many, began = 0, 1 if device == "cpu" else 20, time.perf_counter()
        while True:
            for _ in range(many):  # a GPU is told many at once, as in a pass: waiting for each would be timed as well
                run()
            wait(device)
            times += many
            if (spent := time.perf_counter() - began) > 0.05:
                return spent / times

    return once


def quality(questions: Sequence[str] = QUESTIONS, *, exam: bool = False, device: str = "cpu") -> list[dict[str, Any]]:
    """KL and agreement of pocket in each scheme with pocket as it is, over answers about a picture."""
    import workbench
    from workbench.packed import count
    from workbench.pocket import WEIGHTS

    def loaded(scheme: str | None) -> Any:
        return workbench.load("pocket", drafter=False, quantization=scheme, device=device, progress=False)

    picture = WEIGHTS.parent / "examples" / "scene.png"
    plain = loaded(None)
    answers = [plain.ask(q, images=[picture], temperature=0, max_new_tokens=48) for q in questions]
    weights, plain_bytes = count(plain.transformer), held(plain.transformer)
    out = [{"scheme": "float32", "kl": 0.0, "agree": 1.0, "tokens": sum(len(a.tokens.rank) for a in answers),
            "bytes": plain_bytes, "weights": weights, "plain_bytes": plain_bytes, "relative_error": None,
            **({"exam": _exam(plain)} if exam else {})}]  # fmt: skip
    names = ["int8", "int4", "int4+16", *(name for name, peer in _BY_NAME.items() if not missing(peer))]
    for scheme in [*names, *([] if missing(AIM) else [AIM])]:
        model = loaded("none" if scheme == AIM else scheme)
        size = held(model.transformer)
        if scheme == AIM:
            assert model is not plain
            size += _round(model.transformer)
        scored = [model.score(answer, reference=plain) for answer in answers]
        kl = np.concatenate([workbench.compare(a, b).kl for a, b in zip(scored, answers, strict=True)])
        same = np.concatenate([a.tokens.rank == 0 for a in scored])
        rounding = getattr(getattr(model.transformer, "hf_quantizer", None), "rounding", None)
        out.append({
            "scheme": scheme, "kl": float(np.nanmean(kl)), "agree": float(same.mean()), "tokens": len(same),
            "bytes": size, "weights": weights, "plain_bytes": plain_bytes,
            "relative_error": rounding.relative if rounding else None,
            **({"exam": _exam(model)} if exam else {}),
        })  # fmt: skip
        if scheme == AIM:  # it is not what it was loaded as
            workbench.unload(next(name for name, one in workbench.loaded().items() if one is model))
    return out


def _round(transformer: Any) -> int:
    """Round the layers that int4+16 packs as llama.cpp does; returns by how many bytes holding them so changes."""
    from workbench.quantization import planned

    change = 0
    for name in planned(transformer, "int4+16", {}):
        weight = transformer.get_submodule(name).weight.data
        change += weight.numel() // 32 * 18 - weight.numel() * weight.element_size()
        weight.copy_(packed_peers.q4_0_rounded(weight))
    return change


def _exam(model: Any) -> tuple[int, int]:
    """Questions of the sample of pocket's exam that are answered right, and asked; stories have no right answer."""
    from workbench.pocket import evaluate, sample
    from workbench.pocket.data import Teller
    from workbench.pocket.exam import tree

    teller, scores = Teller(model.processor.tokenizer), evaluate.Scores()
    evaluate.score(model.transformer, teller, [tree(teller, case) for case in sample.read(sample.HERE)], scores)
    rows = [row for row in scores.asked if row != "story"]
    return sum(scores.right[row] for row in rows), sum(scores.asked[row] for row in rows)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines))


def _quality_table(found: Sequence[dict[str, Any]]) -> str:
    heads = ["pocket held as", "KL, nats a token", "likeliest the same", "tokens", "bytes a weight", "of unpacked"]
    lines = [
        [q["scheme"], f"{q['kl']:.5f}", f"{q['agree']:.1%}", str(q["tokens"]), f"{q['bytes'] / q['weights']:.2f}",
         f"{q['bytes'] / q['plain_bytes']:.2f}", *([f"{q['exam'][0]} of {q['exam'][1]}"] if "exam" in q else [])]
        for q in found
    ]  # fmt: skip
    return _table([*heads, *(["right answers"] if "exam" in found[0] else [])], lines)


def _scheme_table(rows: Sequence[Row]) -> str:
    """Bytes and errors of every scheme; the largest error of any number of rows."""
    facts = [row.facts for row in rows if row.against == PLAIN]
    lines = []
    for layer, scheme in dict.fromkeys((one["layer"], one["scheme"]) for one in facts):
        mine = [one for one in facts if (one["layer"], one["scheme"]) == (layer, scheme)]
        worst = [max(one[key] for one in mine) for key in ("error", "arithmetic")]
        lines.append([layer, scheme, f"{mine[0]['bytes_a_weight']:.4f}", *(f"{one:.2%}" for one in worst)])
    return _table(["layer", "held as", "bytes a weight", "error of the product", "of it, arithmetic's"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    import torch

    parser = arguments(__doc__, repeats=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 5, 64, 300], help="rows of a pass")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--threads", type=int, help="threads of torch and ggml; those torch chooses")
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of CPU in one thread, on a busy machine")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--exam", action="store_true", help="put the sample of pocket's exam to every scheme; minutes")
    args = parser.parse_args(argv)
    for name in PEERS:
        if command := missing(name):
            print(f"{name} is not installed: {command}")
    print(
        _quality_table(quality(QUESTIONS[:1] if args.quick else QUESTIONS, exam=args.exam, device=args.device)) + "\n"
    )
    rows = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or before)
        with clock(cpu=args.cpu_time):
            for name in args.layers:
                rows += speed(name, args.rows, 1 if args.quick else args.repeats, args.device)
            print(_scheme_table(rows) + "\n")
            return finish(rows, args)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
