"""What may stand behind an option of the command line, checked, with words for what does not; and the console."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

from workbench.errors import WorkbenchError

__all__ = ["UsageError", "console", "draft", "number", "temperature", "whole"]


class UsageError(WorkbenchError):
    """Options that do not go together."""


def console(**how: Any) -> None:
    """Set how text is written to standard output and error (``encoding``, ``errors``), where that can be set."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(**how)


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers within limits."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            limits = f"from {low} to {high}" if high is not None else f"of {low} or more"
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number {limits}")
        return value

    return read


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """A reader of numbers within limits; ``above`` leaves the lower one out."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number {limits}")
        return value

    return read


def temperature(text: str) -> float:
    """0, which is greedy, or a number that logits can be divided by."""
    from workbench.sampling import COLDEST  # with numpy behind it: --help is to stay quick

    value = number(0, 100)(text)
    if 0 < value < COLDEST:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 (greedy) or a number from {COLDEST:g} to 100")
    return value


def draft(text: str) -> int | str:
    """Drafts a round: auto, or a number."""
    return text if text == "auto" else whole(0, 16)(text)
