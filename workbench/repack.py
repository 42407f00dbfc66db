"""Write a model's weights packed, so that the next load reads them as they are held.

One tensor after another is read, packed and written: the memory this takes is that of the largest tensor and of one
file of the result. What is written is a Transformers folder whose 4-bit layers are in compressed-tensors'
``pack-quantized`` layout (``weight_packed`` int32, ``weight_scale``, ``weight_shape``) and whose 8-bit ones hold int8
and a scale a row under the same names; nothing in it depends on the machine.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import headers
from workbench.catalog import find
from workbench.errors import DoesNotFit, Incompatible, ModelError
from workbench.fetching import fetched
from workbench.grid import GROUP
from workbench.loading import read_from
from workbench.versions import check_versions

__all__ = ["Files", "quantize"]

_FILE = 2 << 30  # bytes of weights in one file of the result
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".index.json")


def quantize(
    name: str | os.PathLike,
    to: str | os.PathLike,
    *,
    scheme: str = "int4",
    revision: str | None = None,
    report: Callable[[str], Any] | None = None,
) -> str:
    """Write a folder that ``workbench.load`` opens as packed weights.

    Args:
        name: As for ``workbench.load``: a known name, a folder, or a hub id.
        to: The folder to write; it must not exist, or be empty. It appears when it is whole.
        scheme: ``int4``, ``int4+16`` or ``int8`` (see :mod:`workbench.quantization`).
        revision: Of a hub id.
        report: Called with a line after each file that was read.

    Returns:
        What rounding did, in words: ``exact``, or the share of exact weights and the relative error.

    Raises:
        ModelError: There is no such model or scheme, the folder is taken, or the weights are broken.
        Incompatible: The weights are packed already, in this form or in one that cannot be read.
        DoesNotFit: The disk has not enough room.
    """
    check_versions()
    from workbench.quantization import SCHEMES

    if scheme not in SCHEMES:
        raise ModelError(f"{scheme!r} is no scheme; expected one of {', '.join(SCHEMES)}.")
    entry = find(name)
    if revision is not None and entry.local:
        raise ModelError(f"revision={revision!r}: {entry.name} lies in a folder and has none; only hub ids have.")
    target = Path(to).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is there already; give a folder that does not exist yet.")
    source = fetched(entry, revision, progress=report is not None)
    files = headers.whole(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part-{secrets.token_hex(4)}")  # nobody else's
    part.mkdir()
    try:
        rounding = _write(source, files, part, scheme, "" if entry.local else entry.source, report)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return rounding


def _write(
    source: Path, files: list[Path], part: Path, scheme: str, made: str, report: Callable[[str], Any] | None
) -> str:
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForMultimodalLM

    from workbench import grid
    from workbench.quantization import METHOD, held_as, planned, renamer, stored, stored_form

    headers.gemma(source)
    config = read_from(str(source), source, lambda: AutoConfig.from_pretrained(source, local_files_only=True))
    declared = stored_form(config) or {}
    if declared.get("quant_method") == METHOD:
        raise Incompatible(f"{source} holds packed weights already ({declared.get('scheme')}).")
    config = held_as(source, scheme, "cpu")[1].get("config", config)
    with torch.device("meta"):
        model = read_from(str(source), source, lambda: AutoModelForMultimodalLM.from_config(config))
    try:
        plan = planned(model, scheme, stored(model, [str(f) for f in files]))
        named, total, out = renamer(model), grid.Rounding(), Files(part)
        held = [(key, *what) for file in files for key, what in headers.read(file).items()]
        _check_room(part, sum(_size(plan.get(_layer(named, key)), key, kind, shape) for key, kind, shape in held))
        for number, file in enumerate(files):
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    name, _dot, last = key.rpartition(".")
                    what = plan.get(_layer(named, key))
                    tensor = tensors.get_tensor(key)
                    if what is None or what.packed or last != "weight":
                        out.add(key, tensor)
                        continue
                    if not bool(torch.isfinite(tensor).all()):
                        raise ModelError(f"{key} holds numbers that are not finite: the checkpoint is broken.")
                    if what.kind == "int4":
                        packed, scale, rounding = grid.to_grid(tensor)
                        total += rounding
                        out.add(f"{name}.weight_packed", packed.view(torch.int32))
                        out.add(f"{name}.weight_shape", torch.tensor(tensor.shape))
                    else:
                        packed, scale = grid.to_int8(tensor)
                        out.add(f"{name}.weight_packed", packed)
                    out.add(f"{name}.weight_scale", scale)
            if report:
                report(f"{number + 1} of {len(files)} files, {out.bytes / 1e9:.2f} GB written")
    except SafetensorError as error:
        raise ModelError(f"The weights in {source} cannot be read: {error}") from error
    out.close()
    words = str(total) if total.weights else "exact"
    settings = json.loads((source / "config.json").read_text("utf-8"))
    settings.get("text_config", {}).pop("quantization_config", None)
    settings["quantization_config"] = {
        "quant_method": METHOD, "scheme": scheme, "group_size": grid.GROUP, "rounding": words,
        "source": made,
    }  # fmt: skip
    (part / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json" and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, part / file.name)
    return words


def _layer(named: Callable[[str], str], key: str) -> str:
    """The model's name for the layer that a checkpoint's key is of."""
    return named(f"{key.rpartition('.')[0]}.weight").removesuffix(".weight")


def _size(what: Any, key: str, kind: str, shape: list[int]) -> int:
    """Bytes that a tensor of the checkpoint takes in the result."""
    count, size = math.prod(shape), headers.SIZES.get(kind, 4)
    if what is None or what.packed or not key.endswith(".weight"):
        return count * size
    if what.kind == "int4":  # codes, a scale for each group, and the shape
        return count // 2 + count // GROUP * size + 16
    return count + shape[0] * size


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DoesNotFit(
            f"{folder.parent} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB will be written: make room, or "
            "give a folder on another disk."
        )


class Files:
    """Writes tensors into files of at most 2 GB, with the index that Transformers reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = 0  # in all files together
        self._open: dict[str, Any] = {}
        self._size = 0
        self._index: dict[str, str] = {}
        self._count = 0

    def add(self, key: str, tensor: Any) -> None:
        """Take a tensor; a full file is written."""
        if self._size and self._size + tensor.nbytes > _FILE:
            self._flush()
        self._open[key] = tensor.contiguous()
        self._size += tensor.nbytes
        self.bytes += tensor.nbytes

    def _flush(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self._count += 1
        name = f"model-{self._count:05d}.safetensors"
        try:
            save_file(self._open, self.folder / name, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise DoesNotFit(
                f"A file of {self._size / 1e9:.2f} GB could not be written to {self.folder.parent}: {error}"
            ) from None
        self._index.update(dict.fromkeys(self._open, name))
        self._open, self._size = {}, 0

    def close(self) -> None:
        """Write what is left, and the index."""
        self._flush()
        if self._count == 1:
            (self.folder / "model-00001.safetensors").rename(self.folder / "model.safetensors")
            return
        index = {"metadata": {"total_size": self.bytes}, "weight_map": self._index}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
