"""Two things timed in turn, and a table that says whether the budget is met.

A machine's speed drifts by more than most differences looked for here: so pairs are measured back to back, first one
first and then the other (A B, B A, A B, …), and what is reported is the median of the pairs' ratios, with the 95 %
interval of that median by order statistics (its range, below six pairs).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.flight import interval

__all__ = ["Row", "arguments", "clock", "device", "finish", "interval", "machine", "pairs", "rounds", "table", "wait"]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: What was measured.
        ours: Seconds of each repeat.
        against: What the peer is; "" when there is none and the budget is in seconds.
        theirs: Seconds of the peer, pair by pair.
        budget: At most so much: a ratio, or seconds without a peer. None: for information.
        facts: Further things that were checked or counted.
    """

    what: str
    ours: Sequence[float]
    against: str = ""
    theirs: Sequence[float] = ()
    budget: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[float, float, float]:
        """What the budget limits: median and 95 % interval, of ratios or of seconds."""
        numbers = [a / b for a, b in zip(self.ours, self.theirs, strict=True)] if self.theirs else self.ours
        return (statistics.median(numbers), *interval(numbers))

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the budget; None without one."""
        return None if self.budget is None else self.measured[0] <= self.budget

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain numbers and words."""
        median, low, high = self.measured
        return {
            "what": self.what, "against": self.against, "kind": "ratio" if self.theirs else "seconds",
            "median": median, "low": low, "high": high, "budget": self.budget, "met": self.met,
            "ours_s": list(self.ours), "theirs_s": list(self.theirs), **self.facts,
        }  # fmt: skip


def pairs(
    ours: Callable[[], float], theirs: Callable[[], float], *, repeats: int, warm_up: int = 1
) -> tuple[list[float], list[float]]:
    """Call both in turn, the order changing from pair to pair.

    Args:
        ours, theirs: Each returns the seconds to count, so that preparation need not be.
        repeats: Pairs that count.
        warm_up: Pairs before them that do not.
    """
    a: list[float] = []
    b: list[float] = []
    for k in range(-warm_up, repeats):
        gc.collect()
        for run, into in ((ours, a), (theirs, b))[:: 1 if k % 2 == 0 else -1]:
            seconds = run()
            if k >= 0:
                into.append(seconds)
    return a, b


def rounds(ways: Mapping[str, Callable[[], float]], *, repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Call all in turn, each round beginning with the next of them, so that none always follows the same.

    Args:
        ways: Each returns the seconds to count.
        repeats: Rounds that count.
        warm_up: Rounds before them that do not.

    Returns:
        Seconds of each, round by round: two of them are pairs measured close to each other.
    """
    out: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for k in range(-warm_up, repeats):
        gc.collect()
        first = k % len(names)
        for name in names[first:] + names[:first]:
            seconds = ways[name]()
            if k >= 0:
                out[name].append(seconds)
    return out


@contextlib.contextmanager
def clock(*, cpu: bool) -> Iterator[None]:
    """With ``cpu``, ``time.perf_counter`` counts this process's seconds of CPU instead, and torch has one thread.

    For a machine that others keep busy: being set aside does not count. Caches and memory are shared all the same.
    """
    import torch

    if not cpu:
        yield
        return
    before, threads = time.perf_counter, torch.get_num_threads()
    time.perf_counter = time.process_time
    torch.set_num_threads(1)
    try:
        yield
    finally:
        time.perf_counter = before
        torch.set_num_threads(threads)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the numbers hold for."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    return {
        "cpu": name, "device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "clock": "CPU" if time.perf_counter is time.process_time else "wall",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
    }  # fmt: skip


def _seconds(s: float) -> str:
    if s < 1e-3:
        return f"{s * 1e6:.1f} µs"
    return f"{s * 1e3:.1f} ms" if s < 1 else f"{s:.2f} s"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [("what", "ours", "peer", "ratio [95 %; below 6 the range]", "budget", "met", "n")]
    for row in rows:
        median, low, high = row.measured
        ours = _seconds(statistics.median(row.ours))
        if row.theirs:
            digits = 2 if median >= 0.01 else 6
            peer = f"{_seconds(statistics.median(row.theirs))} {row.against}"
            ratio = f"{median:.{digits}f}× [{low:.{digits}f}, {high:.{digits}f}]"
            budget = "" if row.budget is None else f"{row.budget:g}×"
        else:
            peer, ratio = "", f"[{_seconds(low)}, {_seconds(high)}]"
            budget = "" if row.budget is None else _seconds(row.budget)
        lines.append((row.what, ours, peer, ratio, budget, {None: "", True: "yes", False: "NO"}[row.met],
                      str(len(row.ours))))  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    out = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    out.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(out)


def arguments(about: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The arguments every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"pairs that count (default {repeats})")
    parser.add_argument("--quick", action="store_true", help="hardly any repeats: whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows, every repeat included, and the machine")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is not met")
    return parser


def device(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a benchmark that runs on a GPU too."""
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="of random weights, by torch's name (default: float32)")


def wait(name: str) -> None:
    """Until a device has done what it was told."""
    import torch

    kind = torch.device(name).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()


def finish(rows: Sequence[Row], args: argparse.Namespace) -> int:
    """Print the table, write the file; the exit code."""
    where = machine(getattr(args, "device", "cpu"))
    print(table(rows))
    print("\n" + ", ".join(f"{name} {value}" for name, value in where.items() if value is not None))
    if args.json:
        made = {"machine": where, "rows": [row.to_json() for row in rows]}
        args.json.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(args.check and any(row.met is False for row in rows))
