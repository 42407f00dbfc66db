"""Packed weights: exact where they can be, as small as they should be, and still so after ten tokens."""

import importlib.util
import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

import workbench  # noqa: E402
from tests.packed import compressed_folder, grid_folder, linears  # noqa: E402
from workbench import grid, headers, repack, tiles  # noqa: E402
from workbench.errors import Incompatible, ModelError  # noqa: E402
from workbench.packed import Int4Linear, Int8Embedding, Int8Linear, held_bytes, int8_product, kernel_for, layers  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

TYPES = (torch.float32, torch.bfloat16, torch.float16)


pytestmark = pytest.mark.usefixtures("unload_what_a_test_loads")


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_codes_are_packed_two_to_a_byte_the_even_column_low():
    codes = torch.tensor([[1, 2, 15, 0], [8, 7, 3, 4]])
    packed = grid.pack(codes)
    assert packed.tolist() == [[0x21, 0x0F], [0x78, 0x43]]
    assert grid.unpack(packed).tolist() == codes.tolist()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("widest", [8, 7, 3, 1])
def test_weights_on_the_grid_come_back_exactly(dtype, widest):
    generator = torch.Generator().manual_seed(widest)
    codes = torch.randint(-widest, min(widest, 7) + 1, (48, 192), generator=generator)
    scale = (torch.rand((48, 6), generator=generator) * 0.03 + 1e-3).to(dtype)
    codes[3, :32] = 0  # a group of zeros
    weight = (codes.unflatten(1, (6, 32)) * scale.float()[:, :, None]).flatten(1).to(dtype)
    packed, scales, rounding = grid.to_grid(weight)
    assert torch.equal(grid.values(packed, scales), weight)
    assert rounding.exact == rounding.weights == 48 * 192
    assert rounding.relative == 0
    assert str(rounding) == "exact"


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_other_weights_are_rounded_and_the_error_is_what_is_reported(dtype):
    weight = torch.randn((32, 128), generator=torch.Generator().manual_seed(1)).to(dtype)
    packed, scales, rounding = grid.to_grid(weight)
    off = grid.values(packed, scales).float() - weight.float()
    assert rounding.relative == pytest.approx(float(off.norm() / weight.float().norm()), rel=1e-3)
    assert rounding.largest == pytest.approx(float(off.abs().max()), rel=1e-3)
    assert 0.05 < rounding.relative < 0.095
    assert "relative error" in str(rounding)
    plain = weight.float().unflatten(1, (4, 32))
    step = plain.abs().amax(dim=2, keepdim=True) / 7
    naive = (plain / step).round().clamp(-8, 7) * step - plain
    assert float(off.norm()) < float(naive.norm())


def test_int8_is_off_by_half_a_step_at_most():
    weight = torch.randn((5, 96), generator=torch.Generator().manual_seed(1))
    weight[2] = 0
    codes, scale = grid.to_int8(weight)
    assert codes.abs().max() == 127
    assert ((codes * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-6).all()


# --- the layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("rows", "kernel"), [(64, "cpu"), (24, "plain")])
def test_a_layer_multiplies_by_the_unpacked_weight(dtype, rows, kernel):
    generator = torch.Generator().manual_seed(2)
    packed, scale, _ = grid.to_grid(torch.randn((rows, 96), generator=generator).to(dtype))
    layer = Int4Linear(rows, 96, dtype)
    layer.take(packed, scale, "cpu")
    layer.finish()
    assert layer.kernel == kernel
    x = torch.randn((2, 5, 96), generator=generator).to(dtype)
    out = layer(x)
    assert out.shape == (2, 5, rows)
    assert out.dtype == dtype
    expected = x.float() @ grid.values(packed, scale.float()).T
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}[dtype]
    assert float((out.float() - expected).abs().max()) < tolerance * float(expected.abs().max())
    assert torch.allclose(layer.weight[3, :].float(), grid.values(packed, scale.float())[3], rtol=0.01)
    assert layer.weight.shape == (rows, 96)
    assert layer.weight.dtype == dtype


def test_rows_of_a_pass_do_not_change_each_other():
    """What drafting relies on: k+1 rows give what one row gives."""
    generator = torch.Generator().manual_seed(3)
    layer = Int4Linear(32, 64, torch.float32)
    layer.take(*grid.to_grid(torch.randn((32, 64), generator=generator))[:2], "cpu")
    layer.finish()
    x = torch.randn((6, 64), generator=generator)
    assert torch.allclose(layer(x), torch.cat([layer(row[None]) for row in x]), atol=1e-6)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("height", [64, 48, 1088])  # of one block or two, of no whole number, of many pieces
def test_many_rows_give_what_each_row_gives(dtype, height, monkeypatch):
    monkeypatch.setattr(tiles, "_AT_A_TIME", 128 * 96)
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn((height, 96), generator=generator).to(dtype)
    x = torch.randn((tiles.MANY, 96), generator=generator).to(dtype)
    int4, int8 = Int4Linear(height, 96, dtype), Int8Linear(height, 96, dtype)
    int4.take(*grid.to_grid(weight)[:2], "cpu")
    int8.take(*grid.to_int8(weight), "cpu")
    for layer in (int4, int8):
        layer.finish()
        together, one_by_one = layer(x).double(), torch.cat([layer(row[None]) for row in x]).double()
        largest = float(one_by_one.abs().max())
        steps = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
        assert float((together - one_by_one).abs().max()) <= steps * largest
        assert together.shape == (tiles.MANY, height)


def test_the_order_of_packed_codes_is_found_out_and_read_back():
    size = tiles.block()
    if size is None and torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        pytest.skip(f"this processor ({torch.backends.cpu.get_cpu_capability()}) packs in another way")
    assert size in {32, 64}
    packed, scale, _ = grid.to_grid(torch.randn((2 * size, 64), generator=torch.Generator().manual_seed(5)))
    layer = Int4Linear(2 * size, 64, torch.float32)
    layer.take(packed, scale, "cpu")
    layer.finish()
    expected = grid.values(packed, scale)
    assert torch.equal(tiles.values(layer.packed, layer.scale, 0, 2 * size), expected.T)
    assert torch.equal(tiles.values(layer.packed, layer.scale, size, 2 * size), expected[size:].T)


def test_a_processor_that_packs_in_another_way_leaves_all_rows_to_the_kernel(monkeypatch):
    monkeypatch.setattr(tiles, "block", lambda: None)
    monkeypatch.setattr(tiles, "product", lambda *_: pytest.fail("unpacked in an order nobody knows"))
    packed, scale, _ = grid.to_grid(torch.randn((64, 64), generator=torch.Generator().manual_seed(6)))
    layer = Int4Linear(64, 64, torch.float32)
    layer.take(packed, scale, "cpu")
    layer.finish()
    x = torch.randn((80, 64), generator=torch.Generator().manual_seed(7))
    assert torch.allclose(layer(x), x @ grid.values(packed, scale).T, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_few_rows_of_types_that_no_kernel_is_written_for_are_unpacked_too(dtype, rows, monkeypatch):
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("a processor whose kernels are written for these types as well")
    for kernel in ("_weight_int4pack_mm_for_cpu", "_weight_int8pack_mm"):
        monkeypatch.setattr(
            torch, kernel, lambda *_, kernel=kernel: pytest.fail(f"{kernel} works number by number here")
        )
    generator = torch.Generator().manual_seed(8)
    weight, x = (torch.randn((n, 96), generator=generator).to(dtype) for n in (320, rows))  # a cut and a quarter
    int4, int8 = Int4Linear(320, 96, dtype), Int8Linear(320, 96, dtype)
    int4.take(*(coded := grid.to_grid(weight)[:2]), "cpu")
    int8.take(*(whole := grid.to_int8(weight)), "cpu")
    step = {torch.float32: 1e-6, torch.float16: 2.0**-10}[dtype]
    for layer, values in ((int4, grid.values(*coded)), (int8, whole[0] * whole[1][:, None])):
        layer.finish()
        expected = x.double() @ values.double().T
        assert float((layer(x).double() - expected).abs().max()) <= step * float(expected.abs().max())


@pytest.mark.parametrize("columns", [33, 36, 40, 63, 96])
def test_int8_reads_nothing_beyond_its_rows(columns):
    """PyTorch's kernel does where columns are no multiple of 32; what lies behind is made NaN here."""
    generator = torch.Generator().manual_seed(columns)
    room = torch.full((columns * 2 + 300,), float("nan")).bfloat16()
    x = room[: columns * 2].view(2, columns)
    x.copy_(torch.randn(2, columns, generator=generator))
    packed, scale = grid.to_int8(torch.randn(16, columns, generator=generator).bfloat16())
    made = int8_product(x, packed, scale)
    expected = x.double() @ (packed * scale[:, None]).double().T
    assert torch.isfinite(made).all()
    assert float((made.double() - expected).abs().max()) <= 0.01 * float(expected.abs().max())


def test_when_unpacking_is_better(monkeypatch):
    for capability, kernels in (("AVX2", {torch.bfloat16}), ("AVX512", {torch.bfloat16}), ("DEFAULT", set(TYPES))):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert {dtype for dtype in TYPES if not tiles.better(5, dtype)} == kernels
        assert all(tiles.better(tiles.MANY, dtype) for dtype in TYPES)


def test_bytes_a_weight():
    layer = Int4Linear(64, 128, torch.bfloat16)
    layer.take(*grid.to_grid(torch.randn(64, 128).bfloat16())[:2], "cpu")
    assert held_bytes(layer) == 0
    layer.finish()
    assert held_bytes(layer) == 64 * 128 * {"compiled": 0.5625, "cpu": 0.625}[layer.kernel]


def test_an_embedding_multiplies_by_its_scale_as_the_layer_it_replaces():
    weight = torch.randn((20, 32), generator=torch.Generator().manual_seed(4)).bfloat16()
    layer = Int8Embedding(20, 32, torch.bfloat16, 192**0.5)
    layer.take(*grid.to_int8(weight), "cpu")
    layer.finish()
    ids = torch.tensor([[3, 19], [0, 3]])
    expected = weight[ids].float() * float(torch.tensor(192**0.5).bfloat16())
    assert layer(ids).shape == (2, 2, 32)
    assert torch.allclose(layer(ids).float(), expected, atol=0.3, rtol=0.02)


def test_the_kernel_is_asked_of_the_device_not_guessed(monkeypatch):
    capability = {0: (7, 5), 1: (8, 0)}
    monkeypatch.setattr("workbench.packed._capability", capability.get)
    where = torch.device
    assert kernel_for(where("cuda", 0), torch.bfloat16, 64, 128) == "plain"
    assert kernel_for(where("cuda", 1), torch.bfloat16, 64, 128) == "tiled"
    assert kernel_for(where("cuda", 1), torch.float16, 64, 128) == "plain"
    assert kernel_for(where("mps"), torch.bfloat16, 64, 128) == "tiled"
    assert kernel_for(where("cpu"), torch.float32, 40, 128) == "plain"


def test_columns_that_make_no_groups_are_refused():
    with pytest.raises(ModelError, match="groups of 32"):
        Int4Linear(16, 48, torch.float32)


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["int4", "int4+16", "int8"])
def test_pocket_packed_stays_packed_and_says_so(scheme, examples, capsys):
    plain = workbench.load("pocket", progress=False)
    model = workbench.load("pocket", quantization=scheme)
    assert f"quantization={scheme!r}" in capsys.readouterr().out
    assert model is not plain
    assert model.info.quantization == scheme
    assert model.info.identity != plain.info.identity
    kinds = {type(layer) for _, layer in layers(model.transformer)}
    assert (
        kinds
        == {"int4": {Int4Linear, Int8Embedding}, "int4+16": {Int4Linear}, "int8": {Int8Linear, Int8Embedding}}[scheme]
    )
    before = held_bytes(model.transformer)
    assert before < held_bytes(plain.transformer) * 0.6
    trace = model.ask("What is in the picture?", images=[examples / "scene.png"], max_new_tokens=10, temperature=0)
    assert held_bytes(model.transformer) == before
    assert trace.model.quantization == scheme
    scored = plain.score(trace)
    assert np.abs(scored.tokens.logprob - trace.tokens.logprob).mean() < (0.001 if scheme == "int8" else 0.02)


@pytest.fixture
def examples():
    return WEIGHTS.parent / "examples"


def test_a_drafted_run_of_a_packed_model_is_the_undrafted_one(tmp_path):
    from workbench.pocket import drafter, evaluate

    drafter.save_drafter(drafter.build_drafter(evaluate.load(WEIGHTS)[1], 3), tmp_path)
    model = workbench.load("pocket", quantization="int4", drafter=tmp_path, progress=False)
    for settings in ({"temperature": 0}, {"temperature": 1.2, "seed": 3}):
        a = model.ask("Tell me a story.", draft=0, max_new_tokens=16, **settings)
        b = model.ask("Tell me a story.", draft=3, max_new_tokens=16, **settings)
        assert np.array_equal(a.tokens.token_id, b.tokens.token_id)
        assert len(b.rounds) > 0


def test_a_model_on_the_grid_loses_nothing_but_in_its_embedding(tmp_path, capsys):
    made = grid_folder(tmp_path / "grid")
    exact = workbench.load(tmp_path / "grid", quantization="int4+16")
    assert "(exact)" in capsys.readouterr().out
    plain = workbench.load(tmp_path / "grid", progress=False)
    trace = plain.ask("Hello", max_new_tokens=12, temperature=0)
    assert np.allclose(exact.score(trace).tokens.logprob, trace.tokens.logprob, atol=2e-4)
    held = dict(layers(exact.transformer))
    assert len(held) == len(made) == 40
    for key, (codes, scale) in made.items():
        name = next(n for n in held if n.endswith(key.removesuffix(".weight").removeprefix("model.")))
        assert torch.allclose(
            held[name].rows(slice(None)), (codes - 8) * scale.float().repeat_interleave(32, dim=1), rtol=1e-6
        )


@pytest.mark.parametrize("shards", [1, 3])
def test_the_official_packed_form_is_repacked_exactly_and_stays_packed(tmp_path, shards):
    made = compressed_folder(tmp_path / "packed", shards)
    model = workbench.load(tmp_path / "packed", progress=False)
    assert model.info.quantization == "int4"
    held = {n: layer for n, layer in layers(model.transformer) if isinstance(layer, Int4Linear)}
    assert len(held) == len(made)
    for key, (codes, scale) in made.items():
        name = next(n for n in held if n.endswith(key.removesuffix(".weight").removeprefix("model.")))
        assert torch.equal(held[name].rows(slice(None)), (codes - 8) * scale.float().repeat_interleave(32, dim=1))
    before = held_bytes(model.transformer)
    trace = model.ask("Hello", max_new_tokens=10, temperature=0)
    assert held_bytes(model.transformer) == before
    grid_folder(tmp_path / "plain")
    same = workbench.load(tmp_path / "plain", quantization="int4", progress=False)
    assert held_bytes(same.transformer) == before
    assert same.ask("Hello", max_new_tokens=10, temperature=0).text == trace.text


# --- what is refused --------------------------------------------------------------------------------------------------


def test_unknown_names_and_missing_packages(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else real(name, *a)
    )
    with pytest.raises(ModelError, match=r"one of none, int8, int4\+16, int4"):
        workbench.load("pocket", quantization="int3")
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        workbench.load("pocket", quantization="nf4", progress=False)


@pytest.mark.parametrize(
    ("name", "package"),
    [("nf4", "bitsandbytes"), ("bnb-int8", "bitsandbytes"), ("torchao-int8", "torchao"), ("metal", "kernels")],
)
def test_schemes_of_others_name_the_package_they_take(name, package, monkeypatch):
    import importlib
    import types

    import transformers

    from workbench.quantization import held_as

    assert transformers.BitsAndBytesConfig, transformers.AutoConfig  # imported before imports are faked
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == package else spec(n, *a))
    with pytest.raises(ModelError, match=f"needs {package}: pip install {package}"):
        held_as(WEIGHTS, name, "cpu")
    real = importlib.import_module
    scheme = types.SimpleNamespace(Int8WeightOnlyConfig=lambda: "8 bits")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object() if n == package else spec(n, *a))
    monkeypatch.setattr(
        importlib, "import_module", lambda n, *a: scheme if n == "torchao.quantization" else real(n, *a)
    )
    for kind in ("BitsAndBytesConfig", "TorchAoConfig", "MetalConfig"):
        monkeypatch.setattr(transformers, kind, lambda kind=kind, **how: (kind, how))
    held, how = held_as(WEIGHTS, name, "cpu")
    assert held == name
    expected = {
        "nf4": ("BitsAndBytesConfig", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        "bnb-int8": ("BitsAndBytesConfig", {"load_in_8bit": True}),
        "torchao-int8": ("TorchAoConfig", {"quant_type": "8 bits"}),
        "metal": ("MetalConfig", {}),
    }
    assert how == {"quantization_config": expected[name]}


@pytest.mark.parametrize(
    "weights",
    [{"group_size": 128}, {"num_bits": 8}, {"symmetric": False}, {"strategy": "channel"}, {"actorder": "group"}],
)
def test_other_packings_are_refused(tmp_path, weights):
    compressed_folder(tmp_path / "odd", **weights)
    with pytest.raises(Incompatible, match=next(iter(weights))):
        workbench.load(tmp_path / "odd", progress=False)
    assert "odd" not in workbench.loaded()


def test_a_packed_folder_is_not_unpacked_nor_repacked(tmp_path):
    compressed_folder(tmp_path / "packed")
    for asked in ("none", "int8"):
        with pytest.raises(Incompatible, match="stored as int4"):
            workbench.load(tmp_path / "packed", quantization=asked, progress=False)


def change(folder, change_tensors):
    tensors = load_file(folder / "model.safetensors")
    key = next(k for k in sorted(tensors) if k.endswith("q_proj.weight_packed"))
    change_tensors(tensors, key.removesuffix("weight_packed"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t, n: t.pop(f"{n}weight_scale"), "weight_scale"),
        (lambda t, n: t.pop(f"{n}weight_packed"), "weight_packed|does not match|do not match"),
        (lambda t, n: t.update({f"{n}weight_packed": t[f"{n}weight_packed"][:, :-1].contiguous()}), "shape"),
        (
            lambda t, n: t.update({f"{n}weight_scale": t[f"{n}weight_scale"][:, :-1].contiguous()}),
            "weight_scale has shape",
        ),
        (lambda t, n: t.update({f"{n}weight_shape": torch.tensor([3, 4])}), "weight_shape says"),
        (lambda t, n: t[f"{n}weight_scale"].fill_(float("nan")), "not finite"),
        (
            lambda t, n: t.update({"model.language_model.layers.99.x.weight_packed": t[f"{n}weight_packed"] + 1}),
            "no layer",
        ),
    ],
    ids="no-scale no-codes codes-shape scale-shape wrong-shape nan unknown-layer".split(),
)
def test_damaged_packed_checkpoints_are_refused_by_name(tmp_path, damage, said):
    compressed_folder(tmp_path / "bad")
    change(tmp_path / "bad", damage)
    with pytest.raises(ModelError, match=said):
        workbench.load(tmp_path / "bad", progress=False)
    assert "bad" not in workbench.loaded()


def test_plain_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    grid_folder(tmp_path / "nan")
    tensors = load_file(tmp_path / "nan" / "model.safetensors")
    tensors[linears(tensors)[5]][0, 0] = float("inf")
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        workbench.load(tmp_path / "nan", quantization="int4", progress=False)


# --- written packed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["int4", "int4+16", "int8"])
def test_a_folder_written_packed_is_the_model_packed_while_loading(tmp_path, scheme, monkeypatch):
    monkeypatch.setattr(repack, "_FILE", 1 << 20)  # several files
    lines = []
    said = repack.quantize("pocket", tmp_path / "kept", scheme=scheme, report=lines.append)
    assert lines[-1].startswith("1 of 1 files, ")
    assert ("relative error" in said) is (scheme != "int8")
    assert not (tmp_path / "kept.part").exists()
    sizes = [f.stat().st_size for f in (tmp_path / "kept").glob("*.safetensors")]
    assert len(sizes) > 2
    assert sum(sizes) < (WEIGHTS / "model.safetensors").stat().st_size * (0.9 if scheme == "int4+16" else 0.8)
    model = workbench.load(tmp_path / "kept", progress=False)
    other = workbench.load("pocket", quantization=scheme, progress=False)
    assert model.info.quantization == scheme
    mine, theirs = dict(layers(model.transformer)), dict(layers(other.transformer))
    assert mine.keys() == theirs.keys()
    for name, layer in mine.items():
        assert torch.equal(layer.packed, theirs[name].packed), name
        if isinstance(layer, Int4Linear):
            assert torch.equal(layer.scale.bfloat16(), theirs[name].scale.bfloat16()), name


def test_the_official_packed_form_is_kept_integer_by_integer(tmp_path):
    compressed_folder(tmp_path / "ct")
    assert repack.quantize(tmp_path / "ct", tmp_path / "kept") == "exact"
    before, after = load_file(tmp_path / "ct/model.safetensors"), load_file(tmp_path / "kept/model.safetensors")
    packed = [k for k in before if "_proj.weight_" in k]
    assert len(packed) == 3 * 40
    for key in packed:
        assert torch.equal(before[key], after[key]), key
    assert after["model.language_model.embed_tokens.weight_packed"].dtype == torch.int8
    a = workbench.load(tmp_path / "ct", progress=False).ask("Hello", max_new_tokens=6, temperature=0)
    b = workbench.load(tmp_path / "kept", progress=False).ask("Hello", max_new_tokens=6, temperature=0)
    assert np.array_equal(a.tokens.token_id, b.tokens.token_id)


def test_writing_packed_from_the_command_line(tmp_path, capsys):
    from workbench.cli import main

    grid_folder(tmp_path / "grid")
    assert main(["quantize", str(tmp_path / "grid"), "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "weights: exact" in said.err
    assert str(tmp_path / "out") in said.out
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8"))["quantization_config"]["rounding"] == "exact"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    for wrong, word in (
        [["quantize", "pocket", "--to", str(tmp_path / "out")], "there already"],
        [["quantize", "pocket", "--to", str(tmp_path / "new"), "--scheme", "int3"], "int4, int4+16, int8"],
        [["quantize", str(tmp_path / "out"), "--to", str(tmp_path / "new")], "packed weights already"],
        [["quantize", "pocked", "--to", str(tmp_path / "new")], "Did you mean 'pocket'"],
    ):
        assert main(wrong) == 1
        assert word in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid", "out"]


def test_a_folder_of_somebody_is_left_alone(tmp_path):
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "notes.txt").write_text("precious")
    repack.quantize("pocket", tmp_path / "new")
    assert (tmp_path / "new.part" / "notes.txt").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "new.part"]
    with pytest.raises(ModelError, match=r"'v9'.*lies in a folder"):
        repack.quantize("pocket", tmp_path / "other", revision="v9")


@pytest.mark.parametrize("scheme", ["int4", "int4+16", "int8"])
def test_the_room_that_is_asked_for_is_what_comes_out(scheme, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(repack, "_check_room", lambda folder, needed: asked.append(needed))
    repack.quantize("pocket", tmp_path / "out", scheme=scheme)
    tensors = [(kind, shape) for _, kind, shape in headers.tensors(tmp_path / "out")]
    assert asked == [sum(headers.SIZES[kind] * math.prod(shape) for kind, shape in tensors)]


def test_a_file_that_cannot_be_written_is_told_of_the_target(tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*args, **more):
        raise SafetensorError("I/O error: File too large")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(workbench.DoesNotFit, match=f"could not be written to {tmp_path}.*too large"):
        repack.quantize("pocket", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(workbench.DoesNotFit, match=r"0\.0 GB free"):
        repack.quantize("pocket", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
