"""The settings of a run as a form: how words are chosen, how many, drafts, a system prompt."""

from __future__ import annotations

from typing import Any

import ipywidgets

from workbench.errors import PromptError

__all__ = ["GREEDY", "MINE", "OWN", "SettingsForm"]

OWN, GREEDY, MINE = "the model's own settings", "greedy: always the likeliest word", "set by hand"
"""How words are chosen."""

_DIGITS = 19  # of the largest seed; Python does not read numbers of thousands


class SettingsForm(ipywidgets.Accordion):
    """The settings of a run, folded.

    Args:
        drafter: Whether the model has one.
    """

    def __init__(self, drafter: bool) -> None:
        wide = {"style": {"description_width": "8rem"}, "layout": {"width": "22rem", "max_width": "98%"}}
        # boxes, not sliders: ipywidgets gives the handle of a slider no name that a screen reader could say
        self.how = ipywidgets.Dropdown(description="Choice of words", options=[OWN, GREEDY, MINE], **wide)
        self.temperature = ipywidgets.BoundedFloatText(
            1.0, min=0.05, max=3, step=0.05, description="Temperature", **wide
        )
        self.top_k = ipywidgets.BoundedIntText(64, min=0, max=200, description="Top-k (0 is off)", **wide)
        self.top_p = ipywidgets.BoundedFloatText(
            0.95, min=0.05, max=1, step=0.05, description="Top-p (1 is off)", **wide
        )
        self.seed = ipywidgets.Text(placeholder="drawn", description="Seed", **wide)
        self.max_new_tokens = ipywidgets.BoundedIntText(128, min=1, max=100_000, description="At most, tokens", **wide)
        drafts: list[Any] = [("adapted to what pays", "auto"), ("none", 0), *((str(k), k) for k in range(1, 9))]
        self.draft = ipywidgets.Dropdown(
            description="Drafts a round", options=drafts if drafter else [("none: no drafter is loaded", 0)], **wide
        )
        self.thinking = ipywidgets.Checkbox(description="think before answering", indent=False)
        self.system = ipywidgets.Text(placeholder="none", description="System prompt", **wide)
        self.by_hand = (self.temperature, self.top_k, self.top_p)
        grid = ipywidgets.Box(
            [self.how, *self.by_hand, self.seed, self.max_new_tokens, self.draft, self.system, self.thinking],
            layout={"flex_flow": "row wrap", "grid_gap": "0.2rem 1rem"},
        )
        self.how.observe(self._enable, names="value")
        self._enable()
        super().__init__([grid], titles=["Settings"], selected_index=None)

    def _enable(self, _change: Any = None) -> None:
        for widget in self.by_hand:
            widget.disabled = self.how.value != MINE
        self.seed.disabled = self.how.value == GREEDY

    def values(self) -> dict[str, Any]:
        """Keyword arguments for ``model.ask``.

        Raises:
            PromptError: The seed is no whole number, or too large.
        """
        made: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens.value, "draft": self.draft.value, "thinking": self.thinking.value,
            "system": self.system.value.strip() or None, "seed": None,
        }  # fmt: skip
        if self.how.value == GREEDY:
            return {**made, "temperature": 0}
        if self.how.value == MINE:
            made |= {"temperature": self.temperature.value, "top_k": self.top_k.value, "top_p": self.top_p.value}
        seed = self.seed.value.strip()
        if seed and not (seed.isdecimal() and len(seed) <= _DIGITS):
            said = seed if len(seed) <= 2 * _DIGITS else f"{seed[: 2 * _DIGITS]}…"
            raise PromptError(f"Seed {said!r}: expected a whole number of 0 to 2^63 - 1, or nothing to have one drawn.")
        return {**made, "seed": int(seed)} if seed else made
