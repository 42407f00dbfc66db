"""Seed for seed, the traced run gives the tokens of Transformers' own ``generate`` on the mask-corrected model.

The oracle is a second copy of the model: Transformers' processor makes its inputs, Transformers' ``generate`` runs it,
and the only thing of ours on it is the mask correction (itself held to the written rule in test_masks).
"""

import itertools
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

WORDS = (
    "what is at the top left ? Describe the image. How many stars? Tell me a story about it, a long one. "
    "which word do you hear red Zürich 12 + 7 = <turn|> 你好 é\n\n hello"
).split(" ")


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def oracle():
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(other)
    return other, AutoProcessor.from_pretrained(WEIGHTS)


def scene(rng):
    """A coarse random picture of any shape, so that no two prompts look alike to the model."""
    coarse = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3), dtype=np.uint8)
    return coarse.repeat(int(rng.integers(20, 60)), 0).repeat(int(rng.integers(20, 60)), 1)


def sound(rng):
    n = int(rng.integers(300, 24_000))
    return (rng.standard_normal(n) * 0.1 * np.sin(np.arange(n) / rng.uniform(5, 40))).astype(np.float32)


def random_prompt(rng):
    # control tokens in the words are ours alone to neutralise: the oracle's processor would obey them
    words = [w for w in rng.choice(WORDS, int(rng.integers(1, 12))) if w.strip() and "<turn|>" not in w]
    return {
        "question": " ".join(words) or "Hm",
        "images": [scene(rng) for _ in range(int(rng.choice([0, 1, 1, 2])))],
        "audio": [(sound(rng), 16_000) for _ in range(int(rng.choice([0, 0, 1, 2])))],
        "system": "Be short." if rng.random() < 0.2 else None,
    }


def settings(rng):
    if rng.random() < 0.35:
        return {"temperature": 0}
    return {
        "temperature": float(rng.uniform(0.3, 2.5)),
        "top_k": int(rng.choice([0, 1, 5, 64])),
        "top_p": float(rng.choice([1.0, 0.95, 0.5])),
        "seed": int(rng.integers(2**31)),
    }


def theirs(oracle, prompt, how, n):
    other, processor = oracle
    content = [{"type": "image"} for _ in prompt["images"]] + [{"type": "audio"} for _ in prompt["audio"]]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt["question"]}]}]
    if prompt["system"]:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt["system"]}]})
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(
        text=text, images=prompt["images"] or None, audio=[a for a, _ in prompt["audio"]] or None,
        return_tensors="pt", add_special_tokens=False,
    )  # fmt: skip
    chosen = {"do_sample": False} if how["temperature"] == 0 else {
        "do_sample": True, "temperature": how["temperature"], "top_k": how["top_k"], "top_p": how["top_p"]
    }  # fmt: skip
    torch.manual_seed(how.get("seed", 0))
    out = other.generate(**inputs, **chosen, max_new_tokens=n)
    return inputs["input_ids"][0].tolist(), out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("part", range(6))
def test_tokens_are_those_of_generate(model, oracle, part):
    """300 random prompts in all: words, pictures, sounds, systems, greedy and sampled."""
    rng = np.random.default_rng(part)
    longer_than_window = media = 0
    for _ in range(50):
        prompt, how, n = random_prompt(rng), settings(rng), int(rng.integers(1, 40))
        ids, tokens = theirs(oracle, prompt, how, n)
        trace = model.ask(**prompt, **how, max_new_tokens=n, top=5)
        assert trace.prompt.ids.tolist() == ids
        assert trace.tokens.token_id.tolist() == tokens, (prompt["question"], how)
        longer_than_window += len(ids) > model.info.window
        media += bool(prompt["images"]) + bool(prompt["audio"])
    assert longer_than_window > 10
    assert media > 25


def test_a_follow_up_from_the_prefix_cache_gives_the_same(model, oracle):
    rng = np.random.default_rng(9)
    reused = 0
    for k in range(12):
        images = [scene(rng) for _ in range(1 + k % 2)]
        first = {"question": "What is this?", "images": images, "audio": [], "system": None}
        model.ask(**first, temperature=0, max_new_tokens=4)
        for question in ("How many stars are there?", "Tell me a story about the image."):
            prompt = {**first, "question": question}
            how = {"temperature": 0} if k % 3 else {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": k}
            trace = model.ask(**prompt, **how, max_new_tokens=30)
            _, tokens = theirs(oracle, prompt, how, 30)
            assert trace.tokens.token_id.tolist() == tokens
            assert trace.usage.cached >= trace.usage.image
            reused += trace.usage.cached
    assert reused > 0


def test_the_prefix_cache_tells_pictures_of_one_size_apart(model):
    rng = np.random.default_rng(4)
    one, two = (rng.integers(0, 256, (96, 144, 3), dtype=np.uint8) for _ in range(2))
    model.ask("What is this?", images=[one], temperature=0, max_new_tokens=2)
    trace = model.ask("What is this?", images=[two], temperature=0, max_new_tokens=2)
    assert trace.usage.cached < trace.prompt.segment("image").start


def test_columns_are_those_of_the_logits(model, oracle):
    """Logprob, entropy, rank, margin and alternatives, recomputed from one forward pass of the oracle."""
    rng = np.random.default_rng(5)
    prompt = {"question": "Tell me a story.", "images": [scene(rng)], "audio": [(sound(rng), 16_000)], "system": None}
    how = {"temperature": 1.7, "top_k": 12, "top_p": 0.9, "seed": 3}
    trace = model.ask(**prompt, **how, max_new_tokens=25, top=7)
    other, processor = oracle
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "audio"},
                                      {"type": "text", "text": prompt["question"]}]}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    inputs = processor(text=text, images=prompt["images"], audio=[prompt["audio"][0][0]], return_tensors="pt",
                       add_special_tokens=False)  # fmt: skip
    T, N = len(trace.prompt), len(trace.tokens)
    inputs["input_ids"] = torch.from_numpy(trace.ids.astype(np.int64))[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, N))
    with torch.no_grad():
        logits = other(**inputs).logits[0, T - 1 : -1].double()
    logprobs = logits.log_softmax(-1)
    ids = torch.from_numpy(trace.tokens.token_id.astype(np.int64))
    row = torch.arange(N)
    close = {"atol": 2e-4, "rtol": 0}
    np.testing.assert_allclose(trace.tokens.logprob, logprobs[row, ids], **close)
    np.testing.assert_allclose(trace.tokens.entropy, -(logprobs.exp() * logprobs).sum(-1), **close)
    assert trace.tokens.rank.tolist() == (logits > logits[row, ids][:, None]).sum(-1).tolist()
    best = logprobs.topk(7)
    np.testing.assert_allclose(trace.tokens.top_logprob, best.values, **close)
    np.testing.assert_allclose(trace.tokens.margin, best.values[:, 0] - best.values[:, 1], **close)
    # after suppression, temperature, top-k and top-p, in that order, written out once more
    suppress = other.generation_config.suppress_tokens
    for k in range(N):
        scores = logits[k].clone()
        scores[suppress] = -torch.inf
        scores /= how["temperature"]
        keep = scores.topk(how["top_k"]).indices
        kept = torch.full_like(scores, -torch.inf)
        kept[keep] = scores[keep]
        order = kept.softmax(-1).sort(descending=True)
        beyond = order.values.cumsum(0) - order.values >= how["top_p"]
        kept[order.indices[beyond]] = -torch.inf
        after = kept.log_softmax(-1)
        np.testing.assert_allclose(trace.tokens.sample_logprob[k], after[ids[k]], **close)
        top = torch.from_numpy(trace.tokens.top_ids[k].astype(np.int64))
        np.testing.assert_allclose(trace.tokens.top_sample_logprob[k], after[top], **close)


def test_listening_changes_nothing(model):
    heard = []
    how = {"temperature": 1.3, "seed": 11, "max_new_tokens": 20}
    loud = model.ask("Tell me a story.", on_token=heard.append, **how)
    quiet = model.ask("Tell me a story.", **how)
    assert [t.token_id for t in heard] == quiet.tokens.token_id.tolist() == loud.tokens.token_id.tolist()
    np.testing.assert_allclose([t.logprob for t in heard], quiet.tokens.logprob, atol=1e-5)
    assert [t.index for t in heard] == list(range(len(heard)))
    assert all(a.time_s <= b.time_s for a, b in itertools.pairwise(heard))


def test_a_stop_event_ends_the_run_between_two_tokens(model):
    stop = threading.Event()
    trace = model.ask(
        "Tell me a story.", temperature=5.0, top_k=0, top_p=1.0, seed=1, max_new_tokens=500, stop=stop,
        on_token=lambda t: stop.set() if t.index == 4 else None,
    )  # fmt: skip
    assert (trace.finish, len(trace.tokens)) == ("stopped", 5)
    before = model.ask("Hello", stop=stop)
    assert (before.finish, len(before.tokens), before.text) == ("stopped", 0, "")


def test_a_listener_that_fails_leaves_the_model_usable(model):
    def fail(token):
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        model.ask("Tell me a story.", on_token=fail)
    assert len(model.ask("Hello", temperature=0).tokens) > 0


def test_where_it_ended(model):
    how = {"temperature": 4.0, "top_k": 0, "top_p": 1.0, "seed": 2}
    assert model.ask("Hello", max_new_tokens=1, **how).finish == "max_new_tokens"
    greedy = model.ask("Hello", temperature=0)
    assert greedy.finish == "stop_token"
    assert greedy.tokens.token_id[-1] in model.transformer.generation_config.eos_token_id
    assert "<" not in greedy.text
    small = workbench.load("pocket", context=20, progress=False)
    trace = small.ask("Hello", max_new_tokens=128, **how)
    assert len(trace.prompt) + len(trace.tokens) == 20
    assert trace.finish == "context"
    workbench.unload(next(name for name, one in workbench.loaded().items() if one is small))


def test_an_unseeded_run_can_be_repeated_by_its_seed(model):
    first = model.ask("Tell me a story.", temperature=2.0, max_new_tokens=15)
    again = model.ask("Tell me a story.", temperature=2.0, max_new_tokens=15, seed=first.settings.seed)
    assert first.tokens.token_id.tolist() == again.tokens.token_id.tolist()


# --- equal logits -----------------------------------------------------------------------------------------------------


def test_of_equal_logits_the_first_in_the_vocabulary_comes_first():
    from workbench.recording import columns, ranked

    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]])
    best, ids = ranked(logits, 3)
    assert best.tolist() == [[3.0, 3.0, 2.0], [5.0, 5.0, 5.0]]
    assert ids[0, :2].tolist() == [1, 3]
    assert logits[0, ids[0, 2]] == 2.0
    assert ids[:, 0].tolist() == logits.argmax(-1).tolist()
    coarse = (torch.randn(50, 400, generator=torch.Generator().manual_seed(0)) * 2).round() / 2
    best, ids = ranked(coarse, 20)
    assert torch.equal(best, coarse.topk(20).values)
    assert torch.equal(coarse.gather(1, ids), best)
    assert torch.equal(ids[:, 0], coarse.argmax(-1))
    assert all(len(set(row)) == 20 for row in ids.tolist())
    fallen = (best[:, 1:] < best[:, :-1]) | (ids[:, 1:] > ids[:, :-1])
    assert fallen[:, 1:].all(), "equal ones in the order of the vocabulary"
    made = columns(coarse, coarse, coarse.argmax(-1).tolist(), 20, greedy=True)
    assert made["top_ids"][:, 0].tolist() == coarse.argmax(-1).tolist()
    assert (made["rank"] == 0).all()
    assert (np.diff(made["top_logprob"], axis=1) <= 0).all()


def test_a_model_that_says_no_top_k_has_transformers_own(model, oracle):
    theirs = oracle[0]
    before = model.transformer.generation_config.top_k, theirs.generation_config.top_k
    model.transformer.generation_config.top_k = theirs.generation_config.top_k = None
    try:
        trace = model.ask("Tell me a story.", seed=3, max_new_tokens=12, temperature=3.0, top_p=1.0, draft=0)
        request = model.request(trace)
        torch.manual_seed(3)
        with torch.inference_mode():
            made = theirs.generate(
                request.ids, attention_mask=torch.ones_like(request.ids), mm_token_type_ids=request.type_ids,
                do_sample=True, temperature=3.0, top_p=1.0, max_new_tokens=12,
            )  # fmt: skip
    finally:
        model.transformer.generation_config.top_k, theirs.generation_config.top_k = before
    assert trace.settings.top_k == 50
    assert trace.tokens.token_id.tolist() == made[0, request.ids.shape[1] :].tolist()


def test_each_thought_loses_its_label(model):
    control, encode = model._prompter.control, model._prompter.encode
    names = {text: token for token, text in control.items()}
    first, last = names["<|channel>"], names["<channel|>"]
    said = [first, *encode("thought\nOne."), last, *encode("A red"), first, *encode("thought\nTwo."), last]
    trace = model.score("Hm?", [*said, *encode(" circle.")])
    assert (trace.thought, trace.text) == ("One.\nTwo.", "A red circle.")
    assert model.score("Hm?", [first, *encode("thought")]).thought == ""
