"""Which releases of Transformers work, and how to install what is missing."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from workbench.errors import Incompatible, ModelError

__all__ = ["WORKS", "check_versions", "checkout", "installing", "numbers", "refused"]

WORKS = "transformers>=5.20.2,!=5.23.0,<6"
"""As ``pyproject.toml`` has it."""


def numbers(version: str) -> tuple[int, ...]:
    """The numbers a release begins with: (5, 22, 2) of ``5.22.2rc1``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def refused(version: str) -> str | None:
    """Why this release of Transformers is refused; None when it works."""
    said = numbers(version)
    if said < (5, 20, 2):
        return "5.20.2 is the first release that works (5.18 and 5.19 fail to draft)"
    if said == (5, 23, 0):
        return "5.23.0 cannot build the drafter"
    if said >= (6,):
        return "6 has not been tried"
    return None


def check_versions() -> None:
    """Refuse releases that are known to be wrong.

    Raises:
        ModelError: torch or Transformers is not installed.
        Incompatible: A release that does not work.
    """
    try:
        version = metadata.version("transformers")
        for needed in ("torch", "torchvision"):
            metadata.version(needed)
    except metadata.PackageNotFoundError as missing:
        raise ModelError(
            f"{missing.name} is not installed. Traces can be opened without it; to load a model: "
            f"pip install {installing('model')}"
        ) from None
    why = refused(version)
    if why:
        raise Incompatible(f'transformers {version} does not work with this model: {why}. pip install "{WORKS}"')


def checkout() -> Path | None:
    """The folder of the project, if this is run from it: the package is not on a registry under its name."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "start.py").is_file() else None


def installing(extras: str) -> str:
    """What ``pip install`` has to be given for these extras."""
    root = checkout()
    return f'"gemma-workbench[{extras}]"' if root is None else f'-e "{root}[{extras}]"'
