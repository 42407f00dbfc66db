"""Muon for the matrices inside the layers, AdamW for everything else.

Muon (https://kellerjordan.github.io/posts/muon) makes each matrix update orthogonal by a few Newton-Schulz steps; on
this model it learns about twice as much a step as AdamW alone. Matrices of one shape are treated together.
"""

from __future__ import annotations

from collections import defaultdict

import torch

__all__ = ["EYES", "Optimizer", "orthogonal"]

EYES = 0.4


def orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly, of a stack (N, R, C)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(steps):
        y = x @ x.transpose(1, 2)
        x = a * x + (b * y + c * (y @ y)) @ x
    return x.transpose(1, 2) if tall else x


def _of_patches(name: str) -> bool:
    """Whether a parameter maps pixels: the eyes' own but for the embedding of places, of which a patch is one."""
    return "embed_vision" in name and "pos_embedding" not in name


class Optimizer:
    """Both optimizers behind one ``step``.

    Args:
        model: parameters of decoder layers with two dimensions go to Muon, the others to AdamW.
        muon, adam: learning rates, scaled by ``step``'s argument. The maps of patches learn at ``EYES`` times AdamW's:
            each of their weights sees thousands of correlated pixels, and faster they shake.
        decay: decoupled weight decay of the matrices.
    """

    def __init__(self, model: torch.nn.Module, muon: float, adam: float, decay: float = 0.01) -> None:
        inner = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.matrices = [p for n, p in inner if p.ndim == 2 and ".layers." in n]
        chosen = {id(p) for p in self.matrices}
        others = [(n, p) for n, p in inner if id(p) not in chosen]
        self.rate, self.decay = muon, decay
        groups = [
            {"params": [p for n, p in others if _of_patches(n) is eyes], "rate": adam * (EYES if eyes else 1.0)}
            for eyes in (False, True)
        ]
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=adam, betas=(0.9, 0.97), weight_decay=0.0, foreach=True
        )
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.shapes: dict[torch.Size, list[int]] = defaultdict(list)
        for k, p in enumerate(self.matrices):
            self.shapes[p.shape].append(k)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at ``factor`` times the learning rates; gradients are dropped afterwards."""
        for group in self.adam.param_groups:
            group["lr"] = group["rate"] * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for shape, members in self.shapes.items():
            updates = []
            for k in members:
                g = self.matrices[k].grad
                self.momentum[k].lerp_(g, 0.05)
                updates.append(g.lerp(self.momentum[k], 0.95))
            scale = self.rate * factor * max(1.0, shape[0] / shape[1]) ** 0.5
            for k, u in zip(members, orthogonal(torch.stack(updates)), strict=True):
                self.matrices[k].mul_(1 - self.rate * factor * self.decay).sub_(u, alpha=scale)
                self.matrices[k].grad = None

    def state_dict(self) -> dict:
        """Everything needed to go on."""
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict) -> None:
        """Go on from ``state_dict``'s."""
        self.adam.load_state_dict(state["adam"])
        for mine, theirs in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(theirs)
