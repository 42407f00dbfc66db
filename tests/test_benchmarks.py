"""The benchmarks run, give the tokens of ``generate``, print and write every row; how fast is not their business."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from benchmarks import decode, drafting, load, measure, shapes  # noqa: E402

TINY = replace(shapes.SHAPES["300M"], name="tiny", layers=6, hidden=64, intermediate=96, heads=2, kv_heads=1,
               head_dim=32, full_head_dim=64, window=48, vocab=1100)  # fmt: skip


def run(main, tmp_path, capsys, *args):
    code = main(["--quick", "--json", str(tmp_path / "rows.json"), *args])
    made = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    for row in made["rows"]:
        assert row["what"] in printed
        assert row["low"] <= row["median"] <= row["high"]
    assert made["machine"]["torch"] == torch.__version__
    assert made["machine"]["date"] in printed
    assert code == 0
    return made["rows"]


def test_load(tmp_path, capsys):
    rows = run(load.main, tmp_path, capsys)
    assert [(r["kind"], r["budget"]) for r in rows] == [
        ("seconds", 0.3), ("seconds", None), ("ratio", None), ("ratio", 0.001),
    ]  # fmt: skip
    assert rows[0]["heavy"] == []
    assert rows[3]["same"]


def test_drafting(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)
    rows = run(drafting.main, tmp_path, capsys, "--shapes", "pocket", "tiny", "--tasks", "word")
    assert {row["against"] for row in rows} == {"draft=0", "assistant_model=", "top=1"}
    drafted = [row for row in rows if "kept" in row]
    assert len(drafted) == 10
    for shape in ("pocket", "tiny"):  # the drafter knows its model; the foreseeing one is told four tokens in five
        mine = [row for row in drafted if row["shape"] == shape]
        assert sum(row["kept"] for row in mine) > 0.4 * sum(row["proposed"] for row in mine)


def test_drafting_that_changes_a_word_is_an_error(monkeypatch):
    real = drafting.ask

    def changed(model, task, **how):
        trace = real(model, task, **how)
        ids = trace.tokens.token_id.copy()
        ids[-1] += how["draft"] == 2
        return replace(trace, tokens=replace(trace.tokens, token_id=ids))

    monkeypatch.setattr(drafting, "ask", changed)
    model = workbench.load(progress=False)
    with pytest.raises(AssertionError, match="drafting changed the tokens"):
        drafting.drafted_rows(model, "pocket", ["word"], {"repeats": 1, "warm_up": 0}, own=True)


def test_what_recording_costs_is_within_what_is_timed(monkeypatch):
    from workbench import recording

    real = recording.columns
    monkeypatch.setattr(recording, "columns", lambda *a, **k: time.sleep(0.5) or real(*a, **k))
    model = workbench.load(progress=False)
    trace = drafting.ask(drafting.fresh(model), drafting.TASKS["word"], draft=0)
    timing = trace.timing
    assert timing.total_s - timing.first_token_s - timing.decode_s >= 0.5


@pytest.mark.parametrize(("name", "more"), [("pocket", []), ("tiny", ["--cpu-time"])])
def test_decode(tmp_path, capsys, monkeypatch, name, more):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)
    rows = run(decode.main, tmp_path, capsys, "--shapes", name, "--tokens", "5", *more)
    budget = {"pocket": 0.95, "tiny": 1.03}[name]
    whole = [r for r in rows if r["what"].endswith("whole run")]
    assert len(whole) == {"pocket": 3, "tiny": 2}[name]
    assert all(r["same_tokens"] and r["budget"] == budget for r in whole)
    assert {r["generated"] for r in whole if "generated" in r} == {5}
    cache = rows[-1]
    assert (cache["budget"], cache["same_tokens"]) == (0.25, True)
    assert cache["cached"] > cache["image"] > 250
    parts = [r["what"].rpartition(": ")[2] for r in rows]
    for part in ("prompt ready", "after the first token", "top=20", "top=1, on_token= listening"):
        assert part in parts


def test_a_parting_of_tokens_is_an_error():
    contest = decode.Contest(None, {}, 1)
    contest._same("ours", [1, 2])
    contest._same("theirs", [1, 2])
    with pytest.raises(AssertionError, match="other tokens"):
        contest._same("ours", [1, 3])


def test_shapes_are_what_their_names_say():
    parameters = {}
    for name, shape in shapes.SHAPES.items():
        model = shapes.build(name, device="meta")
        text = model.transformer.model.language_model
        parameters[name] = sum(p.numel() for p in text.parameters())
        assert model.info.layers == ("sliding",) * 5 + ("full",) + model.info.layers[6:]
        assert model.info.layers[-1] == "full"
        assert model.info.mask_correction
        assert text.layers[5].self_attn.head_dim == shape.full_head_dim
        assert text.layers[5].self_attn.v_proj is None
    assert 0.28e9 < parameters["300M"] < 0.32e9
    assert len(shapes.build("12-layer", device="meta").info.layers) == 12
    assert parameters["12B"] == pytest.approx(11.907e9, abs=0.001e9)


def test_random_weights_are_named_by_what_they_were_made_from():
    before = torch.random.get_rng_state()
    one, same, other = shapes.build(TINY), shapes.build(TINY), shapes.build(TINY, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.info.identity == same.info.identity != other.info.identity
    assert torch.equal(one.transformer.lm_head.weight, same.transformer.lm_head.weight)
    trace = one.ask("Hello", temperature=0, max_new_tokens=3)
    assert (len(trace.tokens), trace.finish) == (3, "max_new_tokens")
    assert trace.model.weights_hash.startswith("random-")


def test_pairs_take_turns():
    calls = []

    def note(name):
        calls.append(name)
        return float(len(calls))

    ours, theirs = measure.pairs(lambda: note("a"), lambda: note("b"), repeats=3, warm_up=1)
    assert "".join(calls) == "baabbaab"
    assert (ours, theirs) == ([3, 6, 7], [4, 5, 8])


def test_the_interval_is_that_of_the_median():
    assert measure.interval([3.0]) == (3, 3)
    assert measure.interval([5.0, 1, 2, 3, 4]) == (1, 5)
    assert measure.interval(list(range(1, 7))) == (1, 6)  # 2 × 0.5⁶ = 3.1 %
    assert measure.interval(list(range(1, 10))) == (2, 8)  # 2 × 10 × 0.5⁹ = 3.9 %
    assert measure.interval(list(range(1, 16))) == (4, 12)  # 2 × 576 × 0.5¹⁵ = 3.5 %
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for low, high in (measure.interval(rng.standard_normal(15)) for _ in range(2000))]
    assert 0.94 < np.mean(inside) < 0.99


def test_a_budget_is_kept_by_the_median_of_ratios():
    row = measure.Row("x", [1.0, 2.0, 9.0], "y", [2.0, 2.0, 10.0], budget=0.9)
    assert row.measured == (0.9, 0.5, 1.0)
    assert row.met
    assert not replace(row, budget=0.89).met
    assert replace(row, budget=None).met is None
    assert "| yes |" in measure.table([row])
    assert "| NO  |" in measure.table([replace(row, budget=0.5)])
    args = measure.arguments("", repeats=1).parse_args(["--check"])
    assert measure.finish([row], args) == 0
    assert measure.finish([replace(row, budget=0.5)], args) == 1


def test_cpu_time_is_not_the_clocks():
    threads = torch.get_num_threads()
    with measure.clock(cpu=True):
        assert torch.get_num_threads() == 1
        assert measure.machine()["clock"] == "CPU"
        began = time.perf_counter()
        time.sleep(0.2)
        assert time.perf_counter() - began < 0.1
    assert measure.machine()["clock"] == "wall"
    assert torch.get_num_threads() == threads
