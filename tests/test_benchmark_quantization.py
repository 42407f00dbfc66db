"""The benchmarks of packed weights run and count what they should; how fast is not their business."""

import json

import pytest

torch = pytest.importorskip("torch")

from benchmarks import full_size, quantization, shapes  # noqa: E402


def test_speed_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantization, "LAYERS", {"small": (64, 96)})
    monkeypatch.setattr(
        quantization,
        "quality",
        lambda questions: [
            {"scheme": "int4", "kl": 0.125, "agree": 0.5, "tokens": 8, "bytes": 53, "plain_bytes": 100},
        ],
    )
    args = ["--quick", "--rows", "1", "5", "--layers", "small", "--json", str(tmp_path / "rows.json"), "--cpu-time"]
    assert quantization.main(args) == 0
    said = capsys.readouterr().out
    assert "| int4 | 0.1250 | 50.0% | 8 | 0.53 |" in said
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))["rows"]
    assert {(r["what"].rpartition(": ")[2], r["rows"]) for r in rows} >= {("int4", 1), ("int4", 5), ("int8", 5)}
    by_scheme = {r["what"].rpartition(": ")[2]: r["bytes_a_weight"] for r in rows}
    assert by_scheme["int4"] == 0.625
    assert by_scheme["int8"] == pytest.approx(1 + 2 / 96)


@pytest.mark.parametrize("packed", [True, False])
def test_a_random_checkpoint_has_the_shape_and_the_form(tmp_path, packed):
    from dataclasses import replace

    from workbench.planning import plan

    tiny = replace(shapes.SHAPES["300M"], name="tiny", layers=6, hidden=64, intermediate=96, heads=2, kv_heads=1,
                   head_dim=32, full_head_dim=64, window=48, vocab=1100)  # fmt: skip
    full_size.write(tiny, tmp_path / "made", packed=packed)
    config = json.loads((tmp_path / "made/config.json").read_text("utf-8"))
    assert config["text_config"]["hidden_size"] == 64
    assert ("quantization_config" in config) is packed
    made = plan(tmp_path / "made", measure=False)
    assert made.quantization == ("int4" if packed else "none")
    assert made.fits
