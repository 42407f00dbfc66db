"""Products with packed weights, compiled: against float64, row by row, and at the ends of bfloat16."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from workbench import compiled, grid, kernels, machine  # noqa: E402
from workbench.packed import Int4Linear, Int8Linear, held_bytes, int8_product, kernel_for  # noqa: E402

CPU = torch.device("cpu")
WRITTEN_FOR = platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability().startswith("AVX")
pytestmark = pytest.mark.skipif(not WRITTEN_FOR, reason="a processor that PyTorch's own kernels are used on")
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 20, compiled.MANY8 - 1)


def int4(height, width, seed=0):
    weight = torch.randn((height, width), generator=torch.Generator().manual_seed(seed)).bfloat16()
    packed, scale, _ = grid.to_grid(weight)
    return compiled.product, packed, scale, grid.values(packed, scale.double())


def int8(height, width, seed=0):
    weight = torch.randn((height, width), generator=torch.Generator().manual_seed(seed)).bfloat16()
    packed, scale = grid.to_int8(weight)
    return compiled.product8, packed, scale, packed.double() * scale.double()[:, None]


BOTH = pytest.mark.parametrize("made", [int4, int8])


def test_what_it_takes_is_installed_here():
    assert machine.compiles()


@BOTH
@pytest.mark.parametrize(("height", "width"), [(5, 64), (64, 192), (33, 3840)])
@pytest.mark.parametrize("rows", ROWS)
def test_it_is_off_by_the_rounding_of_the_product_and_no_more(made, height, width, rows):
    product, packed, scale, values = made(height, width)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, width), generator=generator) * torch.exp(4 * torch.randn((rows, width), generator=generator))
    x = x.bfloat16()  # numbers of very different sizes side by side, as the model has them
    out, exact = product(x, packed, scale), x.double() @ values.T
    assert out.dtype == torch.bfloat16
    _, exponent = torch.frexp(x.float().unflatten(1, (-1, 32)).abs().amax(-1))
    half_a_step = torch.exp2((exponent - 16).double())  # of the integers that x becomes
    of_x = half_a_step @ values.abs().unflatten(1, (-1, 32)).sum(-1).T
    assert (
        (out.double() - exact).abs() <= exact.abs() * 2**-8 + of_x + 1e-6 * (x.double().abs() @ values.abs().T)
    ).all()
    assert float(of_x.mean()) < 2**-9 * float((x.double().abs() @ values.abs().T).mean())  # and that is little


@BOTH
def test_small_whole_numbers_come_out_exactly(made):
    product, packed, scale, _ = made(40, 128)
    whole = torch.ones_like(scale)
    codes = grid.unpack(packed).double() - 8 if made is int4 else packed.double()
    x = torch.randint(-16, 17, (6, 128), generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(product(x, packed, whole), (x.double() @ codes.T).bfloat16())


@BOTH
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_gives_to_the_bit_what_it_gives_alone(made, rows):
    product, packed, scale, _ = made(70, 320)
    x = torch.randn((rows, 320), generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(product(x, packed, scale), torch.cat([product(row[None], packed, scale) for row in x]))


@pytest.mark.parametrize("rows", [compiled.MANY, 130])
def test_many_rows_multiply_the_same_weights(rows, monkeypatch):
    monkeypatch.setattr(compiled, "_AT_A_TIME", 192 * 48)  # in pieces, the last of another height
    product, packed, scale, values = int4(100, 192)
    assert torch.equal(product(torch.eye(192).bfloat16(), packed, scale).T.double(), values.bfloat16().double())
    x = torch.randn((rows, 192), generator=torch.Generator().manual_seed(3)).bfloat16()
    exact = x.double() @ values.T
    assert ((product(x, packed, scale).double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all()


@BOTH
@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_shows_in_its_row_alone(made, wrong):
    product, packed, scale, _ = made(24, 128)
    x = torch.randn((3, 128), generator=torch.Generator().manual_seed(4)).bfloat16()
    right = product(x, packed, scale)
    x[1, 77] = wrong
    out = product(x, packed, scale)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], right[[0, 2]])


@BOTH
def test_the_ends_of_bfloat16(made):
    product, packed, scale, values = made(24, 128)
    x = torch.randn((1, 128), generator=torch.Generator().manual_seed(5)).bfloat16()
    for size in (2.0**-100 if made is int4 else 2.0**-85, 2.0**-60, 2.0**60, 2.0**110):
        big = x * size
        exact = big.double() @ values.T
        assert ((product(big, packed, scale).double() - exact).abs() <= exact.abs() * 2**-8 + size * 1e-3).all()
    assert not product(torch.zeros((2, 128), dtype=torch.bfloat16), packed, scale).any()
    tiny = product(torch.full((1, 128), 1e-39).bfloat16(), packed, scale)  # below float32's normal numbers
    assert tiny.isfinite().all()
    assert tiny.abs().max() < 1e-36


@BOTH
@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("height", [37, 3])  # of which five threads can have no more than three
@pytest.mark.parametrize("way", ["OpenMP", "our own"])
def test_threads_change_nothing(made, rows, height, way, monkeypatch):
    monkeypatch.setattr(compiled, "_WORTH_THREADS", 0)
    if way == "our own":
        monkeypatch.setattr(compiled, "_openmp", lambda: None)
    elif platform.system() == "Linux":
        assert compiled._openmp() is not None
    product, packed, scale, _ = made(height, 128)
    x = torch.randn((rows, 128), generator=torch.Generator().manual_seed(6)).bfloat16()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(product(x, packed, scale))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("way", ["OpenMP", "our own"])
def test_several_threads_may_ask_at_once(way, monkeypatch):
    monkeypatch.setattr(compiled, "_WORTH_THREADS", 0)
    if way == "our own":
        monkeypatch.setattr(compiled, "_openmp", lambda: None)
    product, packed, scale, _ = int4(64, 256)
    xs = [torch.randn((k % 5 + 1, 256), generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(40)]
    alone = [product(x, packed, scale) for x in xs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: product(x, packed, scale), xs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_layers_hold_the_stored_form_and_are_multiplied_by_it(monkeypatch):
    monkeypatch.setattr(torch, "_weight_int4pack_mm_for_cpu", lambda *_: pytest.fail("PyTorch's kernel"), raising=False)
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda *_: pytest.fail("PyTorch's kernel"), raising=False)
    _, packed, scale, values = int4(48, 128)
    layer = Int4Linear(48, 128, torch.bfloat16)
    layer.take(packed, scale, "cpu")
    layer.finish()
    assert layer.kernel == "compiled"
    assert held_bytes(layer) == 48 * 128 * 0.5625
    x = torch.randn((2, 3, 128), generator=torch.Generator().manual_seed(7)).bfloat16()
    assert torch.equal(layer(x), compiled.product(x.flatten(0, 1), packed, scale).view(2, 3, 48))
    assert torch.equal(layer.weight[5, :].double(), values[5].bfloat16().double())
    assert torch.equal(layer.weight[3:9].double(), values[3:9].bfloat16().double())
    assert torch.equal(layer.columns(4, 7).double(), values[:, 4:7].bfloat16().double())
    _, packed, scale, values = int8(48, 128)
    whole = Int8Linear(48, 128, torch.bfloat16)
    whole.take(packed, scale, "cpu")
    whole.finish()
    exact = x.double() @ values.T
    assert ((whole(x).double() - exact).abs() <= exact.abs() * 2**-8 + 1e-3).all()


def test_what_was_made_for_a_layer_is_not_held_twice_while_loading():
    """A copy of the embedding is 1 GB, at the moment when most memory is taken."""
    _, packed, scale, _ = int4(64, 128)
    _, codes, steps, _ = int8(64, 128)
    for layer, given in ((Int4Linear(64, 128, torch.bfloat16), packed), (Int8Linear(64, 128, torch.bfloat16), codes)):
        other = steps if given is codes else scale
        for own in (True, False):
            layer.take(given, other, "cpu", own=own)
            assert (layer._ready["packed"].data_ptr() == given.data_ptr()) is own


def test_weights_that_lie_across_are_laid_straight():
    _, packed, scale, _ = int4(64, 128)
    layer = Int4Linear(64, 128, torch.bfloat16)
    layer.take(packed.T.contiguous().T, scale.T.contiguous().T, "cpu")
    layer.finish()
    x = torch.randn((2, 128), generator=torch.Generator().manual_seed(8)).bfloat16()
    assert torch.equal(layer(x.T.contiguous().T), compiled.product(x, packed, scale))
    _, packed, scale, _ = int8(64, 128)
    whole = Int8Linear(64, 128, torch.bfloat16)
    whole.take(packed.T.contiguous().T, scale, "cpu")
    whole.finish()
    assert torch.equal(whole(x), compiled.product8(x, packed, scale))


def test_what_it_does_not_take_is_left_to_pytorch(monkeypatch):
    assert kernel_for(CPU, torch.bfloat16, 64, 128) == "compiled"
    assert kernel_for(CPU, torch.bfloat16, 64, 96) == "cpu"  # a group and a half of two
    assert kernel_for(CPU, torch.float32, 64, 128) == "cpu"
    assert kernel_for(CPU, torch.float32, 40, 128) == "plain"
    monkeypatch.setattr(compiled, "product8", lambda *_: pytest.fail("int8 of other types, or too many rows"))
    for rows, dtype in ((2, torch.float32), (2, torch.float16), (compiled.MANY8, torch.bfloat16)):
        out = int8_product(torch.ones((rows, 64), dtype=dtype), torch.ones((16, 64), dtype=torch.int8), torch.ones(16))
        assert torch.equal(out, torch.full_like(out, 64))
    monkeypatch.setattr(machine, "compiles", lambda: False)
    assert kernel_for(CPU, torch.bfloat16, 64, 128) == "cpu"


@pytest.mark.parametrize("missing", ["llvmlite", "x86", "avx2"])
def test_where_it_is_not_available(missing, monkeypatch):
    import importlib.util

    import llvmlite.binding as llvm

    if missing == "llvmlite":
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a))
    elif missing == "x86":
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
    else:
        monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {"avx2": False, "fma": True})
    assert not machine.compiles.__wrapped__()


def test_the_two_instructions_it_is_written_for_are_found():
    """That LLVM sees ``vpmaddwd`` in the text is what makes it quick; another release might not."""
    import llvmlite.binding as llvm

    for name in ("multiply4", "multiply8"):
        for rows in (1, 5):
            said = compiled.assembly("\n".join(getattr(kernels, name)(rows)))
            found = said.count("vpmaddwd") + said.count("vpdpwssd")  # which adds as well, where there is VNNI
            assert found >= 4 * rows, llvm.llvm_version_info
            assert said.count("vfmadd") >= rows
