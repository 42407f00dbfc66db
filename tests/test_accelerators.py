"""The same on a GPU: tokens of Transformers' ``generate``, drafts that change nothing, what the CPU sees, memory back.

They run where there is a device beside the CPU, and are the first thing to run on hardware that we do not have:
``python start.py test tests/test_accelerators.py``.
"""

import shutil
import threading
from dataclasses import is_dataclass

import numpy as np
import pytest

from tests.test_decoding import random_prompt, scene, settings, theirs

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import grid, masks, selftest  # noqa: E402
from workbench.errors import DoesNotFit  # noqa: E402
from workbench.machine import machine  # noqa: E402
from workbench.packed import Int4Linear, Int8Linear  # noqa: E402
from workbench.pocket import DRAFTER, HERE, WEIGHTS  # noqa: E402

DEVICES = [device.name for device in machine().devices if device.kind != "cpu"]
pytestmark = pytest.mark.skipif(not DEVICES, reason="this machine has no device beside its CPU")
STORY = "Tell me a story about the picture."
SCENE, WORD = HERE / "examples" / "scene.png", HERE / "examples" / "seven.wav"


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def model(device):
    yield (made := workbench.load("pocket", device=device, progress=False))
    workbench.unload(made)


@pytest.fixture(scope="module")
def cpu():
    return workbench.load("pocket", device="cpu", progress=False)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Pocket's weights, said to be of 16 bits."""
    folder = shutil.copytree(WEIGHTS, tmp_path_factory.mktemp("half") / "pocket")
    config = folder / "config.json"
    config.write_text(config.read_text("utf-8").replace('"float32"', '"bfloat16"'), "utf-8")
    return folder


class Oracle:
    """Transformers' processor and model, with inputs on the model's device."""

    def __init__(self, device, dtype):
        from transformers import AutoModelForMultimodalLM, AutoProcessor

        self.model = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=dtype).eval().to(device)
        masks.correct(self.model)
        processor = AutoProcessor.from_pretrained(WEIGHTS)
        self.apply_chat_template = processor.apply_chat_template
        self._processor, self._device = processor, device

    def __call__(self, **given):
        return self._processor(**given).to(self._device)

    def tokens(self, prompt, how, n):
        return theirs((self.model, self), prompt, how, n)


@pytest.fixture(scope="module")
def oracle(device):
    return Oracle(device, torch.float32)


def numbers(reading):
    """All arrays of numbers that were computed, whatever holds them; not the clock's."""
    out = []
    for name, value in vars(reading).items():
        held = value if isinstance(value, (tuple, list)) else [value]
        out += [x for x in held if isinstance(x, np.ndarray) and x.dtype.kind == "f" and name != "time_s"]
        if is_dataclass(value):
            out += numbers(value)
    return out


def used(device):
    torch_of = getattr(torch, torch.device(device).type)
    return torch_of.current_allocated_memory() if torch_of is torch.mps else torch_of.memory_allocated()


def test_every_scheme_says_what_it_says_on_the_cpu(device):
    results = selftest.run(["cpu", device])
    assert [r.wrong for r in results] == [""] * len(results), selftest.table(results)


@pytest.mark.parametrize("part", range(2))
def test_tokens_are_those_of_generate(model, oracle, part):
    rng = np.random.default_rng(part)
    for _ in range(30):
        prompt, how, n = random_prompt(rng), settings(rng), int(rng.integers(1, 40))
        ids, tokens = oracle.tokens(prompt, how, n)
        trace = model.ask(**prompt, **how, max_new_tokens=n, top=5)
        assert trace.prompt.ids.tolist() == ids
        assert trace.tokens.token_id.tolist() == tokens, (prompt["question"], how)
        assert (trace.tokens.time_s > 0).all()


def test_a_follow_up_from_the_prefix_cache_gives_the_same(model, oracle):
    rng = np.random.default_rng(9)
    for k in range(6):
        first = {"question": "What is this?", "images": [scene(rng)], "audio": [], "system": None}
        model.ask(**first, temperature=0, max_new_tokens=4)
        prompt = {**first, "question": STORY}
        how = {"temperature": 0} if k % 2 else {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": k}
        trace = model.ask(**prompt, **how, max_new_tokens=30)
        assert trace.usage.cached > trace.usage.image
        assert trace.tokens.token_id.tolist() == oracle.tokens(prompt, how, 30)[1]


def test_drafts_change_nothing_but_the_time(model):
    rng = np.random.default_rng(3)
    kept = 0
    for k in range(20):
        prompt = {**random_prompt(rng), "images": [SCENE]} | ({"question": STORY} if k % 2 else {})
        how, n = settings(rng), int(rng.integers(10, 60))
        plain = model.ask(**prompt, **how, max_new_tokens=n, draft=0)
        for draft in (1, 4, "auto"):
            drafted = model.ask(**prompt, **how, max_new_tokens=n, draft=draft)
            assert drafted.tokens.token_id.tolist() == plain.tokens.token_id.tolist(), (prompt["question"], how, draft)
            np.testing.assert_allclose(drafted.tokens.logprob, plain.tokens.logprob, atol=2e-3)
            kept += int(drafted.rounds.accepted.sum())
    assert kept > 100


def test_what_is_seen_is_what_the_cpu_sees(model, cpu):
    """A trace of the CPU is looked at by both: it is of the same weights."""
    trace = cpu.ask(STORY, images=[SCENE], audio=[WORD], max_new_tokens=24, temperature=1.0, seed=4)
    assert trace.rounds is not None
    for look in (
        lambda m: m.attend(trace), lambda m: m.attend(trace, rollout=True), lambda m: m.attend(trace, positions=[3, 9]),
        lambda m: m.attend(trace, of="drafter"), lambda m: m.occlude(trace, token=1),
        lambda m: m.occlude(trace, token=1, over="audio"), lambda m: m.lens(trace), lambda m: m.lens(trace, "image"),
        lambda m: m.score(trace).tokens, lambda m: m.nearest(trace),
    ):  # fmt: skip
        ours, expected = (numbers(look(m)) for m in (model, cpu))
        assert len(ours) == len(expected) > 0
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a.astype(float), b.astype(float), atol=2e-3, rtol=2e-3)


def test_a_trace_of_it_is_saved_opened_and_asked_again(model, device, tmp_path):
    trace = model.ask(STORY, images=[SCENE], max_new_tokens=20, seed=5)
    assert trace.model.device == device
    trace.save(tmp_path / "one.gwb")
    again = model.again(workbench.Trace.load(tmp_path / "one.gwb"))
    assert again.tokens.token_id.tolist() == trace.tokens.token_id.tolist()
    branch = model.branch(trace, at=3, token=int(trace.tokens.top_ids[3, 1]))
    assert branch.tokens.token_id[:3].tolist() == trace.tokens.token_id[:3].tolist()


def test_sixteen_bits_say_what_a_whole_pass_says(device, half):
    """In 16 bits a step and a whole pass round in other places: each word's logprob agrees to what rounding allows."""
    model = workbench.load(half, device=device, drafter=False, progress=False)
    try:
        for seed in range(5):
            trace = model.ask(STORY, images=[SCENE], max_new_tokens=40, temperature=1.0, seed=seed)
            assert np.abs(model.score(trace).tokens.logprob - trace.tokens.logprob).max() < 0.25
    finally:
        workbench.unload(model)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_drafts_change_nothing_with_packed_weights(device, half, scheme):
    """Each row of a few gives, to the bit, what it gives alone; what attention rounds may part words that are level."""
    model = workbench.load(half, device=device, quantization=scheme, drafter=DRAFTER, progress=False)
    try:
        same = 0
        for seed in range(6):
            how = {"max_new_tokens": 40, "temperature": 1.0, "seed": seed}
            plain = model.ask(STORY, images=[SCENE], draft=0, **how)
            drafted = model.ask(STORY, images=[SCENE], draft=4, **how)
            n = int((np.cumprod(plain.tokens.token_id[:5] == drafted.tokens.token_id[:5])).sum())
            assert np.abs(plain.tokens.logprob[:n] - drafted.tokens.logprob[:n]).max() < 0.25
            same += plain.tokens.token_id.tolist() == drafted.tokens.token_id.tolist()
        assert same >= 3
    finally:
        workbench.unload(model)


def test_a_changed_weight_is_seen(model):
    weight = model.transformer.model.language_model.layers[1].mlp.down_proj.weight
    before = model.ask(STORY, images=[SCENE], temperature=0, max_new_tokens=8)
    kept = weight.detach().clone()
    try:
        weight.data.zero_()
        changed = model.ask(STORY, images=[SCENE], temperature=0, max_new_tokens=8)
        assert changed.usage.cached == 0
        assert changed.model.weights_hash != before.model.weights_hash
    finally:
        weight.data.copy_(kept)
    after = model.ask(STORY, images=[SCENE], temperature=0, max_new_tokens=8)
    assert after.usage.cached == 0
    np.testing.assert_allclose(after.tokens.logprob, before.tokens.logprob, atol=1e-4)


def test_a_run_is_stopped(model):
    stop = threading.Event()
    trace = model.ask(
        STORY, images=[SCENE], temperature=0, max_new_tokens=60, stop=stop,
        on_token=lambda token: stop.set() if token.index == 4 else None,
    )  # fmt: skip
    assert trace.finish == "stopped"
    assert len(trace.tokens) == 5


@pytest.mark.parametrize("kind", [Int4Linear, Int8Linear])
@pytest.mark.parametrize("shape", [(15_360, 3840), (3840, 15_360), (4096, 3840), (512, 3840), (96, 64)])
def test_products_with_packed_weights_are_those_of_their_numbers(device, kind, shape):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).mul_(0.02).bfloat16()
    layer = kind(*shape, torch.bfloat16)
    if kind is Int4Linear:
        packed, scale, *_ = grid.to_grid(weight)
        values = grid.values(packed, scale.float())
    else:
        packed, scale = grid.to_int8(weight)[:2]
        values = packed.float() * scale.float()[:, None]
    layer.take(packed, scale, device)
    layer.finish()
    for rows in (1, 2, 5, 16, 64, 300):
        x = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(rows)).bfloat16()
        expected = x.float() @ values.T
        got = layer(x.to(device)).float().cpu()
        assert float((got - expected).norm() / expected.norm()) < 4e-3, rows  # bfloat16 itself rounds by 1.7e-3
    some = [0, 7, shape[0] - 1]
    unpacked = layer.rows(torch.tensor(some, device=device)).float().cpu()
    np.testing.assert_allclose(unpacked, values[some], rtol=8e-3, atol=1e-5)


def test_unloading_gives_the_memory_back(device):
    torch.ones((8, 8), device=device) @ torch.ones((8, 8), device=device)  # the library of products keeps some room
    before = used(device)
    model = workbench.load("pocket", device=device, quantization="int8", progress=False)
    held = used(device) - before
    trace = model.ask(STORY, images=[SCENE], max_new_tokens=8)
    assert model.attend(trace).weights[0].size
    assert used(device) - before > held > 1_000_000
    workbench.unload(model)
    del model
    assert used(device) - before < 1_000_000


def test_memory_that_runs_out_is_told_and_let_go(model, device, monkeypatch):
    """A limit on what torch may take stands for other programs' models."""
    if torch.device(device).type != "cuda":
        pytest.skip("only CUDA has a limit of memory for a process that can be set and lifted")
    model.forget()
    torch.cuda.empty_cache()
    before, total = used(device), torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (2 << 20)) / total)
    try:
        with pytest.raises(DoesNotFit, match=rf"{device} ran out of memory over a prompt of [0-9,]+ tokens") as caught:
            model.ask(STORY, images=[SCENE, np.zeros((900, 900, 3), np.uint8)], image_tokens=1120, max_new_tokens=4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert caught.value.__context__ is None
    assert used(device) - before < 1_000_000
    assert model.ask("What is at the top left?", images=[SCENE], temperature=0).text
