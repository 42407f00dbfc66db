"""What each part of the model wrote into a word, as data: direct logit attribution. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TraceError
from workbench.maps import check_run, counted, frozen, several

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = ["Attribution"]

_ARRAYS = {"tokens": np.int32, "token_ids": np.int32, "embedding": np.float32, "attention": np.float32,
           "heads": np.float32, "mlp": np.float32, "logit": np.float32}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the embedding, every head and every feed-forward part added to the logits of P generated tokens.

    What the model's head reads is a sum: the embedding of the token before, and in each of L layers what attention and
    what the feed-forward part put in. With the divisor of the last norm as it was, a logit is linear in that sum, and
    so each part has its share of it (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). It is
    what a part said directly: what it moved later parts to say counts as theirs.

    Attributes:
        tokens: (P,) int32 generated tokens, ascending.
        token_ids: (P,) int32 of them.
        embedding: (P,) float32 share of the embedding. All shares are in logits, before soft-capping.
        attention: (L, P) float32 share of each layer's attention.
        heads: (L, H, P) float32 share of each of its heads. They sum to it, but for rounding and an output bias, which
            Gemma 4 has not.
        mlp: (L, P) float32 share of everything else in a layer: the feed-forward part, with experts and inputs of each
            layer where there are; and what 16 bits rounded off the sum.
        logit: (P,) float32 what the shares sum to, as the model's own head gives it: the token's logit less that of
            ``against``, before soft-capping. A constant that all words have in common is in neither.
        against: Token id of the word that the tokens are measured against; None is the mean over all words.
        generated: How many tokens the answer has.
        pieces: The text of every token id in ``token_ids``, and of ``against``.
        identity: Of the model.
        run: What tells the run it is of from others.
    """

    tokens: np.ndarray
    token_ids: np.ndarray
    embedding: np.ndarray
    attention: np.ndarray
    heads: np.ndarray
    mlp: np.ndarray
    logit: np.ndarray
    against: int | None
    generated: int
    pieces: Mapping[int, str]
    identity: tuple[str, ...]
    run: str = ""

    def __post_init__(self) -> None:
        for name, dtype in _ARRAYS.items():
            object.__setattr__(self, name, frozen(getattr(self, name), dtype))
        P, L = len(self.tokens), len(self.mlp)
        H = self.heads.shape[1] if self.heads.ndim == 3 else 0
        shapes = {"token_ids": (P,), "embedding": (P,), "attention": (L, P), "heads": (L, H, P), "mlp": (L, P),
                  "logit": (P,)}  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise TraceError(f"{name} of an attribution of {P} tokens and {L} layers: {getattr(self, name).shape}.")

    def __repr__(self) -> str:
        against = "" if self.against is None else f" against {self.pieces.get(self.against)!r}"
        L, H, P = self.heads.shape
        return f"Attribution({P} {'token' if P == 1 else 'tokens'}{against}, {L} layers of {H} heads)"

    def index(self, token: int) -> int:
        """The column of a generated token; negative: from the answer's end.

        Raises:
            TraceError: It is not in this reading.
        """
        (wanted,) = counted("token", [token], self.generated)
        found = np.flatnonzero(self.tokens == wanted)
        if not len(found):
            raise TraceError(f"token={token!r}: this attribution holds the tokens {self.tokens.tolist()}.")
        return int(found[0])

    def parts(self, token: int, most: int | None = None) -> list[tuple[str, float]]:
        """Name and share of every part of a token's logit, those that count most first, whichever way.

        Args:
            token: A generated token.
            most: So many of them at most; None is all.

        Returns:
            ``("layer 5, head 4", 2.7)``, ``("layer 5, feed-forward", 4.6)`` and so on, in logits.

        Raises:
            TraceError: It is not in this reading.
        """
        p = self.index(token)
        L, H, _ = self.heads.shape
        named = [("embedding", float(self.embedding[p]))]
        named += [(f"layer {k}, head {h}", float(self.heads[k, h, p])) for k in range(L) for h in range(H)]
        named += [(f"layer {k}, feed-forward", float(self.mlp[k, p])) for k in range(L)]
        return sorted(named, key=lambda part: -abs(part[1]))[:most]

    def only(self, tokens: int | Sequence[int]) -> Attribution:
        """The part of some generated tokens.

        Raises:
            TraceError: It does not hold so much.
        """
        at = np.unique([self.index(k) for k in several("tokens", tokens)])
        return replace(self, **{name: getattr(self, name)[..., at] for name in _ARRAYS})

    def to_reading(self) -> dict[str, Any]:
        """For ``Trace.readings``."""
        meta = {"kind": "attribution", "tokens": self.tokens.tolist(), "identity": list(self.identity),
                "run": self.run, "pieces": {str(i): text for i, text in self.pieces.items()}}  # fmt: skip
        if self.against is not None:
            meta["against"] = self.against
        return {"meta": meta, "arrays": {name: getattr(self, name) for name in _ARRAYS}}

    @classmethod
    def from_reading(cls, reading: Mapping[str, Any], trace: Trace) -> Attribution:
        """From ``Trace.readings``, of the same trace.

        Raises:
            TraceError: It is not what :meth:`to_reading` gives.
        """
        try:
            meta, arrays = reading["meta"], reading["arrays"]
            run = check_run(str(meta.get("run", "")), trace)
            n = len(trace.tokens)
            made = cls(
                **{name: arrays[name] for name in _ARRAYS},
                against=None if meta.get("against") is None else int(meta["against"]),
                generated=n, pieces={int(i): str(t) for i, t in meta["pieces"].items()},
                identity=tuple(meta["identity"]), run=run,
            )  # fmt: skip
            mine = trace.tokens.token_id[counted("tokens", made.tokens, n)]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TraceError(f"A reading of an attribution in this trace is broken: {error!r}.") from error
        if not np.array_equal(mine, made.token_ids):
            raise TraceError("A reading of an attribution in this trace is broken: its tokens are others.")
        return made
