"""What other sampling settings would have done to a recorded distribution. Numpy only, the model is not run again.

A trace keeps the K most probable tokens of each place with their exact logprobs, and so the mass of all others
together, but not how that mass is spread. Where a setting's outcome does not depend on it, the answer is exact;
otherwise it is bounded from both sides: the rest may be one flat floor, or a few tokens as probable as the last stored.
The mass itself is only known as well as the stored numbers are: a rest of 1e-7 cannot be told from none in 32 bits, and
at a high temperature over a large vocabulary that may be much, so the bounds allow for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.errors import PromptError

__all__ = ["COLDEST", "WhatIf", "what_if"]

COLDEST = 1e-6
"""The least temperature above 0: colder is as good as greedy, and far colder overflows float32."""
_ROUNDING = 2e-6  # what a sum of stored float32 probabilities may be off by: logits of up to 30 in steps of 2e-6


@dataclass(frozen=True, eq=False)
class WhatIf:
    """Probabilities under other settings.

    Attributes:
        low, high: (N, K) float64: bounds of each stored token's probability; equal where known exactly; 0 where a
            filter removes the token.
        rest_low, rest_high: (N,) float64: bounds of the probability of all tokens that were not stored.
        exact: (N,) bool: whether the row's bounds coincide, as far as the stored numbers go.
    """

    low: np.ndarray
    high: np.ndarray
    rest_low: np.ndarray
    rest_high: np.ndarray
    exact: np.ndarray


def what_if(
    top_logprob: np.ndarray, vocabulary: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> WhatIf:
    """Temperature, then top-k, then top-p, as Transformers applies them, on stored distributions.

    Args:
        top_logprob: (N, K) the K highest logprobs of each place in nats, descending: ``trace.tokens.top_logprob``.
        vocabulary: Tokens of the vocabulary.
        temperature: 0 is greedy; otherwise at least 1e-6.
        top_k, top_p: 0 and 1.0 are off. Tokens as probable as the ``top_k``-th stay, as in Transformers; of those that
            were not stored, none is taken to be, unless the stored ones end with two alike. Which of several alike stay
            within ``top_p`` is not known.

    Tokens that are never generated (``suppress_tokens``: placeholders of media) count as they were recorded.

    Returns:
        Bounds of the probability of each stored token, (N, K), and of the rest, (N,).

    Raises:
        PromptError: A setting out of range, or no such distributions.
    """
    for name, value, kinds in (
        ("temperature", temperature, (int, float, np.integer, np.floating)),
        ("top_k", top_k, (int, np.integer)),
        ("top_p", top_p, (int, float, np.integer, np.floating)),
    ):
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise PromptError(f"{name}={value!r}: expected a {'whole number' if name == 'top_k' else 'number'}.")
    if not (temperature == 0 or COLDEST <= temperature <= 100):
        raise PromptError(f"temperature={temperature!r}: expected 0 (greedy), or a number from {COLDEST:g} to 100.")
    if not 0 < top_p <= 1 or top_k < 0:
        raise PromptError(f"top_k={top_k!r}, top_p={top_p!r}: expected 0 or more, and above 0 up to 1.0.")
    logp, rounding = _checked(top_logprob, vocabulary)
    n, stored = logp.shape
    if temperature == 0:
        first = np.zeros((n, stored))
        first[:, 0] = 1
        return WhatIf(first, first, np.zeros(n), np.zeros(n), np.ones(n, bool))
    hot = np.exp((logp - logp[:, :1]) / temperature)  # relative to the first: its own is 1
    tail_low, tail_high = _tail(logp, vocabulary, temperature, rounding)
    alike = logp[:, -1] == logp[:, max(0, stored - 2)] if stored > 1 else np.zeros(n, bool)  # the rest may go on so
    if 0 < top_k <= stored:  # the rest is cut off, unless some of it is as probable as the last that stays
        least = hot[:, top_k - 1]
        tied = (hot[:, -1] == least) & (alike | (top_k < stored))
        hot[hot < least[:, None]] = 0
        tail_low, tail_high = np.zeros(n), np.where(tied, tail_high, 0.0)
    elif top_k:  # part of the rest stays, and what is as probable as the last of that part
        others = vocabulary - stored
        full = 1 - np.exp(logp).sum(1) >= others * np.exp(logp[:, -1]) * (1 - 2 * rounding) - rounding
        tied = alike | full  # full: all the rest is as probable as the last stored
        tail_high = np.where(tied, tail_high, np.minimum(tail_high, (top_k - stored) * hot[:, -1]))
        tail_low = tail_low * min(1.0, (top_k - stored) / max(1, others))
    total = hot.sum(1)
    low, high = hot / (total + tail_high)[:, None], hot / (total + tail_low)[:, None]
    rest_low, rest_high = tail_low / (total + tail_low), tail_high / (total + tail_high)
    near = max(2 * rounding, 1e-12)
    if top_p < 1:
        low, high, rest_high = _nucleus(low, high, rest_high, alike, top_p, near)
        rest_low = np.zeros(n)
    exact = np.isclose(low, high, rtol=near, atol=near).all(1) & np.isclose(rest_low, rest_high, rtol=0, atol=near)
    return WhatIf(low, high, rest_low, rest_high, exact)


def _checked(top_logprob: np.ndarray, vocabulary: int) -> tuple[np.ndarray, float]:
    """(N, K) float64 logprobs, and what the sum of their probabilities may be off by as they were given."""
    given = np.asarray(top_logprob)
    if given.ndim != 2 or not given.shape[1] or not np.issubdtype(given.dtype, np.floating):
        raise PromptError(
            f"top_logprob of shape {given.shape} and type {given.dtype}: expected (N, K) logprobs, K at least 1, as in "
            "trace.tokens.top_logprob."
        )
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, (int, np.integer)) or vocabulary < given.shape[1]:
        raise PromptError(f"vocabulary={vocabulary!r}: expected a whole number, at least the {given.shape[1]} stored.")
    logp = given.astype(np.float64)
    if np.isnan(logp).any() or (logp[:, 1:] > logp[:, :-1]).any():
        raise PromptError("top_logprob: expected each row's logprobs in descending order, and no NaN among them.")
    return logp, _ROUNDING if given.dtype.itemsize < 8 else 1e-13


def _tail(logp: np.ndarray, vocabulary: int, temperature: float, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the rest's weight at a temperature, in units of the first token's; (N,) each."""
    others = vocabulary - logp.shape[1]
    if others <= 0:
        return np.zeros(len(logp)), np.zeros(len(logp))
    mass = 1 - np.exp(logp).sum(1)
    power = 1 / temperature
    last = np.exp(logp[:, -1])
    relative = np.exp((logp[:, -1] - logp[:, 0]) * power)  # what one as probable as the last stored weighs
    bounds = []
    for known in (mass - rounding, mass + rounding):
        rest = np.clip(known, 0, others * last)  # none of the others is more probable than the last one stored
        with np.errstate(divide="ignore"):  # no rest weighs nothing: its logarithm is minus infinity
            flat = others * np.exp((np.log(rest / others) - logp[:, 0]) * power)
        # as few tokens as can hold it
        steep = np.divide(rest, last, out=np.zeros_like(rest), where=last > 0) * relative
        bounds += [flat, steep]
    return np.min(bounds, axis=0), np.max(bounds, axis=0)


def _nucleus(
    low: np.ndarray, high: np.ndarray, rest_high: np.ndarray, alike: np.ndarray, top_p: float, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the smallest set that reaches ``top_p``, surely or possibly, and renormalise."""
    before_low = np.cumsum(low, 1) - low
    before_high = np.cumsum(high, 1) - high
    # a token stays while the mass before it is below top_p; the first always stays
    surely = (before_high < top_p) & (low > 0)
    maybe = (before_low < top_p) & (high > 0)
    surely[:, 0] = maybe[:, 0] = True
    _undecided(low, surely, maybe)
    open_ended = np.cumsum(low, 1)[:, -1] < top_p  # the nucleus may reach into the rest
    same = low == low[:, -1:]
    swapped = alike & (rest_high > 0) & maybe[:, -1]  # some of the rest may stay in the place of the last stored
    surely &= ~(same & swapped[:, None])
    place = np.where(swapped, np.minimum(rest_high, (same * high).sum(1)), 0.0)
    rest_high = np.where(open_ended, rest_high, place)
    open_ended |= swapped
    least = np.where(surely, low, 0).sum(1)
    most = np.where(maybe, high, 0).sum(1) + rest_high
    share_low = np.where(surely, low, 0) / np.maximum(most, 1e-300)[:, None]
    share_high = np.minimum(1.0, np.where(maybe, high, 0) / np.maximum(least, 1e-300)[:, None])
    settled = ~open_ended & (surely == maybe).all(1) & np.isclose(low, high, rtol=near, atol=near).all(1)
    for row in np.flatnonzero(settled):  # everything is known: one answer
        inside = np.where(surely[row], high[row], 0)
        share_low[row] = share_high[row] = inside / inside.sum()
    return share_low, share_high, np.minimum(1.0, rest_high / np.maximum(least + rest_high, 1e-300))


def _undecided(low: np.ndarray, surely: np.ndarray, maybe: np.ndarray) -> None:
    """Of tokens that are as probable as one another, and not all inside: any may be the ones that stay. In place."""
    alike = (low[:, 1:] == low[:, :-1]) & (low[:, 1:] > 0)
    edge = alike & ((surely[:, 1:] != surely[:, :-1]) | (maybe[:, 1:] != maybe[:, :-1]))
    for row in np.flatnonzero(edge.any(1)):
        for k in np.flatnonzero(edge[row]):
            same = low[row] == low[row, k]
            surely[row, same] = surely[row, same].all()
            maybe[row, same] = maybe[row, same].any()
