"""What drafting saves and what writing it down costs: ours drafted, ours undrafted, Transformers' assisted runs.

    python -m benchmarks.drafting [--shapes pocket 300M] [--json FILE]

All runs of a row give the same tokens. On the pocket model the drafter is its own. A model of random weights has no
drafter that could know it: there one of random weights does its full work, and what it says is replaced, four times in
five, by the token the model is going to say, on our side and on Transformers' alike.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import workbench
from benchmarks import shapes
from benchmarks.decode import GREEDY, Stamps, endless, picture, sound
from benchmarks.measure import Row, arguments, clock, device, finish, pairs
from workbench.model import LoadedModel
from workbench.trace import Trace

__all__ = ["TASKS", "main"]

TASKS: dict[str, dict[str, Any]] = {
    "story": {"question": "Tell me a story about the picture.", "image": True, "max_new_tokens": 96},
    "scene": {"question": "Describe the image.", "image": True, "max_new_tokens": 64},
    "word": {"question": "Describe the sound.", "audio": True, "max_new_tokens": 64},
}
DRAFTS = 4
AGAINST_TRANSFORMERS = 0.95
AUTO_AGAINST_NONE = 1.05
RECORDING = 1.03


def fresh(model: LoadedModel) -> LoadedModel:
    """The same weights, nothing remembered of prompts; what drafting learnt about its costs is kept."""
    again = LoadedModel(model.transformer, model.processor, model.info, drafter=model.drafter)
    if again._drafter is not None and model._drafter is not None:  # noqa: SLF001 (a benchmark of its insides)
        again._drafter.pace = model._drafter.pace  # noqa: SLF001
    return again


def ask(model: LoadedModel, task: dict[str, Any], **how: Any) -> Trace:
    """One run of a task."""
    return model.ask(
        task["question"], images=[picture()] if task.get("image") else [],
        audio=[(sound(), 16_000)] if task.get("audio") else [], max_new_tokens=task["max_new_tokens"], **GREEDY, **how,
    )  # fmt: skip


def assisted(model: LoadedModel, task: dict[str, Any], drafts: int) -> tuple[list[int], float]:
    """Transformers' own drafted run: the ids, and the seconds after its first token."""
    from PIL import Image

    processor = model.processor
    content: list[dict[str, Any]] = [{"type": "image"}] if task.get("image") else []
    content += [{"type": "audio"}] if task.get("audio") else []
    media: dict[str, Any] = {}
    if task.get("image"):
        media["images"] = [Image.open(io.BytesIO(picture())).convert("RGB")]
    if task.get("audio"):
        media["audio"] = [sound()]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": task["question"]}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=text, return_tensors="pt", add_special_tokens=False, **media)
    inputs = inputs.to(model.transformer.device)
    model.drafter.generation_config.num_assistant_tokens = drafts
    stamps = Stamps()
    out = model.transformer.generate(
        **inputs, do_sample=False, max_new_tokens=task["max_new_tokens"], assistant_model=model.drafter, streamer=stamps
    )
    ended = time.perf_counter()
    # assisted decoding streams a round's tokens together; the first is the prompt pass's own
    return out[0].tolist(), ended - stamps.times[1]


@contextlib.contextmanager
def foreseeing(model: LoadedModel, truth: Trace, right: float = 0.8) -> Iterator[None]:
    """Let the drafter say what the model is going to say, this often; its work is done all the same."""
    import torch

    drafter = model.drafter
    ids, start = truth.tokens.token_id, len(truth.prompt)
    known = np.random.default_rng(0).random(len(ids)) < right
    position, step = 0, -1  # of the round, and of the draft within it

    def where(_: Any, args: tuple[Any, ...]) -> None:
        nonlocal position
        position = int(args[1][0, 0])

    def next_draft(*_: Any) -> None:
        nonlocal step
        step += 1

    def next_round(*_: Any) -> None:
        nonlocal step
        step = -1

    def say(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        at = position - start + 1 + step
        if 0 <= at < len(ids) and known[at]:
            logits[..., int(ids[at])] = 100.0
        return logits

    hooks = [
        drafter.model.rotary_emb.register_forward_pre_hook(where),
        drafter.pre_projection.register_forward_pre_hook(next_draft),
        model.transformer.lm_head.register_forward_hook(next_round),
        drafter.lm_head.register_forward_hook(say),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def drafted_rows(model: LoadedModel, name: str, tasks: Sequence[str], much: dict[str, int], *, own: bool) -> list[Row]:
    """For each task: 1, 2, 4, 8 drafts and "auto" against none, and ours against Transformers' at four."""
    rows = []
    for title in tasks:
        task = TASKS[title]
        with contextlib.ExitStack() as stack:
            if not own:
                stack.enter_context(endless(model))
            truth = ask(fresh(model), task, draft=0)
            if not own:
                stack.enter_context(foreseeing(model, truth))
            expected = truth.tokens.token_id.tolist()
            traces: dict[Any, Trace] = {}

            def run(drafts: Any, task: Any = task, expected: Any = expected, traces: Any = traces, **how: Any) -> float:
                trace = ask(fresh(model), task, draft=drafts, **how)
                assert trace.tokens.token_id.tolist() == expected, "drafting changed the tokens"
                traces[drafts] = trace
                return trace.timing.total_s - trace.timing.first_token_s  # recording is a part of it

            def theirs(task: Any = task, expected: Any = expected, truth: Trace = truth) -> float:
                ids, seconds = assisted(model, task, DRAFTS)
                assert ids[len(truth.prompt) :] == expected, "Transformers' drafted run gave other tokens"
                return seconds

            if len(expected) < 4:
                continue
            for drafts in (1, 2, 4, 8, "auto"):
                ours, none = pairs(partial(run, drafts), partial(run, 0), **much)
                facts = {"shape": name, "task": title, "generated": len(expected)}
                rounds = traces[drafts].rounds
                kept, made = int(rounds.accepted.sum()), int(rounds.proposed.sum())
                facts |= {"kept": kept, "proposed": made}
                what = f"{name}, {title}, {len(expected)} tokens: draft={drafts}, {kept} of {made} kept"
                rows.append(Row(what, ours, "draft=0", none, AUTO_AGAINST_NONE if drafts == "auto" else None, facts))
            ours, other = pairs(partial(run, DRAFTS), theirs, **much)
            what = f"{name}, {title}: draft={DRAFTS}"
            rows.append(Row(what, ours, "assistant_model=", other, AGAINST_TRANSFORMERS, {}))
            if title == tasks[0]:
                ours, other = pairs(partial(run, DRAFTS, top=20), partial(run, DRAFTS, top=1), **much)
                rows.append(Row(f"{name}, {title}: draft={DRAFTS}, top=20", ours, "top=1", other, RECORDING, {}))
    return rows


def measured(name: str, args: argparse.Namespace) -> list[Row]:
    """All rows of one shape."""
    repeats = 1 if args.quick else args.repeats if name == "pocket" else max(args.repeats // 3, 1)
    much = {"repeats": repeats, "warm_up": 0 if args.quick else 1}
    if name == "pocket":
        return drafted_rows(workbench.load(device=args.device, progress=False), name, args.tasks, much, own=True)
    from workbench.pocket.drafter import build_drafter

    plain = shapes.build(name, dtype=args.dtype, device=args.device)
    drafter = build_drafter(plain.transformer).eval().requires_grad_(requires_grad=False)
    drafter = drafter.to(device=args.device, dtype=plain.transformer.dtype)
    model = LoadedModel(plain.transformer, plain.processor, plain.info, drafter=drafter)
    TASKS["long"] = {**TASKS["story"], "max_new_tokens": 8 if args.quick else 48}
    return drafted_rows(model, name, ["long"], much, own=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__, repeats=15)
    parser.add_argument("--shapes", nargs="+", default=["pocket", "300M"], choices=["pocket", *shapes.SHAPES])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="on pocket")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: one thread, its seconds of CPU")
    device(parser)
    args = parser.parse_args(argv)
    rows: list[Row] = []
    with clock(cpu=args.cpu_time):
        for name in args.shapes:
            rows += measured(name, args)
        return finish(rows, args)


if __name__ == "__main__":
    sys.exit(main())
