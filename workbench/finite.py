"""Numbers that are not finite end a run, with the layer that made them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["NotFinite", "check", "culprit", "refusal"]


class NotFinite(Exception):  # noqa: N818 (said inside the package alone; the user gets a ModelError)
    """A row of logits holds NaN or infinity."""


def check(logits: torch.Tensor) -> None:
    """Raise :class:`NotFinite` unless all numbers are finite; one sum, since NaN and infinity survive it."""
    if not math.isfinite(float(logits.sum())):
        raise NotFinite


def culprit(transformer: Any, again: Callable[[], Any]) -> str | None:
    """The first module whose output is not finite, by name; of nested ones the innermost.

    Args:
        transformer: Its modules are watched.
        again: Runs the pass in question once more.
    """
    import torch

    found: list[str] = []

    def look(name: str, _module: Any, _given: Any, out: Any) -> None:
        if found:
            return
        tensors = [out] if isinstance(out, torch.Tensor) else [*out.values()] if isinstance(out, dict) else out
        for tensor in tensors if isinstance(tensors, list | tuple) else ():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                found.append(name)
                return

    hooks = [m.register_forward_hook(partial(look, name)) for name, m in transformer.named_modules() if name]
    try:
        again()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def refusal(where: str | None, token: int) -> ModelError:
    """What the user is told.

    Args:
        where: The module, if it was found.
        token: Which generated token could not be chosen, counted from 0.
    """
    begins = f"They begin in {where}" if where else "In a second pass over the same tokens they are finite"
    return ModelError(
        f"The logits of generated token {token} are not finite (NaN or infinity). {begins}. Weights may be damaged, "
        "or 16-bit floating point is too narrow for this layer: load the model with another quantization= or device=, "
        "or run `workbench doctor --selftest` on it."
    )
