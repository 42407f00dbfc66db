"""Products with packed weights on CUDA: against float64, row by row, from several threads; and that they compile."""

import ctypes
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from workbench import compiled_cuda, grid  # noqa: E402
from workbench.packed import Int4Linear, Int8Linear, held_bytes, int8_product  # noqa: E402

on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.version.hip is not None, reason="this machine has no NVIDIA GPU"
)
ROWS = (1, 2, 3, 5, 8, 9, compiled_cuda.FEW, compiled_cuda.FEW + 1, 70)
GPU = "cuda:0"


def int4(height, width, seed=0):
    weight = torch.randn((height, width), generator=torch.Generator().manual_seed(seed)).bfloat16()
    packed, scale, _ = grid.to_grid(weight)
    return compiled_cuda.product, packed.to(GPU), scale.to(GPU), grid.values(packed, scale.double())


def int8(height, width, seed=0):
    weight = torch.randn((height, width), generator=torch.Generator().manual_seed(seed)).bfloat16()
    packed, scale = grid.to_int8(weight)
    return compiled_cuda.product8, packed.to(GPU), scale.to(GPU), packed.double() * scale.double()[:, None]


def rows_of(count, width, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    sizes = torch.exp(2 * torch.randn((count, width), generator=generator))
    return (torch.randn((count, width), generator=generator) * sizes).bfloat16()


BOTH = pytest.mark.parametrize("made", [int4, int8])


@pytest.fixture(scope="module")
def nvrtc():
    found = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib/libnvrtc.so.*"))
    if not found:
        pytest.skip("this torch comes without NVRTC")
    return ctypes.CDLL(str(found[0]))


@pytest.mark.parametrize(("major", "minor"), [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("rows", [1, 8])
def test_it_compiles_for_gpus_that_are_not_here(nvrtc, major, minor, rows):
    try:
        known = compiled_cuda.capability(nvrtc, major, minor)
    except RuntimeError as error:
        pytest.skip(str(error))  # a torch of an older CUDA, which does not run there either
    code = compiled_cuda.binary(nvrtc, known, rows, 2)
    assert code.startswith(b"\x7fELF")
    assert all(name in code for name in (b"multiply4", b"multiply8", b"unpack4", b"unpack8"))


def test_a_gpu_newer_than_nvrtc_gets_what_runs_there(nvrtc):
    assert compiled_cuda.capability(nvrtc, 8, 0) == "80"
    assert compiled_cuda.capability(nvrtc, 9, 7) == "90"
    with pytest.raises(RuntimeError, match=r"this NVRTC knows 7[05], .* and nothing for sm_990"):
        compiled_cuda.capability(nvrtc, 99, 0)


def test_what_does_not_compile_is_told(nvrtc):
    with pytest.raises(RuntimeError, match=r"NVRTC does not compile kernels\.cu for sm_1: .*invalid value"):
        compiled_cuda.binary(nvrtc, "1", 1, 2)


def test_without_a_gpu_it_takes_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not compiled_cuda.takes(torch.device(GPU), torch.bfloat16, 64)


@pytest.fixture
def untried(monkeypatch):
    """A GPU that nothing is known of, here or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiled_cuda, "_right", {})
    return torch.device(GPU), torch.bfloat16, 64


def on_the_cpu(weight_of):
    return lambda x, packed, scale: (x.float() @ weight_of(packed, scale.float()).T).bfloat16()


def test_a_gpu_is_taken_when_it_multiplies_rightly_and_is_asked_once(untried, monkeypatch):
    move = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to: self if to == (GPU,) else move(self, *to))
    monkeypatch.setattr(compiled_cuda, "product", on_the_cpu(grid.values))
    monkeypatch.setattr(compiled_cuda, "product8", on_the_cpu(lambda packed, scale: packed.float() * scale[:, None]))
    with torch.device("meta"):  # a default that is not the CPU
        assert compiled_cuda.takes(*untried)
    monkeypatch.setattr(compiled_cuda, "product", lambda *_: pytest.fail("asked twice"))
    assert compiled_cuda.takes(*untried)


def test_a_gpu_that_multiplies_wrongly_is_left_to_pytorch(untried, monkeypatch):
    move = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to: self if to == (GPU,) else move(self, *to))
    right = on_the_cpu(grid.values)
    monkeypatch.setattr(compiled_cuda, "product", lambda x, *more: right(x, *more) + (len(x) == 5))
    monkeypatch.setattr(compiled_cuda, "product8", on_the_cpu(lambda packed, scale: packed.float() * scale[:, None]))
    with pytest.warns(RuntimeWarning, match=r"does not work on cuda:0 \(.* of 5 rows gives other numbers\)"):
        assert not compiled_cuda.takes(*untried)
    assert not compiled_cuda.takes(*untried)


def test_memory_that_runs_out_then_says_nothing_of_the_gpu(untried, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "to", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        compiled_cuda.takes(*untried)
    assert not compiled_cuda._right


@on_gpu
def test_nothing_is_compiled_after_it_was_found_to_work():
    assert compiled_cuda.takes(torch.device(GPU), torch.bfloat16, 64)
    before = compiled_cuda.binary.cache_info().misses
    for made in (int4, int8):
        product, packed, scale, _ = made(24, 64)
        for rows in range(1, 40):
            product(rows_of(rows, 64).to(GPU), packed, scale)
    assert compiled_cuda.binary.cache_info().misses == before


@on_gpu
def test_a_new_thread_may_be_the_first_to_use_a_function():
    product, packed, scale, _ = int4(64, 256)
    x = rows_of(5, 256).to(GPU)
    alone = product(x, packed, scale)
    compiled_cuda._gpus[0].functions.clear()
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(product, x, packed, scale).result(), alone)


@on_gpu
@BOTH
@pytest.mark.parametrize(("height", "width"), [(1, 32), (5, 64), (64, 96), (33, 3840), (1000, 256)])
@pytest.mark.parametrize("rows", ROWS)
def test_it_is_off_by_rounding_and_no_more(made, height, width, rows):
    product, packed, scale, values = made(height, width)
    x = rows_of(rows, width)
    out, exact = product(x.to(GPU), packed, scale).cpu().double(), x.double() @ values.T
    sizes = x.double().abs() @ values.abs().T
    few = rows <= compiled_cuda.FEW
    # of many rows, unpacked weights are rounded to bfloat16 as well, and PyTorch may add up parts of a sum in it
    allowed = exact.abs() * 2**-8 * (1 if few else 2) + sizes * (1e-6 if few else 2**-9)
    assert out.shape == (rows, height)
    assert ((out - exact).abs() <= allowed).all()


@on_gpu
@BOTH
def test_each_row_gives_what_it_gives_alone(made):
    product, packed, scale, _ = made(100, 3840)
    x = rows_of(compiled_cuda.FEW, 3840).to(GPU)
    alone = torch.cat([product(x[k : k + 1], packed, scale) for k in range(len(x))])
    for count in range(1, len(x) + 1):
        assert torch.equal(product(x[:count].contiguous(), packed, scale), alone[:count]), count


@on_gpu
@BOTH
def test_pieces_of_a_weight_are_put_together(made, monkeypatch):
    product, packed, scale, _ = made(200, 64)
    x = rows_of(40, 64).to(GPU)
    whole = product(x, packed, scale)
    monkeypatch.setattr(compiled_cuda, "_AT_A_TIME", 64 * 64)
    torch.testing.assert_close(product(x, packed, scale), whole, rtol=2**-7, atol=1e-3)


@on_gpu
@BOTH
def test_small_whole_numbers_and_no_rows(made):
    product, packed, scale, values = made(24, 64)
    x = torch.eye(64, dtype=torch.bfloat16)
    picked = product(x[:9].to(GPU), packed, scale).cpu().double()
    assert torch.equal(picked, values.bfloat16().T[:9].double())
    assert product(x[:0].to(GPU), packed, scale).shape == (0, 24)
    assert product(torch.full((1, 64), torch.nan, dtype=torch.bfloat16, device=GPU), packed, scale).isnan().all()
    assert not product(torch.full((1, 64), 3e38, dtype=torch.bfloat16, device=GPU), packed, scale).isfinite().any()


@on_gpu
@BOTH
def test_what_it_cannot_be_given_is_refused(made):
    product, packed, scale, _ = made(24, 64)
    x = torch.ones((2, 64), dtype=torch.bfloat16, device=GPU)
    for given in (
        (x.float(), packed, scale), (x.cpu(), packed, scale), (x, packed.cpu(), scale), (x, packed, scale.cpu()),
        (x, packed.T.contiguous().T, scale), (x, packed[:, :-2], scale), (x, packed.float(), scale),
        (x, packed, scale[:-1]), (x.T.contiguous().T, packed, scale), (x[0], packed, scale), (x[:, :48], packed, scale),
        (torch.ones(129, dtype=torch.bfloat16, device=GPU)[1:].view(2, 64), packed, scale),
    ):  # fmt: skip
        with pytest.raises((ValueError, IndexError)):
            product(*given)
    with pytest.raises(RuntimeError, match="no derivative"):
        product(x.requires_grad_(), packed, scale)


@on_gpu
@BOTH
def test_threads_and_streams(made):
    product, packed, scale, _ = made(64, 256)
    xs = [rows_of(k % 9 * 5 + 1, 256, k).to(GPU) for k in range(40)]
    alone = [product(x, packed, scale) for x in xs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: product(x, packed, scale), xs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = xs[3] * 2
        got = product(late, packed, scale)
    stream.synchronize()
    assert torch.equal(got, product(xs[3] * 2, packed, scale))


@on_gpu
def test_layers_hold_the_stored_form_and_are_multiplied_by_it():
    _, packed, scale, values = int4(48, 96)
    layer = Int4Linear(48, 96, torch.bfloat16)
    layer.take(packed.cpu(), scale.cpu(), GPU)
    layer.finish()
    assert layer.kernel == "compiled"
    assert held_bytes(layer) == 48 * 96 * 0.5625
    x = rows_of(6, 96).view(2, 3, 96).to(GPU)
    assert torch.equal(layer(x), compiled_cuda.product(x.flatten(0, 1), packed, scale).view(2, 3, 48))
    assert torch.equal(layer.weight[3:9].double().cpu(), values[3:9].bfloat16().double())
    assert torch.equal(layer.columns(4, 7).double().cpu(), values[:, 4:7].bfloat16().double())
    _, packed, scale, values = int8(48, 96)
    whole = Int8Linear(48, 96, torch.bfloat16)
    whole.take(packed.cpu(), scale.cpu(), GPU)
    whole.finish()
    assert torch.equal(whole(x), compiled_cuda.product8(x.flatten(0, 1), packed, scale).view(2, 3, 48))
    narrow = int8_product(torch.ones((2, 40), dtype=torch.bfloat16, device=GPU), packed[:, :40], scale)
    assert narrow.shape == (2, 48)  # by PyTorch
