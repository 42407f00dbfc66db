"""What lies in a folder of weights: names, types and shapes, from its files' headers, and whether all is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.errors import Incompatible, ModelError

__all__ = ["SIZES", "config", "gemma", "missing", "read", "tensors", "whole"]

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number, by the name that safetensors gives its type."""
_MOST = 100 << 20  # bytes: no header of a weights file is larger


def config(folder: Path) -> dict[str, Any]:
    """The settings in a folder's ``config.json``.

    Raises:
        ModelError: It cannot be read.
    """
    return _settings(folder / "config.json")


def gemma(folder: Path) -> dict[str, Any]:
    """The same, of a folder that holds a model of Gemma 4.

    Raises:
        ModelError: It cannot be read, or says what no model's settings say.
        Incompatible: It is of another model, or of a drafter.
    """
    held = config(folder)
    kind = held.get("model_type")
    if not isinstance(kind, str) or not kind.startswith("gemma4"):
        said = f"says model_type {kind!r}" if kind else "says no model_type"
        raise Incompatible(f"{folder / 'config.json'} {said}: the workbench opens models of Gemma 4 only.")
    if kind.endswith("_assistant"):
        raise Incompatible(f"{folder} holds a drafter ({kind}): name the model's own folder, and this one as drafter=.")
    for part in ("text_config", "quantization_config"):
        if part in held and not isinstance(held[part], dict) and (held[part] is not None or part == "text_config"):
            raise ModelError(f"{folder / 'config.json'}: {part} is {held[part]!r}; expected settings.")
    return held


def _settings(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(held, dict):
        raise ModelError(f"{path} holds no settings.")
    return held


def read(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of every tensor of a ``.safetensors`` file; of the weights themselves nothing is read.

    Raises:
        ModelError: The file is broken or cut off: its size is not what its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(_MOST, size):
                raise ValueError("its header is longer than the file")  # noqa: TRY301 (said with the file's name below)
            header = json.loads(file.read(length))
        parts = {k: v for k, v in header.items() if k != "__metadata__"}
        end = 8 + length + max((int(v["data_offsets"][1]) for v in parts.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size:,} bytes, and its header speaks of {end:,}")  # noqa: TRY301 (as above)
        return {k: (str(v["dtype"]), [int(n) for n in v["shape"]]) for k, v in parts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} is broken or cut off: {error}. Fetch or copy this file again.") from error


def tensors(folder: Path) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of every tensor of a folder.

    Raises:
        ModelError: There are no weights, some are missing, or a file is broken.
    """
    return [(key, *what) for path in whole(folder) for key, what in read(path).items()]


def missing(folder: Path) -> list[str]:
    """Files that the folder's index names and that are not there; without an index, none.

    Raises:
        ModelError: The index cannot be read.
    """
    named: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        held = _settings(index).get("weight_map")
        if not isinstance(held, dict) or not all(isinstance(name, str) for name in held.values()):
            raise ModelError(f"{index} holds no weight_map: it is not the index of a model's weights.")
        named |= set(held.values())
    return sorted(name for name in named if not (folder / name).is_file())


def whole(folder: Path) -> list[Path]:
    """The files of weights of a folder, all of them.

    Raises:
        ModelError: There are none, or the folder's index names more than there are.
    """
    gone = missing(folder)
    if gone:
        shown = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        raise ModelError(f"{folder} is not whole: its index names {shown}, not there. Fetch or copy them too.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors: the weights are missing.")
    return files
