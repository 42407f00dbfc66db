"""What this machine has free, and how fast it is: memory, accelerators, disk, and a two-second measurement."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import headers

__all__ = ["Device", "Machine", "Pace", "apple_free", "cached", "compiles", "disk_free", "machine", "memory", "pace"]


@dataclass(frozen=True)
class Device:
    """A place a model can run.

    Attributes:
        name: As ``load(device=…)`` takes it: ``cpu``, ``cuda:0``, ``mps``, ``xpu``.
        free: Bytes; None where the system does not say.
    """

    name: str
    free: int | None = None

    @property
    def kind(self) -> str:
        """The name without its number."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Machine:
    """What a plan looks at.

    Attributes:
        devices: The quickest first; ``cpu`` is the last.
        disk_free: Bytes where fetched models go; None where the system does not say.
        cached: Whether a hub id lies on this disk.
        compiles: Whether its CPU multiplies 4-bit weights as they are stored.
        offline: Whether nothing may be fetched (``HF_HUB_OFFLINE``).
    """

    devices: tuple[Device, ...]
    disk_free: int | None
    cached: Callable[[str], bool]
    compiles: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast the CPU is: bytes read from memory and multiplications with addition counted as two, a second."""

    bytes_a_second: float
    operations_a_second: float


def machine() -> Machine:
    """Look; nothing is fetched. Imports torch where it is installed, to see accelerators."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""  # as for huggingface_hub
    offline = said.upper() in ("1", "ON", "YES", "TRUE")
    return Machine((*_accelerators(), Device("cpu", memory()[0])), disk_free(), cached, compiles(), offline)


_LLVM = 20  # the release of llvmlite 0.45; the oldest that pyproject.toml takes


@functools.cache
def compiles() -> bool:
    """Whether products with packed weights are compiled for the CPU (:mod:`workbench.compiled`).

    That takes llvmlite, of a release that has the language they are written in, and x86 with AVX2 and FMA.
    """
    if platform.machine() not in ("x86_64", "AMD64") or importlib.util.find_spec("llvmlite") is None:
        return False
    try:
        import llvmlite.binding as llvm

        features: dict[str, bool] = llvm.get_host_cpu_features()
        if llvm.llvm_version_info[0] < _LLVM:
            return False
    except (ImportError, OSError, RuntimeError):  # installed, and broken; the doctor says so
        return False
    return all(features.get(name, False) for name in ("avx2", "fma"))


def memory() -> tuple[int | None, int | None]:
    """(free, total) bytes, of this machine or of the container that this runs in, whichever has less."""
    free, total = _of_the_machine()
    limit, used = _of_the_container()
    if limit is None or (total is not None and limit >= total):
        return free, total
    left = max(0, limit - used)
    return left if free is None else min(free, left), limit


_GROUPS = Path("/sys/fs/cgroup")


def _of_the_container() -> tuple[int | None, int]:
    """(limit, used) bytes of the control group this runs in, pages of files that can go not counted; no limit: None."""
    for top, most, now, prefix in (
        (_GROUPS, "memory.max", "memory.current", ""),
        (_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            limit, used = ((top / name).read_text("ascii").strip() for name in (most, now))
            stat = dict(line.split() for line in (top / "memory.stat").read_text("ascii").splitlines())
            files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
            return (int(limit), int(used) - files) if limit != "max" else (None, 0)
        except (OSError, ValueError):  # no Linux, no control groups, or of the other kind
            continue
    return None, 0


def _of_the_machine() -> tuple[int | None, int | None]:
    """Psutil comes with the extras; without it Linux still tells."""
    if importlib.util.find_spec("psutil"):
        psutil: Any = importlib.import_module("psutil")
        now = psutil.virtual_memory()
        return int(now.available), int(now.total)
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError):
        return None, None
    return sizes.get("MemAvailable"), sizes.get("MemTotal")


def pace(seconds: float = 2.0) -> Pace:
    """Measure how fast numpy reads memory and multiplies, half the time each."""
    import numpy as np

    data = np.ones(1 << 25, dtype=np.float32)  # 128 MB, more than a cache holds
    square = np.ones((768, 768), dtype=np.float32)

    def rate(work: Callable[[], Any], amount: float) -> float:
        work()
        best, until = 0.0, time.perf_counter() + seconds / 2
        while time.perf_counter() < until:
            began = time.perf_counter()
            work()
            best = max(best, amount / (time.perf_counter() - began))
        return best

    return Pace(rate(data.max, data.nbytes), rate(lambda: square @ square, 2 * 768.0**3))


def _accelerators() -> list[Device]:
    if not importlib.util.find_spec("torch"):
        return []
    torch: Any = importlib.import_module("torch")
    out = []
    for kind in ("cuda", "xpu"):
        there = getattr(torch, kind, None)
        if there is not None and there.is_available():
            out += [Device(f"{kind}:{k}", int(there.mem_get_info(k)[0])) for k in range(there.device_count())]
    if torch.backends.mps.is_available():
        out.append(Device("mps", apple_free(torch)))
    return out


def apple_free(torch: Any) -> int:
    """Bytes that an Apple GPU would take: its memory is the machine's, and it says how much of it at most."""
    room = int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    free = memory()[0]
    return room if free is None else min(room, free)


def disk_free() -> int | None:
    """Free bytes where fetched models go; None where the system does not say."""
    folder = _cache()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _cache() -> Path:
    """Where huggingface_hub keeps models, by the variables that it reads, without importing it."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expanduser(named or f"{home}/hub"))  # noqa: PTH111 (Path's raises where there is no home)


def cached(source: str) -> bool:
    """Whether a snapshot of a hub id with all its weights lies on this disk."""
    folder = _cache() / ("models--" + source.replace("/", "--")) / "snapshots"
    return any(any(one.glob("*.safetensors")) and not headers.missing(one) for one in folder.glob("*"))
