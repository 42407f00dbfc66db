"""Two traces side by side: where they part, and how far apart their distributions are before that. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import Incompatible, TraceError
from workbench.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TraceDiff", "compare"]

_ROUNDING = 1e-6  # what a sum of stored float32 probabilities may be off by


@dataclass(frozen=True, eq=False)
class TraceDiff:
    """What :func:`compare` found.

    Two answers can be compared place by place as long as the same tokens came before: up to and including the first
    place where they differ. n is the number of such places.

    Attributes:
        a, b: The traces.
        divergence: First place where the answers differ; None when they are equal. Where one ends and the other goes on
            it is n: nothing can be compared there.
        kl: (n,) float64: KL(a ‖ b) in nats, of the models' own distributions; see ``exact``.
        exact: True: from all logits (``model.score(…, reference=)``); False: a lower bound from the stored tops.
        agree: (n,) bool: both have the same first choice.
        logprob_a, logprob_b: (n,) float32 nats: of a's token under a, and under b; NaN where b did not keep it.
        same_prompt: Whether the prompts are equal, token for token and in their media.
    """

    a: Trace
    b: Trace
    divergence: int | None
    kl: np.ndarray
    exact: bool
    agree: np.ndarray
    logprob_a: np.ndarray
    logprob_b: np.ndarray
    same_prompt: bool

    def __len__(self) -> int:
        return len(self.kl)

    def __repr__(self) -> str:
        where = "same answer" if self.divergence is None else f"answers part at token {self.divergence}"
        if self.divergence == len(self):
            where = f"one answer ends at token {self.divergence}, the other goes on"
        if not len(self):
            return f"TraceDiff({where})"
        kind = "KL" if self.exact else "KL ≥"
        return (
            f"TraceDiff({where}; {kind} {self.kl.mean():.4f} nats a token, highest {self.kl.max():.4f} at "
            f"{int(self.kl.argmax())}; same first choice at {self.agree.mean():.1%} of {len(self)} places"
            f"{'' if self.same_prompt else '; different prompts'})"
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row a comparable place: ``piece_a, piece_b, logprob_a, logprob_b, kl, agree``."""
        import pandas as pd

        n = len(self)
        return pd.DataFrame(
            {"piece_a": self.a.tokens.piece[:n], "piece_b": self.b.tokens.piece[:n], "logprob_a": self.logprob_a,
             "logprob_b": self.logprob_b, "kl": self.kl, "agree": self.agree},
            index=pd.RangeIndex(n, name="token"),
        )  # fmt: skip


def compare(a: Trace, b: Trace) -> TraceDiff:
    """Compare two runs: two models, settings, quantizations or pictures.

    Exact KL needs all logits: ``a = model.score(trace, reference=other)`` has them; then ``compare(a, b)`` with b of
    that other model uses it. Otherwise KL is bounded from below by what both traces stored, all else taken together.

    Raises:
        TraceError: One of the two is no trace, or nothing was generated.
        Incompatible: The traces are of different vocabularies.
    """
    for name, trace in (("a", a), ("b", b)):
        if not isinstance(trace, Trace):
            raise TraceError(f"compare: {name} is {type(trace).__name__}, expected a Trace.")
        if not len(trace.tokens):
            raise TraceError(f"compare: trace {name} has no generated tokens.")
    if a.model.vocab_hash != b.model.vocab_hash:
        raise Incompatible(
            f"{a.model.variant} and {b.model.variant} have different vocabularies: their tokens cannot be compared."
        )
    n = min(len(a.tokens), len(b.tokens))
    parted = np.flatnonzero(a.tokens.token_id[:n] != b.tokens.token_id[:n])
    first = int(parted[0]) if len(parted) else (n if len(a.tokens) != len(b.tokens) else None)
    n = n if first is None else min(n, first + 1)
    same = _same_prompt(a, b)
    exact = _exact(a, b, n) if same else None  # the stored KL is of both models on a's prompt
    kl, logprob_b = _bound(a, b, n)
    return TraceDiff(
        a=a, b=b, divergence=first, kl=kl if exact is None else exact, exact=exact is not None,
        agree=a.tokens.top_ids[:n, 0] == b.tokens.top_ids[:n, 0],
        logprob_a=a.tokens.logprob[:n], logprob_b=logprob_b, same_prompt=same,
    )  # fmt: skip


def _exact(a: Trace, b: Trace, n: int) -> np.ndarray | None:
    stored = a.readings.get("reference", {})
    meta, kl = stored.get("meta"), stored.get("arrays", {}).get("kl")
    if not isinstance(meta, dict) or meta.get("identity") != list(b.model.identity):
        return None
    if kl is None or kl.shape != (len(a.tokens),):
        raise TraceError("The reading 'reference' of trace a is broken: expected one KL a token.")
    return np.asarray(kl[:n], np.float64)


def _same_prompt(a: Trace, b: Trace) -> bool:
    media = [[[m.data for m in kind] for kind in (t.images, t.audio)] for t in (a, b)]
    return bool(np.array_equal(a.prompt.ids, b.prompt.ids) and media[0] == media[1] and a.video == b.video)


def _bound(a: Trace, b: Trace, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A lower bound of the KL of each place, and the logprob of a's token under b.

    Tokens that both traces stored are taken one by one and all others as one: merging outcomes never raises a KL
    (the log-sum inequality).
    """
    kl, other = np.zeros(n), np.full(n, np.nan, np.float32)
    for k in range(n):
        mine = dict(zip(a.tokens.top_ids[k].tolist(), a.tokens.top_logprob[k].astype(float).tolist(), strict=True))
        theirs = dict(zip(b.tokens.top_ids[k].tolist(), b.tokens.top_logprob[k].astype(float).tolist(), strict=True))
        token = int(a.tokens.token_id[k])
        other[k] = theirs.get(token, b.tokens.logprob[k] if token == b.tokens.token_id[k] else np.nan)
        both = sorted(mine.keys() & theirs.keys())
        p, q = (np.array([t[i] for i in both]) for t in (mine, theirs))
        rest_p, rest_q = (max(0.0, 1 - float(np.exp(x).sum())) for x in (p, q))
        kl[k] = float((np.exp(p) * (p - q)).sum())
        rest_p = max(rest_p, _ROUNDING)  # what is lost in rounding may have been this much, and make the KL smaller
        kl[k] += rest_p * (np.log(rest_p) - np.log(max(rest_q, _ROUNDING)))
    return np.maximum(kl, 0), other
