"""Settings of a run: checked, filled with the model's defaults, and turned into a Transformers configuration."""

from __future__ import annotations

import copy
import secrets
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.errors import ModelError, PromptError
from workbench.sampling import COLDEST
from workbench.trace import Settings

__all__ = ["CHANGEABLE", "MOST_DRAFTS", "MOST_TOP", "changed", "configure", "filled", "whole"]

MOST_DRAFTS = 16
MOST_TOP = 1000
ANSWER = 128  # tokens, where nobody says how many
_MOST = 2**31 - 1
_TOP_K = 50  # Transformers' own, where a model's generation configuration says nothing
CHANGEABLE = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "draft", "top")
"""What a second run of a trace may be asked to change."""


def filled(
    defaults: Any, *, vocabulary: int, drafter: bool, max_new_tokens: Any, temperature: Any, top_k: Any, top_p: Any,
    seed: Any, draft: Any, top: Any, image_tokens: Any, thinking: Any,
) -> Settings:  # fmt: skip
    """Check every number, and take the model's own where None was given.

    Args:
        defaults: The model's ``GenerationConfig``.
        vocabulary: Its tokens.
        drafter: Whether it has one.

    Raises:
        PromptError: A number out of range.
        ModelError: Drafts asked of a model without a drafter.
    """
    whole("max_new_tokens", max_new_tokens, 1, _MOST)
    whole("top", top, 1, min(MOST_TOP, vocabulary))
    if seed is not None:
        whole("seed", seed, 0, 2**63 - 1)
    if not (isinstance(draft, str) and draft == "auto"):
        whole("draft", draft, 0, MOST_DRAFTS, also=' or "auto"')
        if draft and not drafter:
            raise ModelError(f"draft={draft}: the model was loaded without a drafter. Pass draft=0.")
    if temperature is not None and (
        not _number(temperature) or not (temperature == 0 or COLDEST <= temperature <= 100)
    ):
        raise PromptError(
            f"temperature={temperature!r}: expected 0 (greedy), a number from {COLDEST:g} to 100, or None."
        )
    if top_k is not None:
        whole("top_k", top_k, 0, _MOST)
    if top_p is not None and (not _number(top_p) or not 0 < top_p <= 1):
        raise PromptError(f"top_p={top_p!r}: expected a number above 0 and up to 1.0 (off), or None.")
    if not isinstance(thinking, (bool, np.bool_)):
        raise PromptError(f"thinking={thinking!r}: expected True or False.")
    if image_tokens is not None:
        whole("image_tokens", image_tokens, 1)
    usual = float(defaults.temperature if defaults.temperature is not None else 1.0) if defaults.do_sample else 0.0
    heat = usual if temperature is None else float(temperature)
    drawn = heat > 0
    usual_k = _TOP_K if defaults.top_k is None else int(defaults.top_k)
    return Settings(
        max_new_tokens=int(max_new_tokens), temperature=heat,
        top_k=0 if not drawn else usual_k if top_k is None else int(top_k),
        top_p=1.0 if not drawn else float(defaults.top_p or 1.0) if top_p is None else float(top_p),
        seed=None if not drawn else int(seed) if seed is not None else secrets.randbits(32),
        draft=0 if not drafter else draft if draft == "auto" else int(draft), top=int(top),
        image_tokens=None if image_tokens is None else int(image_tokens), thinking=bool(thinking),
    )  # fmt: skip


def changed(
    before: Settings, changes: dict[str, Any], *, defaults: Any, vocabulary: int, drafter: bool, scored: bool = False
) -> Settings:
    """Settings of a second run: those of the first, but for ``changes``; a None among them takes the model's own.

    A scored run was given its tokens and drew none: where nothing is asked, the model's own settings go on from it.

    Raises:
        PromptError: A setting that does not exist, or a number out of range.
        ModelError: Drafts asked of a model without a drafter.
    """
    unknown = sorted(changes.keys() - set(CHANGEABLE))
    if unknown:
        raise PromptError(f"{unknown[0]}= is no setting that can be changed; these are: {', '.join(CHANGEABLE)}.")
    given = {name: getattr(before, name) for name in CHANGEABLE}
    if scored:
        given |= {"temperature": None, "top_k": None, "top_p": None, "max_new_tokens": ANSWER}
    if not drafter:
        given["draft"] = 0
    if before.temperature == 0 and changes.get("temperature", 0) != 0:  # its filters were off, being greedy
        given["top_k"] = given["top_p"] = None
    made = filled(
        defaults, vocabulary=vocabulary, drafter=drafter, image_tokens=before.image_tokens, thinking=before.thinking,
        **{**given, **changes},
    )  # fmt: skip
    return replace(made, seed=made.seed if made.temperature > 0 else None)


def configure(defaults: Any, settings: Settings) -> Any:
    """A complete ``GenerationConfig`` for a run."""
    config = copy.deepcopy(defaults)
    config.do_sample = settings.temperature > 0
    if config.do_sample:
        config.temperature, config.top_k, config.top_p = settings.temperature, settings.top_k, settings.top_p
    else:  # Transformers warns of filters that a greedy run would not use
        config.temperature, config.top_k, config.top_p = 1.0, 50, 1.0
    config.max_new_tokens = settings.max_new_tokens
    config.max_length = None
    return config


def whole(name: str, value: Any, low: int, high: int | None = None, also: str = "") -> None:
    """Check that a value is a whole number within limits.

    Raises:
        PromptError: It is not; ``also`` names what else would have been accepted.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low or (high and value > high):
        limits = f"from {low} to {high:,}" if high else f"of {low} or more"
        raise PromptError(f"{name}={value!r}: expected a whole number {limits}{also}.")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
