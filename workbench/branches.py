"""A tree of what-ifs: one answer, other words in some of its places, and what was said then.

    tree = Branches(trace)
    blue = tree.grow(model, at=1, token=" blue")            # a branch of the root
    tree.grow(model, at=4, token=" left", of=blue)          # a branch of that branch
    print(tree)

Numpy only: the tree holds traces and draws itself without a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TraceError
from workbench.toolcalls import text_of
from workbench.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Branch", "Branches"]


@dataclass(frozen=True, eq=False)
class Branch:
    """A node of the tree.

    Attributes:
        index: Its number; the root is 0.
        parent: The node it parts from; None for the root.
        at: The generated token whose place was taken; None for the root.
        trace: The run.
    """

    index: int
    parent: int | None
    at: int | None
    trace: Trace

    @property
    def stop(self) -> int:
        """The generated token after those that were put there; 0 for the root."""
        if self.at is None:
            return 0
        names = self.trace.tokens.source_names
        return next((k for k in range(self.at + 1, len(names)) if names[k] != "forced"), len(names))

    @property
    def forced(self) -> str | None:
        """The text that was put there; None for the root."""
        return None if self.at is None else text_of(self.trace.tokens.piece[self.at : self.stop])


class Branches:
    """A root and the branches grown from it.

    Args:
        root: The run to start from.
    """

    def __init__(self, root: Trace) -> None:
        if not isinstance(root, Trace):
            raise TraceError(f"Branches: {type(root).__name__} is no Trace.")
        self._nodes = [Branch(0, None, None, root)]

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, index: int) -> Branch:
        whole = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
        if not whole or not 0 <= index < len(self._nodes):
            raise TraceError(f"This tree has {len(self._nodes)} nodes, counted from 0; there is no {index!r}.")
        return self._nodes[index]

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._nodes)

    def grow(self, inspector: Any, at: int, token: str | int, *, of: int = 0, **changes: Any) -> int:
        """Branch off a node.

        Args:
            inspector: Has ``branch(trace, at, token, **changes)``: a loaded model.
            at, token: Which generated token's place is taken, and by what.
            of: The node to part from.
            changes: Settings that differ, as for ``model.branch``.

        Returns:
            The number of the new node; that of an existing one, when the same branch was grown before.
        """
        parent = self[of]
        trace = inspector.branch(parent.trace, at, token, **changes)
        for node in self.children(of):
            known = node.trace
            if node.at == at and known.settings == trace.settings and (known.ids == trace.ids).all():
                return node.index
        self._nodes.append(Branch(len(self._nodes), parent.index, int(at), trace))
        return len(self._nodes) - 1

    def children(self, index: int) -> list[Branch]:
        """The branches that part from a node, in the order they were grown."""
        self[index]
        return [node for node in self._nodes if node.parent == index]

    def path(self, index: int) -> list[Branch]:
        """From the root to a node."""
        out = [self[index]]
        while out[-1].parent is not None:
            out.append(self._nodes[out[-1].parent])
        return out[::-1]

    def to_pandas(self) -> pd.DataFrame:
        """One row a node.

        Columns: ``parent, at, forced`` (the text put there), ``text``, ``logprob`` (the sum over its own tokens, from
        ``at`` on, in nats).
        """
        import pandas as pd

        rows = []
        for node in self._nodes:
            t, start = node.trace.tokens, node.at or 0
            rows.append(
                {"parent": node.parent, "at": node.at, "forced": node.forced, "text": node.trace.text,
                 "logprob": float(t.logprob[start:].sum())}
            )  # fmt: skip
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="node")).astype(
            {"parent": "Int64", "at": "Int64"}
        )

    def __repr__(self) -> str:
        lines = []

        def draw(node: Branch, indent: str) -> None:
            t, at = node.trace.tokens, node.at
            if at is None:
                lines.append(f"0  {node.trace.text}")
            else:
                p = math.exp(float(t.logprob[at : node.stop].sum()))
                tail = "".join(t.piece[node.stop :])
                lines.append(f"{indent}└ {node.index}  at {at}, {node.forced!r} ({p:.1%}): …{tail}")
            for child in self.children(node.index):
                draw(child, indent + "  " if at is not None else " ")

        draw(self._nodes[0], "")
        return "\n".join(lines)
