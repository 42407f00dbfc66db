"""Keys and values of prompts seen before, so that a second question on the same picture starts behind it.

A snapshot is taken after the last picture or sound of a prompt and at its end. It costs no computation: a cache layer
of Transformers never writes into a tensor, it makes a new one, so holding on to the old one is enough.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.prompt import Feature

__all__ = ["PrefixCache", "crop", "hooks_of", "keep_all", "narrow", "rewound", "size_of", "weights_of"]


@dataclass(frozen=True, eq=False)
class _Snapshot:
    ids: np.ndarray
    media: tuple[tuple[int, int, str], ...]
    cache: Any
    bytes: int


class PrefixCache:
    """The last few snapshots, oldest dropped first.

    Args:
        most_bytes: What all snapshots together may hold. ``planning`` has room for 256 MiB in what it keeps in reserve;
            a load that leaves more free gives more (``loading.kept_most``), since a prompt of 12B takes 0.3 MB a token.
        most: How many there may be: each prompt is compared with all of them.
    """

    def __init__(self, most_bytes: int = 1 << 28, most: int = 64) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._kept: list[_Snapshot] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """What the snapshots hold."""
        return sum(s.bytes for s in self._kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def longest(self, ids: np.ndarray, features: Sequence[Feature]) -> tuple[int, Any]:
        """The longest snapshot that a prompt begins with, leaving at least one token to compute.

        Args:
            ids: (T,) of the prompt.
            features: Its media: a snapshot fits only if content and processing of each are the same.

        Returns:
            ``(length, cache)``, the cache free to be extended; ``(0, None)`` when nothing fits.
        """
        best: _Snapshot | None = None
        for snapshot in self._kept:
            n = len(snapshot.ids)
            longer = n < len(ids) and (best is None or n > len(best.ids))
            if longer and np.array_equal(snapshot.ids, ids[:n]) and snapshot.media == _media(features, n):
                best = snapshot
        if best is None:
            return 0, None
        self._kept.remove(best)
        self._kept.append(best)  # the one used last is dropped last
        return len(best.ids), rewound(best.cache, 0)

    def add(self, ids: np.ndarray, features: Sequence[Feature], cache: Any) -> None:
        """Keep a cache of exactly ``ids``; it must not be extended afterwards (hand over a copy)."""
        media = _media(features, len(ids))
        self._kept = [s for s in self._kept if not (np.array_equal(s.ids, ids) and s.media == media)]
        size = size_of(cache)
        if size > self.most_bytes:
            return
        self._kept.append(_Snapshot(np.array(ids), media, cache, size))
        while self.bytes > self.most_bytes or len(self) > self.most:
            self._kept.pop(0)


def hooks_of(transformer: Any) -> tuple[Any, ...]:
    """What a model is made of and what was hooked or replaced, by number (those of hooks are never given twice).

    Hooks of all modules, a module of another object, its class's ``forward`` and its attributes that are numbers (as
    ``self_attn.scaling`` is) count too. Not what changes nothing: a module's own ``forward`` put back in its place, and
    the hooks by which Transformers copies states out, which it puts on at the first ``output_hidden_states=True`` and
    never takes off.
    """
    from torch.nn.modules import module as every

    found: list[Any] = [*every._global_forward_hooks, *every._global_forward_pre_hooks]  # noqa: SLF001 (no other way to see)
    for k, module in enumerate(transformer.modules()):
        own = vars(module)
        kind: Any = type(module)
        hooks = [
            number
            for number, hook in (*own["_forward_hooks"].items(), *own["_forward_pre_hooks"].items())
            if getattr(hook, "__module__", None) != "transformers.utils.output_capturing"
        ]
        forward = own.get("forward")
        if forward == kind.forward.__get__(module):
            forward = None
        derived = _derived(kind)
        numbers = [
            pair for pair in own.items() if type(pair[1]) in _NUMBERS and pair[0][0] != "_" and pair[0] not in derived
        ]
        found.append((id(module), id(kind.forward), *numbers))
        if hooks or forward is not None:
            found.append((k, *hooks, id(forward)))
    return tuple(found)


_NUMBERS = frozenset((float, int, bool))


@functools.cache
def _derived(kind: type) -> frozenset[str]:
    """Names of a class's cached properties, which are there from when they were first asked for."""
    return frozenset(name for name in dir(kind) if isinstance(getattr(kind, name, None), functools.cached_property))


def weights_of(transformer: Any) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Of each weight where it lies and how often it was written to, and a sum of its bits.

    The sums see what torch does not count, as writes through ``.data``: those of a model of up to 64 MB whatever it is,
    those of a larger one what changes one in some hundred numbers of a weight, since they are of a sample.
    """
    import torch

    weights = [*transformer.parameters(), *transformer.buffers()]
    plain = [type(w) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) for w in weights]
    places = tuple(
        (id(w), w.data_ptr() if own else 0, 0 if w.is_inference() else w._version)  # noqa: SLF001
        for w, own in zip(weights, plain, strict=True)
    )
    held = [w.detach() for w, own in zip(weights, plain, strict=True) if own and w.device.type != "meta" and w.numel()]
    every = sum(w.numel() * w.element_size() for w in held) <= _SUMMED
    by_device: dict[Any, list[Any]] = {}
    for w in held:
        by_device.setdefault(w.device, []).extend(_sums(w, every=every))
    # one wait for each device
    return places, tuple(n for sums in by_device.values() for n in torch.stack(sums).tolist())


_SUMMED = 64_000_000  # bytes; pocket's 18 MB take 2 ms
_SAMPLE = 512  # of each weight of a larger model: 15 µs a weight


def _sums(weight: Any, *, every: bool) -> list[Any]:
    """Sums of bits as whole numbers, which come out the same in any order; of a half too, so that an order counts."""
    import torch

    bits = weight.reshape(-1)
    bits = bits.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[bits.element_size()])
    if not every:
        bits = bits[:: max(1, len(bits) // _SAMPLE) | 1]  # odd, so that it goes through rows and columns
    elif weight.is_contiguous() and weight.data_ptr() % 8 == 0 and len(bits) * bits.element_size() % 8 == 0:
        bits = bits.view(torch.int64)  # a tenth of the time
    return [bits.sum(dtype=torch.int64), bits[: len(bits) // 2].sum(dtype=torch.int64)]


def _media(features: Sequence[Feature], n: int) -> tuple[tuple[int, int, str], ...]:
    return tuple((f.start, f.stop, f.key) for f in features if f.start < n)


def size_of(cache: Any) -> int:
    """Bytes of a cache's keys and values."""
    return sum(t.numel() * t.element_size() for layer in cache.layers if layer.is_initialized
               for t in (layer.keys, layer.values))  # fmt: skip


def keep_all(cache: Any) -> None:
    """Let sliding layers keep what leaves the window until :func:`keep_window`, so that it can be rewound to."""
    for layer in cache.layers:
        if layer.is_sliding:
            layer.record_past = True


@contextmanager
def narrow(cache: Any, at: int | None = None) -> Iterator[Callable[[], Any]]:
    """For the pass over a prompt: each sliding layer drops, as soon as it has run, what no later token can see.

    Left alone it keeps a view of all its keys until the next token: at 8,192 tokens 2.7 GB of 12B instead of 0.3.

    Args:
        cache: What the pass fills.
        at: A number of tokens, within those of the pass.

    Yields:
        After the pass, a copy of the cache as it was at that many tokens.
    """
    at_mark: dict[int, Any] = {}
    sliding = [layer for layer in cache.layers if layer.is_sliding]

    def narrowed(layer: Any) -> Callable[..., Any]:
        def update(*given: Any, **more: Any) -> Any:
            first = layer.cumulative_length - (layer.keys.shape[-2] if layer.is_initialized else 0)
            full = type(layer).update(layer, *given, **more)
            if at is not None:
                marked = copy.copy(layer)
                del marked.update
                start, stop = max(at - layer.sliding_window + 1, first) - first, at - first
                marked.keys, marked.values = (_own(t[..., start:stop, :]) for t in full)
                marked.cumulative_length = at
                at_mark[id(layer)] = marked
            _cut(layer, 0)
            return full

        return update

    def then() -> Any:
        out = copy.copy(cache)
        out.layers = [at_mark.get(id(layer)) or copy.copy(layer) for layer in cache.layers]
        for layer in out.layers:
            if not layer.is_sliding:
                _cut(layer, layer.keys.shape[-2] - at if layer.is_initialized else 0)
        return out

    for layer in sliding:
        layer.update = narrowed(layer)
    try:
        yield then
    finally:
        for layer in sliding:
            del layer.update


def crop(cache: Any, tokens: int) -> None:
    """Drop the last ``tokens`` tokens in place, and what then no later token can see.

    Under :func:`keep_all`. The tensors become views: the next pass copies them anyway.
    """
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        stop = layer.keys.shape[-2] - tokens
        start = max(stop - layer.sliding_window + 1, 0) if layer.is_sliding else 0
        if layer.is_sliding:
            layer.cumulative_length -= tokens
        if start or tokens:
            layer.keys, layer.values = layer.keys[..., start:stop, :], layer.values[..., start:stop, :]


def rewound(cache: Any, tokens: int) -> Any:
    """A copy without the last ``tokens`` tokens, sliding layers cut to their window.

    Sliding layers must still hold what the shorter sequence sees (:func:`keep_all`), unless ``tokens`` is 0.
    """
    out = copy.copy(cache)
    out.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in out.layers:
        if layer.is_sliding:
            layer.record_past = False
        if layer.is_initialized:
            _cut(layer, tokens)
    return out


def _cut(layer: Any, tokens: int) -> None:
    if not layer.is_initialized:
        return
    held = layer.keys.shape[-2]
    stop = held - tokens
    start = max(stop - layer.sliding_window + 1, 0) if layer.is_sliding else 0
    if layer.is_sliding:
        layer.cumulative_length -= tokens
    layer.keys, layer.values = (_own(t[..., start:stop, :]) for t in (layer.keys, layer.values))


def _own(part: Any) -> Any:
    """A tensor that shares no memory with a longer one, which it would keep alive."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()
