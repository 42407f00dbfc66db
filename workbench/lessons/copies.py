"""The lessons in JupyterLab: copied into a folder of the user's, never over what the user changed there.

A file of ours that nobody touched since we copied it is brought up to date; one that somebody edited (or ran, for
JupyterLab saves the outputs) stays as it is. ``.workbench-lessons.json`` beside them remembers what we copied.

JupyterLab serves this machine alone, and is told to fetch nothing: no news, no look for updates, no list of extensions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from workbench.errors import WorkbenchError
from workbench.versions import installing

__all__ = ["FOLDER", "Copied", "command", "copy", "run", "source"]

FOLDER = "gemma-workbench-notebooks"
FIRST = "00_welcome.ipynb"
_RECORD = ".workbench-lessons.json"
_CONFIG = Path(__file__).with_name("jupyter")
_HOST = "127.0.0.1"
_PORT = 8888


@dataclass(frozen=True)
class Copied:
    """What ``copy`` did, as names relative to the folder.

    Attributes:
        new: Copied now, or brought up to date.
        kept: The user's own editions, left alone although ours is another.
    """

    folder: Path
    new: tuple[str, ...]
    kept: tuple[str, ...]


def source() -> Path:
    """Where the lessons lie: in the installed package, or in the checkout.

    Raises:
        WorkbenchError: They are in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_notebooks", package.parent / "notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise WorkbenchError(f"The lessons are missing: neither {package} nor a checkout holds them. Install it again.")


def copy(folder: str | os.PathLike, lessons: Path | None = None) -> Copied:
    """Copy the lessons into a folder, which is made when it is not there.

    Args:
        folder: Where to. The lessons' own folder is used as it is.
        lessons: Where from; None is :func:`source`.

    Raises:
        WorkbenchError: The folder cannot be made or written.
    """
    lessons = lessons or source()
    goal = Path(folder).expanduser().absolute()
    if goal.resolve() == lessons.resolve():
        return Copied(goal, (), ())
    new, kept = [], []
    try:
        goal.mkdir(parents=True, exist_ok=True)
        record = _read_record(goal / _RECORD)
        for path in sorted(lessons.rglob("*")):
            name = path.relative_to(lessons)
            if not path.is_file() or any(part.startswith((".", "__")) for part in name.parts):
                continue
            key, ours, there = name.as_posix(), _hash(path), goal / name
            theirs = _hash(there) if there.is_file() else None
            if theirs == ours:
                record[key] = ours
            elif theirs is None or theirs == record.get(key):
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, there)
                record[key] = ours
                new.append(key)
            elif record.get(key) != ours:
                kept.append(key)
        (goal / _RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise WorkbenchError(
            f"The lessons cannot be copied to {goal}: {error.strerror or error}. Name another folder: workbench lab DIR"
        ) from error
    return Copied(goal, tuple(new), tuple(kept))


def command(folder: Path, port: int, *, browser: bool) -> list[str]:
    """The JupyterLab that serves a folder, on this machine alone, offline."""
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [
        sys.executable, "-m", "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.ip={_HOST}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--LabApp.default_url=/lab/tree/{quote(_first(folder))}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--ServerApp.answer_yes=True",  # one Ctrl-C ends it, as anywhere else
        "--log-level=WARN",
        *([] if browser else ["--no-browser"]),
        *root,
    ]  # fmt: skip


def run(folder: Path, *, browser: bool, port: int | None, say: Callable[[str], None]) -> int:
    """Serve a folder until the user ends it; returns JupyterLab's exit status.

    Args:
        folder: As :func:`copy` gave it.
        browser: Open one.
        port: None takes the first free one from 8888 on.
        say: Gets the address, once it answers.

    Raises:
        WorkbenchError: JupyterLab is not installed, or the port is taken.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise WorkbenchError(
            f"JupyterLab is not installed. The lessons lie in {folder}; to open them here:\n"
            f"  {sys.executable} -m pip install {installing('lab,model')}"
        )
    port = _free_port(port)
    token = secrets.token_urlsafe(24)
    environment = {
        **os.environ, "JUPYTER_TOKEN": token, "JUPYTER_PLATFORM_DIRS": "1",  # no argument: others see those
        # without news it would still ask, in the middle of the first lesson, whether they are wanted
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, (str(_CONFIG), os.environ.get("JUPYTER_CONFIG_PATH")))),
    }  # fmt: skip
    with _own_folders(say) as own:
        child = subprocess.Popen(command(folder, port, browser=browser), env={**environment, **own})
        told = False
        with _ended_with_us(child):
            while True:
                try:
                    if not told and _answers(port):
                        say(f"http://{_HOST}:{port}/lab/tree/{quote(_first(folder))}?token={token}")
                        told = True
                    return child.wait(timeout=None if told else 0.2)
                except subprocess.TimeoutExpired:
                    continue
                except KeyboardInterrupt:
                    time.sleep(0.05)  # Ctrl-C reached JupyterLab too, which asks back; wait for what it makes of it


@contextmanager
def _ended_with_us(child: subprocess.Popen) -> Iterator[None]:
    """Whoever ends this program by a signal ends its JupyterLab."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _own_folders(say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Variables that lead Jupyter to folders for this time, where it cannot write into its own; none where it can."""
    from jupyter_core import paths

    try:
        for where in (paths.jupyter_config_dir(), paths.jupyter_data_dir(), paths.jupyter_runtime_dir()):
            Path(where).mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=where).close()
    except OSError as error:
        with tempfile.TemporaryDirectory(prefix="gemma-workbench-jupyter-", ignore_cleanup_errors=True) as folder:
            say(f"Jupyter's settings are kept for this time only, in {folder}: {error.strerror or error}: {where}")
            names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
            yield {name: str(Path(folder, name.lower())) for name in names}
        return
    yield {}


def _first(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.ipynb"))
    return FIRST if FIRST in names or not names else names[0]


def _free_port(asked: int | None) -> int:
    for port in [asked] if asked is not None else range(_PORT, _PORT + 100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
            if os.name != "nt":
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Jupyter's own server does
            try:
                door.bind((_HOST, port))
            except OSError:
                continue
            return int(door.getsockname()[1])
    which = f"Port {asked} is taken" if asked is not None else f"Ports {_PORT} to {_PORT + 99} are all taken"
    raise WorkbenchError(f"{which}. Name a free one: workbench lab --port N")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=0.2):
            return True
    except OSError:
        return False


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_record(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in record.items()} if isinstance(record, dict) else {}
