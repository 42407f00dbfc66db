"""A tree of branches, grown by a fake model that appends words."""

import dataclasses

import numpy as np
import pytest

from tests.traces import make_trace
from workbench.branches import Branches
from workbench.errors import TraceError


class Fake:
    """Answers a branch with a trace whose token ``at`` is another, and those after it, if more words are given."""

    def branch(self, trace, at, token, **changes):
        piece = list(trace.tokens.piece)
        ids = trace.tokens.token_id.copy()
        words = [" " + word for word in token.split()]
        piece[at : at + len(words)], ids[at : at + len(words)] = words, 999
        settings = dataclasses.replace(trace.settings, **changes)
        source = np.where(np.arange(len(piece)) < at + len(words), 4, 0)
        tokens = dataclasses.replace(trace.tokens, piece=tuple(piece), token_id=ids, source=source)
        return dataclasses.replace(trace, tokens=tokens, text="".join(piece), settings=settings)


def test_a_tree_grows_and_draws_itself():
    tree = Branches(make_trace(7))
    blue = tree.grow(Fake(), 1, " blue")
    left = tree.grow(Fake(), 4, " left", of=blue)
    other = tree.grow(Fake(), 2, " star")
    assert (blue, left, other) == (1, 2, 3)
    assert [n.index for n in tree.children(0)] == [1, 3]
    assert [n.index for n in tree.path(left)] == [0, 1, 2]
    assert tree.grow(Fake(), 1, " blue") == blue  # known already
    assert tree.grow(Fake(), 1, " blue", temperature=0.5) == 4  # at another setting it is another
    table = tree.to_pandas()
    assert table["forced"].tolist()[1:4] == [" blue", " left", " star"]
    assert table.loc[2, "parent"] == 1
    drawn = str(tree).splitlines()
    assert len(drawn) == 5
    assert drawn[1].startswith(" └ 1  at 1, ' blue'")
    assert drawn[2].startswith("   └ 2  at 4, ' left'")


def test_all_that_was_put_there_is_shown_as_forced():
    tree = Branches(make_trace(7, probability=[0.5] * 7))
    node = tree.grow(Fake(), 1, " light blue circle")
    assert tree.to_pandas().loc[node, "forced"] == " light blue circle"
    assert (tree[node].forced, tree[node].stop) == (" light blue circle", 4)
    assert "at 1, ' light blue circle' (12.5%): … at the<turn|>" in str(tree)
    again = tree.grow(Fake(), np.int64(2), " red", of=np.int64(node))
    assert tree[np.int64(again)].parent == node
    assert tree.to_pandas().loc[again, "forced"] == " red"


def test_what_is_not_there():
    tree = Branches(make_trace(3))
    for wrong in (1, -1, True, "x", 0.0, np.bool_(False)):
        with pytest.raises(TraceError, match="has 1 nodes"):
            tree.grow(Fake(), 0, " red", of=wrong)
    with pytest.raises(TraceError, match="no Trace"):
        Branches("x")
    assert len(tree) == 1
