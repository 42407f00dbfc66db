"""``workbench doctor --selftest NAME`` on small folders: pocket's weights, random ones, packed ones, broken ones."""

import json
import shutil
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

import workbench  # noqa: E402
from tests.packed import compressed_folder, grid_folder, linears  # noqa: E402
from workbench import cli, modelchecks, modeltest, modeltrial  # noqa: E402
from workbench.catalog import CATALOG  # noqa: E402
from workbench.errors import ModelError  # noqa: E402
from workbench.modeltrial import Found, Tried, Watch  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

NAMES = ["load", "configuration", "token ids and counts", "weights", "greedy tokens", "attention", "drafts", "memory"]


def run(folder, **how):
    how.setdefault("quantization", None)
    return {check.about: check for check in modeltest.run(str(folder), tokens=5, **how).checks}


@pytest.fixture
def random(tmp_path):
    """Pocket's shape with random weights, in bfloat16."""
    folder = shutil.copytree(WEIGHTS, tmp_path / "random")
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    for key in linears(tensors):
        tensors[key] = (torch.randn(tensors[key].shape, generator=generator) * 0.05).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_folder_of_random_weights_is_right_in_every_check(random, tmp_path, capsys):
    kept = tmp_path / "result.json"
    assert cli.main(["doctor", "--selftest", str(random), "--json", str(kept)]) == 0
    told = capsys.readouterr()
    made = json.loads(kept.read_text("utf-8"))
    assert made["ok"] is True
    assert [check["about"] for check in made["checks"]] == NAMES
    levels = {check["about"]: check["level"] for check in made["checks"]}
    assert levels.pop("configuration") == "note"  # no model of the catalog is so small
    assert levels.pop("drafts") == "note"  # a folder has no drafter of its own
    assert set(levels.values()) <= {"ok", "note"}
    numbers = {check["about"]: check["numbers"] for check in made["checks"]}
    # 640×400 within pocket's 70 tokens of 48 px: 6 rows of 10; 20,800 samples: 33 times 640
    assert (numbers["token ids and counts"]["image"], numbers["token ids and counts"]["audio"]) == (6 * 10, 33)
    assert numbers["memory"]["held"] == numbers["memory"]["held_after"]
    assert numbers["memory"]["planned"] == pytest.approx(numbers["memory"]["held"], rel=0.05)
    assert made["model"]["weights_hash"]
    assert str(tmp_path) not in json.dumps({k: made[k] for k in ("name", "model", "machine")})
    table = told.out.splitlines()
    assert sum(line.startswith("| ") for line in table) == len(NAMES) + 1
    assert "greedy tokens: ok" in told.err
    assert "random" not in workbench.loaded()


def test_pocket_with_its_drafter_in_float32_agrees_to_the_word():
    tried = Tried("pocket", workbench.load("pocket", progress=False), 12)
    for look in (modelchecks._generate, modelchecks._attention, modelchecks._drafts, modelchecks._ids):
        found = look(tried)
        assert found.level == "ok", found
    assert modelchecks._drafts(tried).numbers["judged"] > 0
    assert tried.model.transformer.config.get_text_config()._attn_implementation == "sdpa"


def test_weights_on_the_grid_are_recovered_exactly_others_with_the_error(tmp_path, random):
    grid_folder(tmp_path / "grid")
    exact = run(tmp_path / "grid", quantization="int4")["weights"]
    assert exact.level == "ok"
    assert exact.numbers["relative_error"] == 0
    assert "recovered exactly" in exact.text
    rounded = run(random, quantization="int4")["weights"]
    assert rounded.level == "ok"
    assert "relative error" in rounded.text
    assert 0.05 < rounded.numbers["relative_error"] < 0.1


def test_weights_trained_for_4_bits_have_to_be_exact(random, monkeypatch):
    monkeypatch.setattr(modelchecks, "made_of", lambda entry: CATALOG["gemma-4-12b"].qat)
    tried = Tried(str(random), workbench.load(random, quantization="int4", progress=False), 2)
    found = modelchecks._weights(tried)
    workbench.unload("random")
    assert found.level == "wrong"
    assert "of weights trained for 4 bits" in found.text


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_packed_files_are_held_integer_by_integer(tmp_path, scheme, random):
    if scheme is None:
        compressed_folder(tmp_path / "packed", shards=2)
    found = run(tmp_path / "packed" if scheme is None else random, quantization=scheme)["weights"]
    assert found.level == "ok"
    assert found.numbers["largest_step"] < 0.01
    assert len(found.numbers["looked_at"]) >= 6


def test_one_integer_that_is_another_is_found(tmp_path):
    compressed_folder(tmp_path / "packed")
    model = workbench.load(tmp_path / "packed", progress=False)
    tried = Tried(str(tmp_path / "packed"), model, 2)
    assert modelchecks._weights(tried).level == "ok"
    layer = model.transformer.get_submodule(modelchecks._weights(tried).numbers["looked_at"][0])
    layer.packed[0, 0] ^= 0x10
    found = modelchecks._weights(tried)
    workbench.unload("packed")
    assert found.level == "wrong"
    assert "of a step" in found.text


def test_runs_may_part_where_two_words_are_near_and_nowhere_else(monkeypatch):
    tried = Tried("pocket", workbench.load("pocket", progress=False), 6)
    trace = tried.answer()
    theirs = trace.tokens.token_id.tolist()
    theirs[2] += 1
    margin = float(trace.tokens.margin[2])
    for near, level in ((margin * 2, "note"), (margin / 2, "wrong")):
        monkeypatch.setattr(modelchecks, "_NEAR", {"float32": near})
        found = modelchecks._agree(tried, trace, theirs, "another")
        assert (found.level, found.numbers["same"]) == (level, 2)
    assert modelchecks._agree(tried, trace, theirs[:2], "another").level == "wrong"


def test_a_check_that_fails_is_a_line_and_the_others_go_on(monkeypatch, random, capsys):
    def fail(tried):
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(
        modeltest, "CHECKS", {"one": fail, "two": lambda tried: Found("ok", "well", {"x": float("nan")})}
    )
    assert cli.main(["doctor", "--selftest", str(random), "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert [(c["level"], c["text"]) for c in made["checks"][1:]] == [
        ("wrong", "RuntimeError: no kernel image is available"), ("ok", "well")
    ]  # fmt: skip
    assert made["checks"][2]["numbers"] == {"x": None}
    assert made["ok"] is False


def test_a_shape_that_is_not_the_catalogs_is_said(monkeypatch):
    tried = Tried("pocket", workbench.load("pocket", progress=False), 1)
    text = tried.model.transformer.config.get_text_config()
    shape = CATALOG["gemma-4-12b"].shape
    monkeypatch.setattr(modelchecks, "_shape", lambda name, found: shape)
    found = modelchecks._configuration(tried)
    assert found.level == "wrong"
    assert f"hidden {text.hidden_size}, expected 3840" in found.text
    assert "weights, expected 11,959,580,480" in found.text


def test_the_catalogs_shape_is_found_by_name_and_by_width():
    for name in ("gemma-4-12b", "google/gemma-4-12B-it-qat-w4a16-ct"):
        assert modelchecks._shape(name, {}) is CATALOG["gemma-4-12b"].shape
    assert modelchecks._shape("pocket", {"layers": 48, "hidden": 3840}) is CATALOG["gemma-4-12b"].shape
    assert modelchecks._shape("pocket", {"layers": 6, "hidden": 192}) is None


def test_offline_with_nothing_cached_it_fails_clearly_and_writes_nothing(tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "result.json"
    monkeypatch.setattr("workbench.planning.machine", _roomy)
    assert cli.main(["doctor", "--selftest", "gemma-4-12b", "--json", str(kept)]) == 1
    said = capsys.readouterr()
    assert "is not on this disk, and HF_HUB_OFFLINE is set" in said.err
    assert said.out == ""
    assert not kept.exists()
    with pytest.raises(ModelError, match="Did you mean"):
        modeltest.run("gemma-4-12")


def _roomy():
    from workbench.machine import Device, Machine

    return Machine((Device("cpu", 40 * 10**9),), None, lambda _source: False)


def test_a_models_modalities_decide_what_it_is_asked():
    def media(**parts):
        model = SimpleNamespace(transformer=SimpleNamespace(config=SimpleNamespace(**parts)))
        return set(Tried("any", model, 1).media)

    assert media(vision_config={}, audio_config=None) == {"images"}
    assert media(vision_config={}, audio_config={}) == {"images", "audio"}
    assert modeltrial.sound().shape == (20_800,)
    assert modeltrial.picture().shape == (400, 640, 3)


def test_the_peak_is_that_of_the_block():
    with Watch() as watch:
        held = torch.ones(30_000_000)
        for _ in range(20):
            held = held * 1.0
    assert watch.peak is None or watch.peak > held.nbytes
