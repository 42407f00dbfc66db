"""Which token is what, by the control tokens around it: turns, thoughts, declarations, calls and results of tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from workbench.turns import ROLES

__all__ = ["kinds_of"]

_SPANS = {
    "<|channel>": ("thought", "<channel|>"),
    "<|tool>": ("tool", "<tool|>"),
    "<|tool_call>": ("tool", "<tool_call|>"),
    "<|tool_response>": ("tool", "<tool_response|>"),
}


def kinds_of(
    ids: np.ndarray, control: Mapping[int, str], piece: Callable[[int], str], media_ids: Mapping[str, int],
    role: str | None,
) -> tuple[list[str], list[str | None], list[int]]:  # fmt: skip
    """What each token is.

    Args:
        ids: (n,) token ids.
        control: The name of every control token.
        piece: The text of a token.
        media_ids: The id of the soft tokens of each kind of media.
        role: Whose turn the first id lies in; None for none.

    Returns:
        Of each token the kind and the role, as in :class:`~workbench.columns.Segment`, and which span (thought, call …)
        it lies in, counted from 1; 0 is none.
    """
    media = {i: kind for kind, i in media_ids.items()}
    kinds: list[str] = []
    roles: list[str | None] = []
    numbers: list[int] = []
    span = 0
    inside: tuple[str, str] | None = None
    heading: str | None = None  # the role's name as it is being read
    after_turn = False
    for i in ids.tolist():
        text = control.get(i)
        mine, number = role, 0
        if text == "<|turn>":
            kind, heading, inside = "control", "", None
            mine = role = None
        elif heading is not None:
            kind = "control"
            heading += piece(i)
            if "\n" in heading:
                role = ROLES.get(heading.strip(), heading.strip())
                heading = None
            mine = None
        elif text == "<turn|>":
            kind, inside, mine, role = "control", None, None, None
        elif after_turn and text is None and piece(i) == "\n":
            kind, mine = "control", None
        elif i in media:
            kind = media[i]
        else:
            if inside is None and text in _SPANS:
                inside = _SPANS[text]
                span += 1
            if inside is None:
                kind = "text" if text is None else "control"
            else:
                kind, closing = inside
                number = span
                if closing == "<tool_response|>":  # the result of a call stands within the model's turn
                    mine = "tool"
                if text == closing:
                    inside = None
        after_turn = text == "<turn|>"
        kinds.append(kind)
        roles.append(mine)
        numbers.append(number)
    return kinds, roles, numbers
