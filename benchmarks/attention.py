"""Attention on demand against ``output_attentions``: time, memory, and what a browser is sent, as the prompt grows.

    python -m benchmarks.attention [--lengths 256 1330 4096] [--json FILE]

A model of random weights with 12 layers and 16 heads runs over a picture and words of T positions in all, the last 200
of them an answer. Ours is the whole of ``model.attend``: the rows of 200 tokens, of every layer and head, on the host.
Against it stand a plain pass with SDPA, which gives no attention, and a pass with ``eager`` attention and
``output_attentions``, which holds layers × heads × T². All three use the corrected masks and the same prepared prompt.

Memory is that of the process at its highest, above what the plain pass needed, each way in a process of its own. Bytes
for the browser are counted for one word's map of one head; BertViz and CircuitsVis are asked for the same where they
are installed, and send the whole T × T square of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import shapes
from benchmarks.decode import picture
from benchmarks.measure import Row, arguments, clock, finish, pairs
from workbench import attention
from workbench.model import LoadedModel
from workbench.trace import Trace

__all__ = ["bytes_sent", "main", "run_of"]

ANSWER = 200
TIME, MEMORY = 1.2, 0.10
BUDGET_AT = 1330
LENGTHS = (256, 512, 1330, 2048, 4096)


def run_of(model: LoadedModel, length: int, answer: int) -> Trace:
    """A scored run of exactly ``length`` positions, a picture among them where there is room for it."""
    words = model._prompter.encode("one two three ")  # noqa: SLF001 (a benchmark may look inside)
    budget = {k: n for k in (280, 140, 70) if (n := int(k * 1.1)) < length - answer - 40}
    if not budget:
        raise SystemExit(f"--lengths {length}: too short for a picture and an answer of {answer} tokens.")
    model.processor.image_processor.max_soft_tokens = next(iter(budget))
    completion = [words[k % len(words)] for k in range(answer)]
    missing, question = length, "Look."
    for _ in range(6):  # words are added until the length is right; a word is not always the same number of tokens
        trace = model.score(question, completion, images=[picture()], top=1)
        missing = length - len(trace.ids)
        if missing == 0:
            return trace
        question = question + " a" * missing if missing > 0 else question[: 2 * missing]
    raise SystemExit(f"A prompt of exactly {length} positions could not be made ({missing} are missing).")


def ours(model: LoadedModel, trace: Trace) -> Any:
    """The rows of all generated tokens."""
    return model.attend(trace)


def plain(model: LoadedModel, trace: Trace) -> Any:
    """A pass over the same positions that gives no attention."""
    import torch

    with torch.inference_mode():
        return attention.replayed(model._engine, model.request(trace), trace)  # noqa: SLF001


def eager(model: LoadedModel, trace: Trace) -> Any:
    """A pass that returns all of attention."""
    import torch

    given, types = attention.inputs(model._engine, model.request(trace), trace.tokens.token_id)  # noqa: SLF001
    given["attention_mask"] = {k: _added(mask, given["input_ids"]) for k, mask in given["attention_mask"].items()}
    text = model.transformer.config.get_text_config()
    before, text._attn_implementation = text._attn_implementation, "eager"  # noqa: SLF001
    try:
        with torch.inference_mode():
            out = model.transformer.model(mm_token_type_ids=types, output_attentions=True, **given)
    finally:
        text._attn_implementation = before  # noqa: SLF001
    return out.attentions


def _added(mask: Any, ids: Any) -> Any:
    """A mask as eager attention takes it: numbers that are added to the scores; None was plain causal attention."""
    import torch

    T = ids.shape[1]
    allowed = torch.ones(T, T, dtype=torch.bool).tril()[None, None] if mask is None else mask
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


WAYS: dict[str, Callable[[LoadedModel, Trace], Any]] = {"ours": ours, "plain": plain, "eager": eager}


def timed(what: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def agreement(model: LoadedModel, trace: Trace) -> float:
    """The largest difference of any weight of ours from eager's."""
    a, worst = model.attend(trace), 0.0
    for weights, start, full in zip(a.weights, a.starts, eager(model, trace), strict=True):
        theirs = full[0].float().numpy()[:, a.positions].copy()
        theirs[..., start : start + weights.shape[2]] -= weights
        worst = max(worst, float(np.abs(theirs).max()))
    return worst


def memory(shape: str, way: str, length: int, answer: int) -> int:
    """Bytes a way needs above a plain pass, in this process: to be called once in a new one."""
    model = shapes.build(shape)
    trace = run_of(model, length, answer)
    plain(model, trace)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = WAYS[way](model, trace)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert kept is not None
    return (after - before) * (1 if sys.platform == "darwin" else 1024)


def measured_memory(shape: str, way: str, length: int, answer: int) -> float:
    """:func:`memory` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention", "--memory", way, "--shape", shape,
               "--lengths", str(length), "--answer", str(answer)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def bytes_sent(trace: Trace, weights: np.ndarray) -> dict[str, float]:
    """Bytes for one head's look at one word over all T positions, and what peers send for that head, a cell.

    Args:
        trace: The run.
        weights: (T, T) float32 of one head.
    """
    from widgets.buffers import array, size

    T = len(weights)
    row = weights[-1]
    scaled = np.round(255 * row / max(float(row.max()), 1e-9))
    out = {"ours": size({"view": bytes(array(scaled, np.uint8)["view"])}) / T}
    tokens = [*trace.prompt.pieces, *trace.tokens.piece][:T]
    if importlib.util.find_spec("bertviz"):
        import torch
        from bertviz import head_view

        page = head_view([torch.from_numpy(weights)[None, None]], tokens, html_action="return")
        out["BertViz"] = len(page.data.encode()) / T**2
    if importlib.util.find_spec("circuitsvis"):
        from circuitsvis.attention import attention_patterns

        out["CircuitsVis"] = len(str(attention_patterns(tokens, weights[None]))) / T**2
    return out


def rows_of(args: argparse.Namespace) -> list[Row]:
    """A row of time against each peer for every length; the second one's facts hold memory and bytes sent."""
    model = shapes.build(args.shape)
    out = []
    for length in args.lengths:
        trace = run_of(model, length, args.answer)
        apart = agreement(model, trace)
        assert apart <= 2.0**-11, f"ours differs from eager by {apart}"
        for peer in ("plain", "eager"):
            a, b = pairs(
                partial(timed, partial(ours, model, trace)), partial(timed, partial(WAYS[peer], model, trace)),
                repeats=args.repeats,
            )  # fmt: skip
            budget = TIME if peer == "plain" and length == BUDGET_AT else None
            name = "a plain SDPA pass" if peer == "plain" else "eager"
            out.append(Row(f"{args.answer} tokens at T = {length:,}", a, name, b, budget, {"apart": apart}))
        facts = out[-1].facts
        if not args.no_memory:
            both = {way: measured_memory(args.shape, way, length, args.answer) for way in ("ours", "eager")}
            facts["bytes_above_plain"] = both
            facts["memory_share"] = both["ours"] / max(both["eager"], 1.0)
        facts["bytes_a_cell"] = bytes_sent(trace, eager(model, trace)[0][0, 0].float().numpy())
        facts["positions"] = length
    return out


def main(given: Sequence[str] | None = None) -> int:
    """The command."""
    parser = arguments(__doc__, repeats=7)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="T")
    parser.add_argument("--shape", default="12-layer", choices=sorted(shapes.SHAPES))
    parser.add_argument("--answer", type=int, default=ANSWER, help=f"tokens looked from (default {ANSWER})")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's CPU seconds, on one thread")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, which takes processes of their own")
    parser.add_argument("--memory", choices=sorted(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.memory:
        print(memory(args.shape, args.memory, args.lengths[0], args.answer))
        return 0
    if args.quick:
        args.repeats = 1
    with clock(cpu=args.cpu_time):
        rows = rows_of(args)
        code = finish(rows, args)
    shares = [row.facts for row in rows if "memory_share" in row.facts]
    print("\nT | memory above a plain pass | share of eager's | bytes a cell for the browser\n--|--|--|--")
    for facts in (row.facts for row in rows if "positions" in row.facts):
        both = facts.get("bytes_above_plain")
        held = f"{both['ours'] / 1e6:,.0f} MB | {facts['memory_share']:.1%}" if both else "not measured | –"
        sent = ", ".join(f"{name} {cells:.3g}" for name, cells in facts["bytes_a_cell"].items())
        print(f"{facts['positions']:,} | {held} | {sent}")
    missed = any(f["memory_share"] > MEMORY for f in shares if f["positions"] == BUDGET_AT)
    return 1 if args.check and missed else code


if __name__ == "__main__":
    sys.exit(main())
