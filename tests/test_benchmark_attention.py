"""The attention benchmark runs and agrees with eager; how fast it is, is not a test's business."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import attention, shapes  # noqa: E402

TINY = replace(shapes.SHAPES["12-layer"], name="tiny", layers=6, hidden=64, intermediate=96, heads=2, kv_heads=1,
               head_dim=32, full_head_dim=64, window=48, vocab=1100)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


def test_it_runs_and_says_what_it_measured(tmp_path, capsys):
    file = tmp_path / "rows.json"
    args = [
        "--quick",
        "--shape",
        "tiny",
        "--lengths",
        "150",
        "160",
        "--answer",
        "7",
        "--no-memory",
        "--json",
        str(file),
    ]
    assert attention.main(args) == 0
    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert [(r["what"], r["against"]) for r in rows] == [
        (f"7 tokens at T = {T}", peer) for T in (150, 160) for peer in ("a plain SDPA pass", "eager")
    ]
    assert all(r["apart"] <= 2.0**-11 for r in rows)
    assert rows[1]["bytes_a_cell"]["ours"] == pytest.approx(1, abs=0.1)
    printed = capsys.readouterr().out
    assert "150 | not measured" in printed


def test_a_run_has_the_length_asked_for_and_a_picture(capsys):
    model = shapes.build("tiny")
    trace = attention.run_of(model, 151, 9)
    assert len(trace.ids) == 151
    assert len(trace.tokens) == 9
    assert trace.usage.image > 50
    assert attention.bytes_sent(trace, np.eye(151, dtype=np.float32))["ours"] == pytest.approx(1, abs=0.1)
    with pytest.raises(SystemExit, match="too short"):
        attention.run_of(model, 60, 9)
    assert attention.memory("tiny", "ours", 150, 5) >= 0
