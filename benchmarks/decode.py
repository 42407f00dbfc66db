"""The traced run against Transformers' ``generate``, what recording costs, and the prefix cache.

    python -m benchmarks.decode [--shapes pocket 300M] [--json FILE]

Both sides run the same mask-corrected weights on the same picture, sound and question, and must give the same tokens. A
whole run includes making the prompt: ``ask`` on one side, chat template, processor and ``generate`` on the other, the
picture read from the same PNG bytes. Rows "prompt ready" leave that out, rows "after the first token" the prompt's pass
too. Ours always start with no picture or prefix remembered, except where the row says so.
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
from benchmarks.measure import Row, arguments, clock, device, finish, pairs
from workbench.model import LoadedModel
from workbench.trace import Trace

__all__ = ["main"]

QUESTION = "What do you see and hear?"
FOLLOW_UP = "How many shapes are there?"
GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 1.0, "top_k": 64, "top_p": 0.95, "seed": 7}
RUN = {"pocket": 0.95}
LARGER = 1.03
FIRST_TOKEN = 0.25


def picture() -> bytes:
    """A PNG of 640 × 480 pixels: a red circle and a blue square, on a ground that compresses badly."""
    from PIL import Image, ImageDraw

    noise = np.random.default_rng(0).integers(200, 256, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 80, 240, 260), fill=(220, 30, 30))
    draw.rectangle((380, 200, 560, 380), fill=(30, 60, 220))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sound() -> np.ndarray:
    """One second of a gliding tone: (16000,) float32, 16 kHz."""
    t = np.arange(16_000) / 16_000
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)


def forgetful(model: LoadedModel) -> LoadedModel:
    """The same weights, with nothing remembered of pictures and prompts."""
    return LoadedModel(model.transformer, model.processor, model.info)


@contextlib.contextmanager
def endless(model: LoadedModel) -> Iterator[None]:
    """No stop tokens on either side: every run has the length asked for."""
    config = model.transformer.generation_config
    before, config.eos_token_id = config.eos_token_id, None
    try:
        yield
    finally:
        config.eos_token_id = before


class Stamps:
    """A streamer that notes when each token came; the first call hands over the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Any) -> None:
        """Called with the prompt, then with each token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Called at the end."""


class Contest:
    """One prompt, asked of ours and of Transformers'.

    Attributes:
        ours, theirs: Of each run in turn: seconds in all, with the prompt ready, and after the first token.
    """

    def __init__(self, model: LoadedModel, how: dict[str, Any], tokens: int) -> None:
        self.model, self.how, self.tokens = model, how, tokens
        self.png, self.samples = picture(), sound()
        self.said: dict[str, list[int]] = {}
        self.ours: list[tuple[float, float, float]] = []
        self.theirs: list[tuple[float, float, float]] = []

    def run_ours(self) -> float:
        """One traced run; seconds."""
        model = forgetful(self.model)
        began = time.perf_counter()
        trace = ask(model, QUESTION, self.png, self.samples, max_new_tokens=self.tokens, **self.how)
        took = time.perf_counter() - began
        self._same("ours", [*trace.prompt.ids.tolist(), *trace.tokens.token_id.tolist()])
        # the trace is put together after the loop: that belongs to "prompt ready" as well
        self.ours.append((took, took - trace.timing.prepare_s, trace.timing.decode_s))
        return took

    def run_theirs(self) -> float:
        """One run of ``generate``; seconds."""
        import torch
        from PIL import Image

        processor, how = self.model.processor, dict(self.how)
        seed, heat = how.pop("seed", 0), how.pop("temperature")
        chosen = {"do_sample": True, "temperature": heat, **how} if heat else {"do_sample": False}
        content = [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": QUESTION}]
        stamps = Stamps()
        began = time.perf_counter()
        image = Image.open(io.BytesIO(self.png)).convert("RGB")
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(
            text=text, images=[image], audio=[self.samples], return_tensors="pt", add_special_tokens=False
        )
        inputs = inputs.to(self.model.transformer.device)
        ready = time.perf_counter()
        torch.manual_seed(seed)
        out = self.model.transformer.generate(**inputs, **chosen, max_new_tokens=self.tokens, streamer=stamps)
        ended = time.perf_counter()
        self._same("theirs", out[0].tolist())
        self.theirs.append((ended - began, ended - ready, stamps.times[-1] - stamps.times[1]))
        return ended - began

    def _same(self, whose: str, ids: list[int]) -> None:
        self.said[whose] = ids
        if len(self.said) == 2:
            assert self.said["ours"] == self.said["theirs"], f"other tokens than generate's: {self.said}"


def ask(model: LoadedModel, question: str, png: bytes, samples: np.ndarray | None = None, **how: Any) -> Trace:
    """Ask about the picture, and the sound if there is one."""
    return model.ask(question, images=[png], audio=[] if samples is None else [(samples, 16_000)], **how)


def against_generate(model: LoadedModel, name: str, *, tokens: int, repeats: int, warm_up: int) -> list[Row]:
    """Rows of the traced run against ``generate``, greedy and seeded."""
    rows = []
    budget = RUN.get(name, LARGER)
    for label, how in (("greedy", GREEDY), ("seeded", SEEDED)):
        with endless(model):
            contest = Contest(model, how, tokens)
            ours, theirs = pairs(contest.run_ours, contest.run_theirs, repeats=repeats, warm_up=warm_up)
        T = len(contest.said["ours"]) - tokens
        facts = {"shape": name, "prompt": T, "generated": tokens, "same_tokens": True}
        title = f"{name}, {T} + {tokens} tokens, {label}"
        rows.append(Row(f"{title}: whole run", ours, "generate", theirs, budget, facts))
        for k, part in ((1, "prompt ready"), (2, "after the first token")):
            parts = [[run[k] for run in runs[warm_up:]] for runs in (contest.ours, contest.theirs)]
            rows.append(Row(f"{title}: {part}", parts[0], "generate", parts[1], None, facts))
    if name == "pocket":
        contest = Contest(model, GREEDY, 64)
        ours, theirs = pairs(contest.run_ours, contest.run_theirs, repeats=repeats, warm_up=warm_up)
        rows.append(
            Row(f"{name}, an answer to its stop token, greedy: whole run", ours, "generate", theirs, budget,
                {"shape": name, "ids": len(contest.said["ours"]), "same_tokens": True})
        )  # fmt: skip
    return rows


def recording(model: LoadedModel, name: str, *, tokens: int, repeats: int, warm_up: int) -> list[Row]:
    """What more alternatives, and somebody who listens, cost a run."""
    png = picture()
    said: set[tuple[int, ...]] = set()

    def run(**how: Any) -> float:
        fresh = forgetful(model)
        with endless(fresh):
            began = time.perf_counter()
            trace = ask(fresh, QUESTION, png, max_new_tokens=tokens, **GREEDY, **how)
            took = time.perf_counter() - began
        said.add(tuple(trace.tokens.token_id.tolist()))
        return took

    listening: dict[str, Any] = {"top": 1, "on_token": lambda _: None}
    rows = []
    for what, more in (("top=20", {"top": 20}), ("top=1, on_token= listening", listening)):
        ours, theirs = pairs(partial(run, **more), partial(run, top=1), repeats=repeats, warm_up=warm_up)
        rows.append(Row(f"{name}, {tokens} tokens: {what}", ours, "top=1", theirs, None, {"shape": name}))
    assert len(said) == 1, "recording more changed the tokens"
    return rows


def follow_up(model: LoadedModel, name: str, *, repeats: int, warm_up: int) -> list[Row]:
    """Time to the first token of a second question on a picture of 280 tokens, against the same question first."""
    png = picture()
    how = {"image_tokens": 280, "max_new_tokens": 1, "top": 20, **GREEDY}
    said: set[int] = set()
    traces: dict[bool, Trace] = {}

    def run(*, asked_before: bool) -> float:
        fresh = forgetful(model)
        if asked_before:
            ask(fresh, QUESTION, png, **how)
        trace = ask(fresh, FOLLOW_UP, png, **how)
        said.add(int(trace.tokens.token_id[0]))
        traces[asked_before] = trace
        return trace.timing.first_token_s

    ours, theirs = pairs(
        partial(run, asked_before=True), partial(run, asked_before=False), repeats=repeats, warm_up=warm_up
    )
    assert len(said) == 1, "the prefix cache changed the token"
    usage = traces[True].usage
    facts = {"shape": name, "image": usage.image, "prompt": usage.prompt, "cached": usage.cached, "same_tokens": True}
    title = f"{name}, follow-up on a picture of {usage.image} tokens: first token"
    return [Row(title, ours, "asked first", theirs, FIRST_TOKEN, facts)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__, repeats=15)
    parser.add_argument("--shapes", nargs="+", default=["pocket", "300M"], choices=["pocket", *shapes.SHAPES])
    parser.add_argument("--tokens", type=int, help="to generate (default: 64 on pocket, 24 on others)")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: one thread, its seconds of CPU")
    device(parser)
    args = parser.parse_args(argv)
    rows: list[Row] = []
    with clock(cpu=args.cpu_time):
        for name in args.shapes:
            rows += measured(name, args)
        return finish(rows, args)


def measured(name: str, args: argparse.Namespace) -> list[Row]:
    """All rows of one shape."""
    if name == "pocket":
        model = workbench.load(device=args.device, progress=False)
    else:
        model = shapes.build(name, dtype=args.dtype, device=args.device)
    # a pass of a larger shape takes seconds, and varies less
    repeats = 1 if args.quick else args.repeats if name == "pocket" else max(args.repeats // 2, 1)
    much = {"repeats": repeats, "warm_up": 0 if args.quick else 1}
    tokens = args.tokens or (6 if args.quick else 64 if name == "pocket" else 24)
    return [
        *against_generate(model, name, tokens=tokens, **much),
        *recording(model, name, tokens=tokens, **much),
        *follow_up(model, name, **much),
    ]


if __name__ == "__main__":
    sys.exit(main())
