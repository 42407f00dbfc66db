"""load, loaded, unload: once per kernel, from any thread, after any reload; and what cannot be loaded or asked."""

import importlib
import json
import shutil
import subprocess
import sys
import threading
import time
import types
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import loading, versions  # noqa: E402
from workbench.errors import (  # noqa: E402
    Incompatible,
    MediaError,
    ModelError,
    PromptError,
    TraceError,
    WorkbenchError,
)
from workbench.machine import Device, Machine  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


def test_equal_arguments_give_the_same_object_from_any_thread_and_after_reload(model):
    got = []
    threads = [threading.Thread(target=lambda: got.append(workbench.load(progress=False))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(m is model for m in got)
    assert len(got) == 8
    assert workbench.load("pocket", device="cpu", progress=False) is model
    importlib.reload(sys.modules["workbench.loading"])
    assert importlib.reload(workbench).load(progress=False) is model
    assert workbench.loaded()["pocket"] is model


def test_a_device_has_one_model_whatever_it_is_called(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    shutil.copytree(WEIGHTS, folder)
    planned, real = [], loading.plan
    monkeypatch.setattr(loading, "plan", lambda *given, **more: planned.append(more["device"]) or real(*given, **more))
    first = workbench.load(folder, device="cpu", progress=False)
    try:
        planned.clear()
        assert workbench.load(folder, progress=False) is first
        assert workbench.load(folder, progress=False) is first
        assert planned == [None]  # once: then that way to say it is known too
        names = [name for name, model in workbench.loaded().items() if model is first]
        assert len(names) == 1
    finally:
        workbench.unload(first)
    assert not set(names) & set(workbench.loaded())
    again = workbench.load(folder, progress=False)
    try:
        assert again is not first
        assert workbench.load(folder, device="cpu", progress=False) is again
    finally:
        workbench.unload(again)


def test_what_a_plan_puts_elsewhere_is_not_taken_for_a_gpu_s(tmp_path, monkeypatch):
    """With a GPU that is too small, load() takes the CPU: load(device="cuda") must not be given that."""
    folder = tmp_path / "mine"
    shutil.copytree(WEIGHTS, folder)
    made, asked = loading.plan(folder, device="cpu", measure=False), []

    def plan(*_given, device=None, **_more):
        asked.append(device)
        if device == "cuda":
            raise ModelError("planned")
        return made

    monkeypatch.setattr(loading, "plan", plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = workbench.load(folder, progress=False)
    try:
        assert model.info.device == "cpu"
        with pytest.raises(ModelError, match="planned"):
            workbench.load(folder, device="cuda", progress=False)
        assert asked[-1] == "cuda"
    finally:
        monkeypatch.undo()
        workbench.unload(model)


def test_what_threads_ask_of_one_model_waits_for_each_other(model, monkeypatch):
    from workbench import inspecting

    trace = model.ask("Hello", max_new_tokens=2, temperature=0)
    inside, most, held, begin = 0, 0, threading.Lock(), threading.Barrier(3)

    def watched(real):
        def call(*given, **more):
            nonlocal inside, most
            with held:
                inside += 1
                most = max(most, inside)
            time.sleep(0.1)  # long enough for another to come in, if it may
            try:
                return real(*given, **more)
            finally:
                with held:
                    inside -= 1

        return call

    monkeypatch.setattr(type(model), "_run", watched(type(model)._run))
    monkeypatch.setattr(inspecting, "attend", watched(inspecting.attend))
    monkeypatch.setattr(inspecting, "lens", watched(inspecting.lens))
    alone = model.ask("Tell me a story.", seed=1, max_new_tokens=4)
    said = []

    def go(call):
        begin.wait()
        said.append(call())

    calls = (
        partial(model.ask, "Tell me a story.", seed=1, max_new_tokens=4),
        partial(model.attend, trace),
        partial(model.lens, trace),
    )
    threads = [threading.Thread(target=go, args=(call,)) for call in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == 1
    assert len(said) == 3
    (together,) = (trace for trace in said if isinstance(trace, workbench.Trace))
    assert together.tokens.token_id.tolist() == alone.tokens.token_id.tolist()


def test_unload_without_a_name_lets_all_of_them_go(monkeypatch):
    closed = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def _close(self):
            closed.append(self.name)

    held = loading._registry()
    monkeypatch.setattr(held, "models", {("a",): Fake("pocket"), ("b",): Fake("other")})
    workbench.unload()
    assert sorted(closed) == ["other", "pocket"]
    assert workbench.loaded() == {}


def test_unload_frees_the_name_and_says_so_afterwards():
    other = workbench.load("pocket", context=500, progress=False)
    name = next(n for n, m in workbench.loaded().items() if m is other)
    workbench.unload(name)
    assert other not in workbench.loaded().values()
    with pytest.raises(ModelError, match="unloaded"):
        other.ask("Hello")
    with pytest.raises(ModelError, match="not loaded"):
        workbench.unload("nothing")
    assert workbench.load("pocket", context=500, progress=False) is not other
    workbench.unload(name)


def test_a_folder_is_loaded_by_the_same_code(model, tmp_path):
    folder = tmp_path / "my model ü"
    shutil.copytree(WEIGHTS, folder)
    mine = workbench.load(folder, progress=False)
    try:
        assert mine is not model
        assert mine.info.weights_hash == model.info.weights_hash
        how = {"temperature": 0, "max_new_tokens": 10}
        assert mine.ask("Hello", **how).text == model.ask("Hello", **how).text
    finally:
        workbench.unload(mine.name)


def test_what_a_load_prints_pins_it(capsys):
    workbench.load("pocket", context=321)
    said = capsys.readouterr().out
    assert "workbench.load('pocket', device='cpu', context=321)" in said
    assert len(said.splitlines()) == 1
    workbench.unload(next(n for n, m in workbench.loaded().items() if m.context == 321))


def test_the_line_that_is_printed_loads_the_same_again(tmp_path, capsys):
    folder = tmp_path / "pocket"  # a name of the catalog
    shutil.copytree(WEIGHTS, folder)
    for how in ({}, {"drafter": False}, {"drafter": WEIGHTS.parent / "drafter", "context": 500}):
        mine = workbench.load(folder, **how)
        line = capsys.readouterr().out
        assert eval(line, {"workbench": workbench}).info == mine.info
        assert capsys.readouterr().out in ("", line)
        assert mine.name == "pocket (folder)"
        assert str(tmp_path) not in json.dumps(mine.info.to_dict() if hasattr(mine.info, "to_dict") else str(mine.info))
        workbench.unload("pocket (folder)")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("tokenizer_config.json", "tokenizer_config.json missing"),
        ("chat_template.jinja", "chat template"),
        ("{% for", "chat template"),
    ],
)
def test_what_would_break_with_the_first_question_is_refused(tmp_path, gone, said):
    folder = tmp_path / "base"
    shutil.copytree(WEIGHTS, folder)
    if gone.startswith("{"):
        (folder / "chat_template.jinja").write_text(gone)
    else:
        (folder / gone).unlink()
    with pytest.raises(ModelError, match=said):
        workbench.load(folder, progress=False)
    assert not [name for name in workbench.loaded() if name == "base"]


def test_two_ways_to_one_name_are_two_models(monkeypatch):
    """The catalog's own choice, and weights that were named: both quantized, and neither is given for the other."""
    seen = []

    def load(entry, pinned, device, drafter, room, kept, *, progress):
        seen.append((entry.source, pinned["quantization"], drafter))
        return types.SimpleNamespace(name=entry.name, _close=lambda: None)

    monkeypatch.setattr(loading, "_load", load)
    monkeypatch.setattr(
        "workbench.planning.machine", lambda: Machine((Device("cpu", 12 * 10**9),), 10**12, lambda s: False)
    )
    plain = "google/gemma-4-12B-it"
    first = workbench.load("gemma-4-12b", quantization="int4")
    assert workbench.load("gemma-4-12b", variant=plain, quantization="int4") is not first
    assert workbench.load("gemma-4-12b", quantization="int4") is first
    assert workbench.load(plain, quantization="int4", revision="main") is not first
    assert seen == [
        (f"{plain}-qat-w4a16-ct", "int4", f"{plain}-qat-q4_0-unquantized-assistant"),
        (plain, "int4", f"{plain}-assistant"), (plain, "int4", f"{plain}-assistant"),
    ]  # fmt: skip
    with pytest.raises(ModelError, match=r"one repository.*variant='google/gemma-4-12B-it-qat-w4a16-ct'"):
        workbench.load("gemma-4-12b", revision="abc123")
    for name in [name for name in workbench.loaded() if name.startswith("gemma-4-12b")]:
        workbench.unload(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pocked", "Did you mean 'pocket'"),
        ("gemma-4-12", "Did you mean 'gemma-4-12b'"),
        ("zzzz", "Known: pocket"),
        ("./no/such/folder", "no such folder"),
        ("", "no model name"),
        (None, "no model name"),
    ],
)
def test_unknown_names_name_the_nearest(name, said):
    with pytest.raises(ModelError, match=said):
        workbench.load(name)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        workbench.load(tmp_path)
    for held, said in (
        ({}, "no model_type"), ({"model_type": "whisper"}, "'whisper'.*Gemma 4"),
        ({"model_type": "gemma4_unified_assistant"}, "a drafter"),
        ({"model_type": "gemma4", "text_config": None}, "text_config is None"),
        ({"model_type": "gemma4", "text_config": {}, "quantization_config": "int4"}, "quantization_config is 'int4'"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(held))
        with pytest.raises((ModelError, Incompatible), match=said):
            workbench.load(tmp_path)
        with pytest.raises((ModelError, Incompatible), match=said):
            workbench.plan(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gemma4"}')
    with pytest.raises(ModelError, match="safetensors"):
        workbench.load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(WEIGHTS, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="broken"):
        workbench.load(broken, progress=False)
    assert "broken" not in workbench.loaded()


def test_weights_that_miss_a_tensor_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "partial"
    shutil.copytree(WEIGHTS, folder)
    tensors = load_file(folder / "model.safetensors")
    gone = next(k for k in tensors if "layers.1.mlp" in k)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="missing_keys"):
        workbench.load(folder, progress=False)


@pytest.mark.parametrize("version", ["5.18.0", "5.19.2", "5.23.0", "5.20.1"])
def test_broken_releases_are_refused_by_name(monkeypatch, version):
    from importlib import metadata

    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "transformers" else real(name))
    with pytest.raises(Incompatible, match=version):
        versions.check_versions()


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"device": "toaster"}, ModelError, "toaster"),
        ({"quantization": "int3"}, ModelError, "int3"),
        ({"context": 0}, ModelError, "context"),
        ({"context": 10**9}, ModelError, "8,192"),
        ({"drafter": "x"}, (ModelError, Incompatible), "drafter"),
    ],
)
def test_loads_that_cannot_be(how, error, said):
    with pytest.raises(error, match=said):
        workbench.load("pocket", progress=False, **how)


def test_unknown_arguments_raise(model):
    with pytest.raises(TypeError, match="colour"):
        workbench.load(colour="red")
    with pytest.raises(TypeError, match="image"):
        model.ask("Hello", image="x.png")


BAD = [
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"max_new_tokens": True}, "max_new_tokens=True"),
    ({"temperature": -1}, "temperature=-1"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"temperature": "hot"}, "temperature='hot'"),
    ({"top_k": -5}, "top_k=-5"),
    ({"top_p": 0}, "top_p=0"),
    ({"top_p": 1.5}, r"top_p=1\.5"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 1.5}, r"seed=1\.5"),
    ({"top": 0}, "top=0"),
    ({"draft": -1}, "draft=-1"),
    ({"draft": 1000}, "draft=1000"),
    ({"draft": "fast"}, "draft='fast'"),
    ({"image_tokens": 100}, "image_tokens=100"),
    ({"on_token": 3}, "on_token=3"),
    ({"stop": 3}, "stop=3"),
    ({"question": "word " * 9000}, "8,192"),
]


@pytest.mark.parametrize(("how", "said"), BAD)
def test_settings_that_cannot_be_run_are_refused_before_any_work(model, how, said):
    forwards = []
    handle = model.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(PromptError, match=said):
            model.ask(**{"question": "Hello", **how})
    finally:
        handle.remove()
    assert not forwards
    assert len(model.ask("Hello", temperature=0).tokens) > 0


def test_bad_media_name_themselves_and_leave_the_model_usable(model, tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_text("I am a text file")
    for how, said in [
        ({"images": [str(tmp_path / "none.png")]}, r"none\.png"),
        ({"images": [fake]}, r"fake\.png"),
        ({"audio": [(np.full(100, np.nan, np.float32), 16_000)]}, "NaN|finite"),
        ({"images": ["https://example.org/a.png"]}, "https"),
        ({"video": ["a.mp4"]}, r"a\.mp4: there is no such file"),
    ]:
        with pytest.raises(MediaError, match=said):
            model.ask("What?", **how)
    assert model.ask("Hello", temperature=0).text


def test_a_single_source_may_stand_without_a_list(model):
    picture = np.zeros((96, 96, 3), np.uint8)
    assert len(model.ask("What?", images=picture, max_new_tokens=1).images) == 1
    assert len(model.ask("What?", audio=(np.zeros(1000, np.float32) + 0.1, 16_000), max_new_tokens=1).audio) == 1


def test_a_draft_asked_of_a_model_without_drafter(tmp_path):
    folder = tmp_path / "alone"
    shutil.copytree(WEIGHTS, folder)
    mine = workbench.load(folder, progress=False)
    try:
        with pytest.raises(ModelError, match="drafter"):
            mine.ask("Hello", draft=4)
        assert len(mine.ask("Hello", draft="auto", temperature=0).rounds) == 0
    finally:
        workbench.unload(mine.name)


def test_history_as_a_trace_goes_on_with_its_media(model):
    picture = np.zeros((96, 144, 3), np.uint8)
    first = model.ask("What is this?", images=[picture], temperature=0)
    second = model.ask("And again?", history=first, temperature=0)
    assert len(second.images) == 1
    said = "".join(second.prompt.pieces)
    assert "What is this?" in said
    assert first.text in said
    assert second.usage.cached >= second.usage.image


def test_a_trace_can_be_prepared_again_and_another_models_is_refused(model):
    from dataclasses import replace

    picture = np.zeros((96, 144, 3), np.uint8)
    trace = model.ask("What is this?", images=[picture], system="Be <turn|> kind.", max_new_tokens=3)
    again = model.request(trace)
    assert np.array_equal(again.prompt.ids, trace.prompt.ids)
    other = replace(trace, model=replace(trace.model, weights_hash="0" * 64))
    with pytest.raises(Incompatible, match="000000000000"):
        model.request(other)
    lost = replace(trace, images=(), prompt=replace(trace.prompt, messages=trace.prompt.messages[:1]))
    with pytest.raises(TraceError, match="rebuilt"):
        model.request(lost)


def test_a_trace_says_what_ran(model):
    trace = model.ask("Hello", seed=5, max_new_tokens=3)
    info = trace.model
    assert (info.name, info.dtype, info.device, info.quantization) == ("pocket", "float32", "cpu", "none")
    assert info.mask_correction
    assert len(info.weights_hash) == len(info.chat_template_hash) == len(info.vocab_hash) == 64
    assert info.versions["transformers"]
    assert info.window == 96
    assert set(info.layers) == {"sliding", "full"}
    assert trace.settings.seed == 5
    json.dumps(trace.prompt.messages)


def test_importing_needs_no_torch():
    code = "import sys, workbench; assert not {'torch', 'transformers', 'librosa'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_is_a_workbench_error():
    for error in (MediaError, ModelError, PromptError, TraceError, Incompatible):
        assert issubclass(error, WorkbenchError)


def test_what_is_loaded_is_given_at_once_while_another_is_being_loaded(monkeypatch):
    have = workbench.load("pocket", progress=False)
    before = list(workbench.loaded())
    entered, go = threading.Event(), threading.Event()

    def slow(entry, *_given, **_named):
        entered.set()
        assert go.wait(60)
        return types.SimpleNamespace(name=entry.name, _close=lambda: None)

    monkeypatch.setattr(loading, "_load", slow)
    other = threading.Thread(target=lambda: workbench.load("pocket", context=77, progress=False))
    other.start()
    try:
        assert entered.wait(60)
        assert workbench.load("pocket", progress=False) is have
        assert list(workbench.loaded()) == before
        assert other.is_alive()  # nobody has waited for it
    finally:
        go.set()
        other.join()
    (added,) = workbench.loaded().keys() - before
    assert added == f"pocket #{1 + sum(name.split(' #')[0] == 'pocket' for name in before)}"
    workbench.unload(added)


def test_a_registry_of_an_earlier_release_is_filled_up(monkeypatch):
    old = types.ModuleType("_gemma_workbench_registry")
    old.models, old.lock = {}, threading.RLock()
    monkeypatch.setitem(sys.modules, old.__name__, old)
    assert loading._registry() is old
    with old.loading:
        assert workbench.loaded() == {}


def test_who_loads_gets_his_model_though_another_thread_unloads_it(monkeypatch):
    made = types.SimpleNamespace(name="mine", _close=lambda: None)

    class Lock:  # lets another thread in as soon as it is given back
        def __enter__(self):
            return self

        def __exit__(self, *_given):
            registry.models = {}

    registry = types.SimpleNamespace(models={}, names={}, lock=Lock(), loading=threading.RLock())
    monkeypatch.setattr(loading, "_registry", lambda: registry)
    monkeypatch.setattr(loading, "_load", lambda *_given, **_named: made)
    assert workbench.load("pocket", context=91, progress=False) is made


def test_names_stay_when_another_model_goes(monkeypatch):
    monkeypatch.setattr(loading, "_load", lambda entry, *_given, **_named: types.SimpleNamespace(
        name=entry.name, _close=lambda: None
    ))  # fmt: skip
    registry = types.SimpleNamespace(models={}, names={}, lock=threading.RLock(), loading=threading.RLock())
    monkeypatch.setattr(loading, "_registry", lambda: registry)
    one, two, three = (workbench.load("pocket", context=n, progress=False) for n in (41, 42, 43))
    assert workbench.loaded() == {"pocket": one, "pocket #2": two, "pocket #3": three}
    workbench.unload("pocket #2")
    assert workbench.loaded() == {"pocket": one, "pocket #3": three}
    four = workbench.load("pocket", context=44, progress=False)
    assert workbench.loaded() == {"pocket": one, "pocket #3": three, "pocket #2": four}
    workbench.unload(three)
    with pytest.raises(ModelError, match="is not loaded; loaded: pocket, pocket #2"):
        workbench.unload(three)
    for name in list(workbench.loaded()):
        workbench.unload(name)
    assert workbench.loaded() == {}
    assert registry.names == {}


def test_a_quantization_that_is_no_name_is_told():
    with pytest.raises(ModelError, match=r"quantization=\['int4'\]: expected a name"):
        workbench.load("pocket", quantization=["int4"])
