"""What would be loaded on machines that nobody has here, counted by hand."""

import json
import shutil
from dataclasses import replace

import pytest

import workbench
from workbench.catalog import CATALOG, find
from workbench.errors import DoesNotFit, Incompatible, ModelError
from workbench.machine import Device, Machine, Pace, machine, memory, pace
from workbench.planning import plan, refuse
from workbench.pocket import WEIGHTS

GB = 1_000_000_000


def here(cpu, *others, disk=10**12, cached=()):
    return Machine((*others, Device("cpu", cpu)), disk, lambda source: source in cached)


def test_the_public_name_stays_a_function_after_its_module_is_imported():
    assert workbench.plan is plan
    assert "plan" in dir(workbench)


def test_12b_on_a_laptop_of_16_gb_takes_the_official_packed_weights():
    made = plan("gemma-4-12b", here=here(12 * GB), measure=False)
    assert made.fits
    assert made.variant == "google/gemma-4-12B-it-qat-w4a16-ct"
    assert (made.quantization, made.device) == ("int4", "cpu")
    # 10.9 G weights at 5 bits, 1.007 G at 8, 53 M at 16
    assert made.taken.weights == pytest.approx(10.90e9 * 0.625 + 1.0066e9 + 0.106e9, rel=0.002)
    # 16 KB a token on the full layers, and the windows of 40 layers
    assert made.taken.cache == 8192 * 16_384 + 40 * 1024 * 2 * 8 * 256 * 2
    assert made.taken.weights + made.taken.drafter < 9 * GB
    longer = plan("gemma-4-12b", here=here(12 * GB), measure=False, context=32_768)
    assert longer.bytes - made.bytes == (32_768 - 8192) * 16_384
    without = plan("gemma-4-12b", here=here(12 * GB), measure=False, drafter=False)
    assert made.bytes - without.bytes == made.taken.drafter > 0


def test_weights_that_are_multiplied_as_they_are_stored_take_no_zero_points():
    plain = here(12 * GB)
    compiled = Machine(plain.devices, plain.disk_free, plain.cached, compiles=True)
    made = plan("gemma-4-12b", here=compiled, measure=False)
    assert made.taken.weights == pytest.approx(10.90e9 * 0.5625 + 1.0066e9 + 0.106e9, rel=0.002)
    for scheme in ("int8", "none"):
        found = [plan("gemma-4-12b", quantization=scheme, here=x, measure=False).bytes for x in (plain, compiled)]
        assert found[0] == found[1]
    card = here(12 * GB, Device("cuda:0", 12 * GB))
    both = [
        plan("gemma-4-12b", device="cuda", here=x, measure=False).bytes for x in (card, replace(card, compiles=True))
    ]
    assert both[0] == both[1]
    pocket = [plan("pocket", quantization="int4", here=x, measure=False).taken.weights for x in (plain, compiled)]
    assert pocket[0] == pocket[1]  # it is float32


def test_a_large_gpu_takes_16_bit_a_small_one_4_and_too_small_a_one_leaves_it_to_the_cpu():
    large = plan("gemma-4-12b", here=here(12 * GB, Device("cuda:0", 78 * GB)), measure=False)
    assert (large.device, large.quantization, large.variant) == ("cuda:0", "none", "google/gemma-4-12B-it")
    small = plan("gemma-4-12b", here=here(12 * GB, Device("cuda:0", 11 * GB)), measure=False)
    assert (small.device, small.quantization) == ("cuda:0", "int4")
    tiny = plan("gemma-4-12b", here=here(12 * GB, Device("cuda:0", 4 * GB)), measure=False)
    assert (tiny.device, tiny.quantization) == ("cpu", "int4")
    with pytest.raises(ModelError, match="has cpu"):
        plan("gemma-4-12b", here=here(12 * GB), device="cuda", measure=False)


def test_what_does_not_fit_is_refused_with_the_bytes_and_the_nearest_that_does():
    made = plan("gemma-4-12b", quantization="none", here=here(12 * GB), measure=False)
    assert not made.fits
    said = str(refuse(made))
    assert "quantization='int4'" in said
    assert f"Free {(made.bytes - 12 * GB) / 1e9:.1f} GB" in said
    assert isinstance(refuse(made), DoesNotFit)
    assert "workbench.load('gemma-4-12b')" in plan("gemma-4-31b", here=here(12 * GB), measure=False).advice
    assert "workbench.load('gemma-4-e2b')" in plan("gemma-4-12b", here=here(7 * GB), measure=False).advice
    assert "workbench.load('pocket')" in plan("gemma-4-12b", here=here(GB), measure=False).advice


def test_a_full_disk_refuses_what_has_to_be_fetched_but_not_what_is_here():
    full = here(12 * GB, disk=GB)
    made = plan("gemma-4-12b", here=full, measure=False)
    assert not made.fits
    assert "disk" in made.why
    here_already = ("google/gemma-4-12B-it-qat-w4a16-ct", "google/gemma-4-12B-it-qat-q4_0-unquantized-assistant")
    cached = here(12 * GB, disk=GB, cached=here_already)
    made = plan("gemma-4-12b", here=cached, measure=False)
    assert made.fits
    assert made.taken.download == 0


def test_a_full_disk_is_called_a_disk():
    made = plan("gemma-4-12b", here=here(22 * GB, disk=2 * GB), measure=False)
    said = str(refuse(made))
    assert "9.1 GB have to be fetched, and the disk has 2.0 GB free" in said
    assert "HF_HOME" in said
    assert "Free -" not in said
    assert "DOES NOT FIT: the disk" in repr(made)
    assert made.taken.lacks == "disk"
    just = plan("gemma-4-12b", here=here(22 * GB, disk=made.taken.download + GB - 1), measure=False)
    assert not just.fits  # a GB of the disk stays free, here as where it is fetched


def test_a_hub_id_is_that_repository_and_no_other():
    for name in ("google/gemma-4-12B-it", "GOOGLE/gemma-4-12b-it"):
        made = plan(name, here=here(40 * GB), measure=False)
        assert {option.variant for option in made.options} == {"google/gemma-4-12B-it"}
    assert plan("Gemma-4-12B", here=here(40 * GB), measure=False).variant.endswith("-w4a16-ct")


@pytest.mark.parametrize(
    ("how", "machine", "said"),
    [
        ({"quantization": "int8"}, here(12 * GB), "load('gemma-4-12b', quantization='int4')"),
        ({"device": "cuda"}, here(24 * GB, Device("cuda:0", 8 * GB)), "load('gemma-4-12b')"),
        ({"context": 200_000}, here(12 * GB), "load('gemma-4-12b')"),
        ({"quantization": "int4"}, here(10 * GB), "load('gemma-4-12b', quantization='int4', drafter=False)"),
        (
            {"quantization": "int4", "device": "cuda"},
            here(2 * GB, Device("cuda:0", 8 * GB)),
            "load('gemma-4-e2b', device='cuda')",
        ),
        ({"context": 200_000}, here(7 * GB), "Nothing of the catalog"),
    ],
)
def test_what_fits_is_the_nearest(how, machine, said):
    made = plan("gemma-4-12b", here=machine, measure=False, **how)
    assert not made.fits
    assert said in made.advice


def test_no_more_context_than_the_model_has():
    with pytest.raises(ModelError, match="goes up to 131,072"):
        plan("gemma-4-e2b", context=1_000_000, here=here(100 * GB), measure=False)


def test_packed_weights_are_not_planned_in_another_packing(tmp_path):
    folder = tmp_path / "packed"
    shutil.copytree(WEIGHTS, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "workbench-packed", "scheme": "int4"}
    (folder / "config.json").write_text(json.dumps(config))
    assert plan(folder, here=here(12 * GB), measure=False).quantization == "int4"
    with pytest.raises(Incompatible, match="stored as int4"):
        plan(folder, quantization="int8", here=here(12 * GB), measure=False)


def test_every_option_says_why_and_the_displays_hold_them():
    made = plan("gemma-4-12b", here=here(12 * GB), measure=False)
    assert all(option.why for option in made.options)
    assert [o.fits for o in made.options] == [True, True, False, False]
    text, page = repr(made), made._repr_html_()
    for option in made.options:
        assert option.why in text
        assert option.why in page
    assert text.count("\n> ") == 1
    assert page.count("<td style='text-align:left'>taken</td>") == 1
    assert max(map(len, text.splitlines())) < 160


def test_shapes_are_those_of_the_published_totals():
    """Billions of weights as the cards say them, towers and all embeddings counted."""
    published = {"gemma-4-e2b": 5.1, "gemma-4-e4b": 8.0, "gemma-4-12b": 11.96, "gemma-4-26b-a4b": 25.8,
                 "gemma-4-31b": 31.3}  # fmt: skip
    for name, billions in published.items():
        assert CATALOG[name].shape.weights / 1e9 == pytest.approx(billions, rel=0.01), name


def test_official_variants_have_sizes_and_the_drafter_that_was_trained_for_them():
    packed = plan("gemma-4-12b", variant="google/gemma-4-12B-it-qat-w4a16-ct", here=here(12 * GB), measure=False)
    assert [o.quantization for o in packed.options] == ["int4"]
    assert packed.bytes == plan("gemma-4-12b", here=here(12 * GB), measure=False).bytes
    # 10.9 G weights at 4.5 bits, 1.06 G at 16, and a drafter
    assert packed.taken.download == pytest.approx(10.9e9 * 0.5625 + 1.06e9 * 2 + 0.85e9, rel=0.002)
    grid = plan("google/gemma-4-12B-it-qat-q4_0-unquantized", here=here(12 * GB), measure=False)
    assert [o.quantization for o in grid.options] == ["int4", "int8", "none"]
    assert grid.taken.download == pytest.approx(11.96e9 * 2 + 0.85e9, rel=0.002)
    for size in ("E2B", "E4B", "12B", "26B-A4B", "31B"):
        entry = find(f"google/gemma-4-{size}-it-qat-q4_0-unquantized")
        assert entry.drafter == f"google/gemma-4-{size}-it-qat-q4_0-unquantized-assistant"
        assert entry.of == f"gemma-4-{size.lower()}"


def test_what_is_here_is_not_fetched_again_drafter_and_model_apart():
    packed, drafter = "google/gemma-4-12B-it-qat-w4a16-ct", "google/gemma-4-12B-it-qat-q4_0-unquantized-assistant"
    only_drafter = plan("gemma-4-12b", here=here(12 * GB, cached=(drafter,)), measure=False)
    only_model = plan("gemma-4-12b", here=here(12 * GB, cached=(packed,)), measure=False)
    both = plan("gemma-4-12b", here=here(12 * GB, cached=(packed, drafter)), measure=False)
    assert both.taken.download == 0
    assert only_model.taken.download == only_model.taken.drafter
    assert only_drafter.taken.download > 8 * GB


def test_a_token_of_a_mixture_of_experts_reads_the_active_ones(monkeypatch):
    monkeypatch.setattr("workbench.planning.pace", lambda: Pace(20e9, 100e9))
    made = plan("gemma-4-26b-a4b", here=here(80 * GB))
    # 8 of 128 experts: 25.8 G weights less 15/16 of 22.8 G, 2 bytes each
    assert 1 / made.tokens_a_second == pytest.approx(2 * (25.806e9 - 22.838e9 * 15 / 16) / 20e9, rel=0.001)


def test_experts_are_not_promised_in_4_bit():
    made = plan("gemma-4-26b-a4b", here=here(12 * GB), measure=False)
    assert [o.quantization for o in made.options] == ["none"]
    assert not made.fits


def test_a_folder_is_counted_from_its_headers(tmp_path):
    pocket = plan("pocket", measure=False)
    assert pocket.fits
    # 6 layers, 4 sliding of 2 × 32 in a window of 96, 2 full of 1 × 64; keys and values, float32
    assert pocket.taken.cache == 2 * 4 * (4 * 96 * 64 + 2 * 8192 * 64)
    shutil.copytree(WEIGHTS, tmp_path / "mine")
    whole = plan(tmp_path / "mine", measure=False)
    # stored in 16 bit, and held in 32 because the configuration says so
    assert whole.taken.weights == pytest.approx(2 * (WEIGHTS / "model.safetensors").stat().st_size, rel=0.02)
    assert pocket.taken.weights == whole.taken.weights
    assert [o.quantization for o in whole.options] == ["none", "int8", "int4"]
    assert whole.options[2].weights < whole.options[1].weights < whole.options[0].weights


def test_a_plain_folder_is_planned_as_load_would_read_it(tmp_path, monkeypatch):
    """It is read as it is stored: that int8 would fit is advice, not a fit."""
    folder = tmp_path / "mine"
    shutil.copytree(WEIGHTS, folder)
    none, int8, _ = plan(folder, measure=False).options
    machine = here((none.bytes + int8.bytes) // 2)
    made = plan(folder, here=machine, measure=False)
    assert (made.quantization, made.fits) == ("none", False)
    assert [o.fits for o in made.options] == [False, True, True]
    monkeypatch.setattr("workbench.planning.machine", lambda: machine)
    with pytest.raises(DoesNotFit, match="quantization='int8'"):
        workbench.load(folder, progress=False)
    packed = workbench.load(folder, quantization="int8", progress=False)
    assert packed.info.quantization == "int8"
    workbench.unload(packed.name)


def test_offline_what_lies_here_comes_before_what_would_have_to_be_fetched():
    have = ("google/gemma-4-12B-it", "google/gemma-4-12B-it-assistant")
    online = here(30 * GB, cached=have)
    assert plan("gemma-4-12b", here=online, measure=False).variant.endswith("w4a16-ct")
    made = plan("gemma-4-12b", here=replace(online, offline=True), measure=False)
    assert (made.variant, made.taken.download, made.fits) == (have[0], 0, True)
    nothing = plan("gemma-4-12b", here=replace(here(30 * GB), offline=True), measure=False)
    assert nothing.taken.download > 0  # load says that it is not on this disk


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "4000000000\n", "memory.current": "1500000000",
          "memory.stat": "inactive_file 400000000\nactive_file 100000000"}, (3_000_000_000, 4_000_000_000)),
        ({"memory.max": "max\n", "memory.current": "1", "memory.stat": ""}, (10 * GB, 64 * GB)),
        ({"memory/memory.limit_in_bytes": "4000000000", "memory/memory.usage_in_bytes": "3900000000",
          "memory/memory.stat": "total_inactive_file 100000000"}, (200_000_000, 4_000_000_000)),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "5",
          "memory/memory.stat": "cache 1"}, (10 * GB, 64 * GB)),
        ({}, (10 * GB, 64 * GB)),
    ],
)  # fmt: skip
def test_a_container_has_what_it_is_given(files, expected, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("workbench.machine._GROUPS", tmp_path)
    monkeypatch.setattr("workbench.machine._of_the_machine", lambda: (10 * GB, 64 * GB))
    assert memory() == expected


def cut(file, count):
    file.write_bytes(file.read_bytes()[:-count])


def index(folder, *more):
    names = {f"weight {k}": name for k, name in enumerate(["model.safetensors", *more])}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"12"), "cut off"),
        (lambda f: (f / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}"), "header"),
        (lambda f: (f / "model.safetensors").unlink(), "missing"),
        (lambda f: cut(f / "model.safetensors", 1000), "cut off: it has"),
        (lambda f: index(f, "model-2.safetensors"), r"not whole: its index names model-2\.safetensors"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "no weight_map"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "no settings"),
    ],
    ids="cut huge-header none tail shard bad-index bad-json no-object".split(),
)
def test_broken_folders_are_named(tmp_path, break_it, said):
    folder = tmp_path / "broken"
    shutil.copytree(WEIGHTS, folder)
    break_it(folder)
    with pytest.raises(ModelError, match=said):
        plan(folder, measure=False)


@pytest.mark.parametrize(
    "wrong", [{"quantization": "int3"}, {"context": 0}, {"context": 2.5}, {"name": "gemma-4-12"}, {"device": "tpu"}]
)
def test_what_cannot_be_planned(wrong):
    with pytest.raises(ModelError):
        plan(**{"name": "gemma-4-12b", **wrong}, measure=False)


def test_the_speed_is_that_of_the_machine(monkeypatch):
    monkeypatch.setattr("workbench.planning.pace", lambda: Pace(20e9, 100e9))
    made = plan("gemma-4-12b", here=here(12 * GB))
    assert made.tokens_a_second == pytest.approx(20e9 / made.taken.weights)
    assert made.first_token > 60
    assert "image_tokens=70" in made.advice
    assert "tokens a second" in repr(made)
    monkeypatch.setattr("workbench.planning.pace", lambda: Pace(400e9, 40e12))
    assert plan("gemma-4-12b", here=here(12 * GB)).advice == ""


def test_this_machine():
    found = machine()
    assert found.devices[-1].name == "cpu"
    assert found.devices[-1].free is None or found.devices[-1].free > 0
    assert not found.cached("nobody/nothing")
    measured = pace(0.05)
    assert measured.bytes_a_second > 1e8
    assert measured.operations_a_second > 1e8


def test_load_refuses_what_does_not_fit_unless_forced(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    folder = tmp_path / "mine"
    shutil.copytree(WEIGHTS, folder)
    monkeypatch.setattr("workbench.planning.machine", lambda: here(1_000_000))
    with pytest.raises(DoesNotFit, match=r"are free\. Free .* MB"):
        workbench.load(folder, progress=False)
    assert "mine" not in workbench.loaded()
    forced = workbench.load(folder, force=True, progress=False)
    assert forced.name == "mine"
    workbench.unload("mine")


def test_plan_on_the_command_line(capsys, monkeypatch):
    from workbench.cli import main

    monkeypatch.setattr("workbench.planning.machine", lambda: here(12 * GB))
    monkeypatch.setattr("workbench.planning.pace", lambda: Pace(20e9, 100e9))
    assert main(["plan", "gemma-4-12b"]) == 0
    assert "quantization='int4', on cpu: fits" in capsys.readouterr().out
    assert main(["plan", "gemma-4-12b", "--quantization", "none", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["fits"] is False
    assert said["taken"]["quantization"] == "none"
    assert main(["plan", "somebody/something", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is None  # nothing is known of it
    assert main(["plan", "gemma-4-12"]) == 1
    assert "Did you mean" in capsys.readouterr().err


def test_a_folder_goes_where_it_fits_as_it_is_stored(tmp_path):
    folder = shutil.copytree(WEIGHTS, tmp_path / "mine")

    def looked(*devices):
        return plan(folder, measure=False, here=Machine(devices, None, lambda _source: True))

    full, cpu = Device("cuda:0", 1_000_000), Device("cpu", 10**10)
    assert looked(full, cpu).device == "cpu"
    assert looked(full, Device("cuda:1", 10**10), cpu).device == "cuda:1"
    none = looked(full, Device("cpu", 25_000_000))
    assert not none.fits
    assert none.taken.device == "cpu", "which is nearest"
    words = {(o.device, o.quantization): o.why for o in none.options}
    assert words["cpu", "none"].endswith("short")
    assert words["cpu", "int8"] == "fits, with quantization='int8'"
    with pytest.raises(ModelError, match=r"quantization=\['int4'\] is not known"):
        plan("pocket", quantization=["int4"])


def test_without_a_home_there_is_still_a_disk(monkeypatch):
    """As in a container that runs under a number of its own."""
    from workbench import machine as here

    for name in ("HOME", "USERPROFILE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd")

    def nobody(_uid):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert here.disk_free() > 0
    assert not here.cached("google/gemma-4-12B-it")
    assert plan("pocket").fits
