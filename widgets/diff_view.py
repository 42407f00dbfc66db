"""DiffView: two traces side by side, how far apart they are at each place, and where they part."""

from __future__ import annotations

import html
from typing import Any, ClassVar

import numpy as np
import traitlets

from widgets.base import View
from widgets.buffers import array
from workbench.diff import TraceDiff, compare
from workbench.display import to_html
from workbench.errors import TraceError, WorkbenchError
from workbench.trace import Trace

__all__ = ["DiffView"]

_TOP = 5


class DiffView(View):
    """Two runs compared: two models, settings, quantizations, or a branch with what it branched from.

        DiffView(trace, other)
        DiffView(workbench.compare(trace, other))

    Args:
        trace: The first trace, or what ``workbench.compare`` gave.
        other: The second trace.

    Attributes:
        other: The second trace; may be set again.
    """

    NAME: ClassVar[str] = "diff_view"
    TITLE: ClassVar[str] = "Two answers compared"

    other = traitlets.Instance(Trace, allow_none=True, help="The second trace.")

    def __init__(
        self, trace: Trace | TraceDiff | None = None, other: Trace | None = None, inspector: Any = None, **more: Any
    ) -> None:
        self._given: TraceDiff | None = None
        if isinstance(trace, TraceDiff):
            self._given = trace
            trace, other = self._given.a, self._given.b
        if trace is not None and other is None:
            raise TraceError("DiffView compares two traces: pass the second one as other=.")
        super().__init__(trace, inspector, other=other, **more)
        self.observe(self._changed, names="other")

    @property
    def diff(self) -> TraceDiff:
        """The comparison that is shown.

        Raises:
            TraceError: There are no two traces, or one has no tokens.
            Incompatible: Their vocabularies differ.
        """
        if self.trace is None or self.other is None:
            raise TraceError("There are no two traces to compare.")
        given = self._given
        same = given is not None and given.a is self.trace and given.b is self.other
        return given if given is not None and same else compare(self.trace, self.other)

    def describe(self, trace: Trace) -> dict[str, Any]:  # noqa: ARG002 (it is in self.diff, with the other)
        """Words of both, and the numbers of every place that can be compared."""
        if self.other is None:
            return {}
        d = self.diff
        return {
            "sides": [_side(d.a, len(d)), _side(d.b, len(d))], "divergence": d.divergence, "exact": d.exact,
            "kl": array(d.kl, np.float32), "agree": array(d.agree, np.uint8), "same_prompt": d.same_prompt,
            "logprob_a": array(d.logprob_a, np.float32), "logprob_b": array(d.logprob_b, np.float32),
        }  # fmt: skip

    def picture(self) -> str:
        """Both answers, and how far apart they are, for saved notebooks and code hosts."""
        if self.trace is None or self.other is None:
            return super().picture()
        try:
            apart = repr(self.diff)
        except WorkbenchError as error:
            apart = str(error)
        return f"<p>{html.escape(apart)}</p>{to_html(self.trace)}{to_html(self.other)}"


def _side(trace: Trace, n: int) -> dict[str, Any]:
    m, s, t = trace.model, trace.settings, trace.tokens
    how = "greedy" if s.temperature == 0 else f"temperature {s.temperature:g}, seed {s.seed}"
    start = len(trace.prompt)
    special = [k - start for x in trace.segments if x.kind == "control" for k in range(x.start, x.stop)]
    return {
        "name": f"{m.name} · {m.quantization if m.quantization != 'none' else m.dtype}", "how": how,
        "pieces": list(t.piece), "special": special,
        "top": [[[piece, lp] for piece, lp in t.alternatives(k)[:_TOP]] for k in range(n)],
    }  # fmt: skip
