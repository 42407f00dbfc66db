"""Attention on demand against ``output_attentions``, BertViz and CircuitsVis: time, memory, bytes, as the prompt grows.

    python -m benchmarks.attention [--lengths 256 1330 4096] [--json FILE]

A model of random weights with 12 layers and 16 heads runs over a picture and words of T positions in all, the last 200
of them an answer (a third of them, where T is below 600). Ours is the whole of ``model.attend``: the rows of every
token of the answer, of every layer and head, on the host. Against it stand a plain pass with SDPA, which gives no
attention; a pass with ``eager`` attention and
``output_attentions``, which holds layers × heads × T²; and that pass with the page that BertViz or CircuitsVis makes of
it. Their pages hold every head; here they are asked for **one head of one layer**, because all of them do not fit a
browser's message even at T = 256. All ways use the corrected masks and the same prepared prompt, and at every T ours is
held against eager's weights.

Memory is that of the process at its highest, above what the plain pass needed, each way in a process of its own. Bytes
are of the whole message that shows one word's attention, and of the peers' whole page without the libraries it loads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, shapes
from benchmarks.decode import picture
from benchmarks.measure import Row, arguments, clock, finish, pairs
from workbench import attention
from workbench.machine import memory as free_memory
from workbench.model import LoadedModel
from workbench.trace import Trace

__all__ = ["bytes_sent", "main", "run_of"]

ANSWER = 200
TIME, MEMORY = 1.2, 0.10
BUDGET_AT = 1330
LENGTHS = (256, 512, 1330, 2048, 4096)
LONG, OF_LONG = 1330, 3  # beyond so many positions, at most so many repeats


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


# --- the ways -------------------------------------------------------------------------------------------------------


def ours(model: LoadedModel, trace: Trace) -> Any:
    """The rows of all generated tokens."""
    return model.attend(trace)


def plain(model: LoadedModel, trace: Trace) -> Any:
    """A pass over the same positions that gives no attention."""
    import torch

    with torch.inference_mode():
        return attention.replayed(model._engine, model.request(trace), trace)  # noqa: SLF001


def eager(model: LoadedModel, trace: Trace, *, keep: bool = True) -> Any:
    """A pass that returns all of attention; without ``keep`` it is only computed, layer by layer."""
    import torch

    given, types = attention.inputs(model._engine, model.request(trace), trace.tokens.token_id)  # noqa: SLF001
    given["attention_mask"] = {k: _added(mask, given["input_ids"]) for k, mask in given["attention_mask"].items()}
    text = model.transformer.config.get_text_config()
    before, text._attn_implementation = text._attn_implementation, "eager"  # noqa: SLF001
    try:
        with torch.inference_mode():
            out = model.transformer.model(mm_token_type_ids=types, output_attentions=keep, **given)
    finally:
        text._attn_implementation = before  # noqa: SLF001
    return out.attentions


def _added(mask: Any, ids: Any) -> Any:
    """A mask as eager attention takes it: numbers that are added to the scores; None was plain causal attention."""
    import torch

    T = ids.shape[1]
    allowed = torch.ones(T, T, dtype=torch.bool).tril()[None, None] if mask is None else mask
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def paged(peer: str, model: LoadedModel, trace: Trace) -> Any:
    """Eager's pass, and a peer's page of the first head of it."""
    full = eager(model, trace)
    return full, peers.page(peer, full[0][0, 0].float().numpy(), words_of(trace))


def words_of(trace: Trace) -> list[str]:
    """(T,) the piece at each position."""
    return [*trace.prompt.pieces, *trace.tokens.piece]


WAYS: dict[str, Callable[[LoadedModel, Trace], Any]] = {
    "ours": ours, "plain": plain, "eager": eager, **{name: partial(paged, name) for name in peers.PEERS},
}  # fmt: skip


def timed(what: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


# --- what is measured -----------------------------------------------------------------------------------------------


def agreement(model: LoadedModel, trace: Trace) -> float:
    """The largest difference of any weight of ours from eager's, which are looked at one layer at a time."""
    a, worst = model.attend(trace), []

    def compare(layer: int, _module: Any, _inputs: Any, out: Any) -> None:
        theirs = out[1][0].float().numpy()[:, a.positions]  # (heads, N, T), a copy
        start, weights = int(a.starts[layer]), a.weights[layer]
        theirs[..., start : start + weights.shape[2]] -= weights
        worst.append(float(np.abs(theirs).max()))

    layers = model.transformer.model.language_model.layers
    hooks = [one.self_attn.register_forward_hook(partial(compare, k)) for k, one in enumerate(layers)]
    try:
        eager(model, trace, keep=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(worst) == len(layers)
    return max(worst)


def memory(shape: str, way: str, length: int, answer: int) -> int:
    """Bytes a way needs above a plain pass, in this process: to be called once in a new one."""
    model = shapes.build(shape)
    trace = run_of(model, length, answer)
    plain(model, trace)
    before = _highest()
    kept = WAYS[way](model, trace)
    after = _highest()
    assert kept is not None
    return after - before


def _highest() -> int:
    """Bytes this process held at its highest. On Linux not by getrusage, which begins at its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    if os.name == "nt":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured_memory(shape: str, way: str, length: int, answer: int) -> float:
    """:func:`memory` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention", "--memory", way, "--shape", shape,
               "--lengths", str(length), "--answer", str(answer)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def too_large(shape: shapes.Shape, length: int) -> str:
    """Why eager attention is not run at a length: what it holds, and a layer's work, against what is free."""
    needs = (shape.layers + 4) * shape.heads * length**2 * 4
    free = free_memory()[0]
    short = free is not None and needs > 0.95 * free
    return f"needs {needs / 1e9:.1f} GB, {(free or 0) / 1e9:.1f} GB are free" if short else ""


def bytes_sent(model: LoadedModel, trace: Trace) -> int:
    """Bytes of the message that shows one word's attention: on the picture's patches and at every word."""
    from widgets import AttentionView
    from widgets.buffers import size

    return size(AttentionView(trace, model).answer({"ask": "attend", "token": 0}))


def at_length(model: LoadedModel, args: argparse.Namespace, length: int) -> list[Row]:
    """A row of time against each peer. The first one's facts hold what else was counted at this length."""
    answer, shape = min(args.answer, length // 3), shapes.SHAPES[args.shape]
    trace = run_of(model, length, answer)
    facts: dict[str, Any] = {"positions": length, "not_run": {}, "bytes_above_plain": {}}
    repeats = min(args.repeats, OF_LONG) if length > LONG else args.repeats
    mine = partial(timed, partial(ours, model, trace))
    what = f"{answer} tokens at T = {length:,}"
    a, b = pairs(mine, partial(timed, partial(plain, model, trace)), repeats=repeats)
    rows = [Row(what, a, "a plain SDPA pass", b, TIME if length == BUDGET_AT else None, facts)]
    facts["bytes_sent"] = {"ours": bytes_sent(model, trace)}
    asked = [name for name in peers.PEERS if not peers.missing(name)]
    facts["not_run"] |= {name: peers.missing(name) for name in peers.PEERS if peers.missing(name)}
    if reason := too_large(shape, length):
        facts["not_run"] |= dict.fromkeys(("eager", *asked), reason)
    else:
        apart = agreement(model, trace)
        assert apart <= 2.0**-11, f"ours differs from eager by {apart}"
        pages: dict[str, list[float]] = {name: [] for name in asked}

        def theirs() -> float:
            began = time.perf_counter()
            full = eager(model, trace)
            took = time.perf_counter() - began
            head = full[0][0, 0].float().numpy().copy()
            del full
            for name in asked:
                began = time.perf_counter()
                made = peers.page(name, head, words_of(trace))
                pages[name].append(took + time.perf_counter() - began)
                facts["bytes_sent"][name] = len(made.encode())
            return took

        a, b = pairs(mine, theirs, repeats=repeats, warm_up=1)
        rows.append(Row(what, a, "eager", b, None, {"apart": apart}))
        rows += [Row(what, a, f"eager and {n}'s page", took[1:], None, {"release": peers.version(n)})
                 for n, took in pages.items()]  # fmt: skip
    if not args.no_memory:
        for way in ("ours", "eager", *asked):
            if way not in facts["not_run"]:
                facts["bytes_above_plain"][way] = measured_memory(args.shape, way, length, answer)
        held = facts["bytes_above_plain"]
        if "eager" in held:
            facts["memory_share"] = held["ours"] / max(held["eager"], 1.0)
    return rows


# --- the tables -----------------------------------------------------------------------------------------------------


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Median seconds of each way at one length."""
    names = {"a plain SDPA pass": "plain", "eager": "eager", **{f"eager and {n}'s page": n for n in peers.PEERS}}
    return {"ours": statistics.median(rows[0].ours), **{names[r.against]: statistics.median(r.theirs) for r in rows}}


def growth(first: float, last: float, between: float) -> float:
    """The power of T with which a cost grows, when T grows ``between``-fold."""
    return math.log(max(last, 1e-12) / max(first, 1e-12)) / math.log(between)


def summary(lengths: Sequence[Sequence[Row]], heads: int) -> str:
    """A table of each cost: a line a length, a column a way; the last line says how it grows."""
    out, facts = [], [rows[0].facts for rows in lengths]
    ways = ("plain", "ours", "eager", *peers.PEERS)
    costs: list[tuple[str, list[dict[str, float]], Callable[[float], str]]] = [
        ("Seconds", [_seconds(rows) for rows in lengths], lambda v: f"{v:.3g}"),
        ("Peak memory above a plain pass, MB", [f["bytes_above_plain"] for f in facts], lambda v: f"{v / 1e6:,.0f}"),
        ("To the browser, kB: one word for ours, one head for the others", [f["bytes_sent"] for f in facts],
         lambda v: f"{v / 1e3:,.1f}"),
    ]  # fmt: skip
    for title, given, write in costs:
        shown = [way for way in ways if any(way in one for one in given)]
        if not shown:
            continue
        out += [f"\n{title}\n", " | ".join(["T", *shown]), "|".join(["--"] + ["--:"] * len(shown))]
        for fact, one in zip(facts, given, strict=True):
            out.append(" | ".join([f"{fact['positions']:,}", *(write(one[w]) if w in one else "–" for w in shown)]))
        if len(facts) > 1:
            powers = []
            for way in shown:
                there = [(f["positions"], one[way]) for f, one in zip(facts, given, strict=True) if one.get(way, 0) > 0]
                (t0, v0), (t1, v1) = (there[0], there[-1]) if there else ((1, 1), (1, 1))
                powers.append(f"T^{growth(v0, v1, t1 / t0):.2f}" if t1 > t0 else "–")
            out.append(" | ".join(["grows as", *powers]))
    last = facts[-1]
    for name in (n for n in peers.PEERS if n in last["bytes_sent"]):
        each, T = last["bytes_sent"][name], last["positions"]
        out.append(f"\n{name}: {each / T**2:.1f} bytes a cell; its page of all {heads} heads would be "
                   f"{heads * each / 1e9:,.1f} GB at T = {T:,}.")  # fmt: skip
    out.append(f"\nOurs: {last['bytes_sent']['ours'] / last['positions']:.2f} bytes a cell shown.")
    for fact in facts:
        if "memory_share" in fact:
            share, budget = fact["memory_share"], f"; budget {MEMORY:g}" if fact["positions"] == BUDGET_AT else ""
            out.append(f"T = {fact['positions']:,}: memory above a plain pass is {share:.2f} of eager's{budget}.")
        out += [f"T = {fact['positions']:,}: {name} {why}." for name, why in fact["not_run"].items()]
    if any(peers.missing(name) for name in peers.PEERS):
        out.append(f"To install them: {peers.INSTALL}")
    return "\n".join(out)


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
        model = shapes.build(args.shape)
        lengths = []
        for length in args.lengths:
            began = time.monotonic()
            lengths.append(at_length(model, args, length))
            took = {way: f"{seconds:.3g} s" for way, seconds in _seconds(lengths[-1]).items()}
            print(f"T = {length:,} done in {time.monotonic() - began:.0f} s: {took}", file=sys.stderr, flush=True)
        code = finish([row for rows in lengths for row in rows], args)
    shape = shapes.SHAPES[args.shape]
    print(summary(lengths, shape.layers * shape.heads))
    facts = [rows[0].facts for rows in lengths]
    missed = any(f["memory_share"] > MEMORY for f in facts if "memory_share" in f and f["positions"] == BUDGET_AT)
    return 1 if args.check and missed else code


if __name__ == "__main__":
    sys.exit(main())
