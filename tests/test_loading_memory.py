"""Memory that goes away between plan and load: refused, what was read is let go, no half-read model is kept."""

import gc
import shutil
import weakref

import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import grid, loading, masks  # noqa: E402
from workbench.errors import DoesNotFit, ModelError  # noqa: E402
from workbench.machine import Device, Machine  # noqa: E402
from workbench.packed import Int4Linear  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.fixture
def mine(tmp_path):
    return shutil.copytree(WEIGHTS, tmp_path / "mine")


def alive(kind):
    gc.collect()
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


def test_memory_that_was_free_for_the_plan_and_is_gone_for_the_load(mine, monkeypatch):
    free = iter([10**12, 1_000_000])
    monkeypatch.setattr(
        "workbench.planning.machine", lambda: Machine((Device("cpu", next(free)),), None, lambda _source: False)
    )
    with pytest.raises(DoesNotFit, match=r"mine needs .* are free"):
        workbench.load(mine, progress=False)
    assert "mine" not in workbench.loaded()


def test_memory_that_runs_out_while_weights_are_packed(mine, monkeypatch):
    before, packed, to_grid = alive(Int4Linear), [], grid.to_grid

    def short(weight):
        packed.append(weight.shape)
        if len(packed) > 9:
            raise RuntimeError(NO_MEMORY)
        return to_grid(weight)

    monkeypatch.setattr(grid, "to_grid", short)
    with pytest.raises(DoesNotFit, match="Memory ran out while mine was read") as caught:
        workbench.load(mine, quantization="int4", progress=False)
    assert len(packed) == 10, "packing goes on after memory ran out"
    assert alive(Int4Linear) == before, "the error keeps the layers that were read"
    assert caught.value.__cause__ is not None
    assert "mine" not in workbench.loaded()
    monkeypatch.undo()
    assert workbench.load(mine, quantization="int4", progress=False).ask("Hello", max_new_tokens=1)
    workbench.unload("mine")


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), ModelError("broken")], ids=lambda e: type(e).__name__
)
def test_whatever_ends_a_load_the_model_that_was_read_is_gone(mine, monkeypatch, error):
    read = []

    def fail(transformer):
        read.append(weakref.ref(transformer))
        raise error

    monkeypatch.setattr(masks, "correct", fail)
    with pytest.raises(type(error)) as caught:
        workbench.load(mine, progress=False)
    gc.collect()
    assert caught.value is error
    assert [one() for one in read] == [None]
    assert "mine" not in workbench.loaded()


def test_a_gpu_that_is_full_is_the_same_error(tmp_path):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def unmapped():
        raise OSError(12, "Cannot allocate memory")  # of a file that is mapped

    for read in (full, unmapped, lambda: (_ for _ in ()).throw(MemoryError())):
        with pytest.raises(DoesNotFit, match="Memory ran out"):
            loading.read_from("mine", tmp_path, read)
    with pytest.raises(ModelError, match="no such key"):
        loading.read_from("mine", tmp_path, lambda: {}["no such key"])
