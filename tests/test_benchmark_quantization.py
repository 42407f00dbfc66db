"""The benchmarks of packed weights run and count what they should; how fast is not their business."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import full_size, packed_peers, quantization, shapes  # noqa: E402
from benchmarks.measure import rounds  # noqa: E402

POCKET = {"kl": 0.125, "agree": 0.5, "tokens": 8, "bytes": 53, "weights": 25, "plain_bytes": 100}


def halved(weight):
    """A peer that rounds nothing and multiplies wrongly, by half."""
    plain = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=torch.bfloat16)
    plain.weight = torch.nn.Parameter(weight / 2)
    return packed_peers.of_torch(plain, weight.float)


@pytest.fixture
def peers(monkeypatch):
    """One that is there, under the name of the one int4 is held against, and one that is not."""
    two = {"llama.cpp Q4_0": ("json", "json-package", halved), "absent": ("no_such_module", "absent-package", halved)}
    monkeypatch.setattr(packed_peers, "PEERS", two)
    monkeypatch.setattr(quantization, "PEERS", two)


def test_speed_rows(tmp_path, capsys, monkeypatch, peers):
    monkeypatch.setattr(quantization, "LAYERS", {"small": (64, 96)})
    monkeypatch.setattr(
        quantization,
        "quality",
        lambda questions, *, exam, device: [{"scheme": "int4", **POCKET, **({"exam": (3, 4)} if exam else {})}],
    )
    args = ["--quick", "--rows", "1", "5", "--layers", "small", "--json", str(tmp_path / "rows.json"), "--cpu-time"]
    assert quantization.main([*args, "--exam"]) == 0
    said = capsys.readouterr().out
    assert "absent is not installed: python -m pip install --no-deps --target artifacts/peers absent-package" in said
    assert "json-package" not in said
    assert "| int4 | 0.12500 | 50.0% | 8 | 2.12 | 0.53 | 3 of 4 |" in said
    assert re.search(r"\| small \| int4 \| 0.(5625|6250) \| \d+.\d\d% \| 0.\d\d% \|", said)
    assert "| small | llama.cpp Q4_0 | 2.0000 | " in said
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))["rows"]
    assert [(r["scheme"], r["against"]) for r in rows if r["rows"] == 5] == [
        ("float32", "bfloat16"), ("int4", "bfloat16"), ("int4", "llama.cpp Q4_0"), ("int8", "bfloat16"),
        ("llama.cpp Q4_0", "bfloat16"),
    ]  # fmt: skip
    by_scheme = {r["scheme"]: r for r in rows}
    assert by_scheme["int4"]["bytes_a_weight"] in (0.5625, 0.625)
    assert by_scheme["int8"]["bytes_a_weight"] == pytest.approx(1 + 2 / 96)
    assert by_scheme["float32"]["error"] < 1e-6
    assert by_scheme["llama.cpp Q4_0"]["error"] == pytest.approx(0.5, rel=0.01)
    assert by_scheme["int8"]["arithmetic"] < by_scheme["int8"]["error"] < by_scheme["int4"]["error"] < 0.12


def test_rounds_begin_with_another_each_time():
    said = []
    seconds = rounds({name: lambda name=name: said.append(name) or len(said) for name in "abc"}, repeats=3)
    assert "".join(said) == "cab" + "abc" + "bca" + "cab"
    assert seconds == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}


# --- others' packing --------------------------------------------------------------------------------------------------


def test_blocks_of_q4_0_are_read():
    block = np.zeros(18, np.uint8)
    block[:2] = np.array([0.5], np.float16).view(np.uint8)
    block[2:] = 0x98  # low halves 8, which is 0; high halves 9, which is 1
    block[2] = 0xF0
    values = packed_peers.q4_values(np.concatenate((block, block)), 64)
    assert values.shape == (1, 64)
    assert values[0, :32].tolist() == [-4.0] + [0.0] * 15 + [3.5] + [0.5] * 15
    assert (values[0, 32:] == values[0, :32]).all()


def test_bytes_of_what_several_tensors_hold_and_of_scales_beside_the_weights():
    class State:
        nested, absmax = False, torch.zeros(5)

    layer = torch.nn.Linear(4, 6, bias=False)
    assert packed_peers.held(layer) == 96
    layer.weight.quant_state = State()
    assert packed_peers.held(layer) == 96 + 20


def test_a_folder_without_its_libraries_is_no_peer(tmp_path):
    with pytest.raises(ImportError, match="ggml_init is in none of"):
        packed_peers._Ggml(tmp_path)


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize("name", packed_peers.PEERS)
def test_a_peer_multiplies_by_the_weights_that_it_says_it_holds(name):
    if command := packed_peers.missing(name):
        pytest.skip(command)
    generator = torch.Generator().manual_seed(9)
    weight, x = (torch.randn((rows, 128), generator=generator).bfloat16() for rows in (64, 5))
    scheme = packed_peers.PEERS[name][2](weight)
    got = scheme.read(scheme.prepare(x)()).float()
    values = scheme.values()
    assert got.shape == (5, 64)
    assert values.shape == (64, 128)
    assert float((got - x.float() @ values.T).norm() / got.norm()) < 0.015  # products of 8 bits, and 16-bit results
    assert 0 < float((values - weight.float()).norm() / weight.float().norm()) < 0.12
    assert 0.5 < scheme.bytes / weight.numel() < 1.1


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
