"""Many questions over one picture in one row: prompts as trees, packed, with the masks Gemma 4 means.

A ``Tree`` is a prefix (the beginning of a prompt with its media) and branches that each go on from it: a question and
its answer, or a short conversation. Branches see the prefix and themselves only and their positions go on from the
prefix, so each is computed exactly as if it stood alone, while the picture is paid for once. Several trees share a row.

The masks (see GEMMA 4's authors' note in transformers #46711): full layers are causal; sliding layers are limited to
the window and bidirectional inside one image block. Transformers' own masks for this architecture are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Branch", "Packed", "Tree", "masks", "pack"]


@dataclass
class Branch:
    """Tokens that go on from a prefix; ``weights[k]`` is the loss weight of predicting ``ids[k]``."""

    ids: list[int]
    weights: list[float]
    media: list[tuple[str, Any]] = field(default_factory=list)
    task: str = ""


@dataclass
class Tree:
    """A prefix and its branches.

    Attributes:
        media: ``("image", (patches, xy[, labels]))`` and ``("audio", frames)`` or ``("audio", (frames, labels))``, in order.
    """

    prefix: list[int]
    media: list[tuple[str, Any]]
    branches: list[Branch]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(b.ids) for b in self.branches)


@dataclass
class Packed:
    """A batch. Arrays are (B, T) unless noted; ``tree`` is -1 on padding.

    Attributes:
        ids, position, tree, branch, block: token id, position, and what a token belongs to (block: image block or -1).
        rows, cols, targets, weights: (M,) where the loss is taken: the token at (row, col) predicts ``targets``.
        image_patches: uint8 (I, N, 6912); image_xy: (I, N, 2), -1 on padding.
        audio_frames: float32 (A, F, 640); audio_mask: bool (A, F); audio_labels: int64 (A, F) what each
            frame ends, as ``data.heard`` has it; -1 where that is not known.
        patch_labels: (P, 4) int64, for every image token in order of (row, column): what fills its ninth of the picture,
            as ``data.cells`` has it; -1 where a picture came without.
        which: (M,) index into ``tasks`` of the branch a target belongs to; ``tasks`` has one name a branch.
    """

    ids: np.ndarray
    position: np.ndarray
    tree: np.ndarray
    branch: np.ndarray
    block: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    image_patches: np.ndarray
    image_xy: np.ndarray
    audio_frames: np.ndarray
    audio_mask: np.ndarray
    audio_labels: np.ndarray
    patch_labels: np.ndarray
    which: np.ndarray
    tasks: list[str]


def _blocks(ids: np.ndarray, image_token: int) -> np.ndarray:
    """Number each run of image tokens; -1 elsewhere."""
    is_image = ids == image_token
    starts = is_image & ~np.concatenate([[False], is_image[:-1]])
    return np.where(is_image, np.cumsum(starts) - 1, -1)


def pack(trees: list[Tree], rows: int, length: int, image_token: int, patch_budget: int = 70) -> Packed:
    """Lay trees into ``rows`` rows of ``length`` tokens, first fit, longest first; what does not fit is left out."""
    shape = (rows, length)
    ids, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tree_of, branch_of, block = np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    used = np.zeros(rows, np.int64)
    placed: list[list[Tree]] = [[] for _ in range(rows)]
    for tree in sorted(trees, key=len, reverse=True):
        fits = np.flatnonzero(used + len(tree) <= length)
        if len(fits):
            placed[fits[0]].append(tree)
            used[fits[0]] += len(tree)
    where: list[tuple[int, int, int, float, int]] = []
    tasks: list[str] = []
    images: list[tuple[np.ndarray, ...]] = []
    sounds: list[tuple[np.ndarray, np.ndarray | None]] = []
    for r, row in enumerate(placed):
        at = 0
        for k, tree in enumerate(row):
            n = len(tree.prefix)
            media = list(tree.media)
            spans = [(tree.prefix, 0, 0)]
            for b, branch in enumerate(tree.branches, 1):
                spans.append((branch.ids, b, n))
                media += branch.media
            for piece, b, start in spans:
                stop = at + len(piece)
                ids[r, at:stop] = piece
                position[r, at:stop] = np.arange(start, start + len(piece))
                tree_of[r, at:stop], branch_of[r, at:stop] = k, b
                if b:
                    tasks.append(tree.branches[b - 1].task)
                    where += [
                        (r, at + j - 1, t, w, len(tasks) - 1)
                        for j, (t, w) in enumerate(zip(piece, tree.branches[b - 1].weights, strict=True))
                        if w > 0
                    ]
                at = stop
            images += [m for kind, m in media if kind == "image"]
            sounds += [m if isinstance(m, tuple) else (m, None) for kind, m in media if kind == "audio"]
        block[r] = _blocks(ids[r], image_token)
    patches = np.zeros((len(images), patch_budget, 6912), np.uint8)
    xy = np.full((len(images), patch_budget, 2), -1, np.int64)
    labels = [np.zeros((0, 4), np.int64)]
    for k, (p, q, *known) in enumerate(images):
        patches[k, : len(p)], xy[k, : len(p)] = p, q
        labels.append(known[0] if known else np.full((len(p), 4), -1, np.int64))
    longest = max((len(s) for s, _ in sounds), default=1)
    frames = np.zeros((len(sounds), longest, 640), np.float32)
    valid = np.zeros((len(sounds), longest), bool)
    ends = np.full((len(sounds), longest), -1, np.int64)
    for k, (s, labels_of) in enumerate(sounds):
        frames[k, : len(s)], valid[k, : len(s)] = s, True
        if labels_of is not None:
            ends[k, : len(s)] = labels_of
    at_row, at_col, targets, weights, which = (np.array(x) for x in zip(*where, strict=True))
    weights = weights.astype(np.float32)
    return Packed(
        ids, position, tree_of, branch_of, block, at_row, at_col, targets, weights, patches, xy, frames, valid, ends,
        np.concatenate(labels), which, tasks,
    )  # fmt: skip


def masks(tree, branch, block, position, window: int):  # noqa: ANN001, ANN201 (torch tensors (B, T), imported nowhere)
    """The two masks of a packed batch.

    Args:
        tree, branch, block, position: (B, T) integer tensors, as in ``Packed``.
        window: positions a sliding layer looks back over, its own included.

    Returns:
        ``{"full_attention": …, "sliding_attention": …}``, bool (B, 1, T, T), True where a query may look.
        Padding rows look at themselves, so that no softmax is empty.
    """
    import torch

    t = tree.shape[1]
    order = torch.arange(t)
    causal = order[:, None] >= order[None, :]
    q, k = (slice(None), slice(None), None), (slice(None), None, slice(None))
    same = (tree[q] == tree[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (tree[q] >= 0)
    itself = torch.eye(t, dtype=torch.bool)
    full = (same & causal) | itself
    together = (block[q] == block[k]) & (block[q] >= 0)
    near = position[q] - position[k] < window
    sliding = (same & near & (causal | together)) | itself
    return {"full_attention": full[:, None], "sliding_attention": sliding[:, None]}
