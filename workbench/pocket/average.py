"""The mean of several runs' weights: ``python -m workbench.pocket.average runs/7/final runs/8/final``.

Runs that went on from one another lie in one valley, and between them is a place better than either (Wortsman et al.,
*Model soups*, 2022). The tokenizer and settings are those of the first folder; all have to be of one model.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from workbench.errors import Incompatible, ModelError, WorkbenchError

__all__ = ["average", "main"]

_SAME = ("config.json", "tokenizer.json", "chat_template.jinja")


def average(folders: list[Path], out: Path) -> None:
    """Write the mean of the folders' weights, in the type of the first.

    Args:
        folders: two or more of ``build.save``.
        out: the folder to write; one that is there gets the new files.

    Raises:
        Incompatible: they are not of one model and one tokenizer.
        ModelError: there are fewer than two, or one cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if len(folders) < 2:
        raise ModelError(f"A mean takes two folders at least; {len(folders)} given.")
    first, *others = folders
    try:
        mean = {name: tensor.double() for name, tensor in load_file(first / "model.safetensors").items()}
        kinds = {name: tensor.dtype for name, tensor in load_file(first / "model.safetensors").items()}
        for folder in others:
            for name in _SAME:
                if (folder / name).read_bytes() != (first / name).read_bytes():
                    raise Incompatible(f"{folder / name} is not that of {first}: only runs of one model have a mean.")
            held = load_file(folder / "model.safetensors")
            if {n: t.shape for n, t in held.items()} != {n: t.shape for n, t in mean.items()}:
                raise Incompatible(f"{folder} holds other tensors than {first}.")
            for name, tensor in held.items():
                mean[name] += tensor.double()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"One of {', '.join(map(str, folders))} cannot be read: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    made = {name: (total / len(folders)).to(kinds[name]).contiguous() for name, total in mean.items()}
    for file in first.iterdir():
        if file.is_file() and file.name != "model.safetensors" and file.resolve() != (out / file.name).resolve():
            shutil.copyfile(file, out / file.name)
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """The command line."""
    from workbench.pocket import WEIGHTS

    parser = argparse.ArgumentParser(prog="python -m workbench.pocket.average", description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="finished weights")
    parser.add_argument("--export", type=Path, default=WEIGHTS, help="where the mean goes")
    args = parser.parse_args()
    try:
        average(args.folders, args.export)
    except WorkbenchError as error:
        raise SystemExit(str(error)) from None
    print(f"the mean of {len(args.folders)} runs is in {args.export}")


if __name__ == "__main__":
    main()
