"""Fetching from a hub on this machine: sizes first, then bytes; and all that can go wrong on the way."""

import shutil

import pytest
from huggingface_hub import constants

import workbench
from tests.hub import COMMIT, hub  # noqa: F401 (a fixture)
from workbench import fetching
from workbench.catalog import find
from workbench.errors import DoesNotFit, ModelError
from workbench.machine import cached
from workbench.pocket import WEIGHTS

ID = "someone/some-model"


@pytest.fixture
def there(hub, tmp_path):  # noqa: F811 (the fixture)
    """Pocket on that hub, with files that nobody wants."""
    folder = tmp_path / "there"
    shutil.copytree(WEIGHTS, folder)
    (folder / "pytorch_model.bin").write_bytes(b"code")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"twice")
    hub.models[ID] = folder
    return hub


def test_what_is_wanted_is_fetched_once_and_found_again(there, capsys):
    entry = find(ID)
    assert not cached(ID)
    folder = fetching.fetched(entry)
    assert folder.name == COMMIT
    assert (folder / "model.safetensors").read_bytes() == (WEIGHTS / "model.safetensors").read_bytes()
    assert "pytorch_model.bin" not in there.requests
    assert not (folder / "original").exists()
    assert there.requests.count("model.safetensors") == 1
    said = capsys.readouterr().err
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert f"fetching {ID} ({ID}): {size / 1e9:.2f} GB in {len(list(folder.iterdir()))} files" in said
    assert cached(ID)
    before = len(there.requests)
    assert fetching.fetched(entry, progress=False) == folder
    assert fetching.fetched(entry, COMMIT, progress=False) == folder
    assert len(there.requests) == before
    assert capsys.readouterr().err == ""


def test_offline_what_is_here_is_found_and_what_is_not_says_how_to_get_it(there, monkeypatch):
    folder = fetching.fetched(find(ID), progress=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetching.fetched(find(ID)) == folder
    with pytest.raises(
        ModelError, match=r"not on this disk, and HF_HUB_OFFLINE is set.*hf download google/gemma-4-12B"
    ):
        fetching.fetched(find("gemma-4-12b"))
    with pytest.raises(ModelError, match=r"about 23\.9 GB"):
        fetching.fetched(find("gemma-4-12b"))
    with pytest.raises(ModelError, match=r"hf download someone/some-model --revision v2"):
        fetching.fetched(find(ID), "v2")
    (folder / "model.safetensors").unlink()
    assert not cached(ID)
    with pytest.raises(ModelError, match="only a part of it is on this disk"):
        fetching.fetched(find(ID))


def test_without_a_network_what_is_here_is_found_too(there, monkeypatch):
    folder = fetching.fetched(find(ID), progress=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetching.fetched(find(ID), progress=False) == folder
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        fetching.fetched(find("someone/other"), progress=False)


def test_a_full_disk_is_seen_before_a_byte_is_fetched(there, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1_000_000_000))
    with pytest.raises(DoesNotFit, match=r"1\.0 GB free\. Make room for 0\.0 GB, or set HF_HOME"):
        fetching.fetched(find(ID))
    assert there.requests == []


def test_no_such_model_no_such_revision_and_a_closed_one(there):
    with pytest.raises(ModelError, match="The hub has no model 'someone/nothing'"):
        fetching.fetched(find("someone/nothing"))
    with pytest.raises(ModelError, match="revision='v9': someone/some-model has no such branch"):
        fetching.fetched(find(ID), "v9")
    there.closed.add(ID)
    with pytest.raises(ModelError, match="accept its terms on its page"):
        fetching.fetched(find(ID))
    assert there.requests == []


def test_what_came_before_the_hub_closed_it_is_still_here(there):
    folder = fetching.fetched(find(ID), progress=False)
    there.closed.add(ID)
    assert fetching.fetched(find(ID), progress=False) == folder
    there.closed.clear()
    del there.models[ID]
    assert fetching.fetched(find(ID), progress=False) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="The hub has no model"):
        fetching.fetched(find(ID), progress=False)


def test_a_branch_is_pinned_as_its_commit(there, capsys):
    model = workbench.load(ID, revision="main", device="cpu")
    try:
        assert model.info.revision == COMMIT
        assert f"revision='{COMMIT}'" in capsys.readouterr().out
    finally:
        workbench.unload(model.name)


def test_a_fetch_that_broke_off_goes_on_with_what_is_left(there, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
    there.broken.add("model.safetensors")
    with pytest.raises(ModelError, match=r"stopped \(.*Files that came whole are kept"):
        fetching.fetched(find(ID), progress=False)
    assert not cached(ID)
    there.broken.clear()
    there.requests.clear()
    folder = fetching.fetched(find(ID), progress=False)
    assert (folder / "model.safetensors").stat().st_size == (WEIGHTS / "model.safetensors").stat().st_size
    assert "model.safetensors" in there.requests
    assert "config.json" not in there.requests


def test_a_hub_that_lacks_a_shard_and_one_without_weights(there):
    folder = there.models[ID]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(ModelError, match=r"not whole: its index names model-2\.safetensors"):
        fetching.fetched(find(ID), progress=False)
    there.models["someone/words"] = folder / "original"
    (folder / "original" / "model.safetensors").rename(folder / "original" / "model.bin")
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        fetching.fetched(find("someone/words"), progress=False)


def test_the_bar_says_how_long_it_will_take(capsys):
    with fetching._bar()(total=2_000_000, unit="B", unit_scale=True, desc="Downloading", disable=False) as bar:
        bar.update(1_000_000)
        bar.refresh()
    said = capsys.readouterr().err
    assert "50% 1.00MB of 2.00MB" in said
    assert " left, " in said
