"""The models we know by name, and what a name or a folder stands for. Sizes and shapes are of the published cards."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import ModelError

__all__ = ["CATALOG", "Entry", "Shape", "find"]


@dataclass(frozen=True)
class Shape:
    """What a model is made of, of its published configuration.

    Attributes:
        layers, period: How many layers; every ``period``-th is a full one, the others slide.
        hidden, intermediate: Widths.
        heads, head_dim, full_head_dim: Query heads, and the width of one in sliding and in full layers.
        kv_heads, full_kv_heads: Heads of keys and values in sliding and in full layers.
        window, context: Tokens that a sliding layer sees, and that prompt and answer may fill together.
        elsewhere: Weights outside the text model's linear layers and embeddings: towers and norms.
        one_projection: Whether full layers share the projection of keys and values.
        shared: Layers at the end that use the keys and values of earlier ones; ``wide`` is how many times as wide
            their inner layer is.
        per_layer: Width of the embeddings that each layer has of its own.
        experts, active, expert: How many experts a layer has, how many of them a token uses, and their inner width.
    """

    layers: int
    period: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    full_kv_heads: int
    window: int
    context: int
    elsewhere: int
    head_dim: int = 256
    full_head_dim: int = 512
    vocabulary: int = 262_144
    one_projection: bool = False
    shared: int = 0
    wide: int = 1
    per_layer: int = 0
    experts: int = 0
    active: int = 0
    expert: int = 0

    def full(self, layer: int) -> bool:
        """Whether a layer, counted from 0, is a full one."""
        return (layer + 1) % self.period == 0

    @property
    def linear(self) -> int:
        """Weights in the text model's linear layers, experts left out."""
        total = self.hidden * self.layers * self.per_layer
        for k in range(self.layers):
            full, own = self.full(k), k < self.layers - self.shared
            width, heads = (self.full_head_dim, self.full_kv_heads) if full else (self.head_dim, self.kv_heads)
            projections = 2 - (full and self.one_projection) if own else 0
            total += self.hidden * width * (2 * self.heads + projections * heads)
            total += 3 * self.hidden * self.intermediate * (1 if own else self.wide)
            total += 2 * self.hidden * self.per_layer + self.hidden * self.experts
        return total

    @property
    def in_experts(self) -> int:
        """Weights in experts."""
        return self.layers * self.experts * 3 * self.hidden * self.expert

    @property
    def embeddings(self) -> int:
        """Weights of the embedding, which is the output layer too, and of the layers' own."""
        return self.vocabulary * (self.hidden + self.layers * self.per_layer)

    @property
    def weights(self) -> int:
        """All of them."""
        return self.linear + self.in_experts + self.embeddings + self.elsewhere

    def cache(self, tokens: int) -> int:
        """Bytes of keys and values of so many tokens, in 16 bit, the windows full."""
        total = 0
        for k in range(self.layers - self.shared):
            if self.full(k):
                total += 2 * 2 * self.full_kv_heads * self.full_head_dim * tokens
            else:
                total += 2 * 2 * self.kv_heads * self.head_dim * self.window
        return total


@dataclass(frozen=True)
class Entry:
    """A model that can be asked for.

    Attributes:
        name: What to call it.
        source: A folder, or an id on the hub.
        gigabytes: Memory for running the bf16 weights, as Google's page names it; 0 where nothing has to be fetched.
        local: Whether it lies on this disk.
        drafter: Folder or hub id of its own drafter; empty where there is none.
        eight, four: Published gigabytes of the weights in 8 bit and in Q4_0; 0 where not known.
        shape: What it is made of; None where only sizes are known, or nothing.
        packed: Hub id of an official variant whose layers are 4-bit already; empty where there is none.
        qat: Hub id of 16-bit weights that lie on the 4-bit grid; ``qat_drafter`` goes with it and with ``packed``.
        of: Of an official variant: the name of the model it is a variant of.
        modalities: What it takes beside text.
    """

    name: str
    source: str
    gigabytes: float = 0.0
    local: bool = False
    drafter: str = ""
    eight: float = 0.0
    four: float = 0.0
    shape: Shape | None = None
    packed: str = ""
    qat: str = ""
    qat_drafter: str = ""
    of: str = ""
    modalities: tuple[str, ...] = ("images", "audio")


_POCKET = Path(__file__).parent / "pocket"


def _entry(
    size: str, gigabytes: float, eight: float, four: float, shape: Shape, *, packed: bool = True,
    modalities: tuple[str, ...] = ("images", "audio"),
) -> Entry:  # fmt: skip
    """A member of the family under Google's names; only the mixture of experts has no packed variant."""
    source = f"google/gemma-4-{size}-it"
    qat = f"{source}-qat-q4_0-unquantized"
    return Entry(
        f"gemma-4-{size.lower()}", source, gigabytes, drafter=f"{source}-assistant", eight=eight, four=four,
        shape=shape, packed=f"{source}-qat-w4a16-ct" if packed else "", qat=qat, qat_drafter=f"{qat}-assistant",
        modalities=modalities,
    )  # fmt: skip


CATALOG = {
    entry.name: entry
    for entry in (
        Entry("pocket", str(_POCKET / "weights"), local=True, drafter=str(_POCKET / "drafter")),
        _entry("E2B", 11.4, 5.7, 2.9,
               Shape(35, 5, 1536, 6144, heads=8, kv_heads=1, full_kv_heads=1, window=512, context=131_072, shared=20,
                     wide=2, per_layer=256, elsewhere=476_014_112)),
        _entry("E4B", 17.9, 8.9, 4.5,
               Shape(42, 6, 2560, 10_240, heads=8, kv_heads=2, full_kv_heads=2, window=512, context=131_072, shared=18,
                     per_layer=256, elsewhere=478_647_584)),
        _entry("12B", 26.7, 13.4, 6.7,
               Shape(48, 6, 3840, 15_360, heads=16, kv_heads=8, full_kv_heads=1, window=1024, context=262_144,
                     one_projection=True, elsewhere=53_000_000)),
        _entry("26B-A4B", 57.7, 28.8, 14.4,
               Shape(30, 6, 2816, 2112, heads=16, kv_heads=8, full_kv_heads=2, window=1024, context=262_144,
                     one_projection=True, experts=128, active=8, expert=704, elsewhere=573_492_528),
               packed=False, modalities=("images",)),
        _entry("31B", 69.9, 34.9, 17.5,
               Shape(60, 6, 5376, 21_504, heads=32, kv_heads=16, full_kv_heads=4, window=1024, context=262_144,
                     one_projection=True, elsewhere=577_072_688),
               modalities=("images",)),
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
        for variant in (entry.packed, entry.qat):
            if variant and variant.lower() == text.strip().lower():
                return _variant(entry, variant)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"The folder {text!r} holds no config.json: it is not a model's folder.")
        called, where = folder.resolve().name, str(folder.resolve())
        # a name is of one model only; the path itself would go into every trace that is handed on
        return Entry(f"{called} (folder)" if called.lower() in CATALOG else called, where, local=True)
    looks_like_path = text.startswith((".", "/", "~", "\\")) or text.count("/") > 1 or "\\" in text
    if "/" in text and not looks_like_path and _HUB_ID.fullmatch(text):
        return Entry(text, text)
    near = difflib.get_close_matches(text.lower(), list(CATALOG), n=1, cutoff=0.4)
    raise ModelError(
        f"There is no model {text!r}" + (" and no such folder" if looks_like_path else "")
        + (f". Did you mean {near[0]!r}?" if near else ".") + f" Known: {', '.join(CATALOG)}; or a folder, or a hub id."
    )  # fmt: skip


def _variant(entry: Entry, source: str) -> Entry:
    """An official variant of a known model, with the drafter that was trained for it."""
    packed, qat = (source, "") if source == entry.packed else ("", source)
    return replace(entry, name=source, source=source, packed=packed, qat=qat, drafter=entry.qat_drafter, of=entry.name)
