"""The models we know by name, and what a name or a folder stands for. Sizes and shapes are of the published cards."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ModelError

__all__ = ["CATALOG", "Entry", "find"]


@dataclass(frozen=True)
class Entry:
    """A model that can be asked for.

    Attributes:
        name: What to call it.
        source: A folder, or an id on the hub.
        gigabytes: Of the bf16 weights; 0 where nothing has to be fetched.
        local: Whether it lies on this disk.
        drafter: Folder or hub id of its own drafter; empty where there is none.
    """

    name: str
    source: str
    gigabytes: float = 0.0
    local: bool = False
    drafter: str = ""


_POCKET = Path(__file__).parent / "pocket"

CATALOG = {
    entry.name: entry
    for entry in (
        Entry("pocket", str(_POCKET / "weights"), local=True),
        Entry("gemma-4-e2b", "google/gemma-4-E2B-it", 11.4, drafter="google/gemma-4-E2B-it-assistant"),
        Entry("gemma-4-e4b", "google/gemma-4-E4B-it", 17.9, drafter="google/gemma-4-E4B-it-assistant"),
        Entry("gemma-4-12b", "google/gemma-4-12B-it", 26.7, drafter="google/gemma-4-12B-it-assistant"),
        Entry("gemma-4-26b-a4b", "google/gemma-4-26B-A4B-it", 57.7, drafter="google/gemma-4-26B-A4B-it-assistant"),
        Entry("gemma-4-31b", "google/gemma-4-31B-it", 69.9, drafter="google/gemma-4-31B-it-assistant"),
    )
}


def find(name: str | os.PathLike) -> Entry:
    """What a name, a folder or a hub id (``owner/model``) stands for.

    Raises:
        ModelError: It is none of these; the message names the nearest match.
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name).strip():
        raise ModelError(f"{name!r} is no model name. Known: {', '.join(CATALOG)}, a folder, or a hub id.")
    text = os.fspath(name)
    known = CATALOG.get(text.strip().lower())
    if known is not None:
        return known
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"The folder {text!r} holds no config.json: it is not a model's folder.")
        return Entry(folder.resolve().name, str(folder.resolve()), local=True)
    looks_like_path = text.startswith((".", "/", "~", "\\")) or text.count("/") > 1 or "\\" in text
    if "/" in text and not looks_like_path:
        return Entry(text, text)
    near = difflib.get_close_matches(text.lower(), list(CATALOG), n=1, cutoff=0.4)
    raise ModelError(
        f"There is no model {text!r}" + (" and no such folder" if looks_like_path else "")
        + (f". Did you mean {near[0]!r}?" if near else ".") + f" Known: {', '.join(CATALOG)}; or a folder, or a hub id."
    )  # fmt: skip
