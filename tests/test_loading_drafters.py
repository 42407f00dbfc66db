"""Which drafter goes with which weights: chosen without reading either; a warning for a pair that does not match."""

import json
import shutil
import warnings

import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import loading, repack  # noqa: E402
from workbench.machine import Device, Machine  # noqa: E402
from workbench.pocket import DRAFTER, WEIGHTS  # noqa: E402

PLAIN = "google/gemma-4-12B-it-assistant"
QAT = "google/gemma-4-12B-it-qat-q4_0-unquantized-assistant"
PACKED = "google/gemma-4-12B-it-qat-w4a16-ct"
GRID = "google/gemma-4-12B-it-qat-q4_0-unquantized"


@pytest.fixture
def chosen(monkeypatch):
    """What ``load`` would read, on a laptop with 12 GB free or a GPU with 78."""
    seen = []

    def read(entry, pinned, device, drafter, room, kept, *, progress):
        seen.append((entry.source, pinned["quantization"], drafter))
        raise KeyboardInterrupt

    def load(*args, gpu=False, **how):
        devices = (*([Device("cuda:0", 78 * 10**9)] if gpu else []), Device("cpu", 12 * 10**9))
        monkeypatch.setattr("workbench.planning.machine", lambda: Machine(devices, None, lambda _source: False))
        with pytest.raises(KeyboardInterrupt):
            workbench.load(*args, **how)
        return seen[-1]

    monkeypatch.setattr(loading, "_load", read)
    return load


def test_4_bit_weights_take_the_drafter_that_was_trained_with_them(chosen):
    assert chosen("gemma-4-12b") == (PACKED, "int4", QAT)
    assert chosen("gemma-4-12b", variant=PACKED) == (PACKED, "int4", QAT)
    assert chosen("gemma-4-12b", variant=GRID) == (GRID, "int4", QAT)
    assert chosen(GRID) == (GRID, "int4", QAT)
    assert chosen("gemma-4-12b", gpu=True) == ("google/gemma-4-12B-it", "none", PLAIN)
    assert chosen("gemma-4-12b", variant="google/gemma-4-12B-it", quantization="int4")[2] == PLAIN
    assert chosen("gemma-4-12b", drafter=PLAIN) == (PACKED, "int4", PLAIN)
    assert chosen("gemma-4-12b", drafter=False) == (PACKED, "int4", "")


def test_a_folder_that_was_packed_says_what_it_was_made_of(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(repack, "fetched", lambda entry, revision, progress: WEIGHTS)
    repack.quantize(GRID, tmp_path / "packed")
    declared = json.loads((tmp_path / "packed" / "config.json").read_text("utf-8"))["quantization_config"]
    assert declared["source"] == GRID
    folder = str((tmp_path / "packed").resolve())
    assert chosen("gemma-4-12b", variant=tmp_path / "packed") == (folder, None, QAT)
    repack.quantize("pocket", tmp_path / "other")
    assert chosen("gemma-4-12b", variant=tmp_path / "other")[2] == PLAIN


@pytest.mark.parametrize(
    ("drafter", "target", "said"),
    [
        (PLAIN, PACKED, "trained with weights of 16 bits, .* are weights of 4 bits"),
        (QAT, "google/gemma-4-12B-it", "trained with weights of 4 bits, .* are weights of 16 bits"),
    ],
)
def test_a_pair_of_another_kind_is_said(drafter, target, said):
    with pytest.warns(UserWarning, match=said):
        loading._warn_of_another_kind(drafter, target)


def test_pairs_that_match_and_pairs_of_strangers_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drafter, target in ((QAT, PACKED), (QAT, GRID), (PLAIN, "google/gemma-4-12B-it"), ("a/b", PACKED)):
            loading._warn_of_another_kind(drafter, target)


def test_the_warning_comes_with_the_load(tmp_path, monkeypatch):
    """Weights and drafter of pocket, under the names of a pair that does not match."""
    monkeypatch.setattr(loading, "fetch", lambda name, source, **_: WEIGHTS.parent / "drafter")
    shutil.copytree(WEIGHTS, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text("utf-8"))
    monkeypatch.setattr(loading, "made_of", lambda entry: GRID)
    assert "quantization_config" not in config
    with pytest.warns(UserWarning, match="fewer drafts will be kept"):
        model = workbench.load(tmp_path / "mine", drafter=PLAIN, progress=False)
    assert model.info.drafter == PLAIN
    workbench.unload("mine")


@pytest.mark.parametrize("quantization", [None, "int4"])
def test_a_drafter_of_another_type_than_the_model_reads_what_it_says(tmp_path, quantization):
    folder = shutil.copytree(WEIGHTS, tmp_path / "half")
    config = folder / "config.json"
    config.write_text(config.read_text("utf-8").replace('"float32"', '"bfloat16"'), "utf-8")
    model = workbench.load(folder, drafter=DRAFTER, quantization=quantization, progress=False)
    try:
        assert model.drafter.dtype == model.transformer.dtype == torch.bfloat16
        trace = model.ask("Count to nine.", temperature=0, max_new_tokens=20, draft=4)
        assert trace.rounds.accepted.sum() > 2
    finally:
        workbench.unload(model)
