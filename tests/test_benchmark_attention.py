"""The attention benchmark runs and agrees with eager; how fast it is, is not a test's business."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import attention, peers, shapes  # noqa: E402

TINY = replace(shapes.SHAPES["12-layer"], name="tiny", layers=6, hidden=64, intermediate=96, heads=2, kv_heads=1,
               head_dim=32, full_head_dim=64, window=48, vocab=1100)  # fmt: skip
ARGS = ["--quick", "--shape", "tiny", "--answer", "7", "--no-memory"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


def without_peers(monkeypatch):
    monkeypatch.setattr(peers, "missing", lambda name: f"not installed ({name})")


def test_it_runs_and_says_what_it_measured(tmp_path, capsys, monkeypatch):
    without_peers(monkeypatch)
    file = tmp_path / "rows.json"
    assert attention.main([*ARGS, "--lengths", "150", "160", "--json", str(file)]) == 0
    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert [(r["what"], r["against"]) for r in rows] == [
        (f"7 tokens at T = {T}", peer) for T in (150, 160) for peer in ("a plain SDPA pass", "eager")
    ]
    assert all(r["apart"] <= 2.0**-11 for r in rows if r["against"] == "eager")
    assert 150 < rows[0]["bytes_sent"]["ours"] < 2.5 * 150 + 600  # a byte a cell, and some words about each map
    printed = capsys.readouterr().out
    assert "T | plain | ours | eager" in printed
    assert "grows as | T^" in printed
    made = attention.summary([[attention.Row("x", [1.0], "a plain SDPA pass", [1.0], None, {
        "positions": attention.BUDGET_AT, "memory_share": 0.0825, "bytes_above_plain": {}, "bytes_sent": {"ours": 1},
        "not_run": {},
    })]], 12)  # fmt: skip
    assert f"above a plain pass is 0.08 of eager's; budget {attention.MEMORY:g}." in made
    assert "T = 150: BertViz not installed (BertViz)." in printed
    assert "pip install --no-deps --target" in printed


def test_peers_are_asked_for_one_head_where_they_are_there(capsys, monkeypatch):
    monkeypatch.setattr(peers, "missing", lambda _name: "")
    monkeypatch.setattr(peers, "version", lambda _name: "1.0")
    asked = []

    def page(name, weights, tokens):
        asked.append((name, weights.shape, len(tokens), float(weights.sum())))
        return "x" * 28 * weights.size

    monkeypatch.setattr(peers, "page", page)
    assert attention.main([*ARGS, "--lengths", "150"]) == 0
    assert {name for name, *_ in asked} == set(peers.PEERS)
    assert {shape for _, shape, *_ in asked} == {(150, 150)}
    assert all(words == 150 and total == pytest.approx(150, rel=1e-3) for *_, words, total in asked)  # rows sum to 1
    printed = capsys.readouterr().out
    assert "eager and BertViz's page" in printed
    assert "BertViz: 28.0 bytes a cell; its page of all 12 heads would be 0.0 GB" in printed


def test_what_would_not_fit_is_not_run(capsys, monkeypatch):
    without_peers(monkeypatch)
    monkeypatch.setattr(attention, "free_memory", lambda: (10**6, 10**9))
    assert attention.main([*ARGS, "--lengths", "150"]) == 0
    assert "T = 150: eager needs 0.0 GB, 0.0 GB are free." in capsys.readouterr().out


def test_a_cost_that_grows_with_the_square_is_told_so():
    assert attention.growth(2.0, 32.0, 4.0) == pytest.approx(2)
    assert attention.growth(2.0, 8.0, 4.0) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # BertViz leaves its script's file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "times"), [("BertViz", 2), ("CircuitsVis", 1)])  # BertViz sends its data twice
def test_a_peer_s_page_holds_the_numbers(name, times):
    weights = np.full((3, 3), 0.125, np.float32)
    if peers.missing(name):
        assert "not installed" in peers.missing(name)
        with pytest.raises(ImportError):
            peers.page(name, weights, ["a", "b", "c"])
        pytest.skip(f"{name} is not installed")
    assert peers.page(name, weights, ["a", "b", "c"]).count("0.125") == 9 * times


def test_a_run_has_the_length_asked_for_and_a_picture():
    model = shapes.build("tiny")
    trace = attention.run_of(model, 151, 9)
    assert len(trace.ids) == 151
    assert len(trace.tokens) == 9
    assert trace.usage.image > 50
    with pytest.raises(SystemExit, match="too short"):
        attention.run_of(model, 60, 9)
    assert attention.memory("tiny", "ours", 150, 5) >= 0
