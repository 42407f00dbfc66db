"""Exercises of lesson 11: the real thing. What is right is asked of ``workbench.plan``, on a laptop made of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.catalog import find
from workbench.counting import limit
from workbench.lessons.registry import Wrong, called, exercise, numbers, whole
from workbench.machine import Device, Machine
from workbench.planning import LoadPlan, plan

__all__: list[str] = []

_FREE = 12_000_000_000  # bytes: what a laptop of 16 GB may have left beside its system and a browser


def _planned(context: int, free: int = _FREE) -> LoadPlan:
    """The plan of 12B in 4 bits on that laptop."""
    here = Machine((Device("cpu", free),), None, lambda _source: False)
    return plan("gemma-4-12b", quantization="int4", context=context, measure=False, here=here)


@exercise(
    "11.1", "bytes of keys and values",
    hints=(
        "One layer keeps, for each token it holds: a key and a value, so 2, times heads, times width, times 2 bytes.",
        "The 8 full layers hold all tokens (1 head of 512). The 40 sliding ones hold 1,024, no more (8 heads of 256).",
    ),
    solution="""
def answer(tokens):
    full = 8 * 2 * 1 * 512 * 2 * tokens
    sliding = 40 * 2 * 8 * 256 * 2 * 1024
    return full + sliding
""",
)  # fmt: skip
def cache(answer: Any) -> str:
    """A function of a context of 1,024 tokens or more that returns bytes."""
    for tokens in (1024, 8192, 100_000):
        shown = f"answer({tokens})"
        numbers(called(answer, tokens, shown=shown), float(_planned(tokens).taken.cache), shown, within=1e-6)
    each = _planned(8193).taken.cache - _planned(8192).taken.cache
    return f"{each:,} bytes a token, however many layers slide. The plan counts the same."


@exercise(
    "11.2", "the context that fits",
    hints=(
        "What does the plan need without its cache? taken.bytes - taken.cache. What is left is for keys and values.",
        "Take the windows' bytes off too (exercise 11.1 with 0 tokens), then divide by the bytes of one token.",
    ),
    solution="""
import workbench
from workbench.machine import Device, Machine

here = Machine((Device("cpu", 12_000_000_000),), None, lambda source: False)
short, longer = (
    workbench.plan("gemma-4-12b", quantization="int4", context=n, measure=False, here=here).taken for n in (1024, 2048)
)
each = (longer.cache - short.cache) / 1024
answer = 1024 + int((12_000_000_000 - short.bytes) / each)
""",
)  # fmt: skip
def fitting(answer: Any) -> str:
    """The largest context of 12B in 4 bits with 12 GB free."""
    tokens = whole(answer, "Your answer")
    if tokens < 1:
        raise Wrong(f"{tokens:,} tokens: expected a number of tokens, 1 or more.")
    most = limit(find("gemma-4-12b"))
    if most is not None and tokens > most:
        raise Wrong(f"{tokens:,} tokens: 12B itself ends at {most:,}, however much memory there is.")
    over = _planned(tokens)
    if not over.fits:
        raise Wrong(f"With a context of {tokens:,} the plan needs {over.bytes / 1e9:.3f} GB, and 12 GB are free.")
    room = _FREE - over.bytes
    each = _planned(8193).taken.cache - _planned(8192).taken.cache
    if room > 100 * each:
        raise Wrong(f"{tokens:,} tokens fit, and leave {room / 1e6:,.0f} MB. There is room for more.")
    return f"About {tokens / 280:,.0f} pictures of 280 tokens. (12B itself ends at 262,144 tokens.)"


@exercise(
    "11.3", "held and read",
    hints=(
        "All weights have to be held, since nobody knows which experts the next token will need.",
        "A token reads the active ones only: seconds a token are active weights times bytes each, by bytes a second.",
    ),
    solution="""
def answer(weights, active, item, bytes_a_second):
    return weights * item, bytes_a_second / (active * item)
""",
)  # fmt: skip
def held_and_read(answer: Any) -> str:
    """A function of weights, active weights, bytes of each and bytes a second: (bytes held, tokens a second)."""
    for given in ((26e9, 4e9, 2.0, 100e9), (12e9, 12e9, 0.625, 50e9), (8e9, 8e9, 1.0, 400e9)):
        weights, active, item, pace = given
        shown = f"answer({weights:.0e}, {active:.0e}, {item}, {pace:.0e})"
        right = np.array([weights * item, pace / (active * item)])
        numbers(called(answer, *given, shown=shown), right, shown, within=1e-6)
    return "A mixture of experts pays in memory and is quick; a dense model in 4 bits is small and reads everything."
