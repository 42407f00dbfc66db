"""Writes down what a run drew its tokens from: logprobs, entropies, ranks and alternatives, from the logits themselves.

Rows of logits are kept and worked on together (by 64 kept, or one by one when somebody listens), since on a small model
a dozen small operations a token would cost more than the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.trace import SOURCES, Token, Tokens

if TYPE_CHECKING:
    import torch

__all__ = ["Recorder"]

_ROWS_BYTES = 64 << 20


class Recorder:
    """Collects tokens with the logits they came from.

    Args:
        top: Alternatives to keep of every token.
        piece: Token id to text.
        greedy: Whether tokens are chosen, not drawn.
        on_token: Called with each :class:`~workbench.trace.Token`, as soon as it is known.
        began: ``time.perf_counter()`` at the start of the run.
    """

    def __init__(
        self, *, top: int, piece: Callable[[int], str], greedy: bool, on_token: Callable[[Token], Any] | None,
        began: float,
    ) -> None:  # fmt: skip
        self.top, self.piece, self.greedy, self.on_token, self.began = top, piece, greedy, on_token, began
        self._waiting: list[tuple[Any, Any]] = []
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in Tokens.DTYPES}
        self._ids: list[int] = []
        self._sources: list[int] = []
        self._rounds: list[int] = []
        self._times: list[float] = []
        self._said = 0
        self._source_of = {name: k for k, name in enumerate(SOURCES)}

    def add(self, token: int, logits: torch.Tensor, scores: torch.Tensor, source: str, round_: int) -> None:
        """A token with the (1, V) logits before and after the processors."""
        self._ids.append(token)
        self._sources.append(self._source_of[source])
        self._rounds.append(round_)
        self._times.append(time.perf_counter() - self.began)
        self._waiting.append((logits, scores))
        held = 8 * logits.numel() * len(self._waiting)
        if self.on_token is not None or held > _ROWS_BYTES:
            self.flush()

    def flush(self) -> None:
        """Work on the rows that wait, and call the listener for each."""
        import torch

        if not self._waiting:
            return
        n = len(self._waiting)
        ids = self._ids[-n:]
        raw = torch.cat([row for row, _ in self._waiting])  # (n, V)
        processed = torch.cat([row for _, row in self._waiting])
        self._waiting.clear()
        for name, values in columns(raw, processed, ids, self.top, self.greedy).items():
            self._columns[name].append(values)
        if self.on_token is not None:
            first = len(self._ids) - n
            for k in range(n):
                self.on_token(self._row(first + k, k))

    def _row(self, index: int, k: int) -> Token:
        last = {name: parts[-1][k] for name, parts in self._columns.items() if parts and parts[-1].ndim == 1}
        return Token(
            index=index, token_id=self._ids[index], piece=self.piece(self._ids[index]),
            logprob=float(last["logprob"]), sample_logprob=float(last["sample_logprob"]),
            entropy=float(last["entropy"]), rank=int(last["rank"]), margin=float(last["margin"]),
            source=SOURCES[self._sources[index]], round=self._rounds[index], time_s=self._times[index],
        )  # fmt: skip

    def tokens(self, more_ids: np.ndarray | None = None) -> Tokens:
        """Everything so far, as columns. ``more_ids``: further token ids whose text is wanted (drafts)."""
        self.flush()
        columns_: dict[str, Any] = {
            name: np.concatenate(parts) if parts else np.zeros((0, self.top) if name.startswith("top_") else 0)
            for name, parts in self._columns.items()
        }
        columns_ |= {"token_id": self._ids, "source": self._sources, "round": self._rounds, "time_s": self._times}
        wanted = set(np.unique(columns_["top_ids"]).tolist())
        if more_ids is not None:
            wanted |= set(np.unique(more_ids[more_ids >= 0]).tolist())
        pieces: Mapping[int, str] = {int(i): self.piece(int(i)) for i in sorted(wanted)}
        return Tokens(piece=tuple(self.piece(i) for i in self._ids), top_pieces=pieces, **columns_)


def ranked(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row and where they are, as arg-max has it: of equal ones the first comes first.

    In 16 bits equal logits are common, and ``topk`` puts them, and leaves them out, in whatever order.
    """
    best, ids = values.topk(count, dim=-1)
    ids, order = ids.sort(dim=-1)
    best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    first = values.argmax(dim=-1)
    left_out = first != ids[..., 0]  # so many are equal that topk took others
    if left_out.any():
        ids = ids.clone()
        ids[..., 0] = first
    return best, ids


def columns(
    raw: torch.Tensor, processed: torch.Tensor, ids: list[int], top: int, greedy: bool
) -> dict[str, np.ndarray]:
    """The numbers of :class:`~workbench.trace.Tokens` for n rows of logits.

    Args:
        raw: (n, V) float32: the model's own logits.
        processed: (n, V): after the logits processors.
        ids: The n tokens.
        top: How many alternatives.
        greedy: Whether the choice was an arg-max of ``processed``.
    """
    import torch

    chosen = torch.tensor(ids, device=raw.device)[:, None]
    logprob = torch.log_softmax(raw, dim=-1)
    p = logprob.exp()
    mine = raw.gather(1, chosen)
    _, top_ids = ranked(raw, max(top, 2))
    best = logprob.gather(1, top_ids)
    if greedy:
        after = torch.full_like(logprob, -torch.inf).scatter(1, processed.argmax(dim=-1, keepdim=True), 0.0)
    else:
        after = torch.log_softmax(processed.float(), dim=-1)
    made = {
        "logprob": logprob.gather(1, chosen)[:, 0],
        "sample_logprob": after.gather(1, chosen)[:, 0],
        # 0 × -inf is a token that cannot come: it adds nothing
        "entropy": -torch.where(p > 0, p * logprob, 0.0).sum(dim=-1),
        "rank": (raw > mine).sum(dim=-1),
        "margin": best[:, 0] - best[:, 1],
        "top_ids": top_ids[:, :top],
        "top_logprob": best[:, :top],
        "top_sample_logprob": after.gather(1, top_ids[:, :top]),
    }
    return {name: value.cpu().numpy() for name, value in made.items()}
