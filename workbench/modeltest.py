"""What only the owner of the weights can check: a named model against Transformers and against its own files.

    workbench doctor --selftest gemma-4-12b --json result.json

The model is loaded as ``workbench.load`` would, then looked at piece by piece. What fails is in its line, and the rest
goes on. The table and the file are meant to be handed on by people whose machine holds what others' do not; they name
no folder and no user.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench import __version__
from workbench.modelchecks import CHECKS
from workbench.modeltrial import Found, Tried, Watch

__all__ = ["Check", "Report", "run"]


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        about: What was looked at.
        level: ``ok``, ``note`` (could not be judged, or needs a look) or ``wrong``.
        text: What was found.
        numbers: The figures behind it.
        seconds: How long it took.
    """

    about: str
    level: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What was found about one model on one machine.

    Attributes:
        name: What was asked for; of a folder, its last part.
        model: What exactly ran (``ModelInfo`` as a dictionary).
        machine: System, processor, memory, accelerators and releases.
        created: When, in ISO 8601.
    """

    name: str
    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    created: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.level != "wrong" for check in self.checks)

    def to_json(self) -> str:
        """All of it as one JSON object; numbers that are not finite are null."""
        whole = {"workbench": __version__, "ok": self.ok, **asdict(self)}
        return json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n"

    def table(self) -> str:
        """The report as Markdown."""
        m, where = self.model, self.machine
        lines = [
            f"{self.name}: {m['variant']}, revision {m['revision']}, weights {m['weights_hash'][:20]}, "
            f"{m['quantization']} in {m['dtype']} on {m['device']}; drafter {m['drafter'] or 'none'}; "
            f"{where['cpu']}, {where['cores']} cores, {where['system']}; workbench {__version__}, "
            + ", ".join(f"{name} {version}" for name, version in m["versions"].items() if name != "python"),
            "",
            "| check | | found |",
            "|---|---|---|",
        ]
        lines += [f"| {c.about} | {c.level} | {c.text.replace('|', '/')} |" for c in self.checks]
        return "\n".join(lines)


def run(
    name: str,
    *,
    quantization: str | None = None,
    device: str | None = None,
    tokens: int = 24,
    report: Callable[[Check], Any] | None = None,
    keep: Path | None = None,
) -> Report:
    """Load a model and check it.

    Args:
        name, quantization, device: As for ``workbench.load``.
        tokens: Words of each answer.
        report: Called with each check as it comes.
        keep: A file that holds the report so far after each check.

    Returns:
        The report; ``ok`` says whether nothing is wrong.

    Raises:
        ModelError: It could not be loaded; the message says why.
    """
    import workbench
    from workbench import doctor

    watch = Watch()
    began = time.perf_counter()
    with watch:
        model = workbench.load(name, quantization=quantization, device=device)
    loaded = time.perf_counter() - began
    facts = doctor.probe()
    where = {
        "system": f"{facts.system} {facts.release}", "cpu": facts.cpu or facts.machine, "cores": facts.cores,
        "memory_total": facts.memory_total, "gpus": [asdict(gpu) for gpu in facts.gpus],
        "python": ".".join(map(str, facts.python)),
    }  # fmt: skip
    info = {**asdict(model.info), "versions": dict(model.info.versions)}
    made: list[Check] = []

    def so_far() -> Report:
        called = Path(name).name if "/" not in name or Path(name).is_dir() else name
        return Report(called, info, where, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), tuple(made))

    def add(check: Check) -> None:
        made.append(check)
        if report:
            report(check)
        if keep:
            keep.write_text(so_far().to_json(), "utf-8")

    tried = Tried(name, model, tokens)
    try:
        add(Check("load", "ok", f"{loaded:.1f} s", {"seconds": loaded, "peak_bytes": watch.peak}, loaded))
        for about, look in CHECKS.items():
            began = time.perf_counter()
            try:
                found = look(tried)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what was found; the others go on)
                words = (str(error).strip().splitlines() or [""])[0]
                found = Found("wrong", f"{type(error).__name__}: {words}")
            add(Check(about, found.level, found.text, found.numbers, time.perf_counter() - began))
    finally:
        mine = [n for n, m in workbench.loaded().items() if m is model and model.info.name != "pocket"]
        for one in mine:
            workbench.unload(one)
    return so_far()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
