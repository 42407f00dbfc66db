"""The models we know by name, and what a name or a folder stands for. Sizes and shapes are of the published cards."""

from __future__ import annotations

import difflib
import os
import re
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
        eight, four: Published gigabytes of the weights in 8 bit and in Q4_0; 0 where not known.
        weights: How many are in the text model's linear layers, in its embedding, and elsewhere; zeros where only
            sizes are published.
        cache: Bytes of keys and values in 16 bit: for each token of the context, and once for the windows.
        packed: Hub id of an official variant whose layers are 4-bit already; empty where there is none.
        qat: Hub id of 16-bit weights that lie on the 4-bit grid; ``qat_drafter`` goes with it and with ``packed``.
        experts: Whether most weights are in experts, which this version holds in 16 bit whatever is asked.
        modalities: What it takes beside text.
    """

    name: str
    source: str
    gigabytes: float = 0.0
    local: bool = False
    drafter: str = ""
    eight: float = 0.0
    four: float = 0.0
    weights: tuple[int, int, int] = (0, 0, 0)
    cache: tuple[int, int] = (0, 0)
    packed: str = ""
    qat: str = ""
    qat_drafter: str = ""
    experts: bool = False
    modalities: tuple[str, ...] = ("images", "audio")


_POCKET = Path(__file__).parent / "pocket"

CATALOG = {
    entry.name: entry
    for entry in (
        Entry("pocket", str(_POCKET / "weights"), local=True, drafter=str(_POCKET / "drafter")),
        Entry("gemma-4-e2b", "google/gemma-4-E2B-it", 11.4, drafter="google/gemma-4-E2B-it-assistant", eight=5.7,
              four=2.9),
        Entry("gemma-4-e4b", "google/gemma-4-E4B-it", 17.9, drafter="google/gemma-4-E4B-it-assistant", eight=8.9,
              four=4.5),
        # 40 sliding layers of 16 query heads and 8 of keys and values, 256 wide, window 1024; 8 full ones of 16 and 1,
        # 512 wide, whose keys and values are one projection; hidden 3840, intermediate 15,360
        Entry("gemma-4-12b", "google/gemma-4-12B-it", 26.7, drafter="google/gemma-4-12B-it-assistant", eight=13.4,
              four=6.7,
              weights=(
                  48 * 3 * 3840 * 15_360 + 40 * 3840 * 256 * (16 + 8 + 8 + 16) + 8 * 3840 * 512 * (16 + 1 + 16),
                  262_144 * 3840,
                  53_000_000,
              ),
              cache=(8 * 2 * 512 * 2, 40 * 2 * 8 * 256 * 2 * 1024),
              packed="google/gemma-4-12B-it-qat-w4a16-ct", qat="google/gemma-4-12B-it-qat-q4_0-unquantized",
              qat_drafter="google/gemma-4-12B-it-qat-q4_0-unquantized-assistant"),
        Entry("gemma-4-26b-a4b", "google/gemma-4-26B-A4B-it", 57.7, drafter="google/gemma-4-26B-A4B-it-assistant",
              eight=28.8, four=14.4, experts=True, modalities=("images",)),
        Entry("gemma-4-31b", "google/gemma-4-31B-it", 69.9, drafter="google/gemma-4-31B-it-assistant", eight=34.9,
              four=17.5, modalities=("images",)),
    )
}  # fmt: skip


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


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
    for entry in CATALOG.values():
        if entry.source.lower() == text.strip().lower():
            return entry  # a hub id whose sizes and drafter are known
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"The folder {text!r} holds no config.json: it is not a model's folder.")
        called, where = folder.resolve().name, str(folder.resolve())
        return Entry(where if called in CATALOG else called, where, local=True)  # a name is of one model only
    looks_like_path = text.startswith((".", "/", "~", "\\")) or text.count("/") > 1 or "\\" in text
    if "/" in text and not looks_like_path and _HUB_ID.fullmatch(text):
        return Entry(text, text)
    near = difflib.get_close_matches(text.lower(), list(CATALOG), n=1, cutoff=0.4)
    raise ModelError(
        f"There is no model {text!r}" + (" and no such folder" if looks_like_path else "")
        + (f". Did you mean {near[0]!r}?" if near else ".") + f" Known: {', '.join(CATALOG)}; or a folder, or a hub id."
    )  # fmt: skip
