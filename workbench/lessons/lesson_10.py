"""Exercises of lesson 10: your own demo."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.lessons.registry import Wrong, called, exercise, numbers, whole

__all__: list[str] = []


@exercise(
    "10.1", "what goes along",
    hints=(
        "trace.images and trace.audio hold what was given; each has its encoded copy in .data. Add up the lengths.",
        "sum(len(one.data) for one in (*trace.images, *trace.audio)). A trace without media gives 0.",
    ),
    solution="""
def answer(trace):
    return sum(len(one.data) for one in (*trace.images, *trace.audio))
""",
)  # fmt: skip
def goes_along(answer: Any) -> str:
    """A function of a trace that returns the bytes of pictures and sounds in it."""
    from workbench.loading import load
    from workbench.pocket.examples import PAIR, SCENE, SEVEN

    model = load(progress=False)
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("one picture", {"images": [SCENE]}),
        ("a picture and a sound", {"images": [PAIR], "audio": [SEVEN]}),
        ("words alone", {}),
    )
    for about, media in cases:
        trace = model.ask("What is there?", max_new_tokens=1, draft=0, temperature=0, **media)
        right = sum(len(one.data) for one in trace.images) + sum(len(one.data) for one in trace.audio)
        shown = f"answer(trace) of {about}"
        got = whole(called(answer, trace, shown=shown), shown)
        if got != right:
            raise Wrong(f"{shown} is {got:,} bytes; its media have {right:,}.")
    return "Whoever gets the trace gets the pictures and the sounds, without the place and the date of the photo."


@exercise(
    "10.2", "the wait in a line",
    hints=(
        "The first visitor has the answer after one turn, the second after two … the last after as many as there are.",
        "The last waits visitors · seconds. The mean of 1, 2 … n is (n + 1) / 2.",
    ),
    solution="""
def answer(visitors, seconds):
    return seconds * (visitors + 1) / 2, seconds * visitors
""",
)  # fmt: skip
def wait(answer: Any) -> str:
    """A function of visitors who come at once and of seconds a turn: (mean, longest) seconds until an answer."""
    for visitors, seconds in ((1, 3.0), (4, 2.0), (25, 1.5)):
        shown = f"answer({visitors}, {seconds})"
        waits = [seconds * turn for turn in range(1, visitors + 1)]
        right = [sum(waits) / len(waits), max(waits)]
        numbers(called(answer, visitors, seconds, shown=shown), right, shown, within=1e-6)
    return "25 people and 20 seconds a turn: the last one waits eight minutes. Short answers are kind."


@exercise(
    "10.3", "who can reach it",
    hints=(
        "Two ways lead out: a public link (share), and an address that other machines can see.",
        "Only this machine hears its loopback: localhost, ::1, and all addresses that begin with 127.",
    ),
    solution="""
import ipaddress

def answer(host, share):
    alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    return share or not alone
""",
)  # fmt: skip
def reach(answer: Any) -> str:
    """A function of a host and of share that returns whether other machines can reach the demo."""
    for host, share, right in (
        ("127.0.0.1", False, False), ("localhost", False, False), ("::1", False, False), ("0.0.0.0", False, True),  # noqa: S104 (a case)
        ("192.168.1.7", False, True), ("127.0.0.1", True, True), ("127.0.0.5", False, False),
    ):  # fmt: skip
        shown = f"answer({host!r}, {share})"
        got = called(answer, host, share, shown=shown)
        if not isinstance(got, (bool, np.bool_)):
            raise Wrong(f"{shown} is {got!r:.60}; expected True or False.")
        if bool(got) is not right:
            raise Wrong(f"{shown} is {got!r}. Who hears that address, and is there a public link?")
    return "Wherever it is True there should be a password: --auth USER:PASSWORD."
