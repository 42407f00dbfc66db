"""What can be asked about a trace, and the answers: numpy only, so that views and saved traces need no model.

An :class:`Inspector` answers. A ``LoadedModel`` is one, by running the model again; :class:`Recorded` is one that
answers from readings kept in the trace. Views ask :func:`can` what is there and grey out the rest.

Readings are plain arrays with a little JSON about them, so that they go into a ``.trace`` file as they are:
``Trace.readings[name] = {"meta": …, "arrays": …}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from workbench.trace import ModelInfo, Trace

__all__ = ["QUESTIONS", "Inspector", "can"]

QUESTIONS = ("attend", "lens", "occlude", "score", "branch", "speedup")
"""The methods an inspector may have."""


@runtime_checkable
class Inspector(Protocol):
    """Answers questions about traces of one model.

    Besides ``info`` it has some of the methods named in :data:`QUESTIONS`, each with the trace first and the signature
    of ``LoadedModel``'s method of that name. One that it does not have, it cannot answer.

    Attributes:
        info: The model it speaks for; readings of another model are refused with ``Incompatible``.
    """

    info: ModelInfo


def can(inspector: Any, question: str, trace: Trace | None = None) -> str:
    """Why a question cannot be asked; empty when it can.

    Args:
        inspector: An :class:`Inspector`, or None.
        question: One of :data:`QUESTIONS`.
        trace: If given, also whether the inspector is of this trace's model.
    """
    if inspector is None:
        return "No model is loaded for this trace: pass inspector=."
    if trace is not None and inspector.info.identity != trace.model.identity:
        return f"This trace is of {trace.model.variant}, the inspector of {inspector.info.variant}."
    if not callable(getattr(inspector, question, None)):
        return f"{type(inspector).__name__} cannot answer {question}."
    reason = getattr(inspector, "lacks", None)
    return reason(question) if callable(reason) else ""
