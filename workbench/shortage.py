"""Memory that runs out while a model works: told in words, with everything let go that can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from workbench.errors import DoesNotFit

__all__ = ["ran_out", "within"]

T = TypeVar("T")
_WORDS = re.compile("allocate memory|out of memory", re.IGNORECASE)


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out; torch has a kind of its own for CUDA alone, and words for others, as files have."""
    return isinstance(error, MemoryError) or bool(_WORDS.search(str(error)))


def within(model: Any, what: str, work: Callable[[], T]) -> T:
    """What ``work`` gives.

    Args:
        model: A loaded model; what it keeps of earlier prompts goes when memory runs out.
        what: What is being done, as in "ran out of memory over …".
        work: Gives no value None.

    Raises:
        DoesNotFit: Memory ran out.
    """
    made = None
    try:
        made = work()
    except (MemoryError, OSError, RuntimeError) as error:
        if not ran_out(error):
            raise
    # not within the handler: a notebook keeps an error, and through the one that led to it all that its frames held
    if made is None:
        model.forget()
        raise DoesNotFit(
            f"{model.info.device} ran out of memory over {what}. What was kept of earlier prompts was let go: ask "
            "again, or with fewer media or a smaller image_tokens=."
        )
    return made
