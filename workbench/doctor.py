"""What this machine and this installation can do, and the command that mends what they cannot.

    probe() ──► Facts ──► findings(facts) ──► Finding(level, text, mend) ──► `workbench doctor`

``probe`` looks, and fetches nothing; ``findings`` judges, and looks at nothing but the facts it is given: every verdict
can be tried on a machine that nobody has here.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.catalog import CATALOG
from workbench.machine import Device, Machine, apple_free, cached, compiles, disk_free, memory
from workbench.planning import plan
from workbench.versions import WORKS, checkout, refused
from workbench.versions import numbers as of_release

__all__ = ["EXTRAS", "Facts", "Finding", "Gpu", "ask_pocket", "findings", "probe", "table"]

CORE = ("anywidget", "ipywidgets", "numpy", "pandas", "pillow", "plotly", "pyarrow", "soundfile", "soxr")
EXTRAS = {
    "model": ("accelerate", "av", "torch", "torchvision", "transformers"),
    "lab": ("ipykernel", "jupyterlab"),
    "demo": ("gradio", "segno"),
}
COMPILER = "llvmlite"  # of extra [model] too, on x86 alone
TORCH, TORCHVISION, CUDA = "2.14.1", "0.29.1", "13.0"  # of requirements.lock; CUDA is what that torch is built for


@dataclass(frozen=True)
class Gpu:
    """An accelerator that torch can use; bytes are None where it does not say."""

    name: str
    kind: str
    free: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Facts:
    """What ``probe`` saw.

    Attributes:
        system: ``Linux``, ``Darwin`` or ``Windows``; ``release`` is the kernel's or Windows' own number.
        memory_free, memory_total, disk_free: Bytes; None where the system does not say. The disk is the models' cache.
        versions: Release of every package of :data:`CORE`, :data:`EXTRAS` and :data:`COMPILER`; None is not installed.
        torch_error: Why ``import torch`` failed, in its own words.
        torch_build: CUDA or ROCm release that torch was built for; None is a build for the CPU (or Apple's GPU).
        gpus: What torch can use now.
        driver: NVIDIA's driver: its release, "" when it is there but does not say; None when there is none.
        driver_cuda: The newest CUDA release the driver serves.
        fetched: Hub ids of the catalog whose weights lie on this disk.
        compiles: As of ``Machine``.
        checkout: The project's folder, where this is run from it.
    """

    python: tuple[int, int, int]
    executable: str
    system: str
    release: str
    machine: str
    cpu: str
    cores: int
    memory_free: int | None
    memory_total: int | None
    disk_free: int | None
    versions: Mapping[str, str | None]
    torch_error: str | None = None
    torch_build: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    fetched: tuple[str, ...] = ()
    compiles: bool = False
    checkout: str | None = None


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ``ok``, ``note`` (works; something could be better) or ``broken``.
        mend: Commands that mend it, to be typed one after the other.
        numbers: Figures for ``--json``.
    """

    about: str
    level: str
    text: str
    mend: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


# --- judging ----------------------------------------------------------------------------------------------------------


def findings(facts: Facts) -> list[Finding]:
    """Judge the facts; pure."""
    return [
        _python(facts),
        _machine(facts),
        _disk(facts),
        *_packages(facts),
        *_torch(facts),
        *_products(facts),
        *_models(facts),
    ]


def _python(facts: Facts) -> Finding:
    said = ".".join(map(str, facts.python))
    text = f"{said} ({facts.executable})"
    if facts.python < (3, 11):
        return Finding("Python", "broken", f"{text}: 3.11 or newer is needed")
    return Finding("Python", "ok", text, numbers={"version": said})


def _machine(facts: Facts) -> Finding:
    text = f"{facts.system} {facts.release}, {facts.cpu or facts.machine}, {facts.cores} cores"
    if facts.memory_total is None or facts.memory_free is None:
        return Finding("Machine", "ok", f"{text}; how much memory there is, this system does not say")
    text += f", {_gb(facts.memory_free)} of {_gb(facts.memory_total)} memory free"
    numbers = {"cores": facts.cores, "memory_free": facts.memory_free, "memory_total": facts.memory_total}
    if facts.memory_free < 1.5e9:
        return Finding("Machine", "note", f"{text}: pocket needs about 1 GB, close something", numbers=numbers)
    return Finding("Machine", "ok", text, numbers=numbers)


def _disk(facts: Facts) -> Finding:
    if facts.disk_free is None:
        return Finding("Disk", "ok", "how much is free, this system does not say")
    low = facts.disk_free < 1e9
    text = f"{_gb(facts.disk_free)} free" + (": installing and saving will fail soon" if low else "")
    return Finding("Disk", "note" if low else "ok", text, numbers={"free": facts.disk_free})


def _packages(facts: Facts) -> list[Finding]:
    """The core, then each extra: there, missing, or of a release that is refused."""
    pip = _pip(facts)
    out = []
    missing = [name for name in CORE if facts.versions.get(name) is None]
    if missing:
        mend = f"{pip} install gemma-workbench" if facts.checkout is None else f'{pip} install -e "{facts.checkout}"'
        out.append(Finding("Core", "broken", f"not installed: {', '.join(missing)}", (mend,)))
    else:
        out.append(Finding("Core", "ok", _versions(facts, CORE)))
    use = {"model": "ask a model", "lab": "open the lessons in JupyterLab", "demo": "share a Gradio page"}
    for extra, names in EXTRAS.items():
        missing = [name for name in names if facts.versions.get(name) is None]
        where = "gemma-workbench" if facts.checkout is None else facts.checkout
        install = f'{pip} install {"-e " * bool(facts.checkout)}"{where}[{extra}]"'
        about = f"Extra [{extra}]"
        if missing:
            text = f"not installed: {', '.join(missing)}; needed to {use[extra]}"
            out.append(Finding(about, "note", text, (install,)))
            continue
        version = facts.versions.get("transformers") or ""
        why = refused(version) if extra == "model" else None
        if why:
            mend = f'{pip} install "{WORKS}"'
            out.append(Finding(about, "broken", f"transformers {version} is refused: {why}", (mend,)))
        else:
            out.append(Finding(about, "ok", _versions(facts, names)))
    return out


def _torch(facts: Facts) -> list[Finding]:
    """What torch can compute on, and an NVIDIA driver that it cannot use."""
    if facts.versions.get("torch") is None:
        return []
    out = []
    if facts.torch_error:
        dll = facts.system == "Windows" and "DLL" in facts.torch_error
        advice = " (on Windows mostly: Microsoft's Visual C++ Redistributable is missing)" if dll else ""
        text = f"torch is installed and cannot be imported: {facts.torch_error}{advice}"
        return [Finding("Device", "broken", text, _take_torch(facts, cuda=False))]
    for gpu in facts.gpus:
        memory = f", {_gb(gpu.free)} of {_gb(gpu.total)} free" if gpu.free is not None and gpu.total is not None else ""
        numbers = {"device": gpu.kind, "name": gpu.name, "free": gpu.free, "total": gpu.total}
        out.append(Finding("Device", "ok", f"{gpu.kind}: {gpu.name}{memory}", numbers=numbers))
    if not facts.gpus:
        out.append(Finding("Device", "ok", "cpu", numbers={"device": "cpu"}))
    if facts.driver is not None and not any(gpu.kind == "cuda" for gpu in facts.gpus):
        driver = f"an NVIDIA driver{' ' + facts.driver if facts.driver else ''} is here"
        wants = facts.torch_build or CUDA  # of the CPU's build: what the one with CUDA would want
        old = facts.driver_cuda is not None and of_release(facts.driver_cuda) < of_release(wants)
        serves = f"the driver serves CUDA up to {facts.driver_cuda} and this torch wants {wants}"
        hint = f"; {serves}: update the driver first" if old else ""
        if facts.torch_build is None:
            text = f"{driver}, and this torch is built for the CPU alone: the GPU lies idle{hint}"
            out.append(Finding("NVIDIA", "note", text, _take_torch(facts, cuda=True)))
        else:
            text = f"{driver}, and torch (built for CUDA {facts.torch_build}) finds no GPU that it can use{hint}"
            out.append(Finding("NVIDIA", "note", text, ("nvidia-smi",)))
    return out


def _products(facts: Facts) -> list[Finding]:
    """Whether words of packed models come three times as quick on a processor that could."""
    if facts.machine not in ("x86_64", "AMD64") or facts.versions.get("torch") is None:
        return []
    about, packed = "4-bit products", "PyTorch multiplies packed weights on the CPU, a third as quick"
    if facts.compiles:
        return [Finding(about, "ok", "compiled for this CPU")]
    if facts.versions.get(COMPILER) is None:
        text = f"{COMPILER} is not installed: {packed}"
        return [Finding(about, "note", text, (f"{_pip(facts)} install {COMPILER}",))]
    text = f"this CPU has no AVX2, or {COMPILER} {facts.versions[COMPILER]} does not work here: {packed}"
    return [Finding(about, "ok", text)]


def _models(facts: Facts) -> list[Finding]:
    """What `workbench plan` says of each model of the catalog."""
    if facts.versions.get("torch") is None or facts.torch_error:
        return []
    devices = [Device(gpu.kind, gpu.free) for gpu in facts.gpus] + [Device("cpu", facts.memory_free)]
    here = Machine(tuple(devices), facts.disk_free, facts.fetched.__contains__, facts.compiles)
    out = []
    for entry in CATALOG.values():
        about = f"Model {entry.name}"
        if entry.local:
            out.append(Finding(about, "ok", "works here: it is embedded, nothing is fetched"))
            continue
        best = plan(entry.name, measure=False, here=here).taken
        numbers = {"needs": best.bytes, "fits": best.fits, "quantization": best.quantization, "device": best.device}
        held = "in 16 bit" if best.quantization == "none" else f"as {best.quantization}"
        text = f"{held} it needs {_gb(best.bytes)} on {best.device}"
        text += "; how much is free, the system does not say" if best.free is None else f", {_gb(best.free)} free"
        if best.lacks == "disk":
            text += f"; {_gb(best.download)} have to be fetched, and the disk has {_gb(facts.disk_free)} free"
        elif best.fits and best.download:
            text += f"; {_gb(best.download)} to fetch"
        known = best.free is not None
        word = "" if not known else "fits: " if best.fits else "does not fit: "
        out.append(Finding(about, "ok" if best.fits and known else "note", word + text, numbers=numbers))
    return out


def _take_torch(facts: Facts, *, cuda: bool) -> tuple[str, str]:
    """Replace torch: pip takes 2.14.1+cpu for 2.14.1, so the old one goes first."""
    index = ""
    if cuda and facts.system == "Windows":  # elsewhere the registry's own build has CUDA
        index = f" --index-url https://download.pytorch.org/whl/cu{CUDA.replace('.', '')}"
    pip = _pip(facts)
    return (
        f"{pip} uninstall -y torch torchvision",
        f"{pip} install torch=={TORCH} torchvision=={TORCHVISION}{index}",
    )


def _pip(facts: Facts) -> str:
    python = facts.executable or "python"
    if re.search(r"[\s()&]", python):
        python = f"& '{python}'" if facts.system == "Windows" else f"'{python}'"
    return f"{python} -m pip"


def _versions(facts: Facts, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {facts.versions[name]}" for name in names)


def _gb(size: int | None) -> str:
    return f"{(size or 0) / 1e9:.1f} GB"


# --- looking ----------------------------------------------------------------------------------------------------------


def probe() -> Facts:
    """Look at this machine; imports torch where it is installed, which takes seconds."""
    free, total = memory()
    driver, driver_cuda = _nvidia()
    versions: dict[str, str | None] = {}
    for name in (*CORE, COMPILER, *(name for names in EXTRAS.values() for name in names)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    error, build, gpus = _devices() if versions["torch"] else (None, None, ())
    return Facts(
        python=sys.version_info[:3], executable=sys.executable, system=platform.system(), release=platform.release(),
        machine=platform.machine(), cpu=_cpu(), cores=_cores(), memory_free=free, memory_total=total,
        disk_free=disk_free(), versions=versions, torch_error=error, torch_build=build, gpus=gpus, driver=driver,
        driver_cuda=driver_cuda, fetched=tuple(filter(cached, _sources())), compiles=compiles(),
        checkout=str(root) if (root := checkout()) else None,
    )  # fmt: skip


def _sources() -> list[str]:
    """Every hub id that a plan of the catalog may take."""
    return [s for e in CATALOG.values() if not e.local for s in (e.source, e.packed, e.drafter, e.qat_drafter) if s]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _nvidia() -> tuple[str | None, str | None]:
    """NVIDIA's driver and the CUDA release it serves, by whichever trace of it there is."""
    program = shutil.which("nvidia-smi")
    if program:
        try:
            done = subprocess.run([program], capture_output=True, text=True, errors="replace", timeout=20, check=False)
        except (OSError, subprocess.SubprocessError):
            return "", None
        driver = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
        cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
        if done.returncode == 0:
            return driver[1] if driver else "", cuda[1] if cuda else None
    windows = Path(os.environ.get("SYSTEMROOT", "C:\\Windows")) / "System32" / "nvcuda.dll"
    version = Path("/proc/driver/nvidia/version")
    if version.exists():
        found = re.search(r"\s(\d+\.\d[\d.]*)\s", version.read_text("utf-8", "replace"))
        return found[1] if found else "", None
    return ("", None) if windows.exists() else (None, None)


def _devices() -> tuple[str | None, str | None, tuple[Gpu, ...]]:
    """(why torch cannot be imported, what it is built for, what it can use)."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0], None, ()
    build = torch.version.cuda or getattr(torch.version, "hip", None)
    gpus: list[Gpu] = []
    try:
        for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(k)
            gpus.append(Gpu(torch.cuda.get_device_name(k), "cuda", free, total))
    except RuntimeError:
        gpus = []  # a driver too old for this torch, or a card that is busy: findings say what it means
    if torch.backends.mps.is_available():
        gpus.append(Gpu("Apple GPU", "mps", apple_free(torch), memory()[1]))
    return None, build, tuple(gpus)


def ask_pocket(load: Callable[..., Any] | None = None) -> Finding:
    """Load pocket, ask it about a picture that comes with it, and take the time."""
    from workbench.pocket.examples import EXAMPLES

    example = EXAMPLES[0]
    began = time.perf_counter()
    try:
        if load is None:
            from workbench import load as load_model

            load = load_model
        model = load("pocket", progress=False)
        loaded = time.perf_counter()
        trace = model.ask(example.question, images=[example.path], temperature=0)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
        return Finding("Check", "broken", f"pocket could not be asked: {type(error).__name__}: {error}")
    ended = time.perf_counter()
    numbers = {"load_s": loaded - began, "ask_s": ended - loaded, "answer": trace.text}
    text = f"pocket loaded in {loaded - began:.1f} s and answered {example.question!r} in {ended - loaded:.2f} s: "
    if trace.text != example.answer:
        text += f"{trace.text!r} instead of {example.answer!r}"
        return Finding("Check", "broken", text, numbers=numbers)
    return Finding("Check", "ok", text + repr(trace.text), numbers=numbers)


def table(found: list[Finding]) -> str:
    """The report for people."""
    marks = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}
    wide = max((len(one.about) for one in found), default=0)
    lines = []
    for one in found:
        lines.append(f"{marks[one.level]}  {one.about:{wide}}  {one.text}")
        lines += [f"{'':6}  {'':{wide}}  {'to mend it: ' if k == 0 else ' ' * 12}{m}" for k, m in enumerate(one.mend)]
    return "\n".join(lines)
