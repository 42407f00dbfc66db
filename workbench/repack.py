"""Write a model's weights packed, so that the next load reads them as they are held.

One tensor after another is read, packed and written: the memory this takes is that of the largest tensor and of one
file of the result. What is written is a Transformers folder whose 4-bit layers are in compressed-tensors'
``pack-quantized`` layout (``weight_packed`` int32, ``weight_scale``, ``weight_shape``) and whose 8-bit ones hold int8
and a scale a row under the same names; nothing in it depends on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import headers
from workbench.catalog import find
from workbench.errors import DoesNotFit, Incompatible, ModelError
from workbench.fetching import fetched
from workbench.loading import check_versions

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
    target = Path(to).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is there already; give a folder that does not exist yet.")
    source = fetched(entry, revision, progress=report is not None)
    files = headers.whole(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    size, free = sum(f.stat().st_size for f in files), shutil.disk_usage(target.parent).free
    needed = size if scheme == "int8" else size * 6 // 10  # never less than what comes out, whatever goes in
    if needed > free:
        raise DoesNotFit(f"{target.parent} has {free / 1e9:.1f} GB free; up to {needed / 1e9:.1f} GB may be written.")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
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

    config = AutoConfig.from_pretrained(source, local_files_only=True)
    declared = stored_form(config) or {}
    if declared.get("quant_method") == METHOD:
        raise Incompatible(f"{source} holds packed weights already ({declared.get('scheme')}).")
    config = held_as(source, scheme, "cpu")[1].get("config", config)
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config)
    try:
        plan = planned(model, scheme, stored(model, [str(f) for f in files]))
        named, total, out = renamer(model), grid.Rounding(), Files(part)
        for number, file in enumerate(files):
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    name, _dot, last = key.rpartition(".")
                    what = plan.get(named(f"{name}.weight").removesuffix(".weight"))
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
        from safetensors.torch import save_file

        self._count += 1
        name = f"model-{self._count:05d}.safetensors"
        save_file(self._open, self.folder / name, metadata={"format": "pt"})
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
