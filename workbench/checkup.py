"""``workbench doctor``: what can be typed behind it, and its self-tests as text and as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.arguments import UsageError

__all__ = ["arguments", "check", "selftest"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What ``doctor`` takes."""
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE",
                        help="print one JSON object; with FILE, keep it there beside what is printed")  # fmt: skip
    parser.add_argument("--selftest", nargs="?", const="pocket", metavar="NAME",
                        help="try pocket on every device and in every scheme; with NAME (a known name, a folder or a "
                        "hub id), check that model against Transformers and its own files")  # fmt: skip
    parser.add_argument("--quantization", metavar="NAME", help="with --selftest NAME: as for plan")
    parser.add_argument("--device", metavar="NAME", help="with --selftest NAME: as for plan")
    parser.add_argument("--quick", action="store_true", help="do not ask pocket a question")


def check(asked: argparse.Namespace) -> None:
    """Refuse options that would be ignored.

    Raises:
        UsageError: They would be.
    """
    if asked.selftest in (None, "pocket") and (asked.quantization or asked.device):
        raise UsageError("--quantization and --device go with --selftest NAME: pocket is tried in every way there is.")


def selftest(
    asked: argparse.Namespace, note: Callable[[str], Any], to_json: Callable[[Any], str]
) -> tuple[str, str, bool]:
    """Run the self-test that was asked for.

    Args:
        asked: Of the parser above.
        note: Called with a line as each part is done.
        to_json: Turns plain data into JSON.

    Returns:
        The table, the JSON, and whether nothing is wrong.

    Raises:
        ModelError: The model cannot be loaded.
    """
    if asked.selftest == "pocket":
        from dataclasses import asdict

        from workbench import selftest as every

        results = every.run(report=lambda r: note(f"{r.device}, {r.scheme}: {r.wrong or 'ok'}"))
        return every.table(results), to_json([asdict(r) for r in results]), not any(r.wrong for r in results)
    from workbench import modeltest

    made = modeltest.run(
        asked.selftest, quantization=asked.quantization, device=asked.device,
        report=lambda check: note(f"{check.about}: {check.level}, {check.text} ({check.seconds:.0f} s)"),
        keep=Path(asked.json).expanduser() if asked.json not in (None, "-") else None,
    )  # fmt: skip
    return made.table(), made.to_json().rstrip(), made.ok
