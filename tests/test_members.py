"""The other members of Gemma 4, with towers, experts, inputs of each layer: held to what Transformers does with them.

The models are small and random (:mod:`tests.members`); what they say is no matter. A second copy of each, loaded by
Transformers alone and fed by its own processor, is what the workbench's is compared with, in float32.
"""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from tests import members  # noqa: E402
from tests.test_attention import HALF, dense, picture  # noqa: E402
from workbench import masks, modeltest  # noqa: E402
from workbench.errors import Incompatible, MediaError, ModelError, PromptError  # noqa: E402
from workbench.media import load_audio, load_image  # noqa: E402
from workbench.packed import Int4Linear, Int8Embedding, held_bytes, layers  # noqa: E402

RATE = 16_000
TONE = (0.5 * np.sin(np.arange(RATE) / 9) * np.linspace(0, 1, RATE), RATE)  # 1 s
SHORT = (np.random.default_rng(0).normal(0, 0.1, 9_111), RATE)  # 569.4 ms
WIDE, TALL = picture(96, 480), picture(300, 150)
N = 12

CASES = {
    "text": {"question": "Which of these is a colour?"},
    "image": {"question": "What is at the top left?", "images": [WIDE]},
    "two images past the window": {"question": "one two three " * 20, "images": [WIDE, TALL]},
    "image and sounds": {"question": "What is this?", "images": [TALL], "audio": [TONE, SHORT]},
}
GREEDY, DRAWN = {"temperature": 0}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 5}
EVERY = [
    *(("e4b", case) for case in CASES),
    *(("a4b", case) for case in CASES if "audio" not in CASES[case]),
    ("31b", "two images past the window"),
]


class Member:
    """A member as the workbench loads it, and as Transformers does."""

    def __init__(self, name, folder):
        from transformers import AutoModelForMultimodalLM, AutoProcessor

        self.folder, self.drafter = members.save(name, folder)
        self.model = workbench.load(self.folder, drafter=self.drafter, progress=False)
        self.other = AutoModelForMultimodalLM.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.processor = AutoProcessor.from_pretrained(self.folder)
        self.traces = {}

    def ask(self, case, tokens=N, **how):
        given = dict(CASES[case])
        return self.model.ask(given.pop("question"), **given, max_new_tokens=tokens, **{"draft": 0, **how})

    def trace(self, case):
        """A drawn run; made once."""
        if case not in self.traces:
            self.traces[case] = self.ask(case, **DRAWN)
        return self.traces[case]

    def inputs(self, case):
        """What Transformers' own processor makes of a case."""
        given = CASES[case]
        images = [load_image(one).to_pil() for one in given.get("images", ())]
        sounds = [load_audio(one).samples for one in given.get("audio", ())]
        content = [{"type": "image"}] * len(images) + [{"type": "audio"}] * len(sounds)
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": given["question"]}]}]
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.processor(
            text=text, images=images or None, audio=sounds or None, return_tensors="pt", add_special_tokens=False
        )

    def forward(self, trace, inputs, **more):
        """Transformers' own pass over a prompt and its answer."""
        ids = torch.tensor(trace.ids.astype(np.int64))[None]
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(trace.tokens)))
        media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
        with torch.inference_mode():
            return self.other(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
                **media, **more,
            )  # fmt: skip

    def logprob(self, trace, inputs, token, **more):
        """Of a generated token, by Transformers' own pass."""
        logits = self.forward(trace, inputs, **more).logits[0, len(trace.prompt) - 1 + token]
        return float(logits.log_softmax(-1)[int(trace.tokens.token_id[token])])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Members by name, each made when it is first wanted."""
    held = {}

    def get(name):
        if name not in held:
            held[name] = Member(name, tmp_path_factory.mktemp("member") / name)
        return held[name]

    return get


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_tokens_are_those_of_generate(made, name, case):
    member = made(name)
    inputs = member.inputs(case)
    for how in (GREEDY, DRAWN):
        trace = member.ask(case, **how)
        assert trace.prompt.ids.tolist() == inputs["input_ids"][0].tolist()
        given = (
            {"do_sample": False} if how is GREEDY else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        )
        torch.manual_seed(5)
        with torch.inference_mode():
            out = member.other.generate(**inputs, **given, max_new_tokens=N)
        assert trace.tokens.token_id.tolist() == out[0, len(trace.prompt) :].tolist()
        again = member.ask(case, **how)  # from behind the media of the run before
        assert again.tokens.token_id.tolist() == trace.tokens.token_id.tolist()
        ends = [s.stop + 1 for s in trace.prompt.segments if s.media is not None]
        assert again.usage.cached == (max(ends) if ends else 0)


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_a_drafted_run_is_the_undrafted_one(made, name, case):
    """With a drafter that knows nothing, and with one that proposes right words but for every third."""
    member = made(name)
    drafter = member.model._drafter
    for how in (GREEDY, DRAWN):
        plain = member.ask(case, **how)
        blind = member.ask(case, **how, draft=4)
        assert blind.tokens.token_id.tolist() == plain.tokens.token_id.tolist()
        assert blind.rounds.proposed.sum() > 0
        known = plain.tokens.token_id.tolist()

        def draft(token, hidden, position, cache, count, further=None, known=known, plain=plain):
            ids, logprobs = type(drafter).draft(drafter, token, hidden, position, cache, count, further)
            first = position - len(plain.prompt) + 1
            return [i if k % 3 == 2 or k >= len(known) else known[k] for k, i in enumerate(ids, first)], logprobs

        drafter.draft = draft
        try:
            led = member.ask(case, **how, draft=4)
        finally:
            del drafter.draft
        assert led.tokens.token_id.tolist() == plain.tokens.token_id.tolist()
        assert led.rounds.accepted.sum() >= min(4, len(known) // 3)
        np.testing.assert_allclose(led.tokens.logprob, plain.tokens.logprob, atol=1e-4)


@pytest.mark.parametrize("name", members.MEMBERS)
def test_drafts_are_those_of_transformers_assistant(made, name):
    """The first draft of a round, from Transformers' own forward of the assistant on the model's own keys."""
    member = made(name)
    trace = member.trace("image")
    run = member.model.behind_prompt(trace)
    cache, hidden, T = run
    token = int(trace.tokens.token_id[0])
    drafter = member.model._drafter
    with torch.inference_mode():
        ids, logprobs = drafter.draft(token, hidden, T, cache, 1)
        embeds = torch.cat([member.model.transformer.get_input_embeddings()(torch.tensor([[token]])), hidden[None]], -1)
        out = member.model.drafter(
            inputs_embeds=embeds, position_ids=torch.tensor([[T]]), shared_kv_states=drafter.states(cache)
        )
    expected = out.logits[0, -1].float().log_softmax(-1)
    assert ids == [int(expected.argmax())]
    assert logprobs[0] == pytest.approx(float(expected.max()), abs=1e-5)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_rows_are_those_of_eager_attention(made, name, case):
    member = made(name)
    trace = member.trace(case)
    a = member.model.attend(trace, positions=range(len(trace.ids)))
    expected = member.forward(trace, member.inputs(case), output_attentions=True).attentions
    assert len(a.layers) == len(expected) == len(members.kinds(name))
    for i, weights in enumerate(expected):
        np.testing.assert_allclose(dense(a, i), weights[0].numpy(), atol=HALF, rtol=0)
    assert a.replay_gap < 1e-4


@pytest.mark.parametrize("name", members.MEMBERS)
def test_only_large_members_read_pictures_in_both_directions(made, name):
    member = made(name)
    trace = member.trace("image")
    (image,) = [s for s in trace.prompt.segments if s.kind == "image"]
    a = member.model.attend(trace, positions=[image.start])
    later = a.on_image(0, position=image.start, layer=0).ravel()[1:]
    assert (later.min() > 0) == (name != "e4b")
    assert a.on_image(0, position=image.start, layer=2).ravel()[1:].max() == 0, "a full layer is causal"
    assert a.bidirectional == (name != "e4b")
    assert not trace.model.mask_correction, "Transformers' own masks are right"


def test_the_drafter_looks_at_the_keys_of_the_last_layers_that_have_their_own(made):
    member = made("e4b")
    trace = member.trace("image")
    assert member.model._drafter.sources == {"sliding_attention": 1, "full_attention": 2}
    a = member.model.attend(trace, of="drafter")
    assert [layer.kind for layer in a.layers] == ["sliding", "sliding", "full"]
    for weights in a.weights:
        np.testing.assert_allclose(weights.astype(np.float32).sum(-1), 1, atol=2e-3)


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "grid"), [((96, 480), (3, 18)), ((300, 150), (11, 5)), ((336, 480), (7, 10))])
def test_a_soft_token_lies_on_its_own_pixels(made, pixels, grid):
    """The grid of the processor's rule; and what a tower pools into a token are the pixels of that token's box."""
    member = made("a4b")
    image = picture(*pixels)
    (segment,) = [s for s in member.model.ask("?", images=[image], max_new_tokens=1).prompt.segments if s.rows]
    assert (segment.rows, segment.cols) == grid
    height, width = pixels
    r, c = grid[0] // 2, grid[1] - 2
    box = segment.boxes[r * grid[1] + c]
    expected = [c * width / grid[1], r * height / grid[0], (c + 1) * width / grid[1], (r + 1) * height / grid[0]]
    np.testing.assert_allclose(box, expected, rtol=1e-6)
    # in the middle of the box, so that resizing does not smear it over the edge
    left, top, right, bottom = (int(x) for x in box)
    marked = image.copy()
    marked[(top + bottom) // 2 - 2 : (top + bottom) // 2 + 2, (left + right) // 2 - 2 : (left + right) // 2 + 2] ^= 255
    a, b = (member.processor.image_processor([one], return_tensors="pt") for one in (image, marked))
    tokens = int(a["num_soft_tokens_per_image"][0])
    changed = (a["pixel_values"] != b["pixel_values"]).any(-1, keepdim=True).float()  # (1, patches, 1)
    xy = a["image_position_ids"]
    pooled, _ = member.other.model.vision_tower.pooler(changed, xy, (xy < 0).all(-1), output_length=xy.shape[1] // 9)
    assert pooled[0, :tokens, 0].nonzero().ravel().tolist() == [r * grid[1] + c]


def test_a_frame_of_sound_stands_for_its_own_milliseconds(made):
    """A click is heard by the tokens whose middle, 0, 40, 80 … ms, is less than 40 ms away, by the convolutions."""
    member = made("e4b")
    sound = load_audio(TONE)
    (segment,) = [s for s in member.model.ask("?", audio=[TONE], max_new_tokens=1).prompt.segments if s.kind == "audio"]
    assert len(segment) == 25
    np.testing.assert_allclose(segment.start_ms[:3], [0, 20, 60])
    np.testing.assert_allclose(segment.end_ms[[0, 1, 24]], [20, 60, 1000])
    sample = member.model._prompter.reader.heard
    convolutions = member.other.model.audio_tower.subsample_conv_projection

    def heard(samples):
        values = sample(samples)
        with torch.inference_mode():
            return convolutions(values[None], torch.ones(1, len(values), dtype=torch.bool))[0][0]

    for ms in (200, 190, 215, 330, 781):
        click = sound.samples.copy()
        click[ms * 16] += 0.5
        changed = (heard(sound.samples) != heard(click)).any(-1).nonzero().ravel().tolist()
        assert changed == [t for t in range(25) if abs(40 * t - ms) < 40], ms
        (mine,) = [t for t in range(25) if segment.start_ms[t] <= ms < segment.end_ms[t]]
        assert mine == round(ms / 40)
        assert mine in changed


def test_short_sounds_and_long_ones(made):
    member = made("e4b")
    for samples, tokens in ((321, 1), (1000, 2), (9_111, 14), (480_000, 750)):
        sound = (np.full(samples, 0.1), RATE)
        segments = member.model._prompter.build(workbench.prompt.conversation("?", audio=[sound])).prompt.segments
        (segment,) = [s for s in segments if s.kind == "audio"]
        assert len(segment) == tokens
        assert segment.end_ms[-1] == pytest.approx(samples / 16)
        assert (segment.end_ms > segment.start_ms).all()
    with pytest.raises(MediaError, match="too short for this model"):
        member.model.ask("?", audio=[(np.full(100, 0.1), RATE)])


# --- other questions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", members.MEMBERS)
def test_lens_score_branch_and_the_file(made, name, tmp_path):
    member = made(name)
    trace = member.trace("image")
    lens = member.model.lens(trace)
    assert lens.top_ids.shape[:2] == (len(members.kinds(name)) + 1, len(trace.tokens))
    np.testing.assert_allclose(lens.logprob[-1], trace.tokens.logprob, atol=1e-4)
    assert member.model.lens(trace, over="image").grid(2).shape == (3, 18)
    scored = member.model.score(trace)
    np.testing.assert_allclose(scored.tokens.logprob, trace.tokens.logprob, atol=1e-4)
    logits = member.forward(trace, member.inputs("image")).logits[0].log_softmax(-1)
    T = len(trace.prompt)
    own = logits[range(T - 1), trace.prompt.ids[1:].astype(np.int64)].numpy()
    known = np.isfinite(scored.prompt.logprob[1:])
    assert (~known).sum() == trace.usage.image, "patches are not predicted"
    np.testing.assert_allclose(scored.prompt.logprob[1:][known], own[known], atol=1e-3)
    other = member.model.branch(trace, at=2, token=int(trace.tokens.token_id[2]))
    assert other.tokens.token_id.tolist() == trace.tokens.token_id.tolist()
    trace.save(tmp_path / "a.trace")
    loaded = workbench.Trace.load(tmp_path / "a.trace")
    assert member.model.again(loaded).tokens.token_id.tolist() == trace.tokens.token_id.tolist()


@pytest.mark.parametrize("name", ["e4b", "a4b"])
def test_a_hidden_patch_is_hidden_from_the_tower(made, name):
    """The drop is that of Transformers' own pass over the picture with those 3 × 3 patches in its mean colour."""
    member = made(name)
    trace = member.trace("image")
    hidden = member.model.occlude(trace, token=1, size=1)
    assert hidden.values.shape == (3, 18)
    assert hidden.base == pytest.approx(float(trace.tokens.logprob[1]), abs=1e-4)
    inputs = member.inputs("image")
    values, xy = inputs["pixel_values"], inputs["image_position_ids"][0]
    real = (xy >= 0).all(-1)
    mean = values[0, real].view(-1, 3).mean(0).repeat(256)
    before = member.logprob(trace, inputs, 1)
    for r, c in ((0, 0), (1, 13), (2, 17)):
        at = real & (xy[:, 1] // 3 == r) & (xy[:, 0] // 3 == c)
        assert int(at.sum()) == 9
        holed = values.clone()
        holed[0, at] = mean
        after = member.logprob(trace, {**inputs, "pixel_values": holed}, 1)
        assert hidden.values[r, c] == pytest.approx(before - after, abs=1e-3)
    assert np.abs(hidden.values).max() > 0.01


def test_hidden_frames_and_words(made):
    member = made("e4b")
    trace = member.trace("image and sounds")
    inputs = member.inputs("image and sounds")
    before = member.logprob(trace, inputs, 1)
    drops = member.model.occlude(trace, token=1, over="audio", media=1, size=1).values
    assert drops.shape == (14,)
    silence = member.processor.feature_extractor([np.zeros(9_111, np.float32)])["input_features"][0]
    for frame, rows in ((0, slice(0, 2)), (5, slice(18, 22)), (13, slice(50, 56))):  # 569 ms are 56 frames of 10 ms
        holed = inputs["input_features"].clone()
        holed[1, rows] = torch.from_numpy(silence[rows])
        after = member.logprob(trace, {**inputs, "input_features": holed}, 1)
        assert drops[frame] == pytest.approx(before - after, abs=1e-3), frame
    # a word: its embedding and what it adds to each layer's input, both the mean of all words
    words = member.model.occlude(trace, token=1, over="text").values
    at = next(s for s in trace.prompt.segments if s.kind == "text").start
    model = member.other.model
    seen = {}
    handle = model.language_model.register_forward_pre_hook(lambda _m, _a, kw: seen.update(kw), with_kwargs=True)
    member.forward(trace, inputs)
    handle.remove()
    embeds, own = seen["inputs_embeds"].clone(), seen["per_layer_inputs"].clone()
    every = torch.arange(members.VOCAB)
    with torch.inference_mode():
        embeds[0, at] = model.language_model.embed_tokens(every).mean(0)
        own[0, at] = model.language_model.embed_tokens_per_layer(every).mean(0).view(own.shape[2:])
        more = {k: seen[k] for k in ("attention_mask", "position_ids")}
        out = model.language_model(inputs_embeds=embeds, per_layer_inputs=own, use_cache=False, **more)
        logits = member.model._engine.logits(out.last_hidden_state[0, len(trace.prompt)][None])
    after = float(logits.log_softmax(-1)[0, int(trace.tokens.token_id[1])])
    assert words[at] == pytest.approx(before - after, abs=1e-3)


@pytest.mark.parametrize("name", ["e4b", "a4b"])
def test_a_video_is_embedded_frame_by_frame(made, name):
    member = made(name)
    frames = np.random.default_rng(1).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8)
    trace = member.model.ask("What?", video=[(frames, 1.0)], **GREEDY, max_new_tokens=4)
    shown = [s for s in trace.prompt.segments if s.kind == "video"]
    assert [(s.rows, s.cols, float(s.start_ms[0])) for s in shown] == [(6, 10, 0.0), (6, 10, 1000.0), (6, 10, 2000.0)]
    video = member.processor.video_processor(
        [frames], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
    )
    ids = torch.tensor(trace.prompt.ids.astype(np.int64))[None]
    given = {k: video[k] for k in ("pixel_values_videos", "video_position_ids", "num_frames_per_video")}
    types = (ids == member.processor.video_token_id).long() * 2
    with torch.inference_mode():
        out = member.other.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **given, do_sample=False,
            max_new_tokens=4,
        )  # fmt: skip
    assert trace.tokens.token_id.tolist() == out[0, len(trace.prompt) :].tolist()
    assert member.model.attend(trace).on_video(0, token=1).shape == (3, 6, 10)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unload_what_a_test_loads")
@pytest.mark.parametrize("name", ["e4b", "a4b"])
@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_packed_layers_are_the_text_models_alone(made, name, scheme):
    member = made(name)
    packed = workbench.load(member.folder, drafter=member.drafter, quantization=scheme, progress=False)
    held = dict(layers(packed.transformer))
    assert all(n.startswith("model.language_model.") for n in held)
    assert not any("router" in n or "experts" in n for n in held)
    assert len([n for n in held if n.endswith("q_proj")]) == len(members.kinds(name))
    assert isinstance(held["model.language_model.layers.0.mlp.up_proj"], Int4Linear) == (scheme == "int4")
    if name == "e4b":
        assert isinstance(held["model.language_model.embed_tokens_per_layer"], Int8Embedding)
    else:
        own, theirs = (m.model.language_model.layers[0] for m in (packed.transformer, member.other))
        assert torch.equal(own.experts.gate_up_proj, theirs.experts.gate_up_proj)
        assert torch.equal(own.router.proj.weight, theirs.router.proj.weight)
    tower, same = (dict(m.model.vision_tower.named_parameters()) for m in (packed.transformer, member.other))
    assert all(torch.equal(tower[n], same[n]) for n in same)
    before = held_bytes(packed.transformer)
    case = {k: v for k, v in CASES["image and sounds"].items() if name == "e4b" or k != "audio"}
    a = packed.ask(**case, **GREEDY, draft=0, max_new_tokens=6)
    b = packed.ask(**case, **GREEDY, draft=4, max_new_tokens=6)
    assert a.tokens.token_id.tolist() == b.tokens.token_id.tolist()
    assert held_bytes(packed.transformer) == before < held_bytes(member.model.transformer)
    planned = workbench.plan(member.folder, quantization=scheme, measure=False).taken.weights
    assert planned == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("quantization", [None, "int4"])
def test_16_bit_weights_are_computed_with_in_16_bit(made, tmp_path, quantization):
    """As the published ones are stored: towers, inputs of each layer and packed layers beside each other."""
    from transformers import AutoModelForMultimodalLM

    member = made("e4b")
    member.processor.save_pretrained(tmp_path)
    AutoModelForMultimodalLM.from_pretrained(member.folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = workbench.load(tmp_path, quantization=quantization, progress=False)
    assert model.info.dtype == "bfloat16"
    trace = model.ask(**CASES["image and sounds"], **DRAWN, max_new_tokens=4)
    assert np.isfinite(trace.tokens.logprob).all()
    assert model.attend(trace).replay_gap < 0.5
    assert np.isfinite(model.occlude(trace, token=1, over="audio").values).all()
    workbench.unload(model.name)


@pytest.mark.parametrize("name", members.MEMBERS)
def test_the_plan_counts_what_is_held(made, name):
    member = made(name)
    made_plan = workbench.plan(member.folder, measure=False)
    assert made_plan.fits
    assert made_plan.taken.weights == pytest.approx(held_bytes(member.model.transformer), rel=0.02)


@pytest.mark.parametrize("name", ["e4b", "a4b"])
def test_doctors_checks_pass(made, name):
    report = modeltest.run(str(made(name).folder), tokens=4)
    assert {c.about: c.level for c in report.checks if c.level != "ok"} == {"configuration": "note", "drafts": "note"}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_a_member_has_no_part_for_is_refused_before_any_work(made):
    member = made("a4b")
    with pytest.raises(MediaError, match="hears no sounds: its configuration has no part for them"):
        member.model.ask("Which word?", audio=[TONE])
    with pytest.raises(MediaError, match="hears no sounds"):
        member.model.score("Which word?", "seven", audio=[TONE])
    for call in (member.model.nearest, lambda _trace: member.model.filters()):
        with pytest.raises(ModelError, match="gemma4_unified"):
            call(member.trace("image"))
    with pytest.raises(PromptError, match="image_tokens=64"):
        member.model.ask("?", images=[WIDE], image_tokens=64)


def test_drafters_of_other_members_are_refused(made):
    with pytest.raises(Incompatible, match="key-value heads of full_attention layers: drafter 1, model 2"):
        workbench.load(made("e4b").folder, drafter=made("a4b").drafter, progress=False)


def test_a_model_that_reads_and_does_not_answer_is_refused(made):
    config = made("a4b").other.config
    masks.check(config)
    reading = type(config)(**{**config.to_dict(), "text_config": {
        **config.text_config.to_dict(), "use_bidirectional_attention": "all",
    }})  # fmt: skip
    with pytest.raises(Incompatible, match="sees those after it"):
        masks.check(reading)


def test_a_trace_of_one_member_is_not_anothers(made):
    with pytest.raises(Incompatible, match="This trace is of e4b"):
        made("a4b").model.attend(replace(made("e4b").trace("text")))
