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

from workbench.catalog import CATALOG, Entry, find
from workbench.counting import DRAFTER, LINEAR, counted, fetched_bytes, limit, stored_schemes, used
from workbench.errors import DoesNotFit, Incompatible, ModelError
from workbench.fetching import RESERVE
from workbench.machine import Device, Machine, Pace, machine, pace

__all__ = ["LoadPlan", "Option", "of_one_source", "plan", "refuse"]

CONTEXT = 8192  # tokens whose keys and values are counted when no context is asked for; the cache grows as it is used


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
        fits: Whether all of it does; the disk counts where something has to be fetched.
        lacks: What there is too little of: ``memory`` or ``disk``; empty where it fits.
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
    lacks: str = ""

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
        verdict = "fits" if t.fits else "DOES NOT FIT" if t.lacks != "disk" else f"DOES NOT FIT: {t.why}"
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
    if quantization is not None and (not isinstance(quantization, str) or quantization not in LINEAR):
        raise ModelError(f"quantization={quantization!r} is not known; expected None or one of {', '.join(LINEAR)}.")
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise ModelError(f"context={context!r}: expected a whole number of tokens, 1 or more.")
    entry = find(name)
    source = entry if variant is None else find(variant)
    most = limit(source)
    if context is not None and most is not None and context > most:
        raise ModelError(f"context={context:,}: {entry.name} goes up to {most:,} tokens.")
    here = here or machine()
    asked: dict[str, Any] = {
        "quantization": quantization, "device": device, "drafter": drafter, "tokens": context or CONTEXT,
    }  # fmt: skip
    made = _looked_at(entry, source, here, chosen=of_one_source(name, variant), **asked)
    if not made.fits:
        named = entry.source if entry.local and entry.name != "pocket" else entry.name
        pinned = {"variant": variant} if variant is not None else {}
        return replace(made, advice=_nearest(entry, source, made.taken, here, asked, named, pinned))
    if measure and made.device == "cpu" and entry.name != "pocket" and made.taken.weights:
        made = _predicted(made, pace())
    return made


def of_one_source(name: str | os.PathLike, variant: str | None = None) -> bool:
    """Whether the weights themselves are named, by hub id or folder, so that no variant of theirs is taken instead."""
    return variant is not None or os.fspath(name).strip().lower() not in CATALOG


def _looked_at(
    entry: Entry, source: Entry, here: Machine, *, tokens: int, quantization: str | None = None,
    device: str | None = None, drafter: str | os.PathLike | bool | None = None, chosen: bool = False,
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
    nearest = min(range(len(options)), key=lambda k: _short(options[k]))
    fitting = [k for k, o in enumerate(options) if o.fits]
    if here.offline:  # what lies on this disk before what would have to be fetched
        fitting.sort(key=lambda k: options[k].download > 0)
    best = next(iter(fitting), nearest)
    if source.local and quantization is None:
        # load reads a folder as it is stored, unless it is told how to pack: the others are advice
        stored = [k for k, o in enumerate(options) if o.quantization == options[0].quantization]
        best = next((k for k in stored if options[k].fits), min(stored, key=lambda k: _short(options[k])))
    options = [replace(o, why=_why(o, options[best], alone=len(options) == 1)) for o in options]
    if source.shape and source.shape.experts:
        options = [replace(o, why=f"{o.why}; experts stay in 16 bit") for o in options]
    return LoadPlan(entry.name, options[best], tuple(options), tokens)


def refuse(made: LoadPlan) -> DoesNotFit:
    """The error for a plan that does not fit: what is missing, and the nearest that does."""
    t = made.taken
    free = t.free or 0
    if t.lacks == "disk":
        return DoesNotFit(
            f"{made.name}: {_gb(t.download)} have to be fetched, and {t.why}. Make room, or set HF_HOME to a folder on "
            f"another disk. {made.advice}"
        )
    return DoesNotFit(
        f"{made.name} needs {_gb(t.bytes)} on {t.device} (weights {_gb(t.weights)}, drafter {_gb(t.drafter)}, cache "
        f"{_gb(t.cache)}, working memory {_gb(t.working)}, reserve {_gb(t.reserve)}); {_gb(free)} are free. Free "
        f"{_gb(t.bytes - free)}, or pass force=True. {made.advice}"
    )


def _ways(entry: Entry, asked: str | None, device: Device, *, chosen: bool) -> list[tuple[Entry, str]]:
    """Variants and schemes to look at, the preferred first."""
    if entry.local:
        held = stored_schemes(Path(entry.source))
        if asked and held and asked not in held:
            raise Incompatible(
                f"These weights are stored as {held[0]}: load them with quantization=None, not {asked!r}."
            )
        if held or entry.name == "pocket":
            return [(entry, asked or (*held, "none")[0])]
        return [(entry, s) for s in ("none", "int8", "int4") if asked in (None, s)] or [(entry, str(asked))]
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
    as_stored = device.name == "cpu" and here.compiles
    weights, cache, width = counted(entry, scheme, tokens, as_stored=as_stored)
    small = weights < 1e9
    working = width * 512 + (0 if small else int(0.4e9))
    reserve = 0 if small else int(0.6e9)
    own_drafter = int(min(DRAFTER, weights * 0.3)) if drafter else 0
    download = 0 if entry.local or here.cached(entry.source) else int(fetched_bytes(entry))
    if own_drafter and not entry.local and not here.cached(entry.drafter):
        download += own_drafter
    needed = weights + own_drafter + cache + working + reserve
    fits = device.free is None or needed <= device.free
    why = "" if weights else "its size is not known before it is here"
    lacks = "" if fits else "memory"
    if fits and download and here.disk_free is not None and download + RESERVE > here.disk_free:
        fits, lacks, why = False, "disk", f"the disk has {_gb(here.disk_free)} free, {_gb(RESERVE)} of which stay so"
    return Option(
        entry.source, scheme, device.name, weights, own_drafter, cache, working, reserve, download, device.free, fits,
        why, lacks,
    )  # fmt: skip


def _short(option: Option) -> int:
    return option.bytes - (option.free or 0)


def _why(option: Option, best: Option, *, alone: bool) -> str:
    if option.why:
        return option.why
    if not option.fits:
        return f"{_gb(_short(option))} short"
    if option is best:
        return "the only way" if alone else "the best that fits"
    if not best.fits:
        return f"fits, with quantization={option.quantization!r}"
    if option.device != best.device:
        return f"{best.device} is quicker"
    if option.download > best.download and option.quantization == best.quantization:
        return "the same size in memory, and more to fetch"
    return "fits too, but is slower: more bytes a token" if option.weights > best.weights else "fits too, but rounds"


def _nearest(
    entry: Entry, source: Entry, taken: Option, here: Machine, asked: dict[str, Any], name: str, pinned: dict[str, Any]
) -> str:
    """In words: what would fit in place of what does not. The same model with one thing less; else a smaller one."""
    less: list[dict[str, Any]] = []
    if not (source.shape and source.shape.experts):
        smaller = [s for s in ("int8", "int4") if LINEAR[s] < LINEAR[taken.quantization]]
        less += [{"quantization": s} for s in smaller if not source.local or not stored_schemes(Path(source.source))]
    less += [{"drafter": False}] if taken.drafter else []
    less += [{"tokens": CONTEXT}] if asked["tokens"] > CONTEXT else []
    less += [{"device": None}] if asked["device"] else []
    for change in less:
        with_less = {**asked, **change}
        if _looked_at(entry, source, here, chosen=bool(pinned), **with_less).fits:
            return f"What fits: {_call(name, {**pinned, **with_less})}."
    for other in sorted(CATALOG.values(), key=lambda e: -e.gigabytes):
        fewer = other.gigabytes < (entry.gigabytes or float("inf")) and other.name != entry.name
        if not fewer or asked["tokens"] > (limit(other) or 0):
            continue
        where = {"device": asked["device"], "tokens": asked["tokens"]}
        if _looked_at(other, other, here, **where).fits:
            return f"What fits: {_call(other.name, where)}."
    return "Nothing of the catalog fits into so little."


def _call(name: str, given: dict[str, Any]) -> str:
    """The call of ``load`` with these arguments; those that it takes anyway are left out."""
    tokens = given.get("tokens", CONTEXT)
    said = {k: v for k, v in given.items() if v is not None and k != "tokens"}
    said |= {"context": tokens} if tokens != CONTEXT else {}
    return f"workbench.load({', '.join([repr(name), *(f'{k}={v!r}' for k, v in said.items())])})"


def _predicted(made: LoadPlan, measured: Pace) -> LoadPlan:
    t = made.taken
    read = t.weights * used(find(t.variant))
    a_token = read / measured.bytes_a_second
    numbers = read / LINEAR.get(t.quantization, 2.0)
    first = 300 * 2 * numbers / measured.operations_a_second + a_token
    advice = ""
    if first > 30:
        advice = "Slow here: ask with image_tokens=70, which quarters the wait for the first word"
        smaller = next((e.name for e in CATALOG.values() if 0 < e.gigabytes < CATALOG.get(made.name, e).gigabytes), "")
        advice += f", or take {smaller}." if smaller else "."
    return replace(made, first_token=first, tokens_a_second=1 / a_token, advice=advice)


def _row(option: Option) -> tuple[str, ...]:
    fetch = _gb(option.download) if option.download else "-"
    return ("", option.variant, option.quantization, option.device, _gb(option.bytes), fetch, option.why)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.0f} MB"
