"""What would be loaded here, and whether it fits: looked up and counted, nothing fetched.

    workbench.plan("gemma-4-12b")

Free memory is compared with what a run takes: weights as they would be held, the drafter, keys and values for the
context, working memory, and a reserve for everything else on the machine. Of a folder, the headers of its files are
read; of a model that has not been fetched, the catalog's numbers stand.
"""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench import headers
from workbench.catalog import CATALOG, Entry, find
from workbench.errors import DoesNotFit, ModelError
from workbench.machine import Device, Machine, Pace, machine, pace

__all__ = ["LoadPlan", "Option", "made_of", "plan", "refuse"]

CONTEXT = 8192  # tokens whose keys and values are counted when no context is asked for; the cache grows as it is used
_DRAFTER = 0.85e9  # bytes of a drafter in 16 bit (423 M parameters)
_SCHEMES = ("none", "int8", "int4+16", "int4")
_LINEAR = {
    "none": 2.0,
    "int8": 1.0,
    "int4+16": 0.625,
    "int4": 0.625,
    "nf4": 0.56,
    "bnb-int8": 1.0,
    "torchao-int8": 1.0,
    "metal": 0.625,
}
_ENDS = {
    "none": 2.0,
    "int8": 1.0,
    "int4+16": 2.0,
    "int4": 1.0,
    "nf4": 2.0,
    "bnb-int8": 2.0,
    "torchao-int8": 2.0,
    "metal": 2.0,
}
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Option:
    """One way to load a model.

    Attributes:
        variant: Folder or hub id of the weights.
        quantization: As ``load`` takes it.
        device: ``cpu``, ``cuda:0``, ``mps`` …
        weights, drafter, cache, working, reserve: Bytes of each.
        download: Bytes that would be fetched; 0 when it lies on this disk.
        free: Bytes free on the device; None where the system does not say.
        fits: Whether all of it does.
        why: Why it was taken or not.
    """

    variant: str
    quantization: str
    device: str
    weights: int
    drafter: int
    cache: int
    working: int
    reserve: int
    download: int
    free: int | None
    fits: bool
    why: str = ""

    @property
    def bytes(self) -> int:
        """What a run takes, the reserve included."""
        return self.weights + self.drafter + self.cache + self.working + self.reserve


@dataclass(frozen=True)
class LoadPlan:
    """What ``workbench.load`` would do with the same arguments.

    Attributes:
        name: What was asked for.
        taken: The option it takes.
        options: All that were looked at, the taken one included, best first.
        context: Tokens of context that were counted.
        first_token, tokens_a_second: Predicted from a short measurement of this machine, for a question with one
            picture (300 tokens); None where nothing was measured, as on devices other than the CPU.
        advice: What would make it quicker or make it fit; may be empty.
    """

    name: str
    taken: Option
    options: tuple[Option, ...]
    context: int
    first_token: float | None = None
    tokens_a_second: float | None = None
    advice: str = ""

    variant = property(lambda self: self.taken.variant, doc="Folder or hub id of the weights.")
    device = property(lambda self: self.taken.device, doc="Where it would run.")
    quantization = property(lambda self: self.taken.quantization, doc="As ``load`` takes it.")
    bytes = property(lambda self: self.taken.bytes, doc="What a run takes, the reserve included.")
    fits = property(lambda self: self.taken.fits, doc="Whether that much is free.")
    why = property(lambda self: self.taken.why, doc="Why this option.")

    def _summary(self) -> str:
        t = self.taken
        if not t.weights:
            return (
                f"{self.name}: {t.variant} on {t.device}: {t.why}.\n"
                f"Fetch it (hf download {t.variant}) and plan the folder that this prints."
            )
        free = "free memory is not known" if t.free is None else f"{_gb(t.free)} free"
        verdict = "fits" if t.fits else "DOES NOT FIT"
        parts = [f"{_gb(getattr(t, name))} {name}" for name in ("weights", "drafter", "cache", "working", "reserve")]
        parts = [part for part in parts if not part.startswith("0 ")]
        lines = [
            f"{self.name}: {t.variant}, quantization={t.quantization!r}, on {t.device}: {verdict}",
            f"needs {_gb(t.bytes)} ({', '.join(parts)}) for {self.context:,} tokens of context; {free}",
            "nothing to fetch" if not t.download else f"to be fetched: {_gb(t.download)}",
        ]
        if self.tokens_a_second and self.first_token:
            lines.append(
                f"expected: {self.first_token:.1f} s to the first word of an answer about a picture, then "
                f"{self.tokens_a_second:.1f} tokens a second"
            )
        return "\n".join([*lines, *([self.advice] if self.advice else [])])

    def __repr__(self) -> str:
        rows = [("", "variant", "as", "on", "needs", "fetch", "why"), *map(_row, self.options)]
        rows = [(">" if o is self.taken else " ", *r[1:]) for o, r in zip((None, *self.options), rows, strict=True)]
        widths = [max(len(r[k]) for r in rows) for k in range(6)]
        table = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(r[:6], widths, strict=True)), r[6]]).rstrip()
            for r in rows
        ]
        return "\n".join([self._summary(), "", *table])

    def _repr_html_(self) -> str:
        head = "".join(f"<th scope='col' style='text-align:left'>{n}</th>"
                       for n in ("", "variant", "as", "on", "needs", "fetch", "why"))  # fmt: skip
        body = ""
        for option in self.options:
            cells = ["taken" if option is self.taken else "", *_row(option)[1:]]
            line = "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in cells)
            body += f"<tr>{line}</tr>"
        words = "<br>".join(map(html.escape, self._summary().splitlines()))
        return f"<div><p>{words}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def plan(
    name: str | os.PathLike = "pocket",
    *,
    variant: str | None = None,
    quantization: str | None = None,
    device: str | None = None,
    drafter: str | os.PathLike | bool | None = None,
    context: int | None = None,
    measure: bool = True,
    here: Machine | None = None,
) -> LoadPlan:
    """What ``workbench.load`` would do with the same arguments, and whether it fits.

    Args:
        name, variant, quantization, device, drafter, context: As for ``workbench.load``.
        measure: Measure this machine for two seconds, for the predicted speed.
        here: What the machine has; None looks.

    Returns:
        The option that ``load`` takes and those it passed over, in bytes; ``fits`` says whether that much is free.

    Raises:
        ModelError: An unknown name, quantization or device, or a folder whose weights cannot be read.
    """
    if quantization is not None and quantization not in _LINEAR:
        raise ModelError(f"quantization={quantization!r} is not known; expected None or one of {', '.join(_LINEAR)}.")
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise ModelError(f"context={context!r}: expected a whole number of tokens, 1 or more.")
    entry = find(name)
    source = entry if variant is None else find(variant)
    if source.local and context is not None:
        config = headers.config(Path(source.source))
        limit = int(config.get("text_config", config).get("max_position_embeddings") or context)
        if context > limit:
            raise ModelError(f"context={context:,}: {entry.name} goes up to {limit:,} tokens.")
    here = here or machine()
    made = _looked_at(
        entry, source, quantization, device, drafter, context or CONTEXT, here, chosen=variant is not None
    )
    if not made.fits:
        return replace(made, advice=_nearest(entry, made.taken, made.context, here))
    if measure and made.device == "cpu" and entry.name != "pocket" and made.taken.weights:
        made = _predicted(made, pace())
    return made


def _looked_at(
    entry: Entry, source: Entry, quantization: str | None, device: str | None,
    drafter: str | os.PathLike | bool | None, tokens: int, here: Machine, *, chosen: bool = False,
) -> LoadPlan:  # fmt: skip
    """The plan without what is measured and without advice."""
    devices = [d for d in here.devices if device is None or device in (d.name, d.name.partition(":")[0])]
    if not devices:
        raise ModelError(f"device={device!r} is not there; this machine has {', '.join(d.name for d in here.devices)}.")
    if entry.name == "pocket" and device is None:
        devices = [d for d in devices if d.name == "cpu"]
    with_drafter = drafter is not False and bool(drafter or entry.drafter)
    options = [
        _option(kind, scheme, where, tokens, here, drafter=with_drafter)
        for where in devices
        for kind, scheme in _ways(source, quantization, where, chosen=chosen)
    ]
    nearest = min(range(len(options)), key=lambda k: options[k].bytes - (options[k].free or 0))
    best = next((k for k, o in enumerate(options) if o.fits), nearest)
    options = [replace(o, why=_why(o, options[best], alone=len(options) == 1)) for o in options]
    return LoadPlan(entry.name, options[best], tuple(options), tokens)


def refuse(made: LoadPlan) -> DoesNotFit:
    """The error for a plan that does not fit: what is missing, and the nearest that does."""
    t = made.taken
    free = t.free or 0
    return DoesNotFit(
        f"{made.name} needs {_gb(t.bytes)} on {t.device} (weights {_gb(t.weights)}, drafter {_gb(t.drafter)}, cache "
        f"{_gb(t.cache)}, working memory {_gb(t.working)}, reserve {_gb(t.reserve)}); {_gb(free)} are free. Free "
        f"{_gb(t.bytes - free)}, or pass force=True. {made.advice}"
    )


def _ways(entry: Entry, asked: str | None, device: Device, *, chosen: bool) -> list[tuple[Entry, str]]:
    """Variants and schemes to look at, the preferred first."""
    if entry.local:
        held = _stored(Path(entry.source))
        others = [asked] if asked else [s for s in ("int8", "int4") if held == "none" and entry.name != "pocket"]
        first = [] if asked and asked != held else [held]
        return [(entry, s) for s in dict.fromkeys([*first, *others])]
    plain = [(entry, s) for s in ("int4", "int8", "none")]
    if entry.packed and entry.of:  # the packed variant itself
        return [(entry, asked or "int4")]
    if entry.packed and not chosen:
        plain.insert(0, (find(entry.packed), "int4"))
    if entry.shape is None or entry.shape.experts:  # a hub id that the catalog does not know: as it is stored
        plain = [(entry, "none")]
    if device.kind == "cuda":  # where it fits, 16 bit is quick there and loses nothing
        plain = [plain[-1], *plain[:-1]]
    ways = [(e, s) for e, s in plain if asked in (None, s)]
    return ways or [(entry, str(asked))]


def _option(entry: Entry, scheme: str, device: Device, tokens: int, here: Machine, *, drafter: bool) -> Option:
    weights, cache, width = _counted(entry, scheme, tokens)
    small = weights < 1e9
    working = width * 512 + (0 if small else int(0.4e9))
    reserve = 0 if small else int(0.6e9)
    own_drafter = int(min(_DRAFTER, weights * 0.3)) if drafter else 0
    download = 0 if entry.local or here.cached(entry.source) else int(_fetched(entry))
    if own_drafter and not entry.local and not here.cached(entry.drafter):
        download += own_drafter
    needed = weights + own_drafter + cache + working + reserve
    fits = device.free is None or needed <= device.free
    why = "" if weights else "its size is not known before it is here"
    if fits and download and here.disk_free is not None and download > here.disk_free:
        fits, why = False, f"the disk has {_gb(here.disk_free)} free"
    return Option(
        entry.source, scheme, device.name, weights, own_drafter, cache, working, reserve, download, device.free, fits,
        why,
    )  # fmt: skip


def _why(option: Option, best: Option, *, alone: bool) -> str:
    if option.why:
        return option.why
    if not option.fits:
        return f"{_gb(option.bytes - (option.free or 0))} short"
    if option is best:
        return "the only way" if alone else "the best that fits"
    if option.device != best.device:
        return f"{best.device} is quicker"
    if option.download > best.download and option.quantization == best.quantization:
        return "the same size in memory, and more to fetch"
    return "fits too, but is slower: more bytes a token" if option.weights > best.weights else "fits too, but rounds"


def _nearest(entry: Entry, taken: Option, tokens: int, here: Machine) -> str:
    """In words: what would fit in place of what does not."""
    if taken.quantization == "none" and not (entry.shape and entry.shape.experts):
        name = entry.source if entry.local else entry.name
        for scheme in ("int8", "int4"):
            if _looked_at(entry, entry, scheme, None, None, tokens, here).fits:
                return f"What fits: workbench.load({name!r}, quantization={scheme!r})."
    for other in sorted(CATALOG.values(), key=lambda e: -e.gigabytes):
        smaller = other.gigabytes < (entry.gigabytes or float("inf")) and other.name != entry.name
        if smaller and _looked_at(other, other, None, None, None, tokens, here).fits:
            return f"What fits: workbench.load({other.name!r})."
    return "Nothing of the catalog fits into so little."


def _predicted(made: LoadPlan, measured: Pace) -> LoadPlan:
    t = made.taken
    used = t.weights * _used(find(t.variant))
    a_token = used / measured.bytes_a_second
    numbers = used / _LINEAR.get(t.quantization, 2.0)
    first = 300 * 2 * numbers / measured.operations_a_second + a_token
    advice = ""
    if first > 30:
        advice = "Slow here: ask with image_tokens=70, which quarters the wait for the first word"
        smaller = next((e.name for e in CATALOG.values() if 0 < e.gigabytes < CATALOG.get(made.name, e).gigabytes), "")
        advice += f", or take {smaller}." if smaller else "."
    return replace(made, first_token=first, tokens_a_second=1 / a_token, advice=advice)


# --- counting ---------------------------------------------------------------------------------------------------------


def _counted(entry: Entry, scheme: str, tokens: int) -> tuple[int, int, int]:
    """Bytes of the weights as held, bytes of keys and values, and bytes of intermediate numbers a token."""
    if entry.local:
        return _folder(Path(entry.source), scheme, tokens, wide=entry.name == "pocket")
    shape = entry.shape
    if shape is None:
        return 0, 0, 0  # a hub id we know nothing of: its configuration says more once it is here
    weights = shape.linear * _LINEAR[scheme] + shape.embeddings * _ENDS[scheme]
    weights += (shape.in_experts + shape.elsewhere) * 2
    return int(weights), shape.cache(tokens), 200_000


def _used(entry: Entry) -> float:
    """The share of the weights that one token needs: less than all of them in a mixture of experts."""
    shape = entry.shape
    idle = shape.in_experts * (1 - shape.active / shape.experts) if shape and shape.experts else 0
    return 1 - idle / shape.weights if shape else 1.0


def _fetched(entry: Entry) -> float:
    shape = entry.shape
    if shape is None:
        return 0.0
    if entry.packed and entry.of:  # 4 bits and a 16-bit scale for 32 of them; the embedding in 16 bit
        return shape.linear * 0.5625 + (shape.embeddings + shape.elsewhere) * 2
    return shape.weights * 2.0


def made_of(entry: Entry) -> str:
    """The hub id that weights were made of: of a packed folder, what it says; of others, what they are."""
    if not entry.local:
        return entry.source
    declared = headers.config(Path(entry.source)).get("quantization_config") or {}
    return str(declared.get("source") or entry.source)


def _stored(folder: Path) -> str:
    """What a folder's weights are held as when nothing is asked."""
    declared = headers.config(folder).get("quantization_config") or {}
    return str(declared.get("scheme") or ("int4" if declared.get("quant_method") == "compressed-tensors" else "none"))


def _folder(folder: Path, scheme: str, tokens: int, *, wide: bool) -> tuple[int, int, int]:
    linear = ends = other = packed = 0
    item = 0
    config = headers.config(folder)
    wide = wide or "float32" in (config.get("dtype"), config.get("torch_dtype"))  # whatever the files hold it as
    for key, kind, shape in headers.tensors(folder):
        count = 1
        for length in shape:
            count *= length
        size = _SIZES.get(kind, 2)
        text = not any(word in key for word in ("vision", "audio"))
        if key.endswith(("weight_packed", "weight_scale")) and kind != "I64":
            packed += count * size * (2 if key.endswith("weight_scale") and len(shape) == 2 else 1)
        elif text and "embed_tokens" in key:
            ends, item = ends + count, max(item, size)
        elif text and _packable(key) and len(shape) == 2 and shape[1] % 32 == 0:
            linear, item = linear + count, max(item, size)
        else:
            other += count * (4 if wide else size)
    item = 4 if wide else item or 2
    weights = packed + other
    weights += linear * item if scheme == "none" or packed else int(linear * _LINEAR.get(scheme, 2.0))
    weights += int(ends * (_ENDS[scheme] if scheme in ("int4", "int8") else item))
    text_config = config.get("text_config", config)
    return weights, _cache(text_config, tokens, 4 if wide else 2), int(text_config.get("intermediate_size", 0)) * 8


def _packable(key: str) -> bool:
    """Whether a matrix of the text model is a linear layer that is packed."""
    return (".layers." in key and ".router." not in key) or key.endswith("per_layer_model_projection.weight")


def _cache(text: dict[str, Any], tokens: int, item: int) -> int:
    """Bytes of keys and values, from a text configuration."""
    kinds = text.get("layer_types") or ["full_attention"] * int(text.get("num_hidden_layers", 0))
    window = int(text.get("sliding_window") or tokens)
    own = len(kinds) - int(text.get("num_kv_shared_layers") or 0)
    total = 0
    for k, kind in enumerate(kinds[:own]):
        special = (text.get("per_layer_config") or {}).get(str(k), {})
        full = kind == "full_attention"
        heads = special.get("num_key_value_heads") or (full and text.get("num_global_key_value_heads"))
        size = special.get("head_dim") or (full and text.get("global_head_dim"))
        width = int(heads or text.get("num_key_value_heads", 1)) * int(size or text.get("head_dim", 256))
        total += 2 * item * width * (tokens if full else min(tokens, window))
    return total


def _row(option: Option) -> tuple[str, ...]:
    fetch = _gb(option.download) if option.download else "-"
    return ("", option.variant, option.quantization, option.device, _gb(option.bytes), fetch, option.why)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.0f} MB"
