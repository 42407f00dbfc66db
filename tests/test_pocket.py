"""The pocket model's workshop: world, tokenizer, packing, training and drafter. Small numbers, no speech programs."""

import json
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workbench.errors import Incompatible, MediaError
from workbench.pocket import WEIGHTS, speech
from workbench.pocket.data import cells, pair, sounds
from workbench.pocket.features import frames, grid, patches
from workbench.pocket.handwriting import sheet
from workbench.pocket.questions import TASKS, WORDS, Shown, describe, missing, picture_said, random_turn
from workbench.pocket.tones import Beeps, beep, random_beeps
from workbench.pocket.world import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    changed,
    difference,
    plain_render,
    random_scene,
    render,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers' own

SCENE = Scene((Thing("red", "circle", 0), Thing("blue", "star", 5)))


class Tones:
    """A bank of speech without a synthesiser: each word is a tone of its own."""

    def take(self, word, rng):
        return np.sin(np.arange(6000) * 0.05 * (1 + WORDS.index(word))).astype(np.float32)


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def model():
    from workbench.masks import correct
    from workbench.pocket.evaluate import load

    model = load(WEIGHTS)[1]
    correct(model)
    return model


# ---- world and questions


@pytest.mark.parametrize("size", [(64, 64), (384, 384), (700, 150), (90, 500)])
def test_a_scene_is_drawn_at_any_size(size):
    picture = render(SCENE, np.random.default_rng(0), *size)
    assert picture.size == size
    assert picture.mode == "RGB"


def test_the_same_seed_draws_the_same_picture():
    first, second = (np.asarray(render(SCENE, np.random.default_rng(5))) for _ in range(2))
    assert np.array_equal(first, second)


def test_shapes_lie_where_the_scene_says():
    picture = np.asarray(plain_render(SCENE, 300, 150))
    assert tuple(picture[25, 50]) == (255, 0, 0)  # centre of the top left ninth
    assert tuple(picture[75, 250]) == (0, 0, 255)  # centre of the right ninth
    assert tuple(picture[75, 150]) == (255, 255, 255)


def test_scenes_are_described_in_reading_order():
    assert describe(SCENE) == "A red circle at the top left and a blue star at the right."


def test_every_task_has_an_answer_for_what_it_needs():
    from workbench.pocket.acceptance import shown_for

    rng = np.random.default_rng(1)
    for task in TASKS.values():
        for _ in range(50):
            shown = shown_for(task, rng)
            assert task.fits(shown)
            turn = task.turn(shown, rng)
            assert turn.question
            assert turn.answer[-1] in '."'


def test_tasks_that_do_not_fit_are_not_asked():
    rng = np.random.default_rng(1)
    empty = Shown(Scene(()))
    asked = {random_turn(empty, rng).task for _ in range(200)}
    assert {"scene", "count", "place"} <= asked
    assert not asked & {"where", "colour", "shape", "story", "digit", "word", "beeps", "what changed"}
    assert describe(Scene(())) == "Nothing."


@given(st.integers(0, 2**32))
def test_a_change_is_told_as_it_was_made(seed):
    rng = np.random.default_rng(seed)
    before = random_scene(rng, 0, 9)
    after = changed(before, rng)
    said = difference(before, after)
    old, new = ({(t.colour, t.shape, t.place) for t in s.things} for s in (before, after))
    assert (said == "Nothing.") == (old == new)
    assert len(old - new) <= 1
    assert len(new - old) <= 1
    for colour, shape, place in new - old:
        told = {PLACES[place], colour, shape}
        assert any(word in said for word in told)
    assert len({t.place for t in after.things}) == len(after.things)


@given(st.integers(0, 2**32))
def test_beeps_can_be_counted_and_told_high_from_low(seed):
    rng = np.random.default_rng(seed)
    beeps = random_beeps(rng)
    wave = beep(beeps, rng)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() <= 1
    assert len(wave) <= 1.6 * 16_000
    spectrum = np.abs(np.fft.rfft(wave)) * (np.fft.rfftfreq(len(wave), 1 / 16_000) > 150)
    loudest = np.fft.rfftfreq(len(wave), 1 / 16_000)[spectrum.argmax()]
    assert (loudest > 800) == beeps.high
    level = np.sqrt(np.convolve(wave**2, np.ones(320) / 320, "same"))
    loud = level > 0.35 * level.max()
    assert int((np.diff(loud.astype(int)) == 1).sum()) + int(loud[0]) == beeps.count


def test_held_out_digits_are_never_drawn_in_training():
    from workbench.pocket.handwriting import draw, scans

    seen, held = (scans(held_out)[0].reshape(-1, 64) for held_out in (False, True))
    assert len(seen) + len(held) == 1797
    assert not {row.tobytes() for row in seen} & {row.tobytes() for row in held}
    for digit in range(10):
        picture, box = draw(digit, np.random.default_rng(digit), 300, 200)
        assert picture.size == (300, 200)
        assert 0 <= box[0] < box[2] <= 1
        assert 0 <= box[1] < box[3] <= 1


def test_questions_about_what_is_not_there_are_said_to_be():
    rng = np.random.default_rng(2)
    assert missing(Shown(SCENE, "one"), rng) is None
    assert {missing(Shown(SCENE), rng).answer for _ in range(20)} == {"I hear nothing."}
    assert {missing(Shown(None, "one"), rng).answer for _ in range(20)} == {"I see no picture."}


# ---- features


@pytest.mark.parametrize("size", [(384, 384), (300, 300), (640, 111), (97, 411), (64, 64), (1500, 20)])
def test_patches_equal_the_processors(processor, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    theirs = processor.image_processor(picture, return_tensors="pt")
    cut, xy = patches(picture)
    n = len(cut)
    assert n == grid(*size)[0] * grid(*size)[1]
    assert torch.equal(theirs["pixel_values"][0, :n], torch.from_numpy(cut).float() * (1 / 255))
    assert torch.equal(theirs["image_position_ids"][0, :n], torch.from_numpy(xy))
    assert (theirs["image_position_ids"][0, n:] == -1).all()


def test_frames_equal_the_processors(processor):
    wave = np.random.default_rng(0).uniform(-1, 1, 3333).astype(np.float32)
    theirs = processor.feature_extractor(wave, return_tensors="np")
    assert np.array_equal(theirs["input_features"][0], frames(wave))


# ---- tokenizer


@given(st.text(max_size=60))
def test_any_text_survives_the_tokenizer(text):
    from transformers import AutoTokenizer

    tokenizer = _CACHE.setdefault("tokenizer", AutoTokenizer.from_pretrained(WEIGHTS))
    if "▁" in text or "<" in text:  # the space's own sign, and control tokens, mean something else
        return
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


_CACHE = {}


def test_control_tokens_are_gemmas_and_one_token_each(processor):
    tokenizer = processor.tokenizer
    for token in ("<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>",
                  "<|video|>", "<|think|>", "<|channel>", "<channel|>", "<|tool>", "<tool|>", "<|tool_call>",
                  "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'):  # fmt: skip
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token


def test_words_of_the_world_are_single_tokens(processor):
    for word in (*COLOURS, *SHAPES, "top", "bottom", "left", "right", "center"):
        assert len(processor.tokenizer.encode(f"a {word}", add_special_tokens=False)) == 2, word


def test_the_chat_template_is_gemmas(processor):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Hi? "}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why?"},
    ]
    said = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert said == (
        "<bos><|turn>system\n<|think|>\nBe short.<turn|>\n<|turn>user\n<|image|>Hi?<turn|>\n"
        "<|turn>model\nNo.<turn|>\n<|turn>user\nWhy?<turn|>\n<|turn>model\n"
    )


# ---- packing: each branch is computed as if it stood alone


def _trees(processor, seed=3):
    from workbench.pocket.data import Mix, Teller, _tree

    rng = np.random.default_rng(seed)
    teller = Teller(processor.tokenizer)
    mix = Mix(image=0.5, both=0.3, audio=0.2, text=0.0)
    return teller, [t for t in (_tree(teller, Tones(), mix, rng) for _ in range(6)) if t.branches]


def _tensors(packed):
    return {k: torch.from_numpy(v) for k, v in vars(packed).items() if k != "tasks"}


def test_a_packed_branch_equals_the_processors_prompt(processor, model):
    from workbench.pocket.data import Teller
    from workbench.pocket.packing import Tree, pack
    from workbench.pocket.passes import hidden_states
    from workbench.pocket.questions import Turn

    teller = Teller(processor.tokenizer)
    picture = plain_render(SCENE, 500, 260)
    wave = Tones().take("two", None)
    media = [("image", patches(picture)), ("audio", frames(wave))]
    prefix = [*teller.text("<bos><|turn>user\n"), *teller.media(*media[0]), *teller.media(*media[1])]
    turns = [Turn("What is at the top left?", "A red circle.", "place"), Turn("How many shapes?", "Two.", "count")]
    tree = Tree(prefix, media, [teller.branch([t]) for t in turns])
    packed = pack([tree], 1, 200, teller.image_token)
    data = _tensors(packed)
    with torch.no_grad():
        ours = hidden_states(model, data, model.config.text_config.sliding_window)[0]
    for number, turn in enumerate(turns, 1):
        words = {"type": "text", "text": turn.question}
        content = [{"type": "image", "image": picture}, {"type": "audio", "audio": wave}, words]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": turn.answer}]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        where = torch.from_numpy(np.flatnonzero((packed.tree[0] == 0) & np.isin(packed.branch[0], [0, number])))
        assert data["ids"][0, where].tolist() == inputs["input_ids"][0, : len(where)].tolist()
        with torch.no_grad():
            theirs = model.model(**inputs).last_hidden_state[0, : len(where)]
        torch.testing.assert_close(ours[where], theirs, atol=2e-4, rtol=0)


def test_the_last_layer_computed_where_answers_are_equals_the_whole(processor, model):
    from workbench.pocket.packing import pack
    from workbench.pocket.passes import answer_states, hidden_states

    teller, trees = _trees(processor)
    data = _tensors(pack(trees, 3, 400, teller.image_token))
    window = model.config.text_config.sliding_window
    wanted = [
        states[data["rows"], data["cols"]] if whole else states
        for whole, states in ((True, hidden_states(model, data, window)), (False, answer_states(model, data, window)))
    ]
    torch.testing.assert_close(wanted[1], wanted[0], atol=1e-5, rtol=0)
    assert wanted[0].abs().max() > 0.5
    each = []
    for states in wanted:
        model.zero_grad()
        states.pow(2).sum().backward()
        each.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert each[0].keys() == each[1].keys()
    for name, gradient in each[0].items():
        torch.testing.assert_close(each[1][name], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-9, rtol=0)
    again = hidden_states(model, data, window)  # the layer is itself again
    assert again.shape == (*data["ids"].shape, model.config.text_config.hidden_size)


# ---- senses


def test_the_first_eyes_and_ears_are_orthonormal_enough():
    from workbench.pocket.senses import cosines, filters

    eyes, ears = cosines(192), filters(192)
    assert eyes.shape == (192, 6912)
    assert ears.shape == (192, 640)
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(ears, axis=1), 1)
    assert np.linalg.matrix_rank(eyes) == 192
    tone = np.sin(2 * np.pi * 1000 * np.arange(640) / 16_000)
    power = (ears @ tone).reshape(96, 2)
    loudest = int((power**2).sum(1).argmax())
    mel = np.linspace(2595 * np.log10(1 + 80 / 700), 2595 * np.log10(1 + 7200 / 700), 96)[loudest]
    assert 700 * (10 ** (mel / 2595) - 1) == pytest.approx(1000, rel=0.05)


def test_the_bands_follow_a_tone():
    from workbench.pocket.senses import mel_bands

    t = torch.arange(640) / 16_000
    bands = mel_bands(torch.stack([torch.sin(2 * np.pi * f * t) for f in (200, 1000, 5000)]))
    assert bands.shape == (3, 32)
    assert bands.argmax(1).tolist() == sorted(set(bands.argmax(1).tolist()))
    torch.testing.assert_close(bands.mean(1), torch.zeros(3), atol=1e-4, rtol=0)


def test_a_coarsely_learnt_model_is_saved_with_plain_weights(processor):
    from workbench.pocket import build, senses

    model = build.build_model(processor.tokenizer, 0)
    assert senses.merged(model) is model
    senses.start(model, 0)
    senses.coarse(model)
    plain = senses.merged(model)
    weight = plain.model.embed_vision.patch_dense.weight
    assert torch.equal(weight, model.model.embed_vision.patch_dense.weight)
    blocks = weight.detach().view(192, 12, 4, 12, 4, 3)
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
    assert not any("parametrizations" in name for name in plain.state_dict())


# ---- training


def _tiny(**changes):
    from workbench.pocket.data import Mix
    from workbench.pocket.recipe import Recipe

    return Recipe(**{"steps": 4, "warmup": 2, "look": 0.5, "hear": 0.5, "mix": Mix(rows=2, length=240), **changes})


@pytest.fixture
def no_speech(monkeypatch):
    monkeypatch.setattr(speech, "bank", lambda *a, **k: Tones())


@pytest.fixture
def one_thread():
    """Two threads add gradients in whichever order they come: equal to the last bit only with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_stopped_and_resumed_training_equals_uninterrupted(tmp_path, no_speech, one_thread):
    from safetensors.torch import load_file

    from workbench.pocket.train import train

    assert train(_tiny(), tmp_path / "a", tmp_path / "a_done")
    assert not train(_tiny(), tmp_path / "b", tmp_path / "b_done", stop_after=2)
    assert not (tmp_path / "b_done").exists()
    assert train(_tiny(), tmp_path / "b", tmp_path / "b_done")
    first, second = (load_file(tmp_path / f"{n}_done" / "model.safetensors") for n in "ab")
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert json.loads((tmp_path / "a" / "curve.json").read_text())[-1][0] == 4


def test_phases_follow_one_another_under_one_curve_of_rates():
    from workbench.pocket.data import Mix
    from workbench.pocket.recipe import POCKET, Phase

    first, second = Mix(rows=2, length=240, image=1.0, both=0, audio=0, text=0), Mix(rows=3, length=240)
    recipe = _tiny(steps=10, flat=0.5, floor=0.1, mix=second, early=(Phase(4, first, 1.0, 0.0),))
    assert [recipe.phase(k).mix.rows for k in (0, 3, 4, 9, 10)] == [2, 2, 3, 3, 3]
    assert (recipe.phase(3).hear, recipe.phase(4).hear) == (0.0, 0.5)
    factors = [recipe.factor(k) for k in range(11)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:6] == [1.0] * 4
    assert all(a > b for a, b in pairwise(factors[5:]))
    assert factors[10] == pytest.approx(0.1)
    ends = [phase.until for phase in POCKET.early]
    assert ends == sorted(ends)
    assert ends[-1] < POCKET.steps


def test_finished_weights_are_the_mean_of_the_last_steps(tmp_path, no_speech, one_thread):
    from workbench.pocket.data import Mix
    from workbench.pocket.recipe import Phase
    from workbench.pocket.train import train

    seen = Mix(rows=2, length=240, image=1.0, both=0, audio=0, text=0)
    recipe = _tiny(tail=0.5, early=(Phase(1, seen, 0.5, 0.0),))
    assert not train(recipe, tmp_path / "run", stop_after=3)
    third = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert train(recipe, tmp_path / "run", tmp_path / "done")
    stored = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    mean = (third[name] + stored["model"][name]) / 2
    assert not torch.equal(third[name], stored["model"][name])
    torch.testing.assert_close(stored["mean"][name], mean)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "done" / "model.safetensors")[name], stored["mean"][name].bfloat16())
    last = load_file(tmp_path / "run" / "weights" / "model.safetensors")[name]
    assert torch.equal(last, stored["model"][name].bfloat16())


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, no_speech):
    from workbench.pocket.train import train

    train(_tiny(), tmp_path, stop_after=1)
    with pytest.raises(Incompatible, match=r"seed: checkpoint 1, asked 2"):
        train(_tiny(seed=2), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(Incompatible, match="no checkpoint"):
        train(_tiny(), tmp_path)


def test_a_full_disk_is_said_before_training_and_keeps_the_last_checkpoint(monkeypatch, tmp_path, capsys):
    from types import SimpleNamespace

    from workbench.pocket import train as training

    (tmp_path / "checkpoint.pt").write_bytes(b"the last one")
    monkeypatch.setattr(training.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        training.main()
    assert "3 MB free" in str(stopped.value.code)
    assert "run the same command again" in str(stopped.value.code)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"the last one"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_missing_synthesiser_says_how_to_mend_it(monkeypatch, tmp_path):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(MediaError, match="apt-get install"):
        speech.bank("espeak", 1, folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_augmented_speech_stays_a_signal():
    rng = np.random.default_rng(0)
    for _ in range(50):
        wave = speech.augment(Tones().take("one", rng), rng)
        assert wave.dtype == np.float32
        assert np.abs(wave).max() <= 1
        assert 0.2 * speech.RATE < len(wave) <= 1.6 * speech.RATE


# ---- the drafter


def test_rounds_are_played_as_decoding_would():
    from workbench.pocket.acceptance import play

    right = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    rounds = play(right, 3)
    # from token 0: two kept, the third wrong, one corrected; from token 3: at once wrong; from 4: one left, kept
    assert [emitted for _, emitted in rounds] == [3, 1, 1]
    assert rounds[0][0] == [1, 1, 0]
    assert rounds[1][0][0] == 0
    assert np.isnan(rounds[1][0][1:]).all()


def test_drafts_of_all_positions_equal_the_assistants_own(processor, model):
    from workbench.pocket.drafter import build_drafter, draft_logits, target_states
    from workbench.pocket.packing import pack

    teller, trees = _trees(processor)
    drafter = build_drafter(model).eval()
    tree = next(t for t in trees if t.media and len(t.branches[0].ids) > 8)
    tree.branches = tree.branches[:1]
    data = _tensors(pack([tree], 1, len(tree), teller.image_token))
    with torch.no_grad():
        hidden, shared, _ = states = target_states(model, data)
        ours = draft_logits(drafter, model, data, states, 2)
        index = int(ours[1][0][0])
        at = int(data["cols"][index]) + 1
        window = model.config.text_config.sliding_window
        keys = {k: tuple(x[:, :, (max(0, at - window) if k == "sliding_attention" else 0) : at] for x in v)
                for k, v in shared.items()}  # fmt: skip
        token, state = data["ids"][:, at : at + 1], hidden[:, at - 1 : at]
        for depth in range(2):
            embeds = torch.cat([model.get_input_embeddings()(token), state], -1)
            out = drafter(inputs_embeds=embeds, position_ids=torch.tensor([[at]]), shared_kv_states=keys)
            row = ours[depth][1][ours[depth][0].tolist().index(index)]
            torch.testing.assert_close(out.logits[0, 0], row, atol=1e-4, rtol=0)
            token, state = data["ids"][:, at + depth + 1 : at + depth + 2], out.last_hidden_state


def test_a_pair_differs_only_where_the_change_is():
    before, after = SCENE, Scene((SCENE.things[0], replace(SCENE.things[1], colour="purple")))
    for seed in range(20):
        first, second = (
            np.asarray(p, int) for p in pair(before, after, np.random.default_rng(seed), 300, 300, anew=False)
        )
        apart = np.abs(first - second).max(-1) > 40  # a JPEG's ringing is less
        rows, cols = np.nonzero(apart)
        assert len(rows) > 100
        assert rows.min() >= 90 and rows.max() < 210 and cols.min() >= 190  # noqa: PT018 (one ninth: the right one)


def test_what_a_patch_shows_is_told_with_its_size_and_its_change():
    xy = np.array([(x, y) for y in range(3) for x in range(3)])
    large = Scene((Thing("red", "circle", 0, "large"),))
    assert cells(large, xy)[:2].tolist() == [[1, 1, 1, -1], [0, 0, -1, -1]]
    moved = Scene((Thing("red", "circle", 8, "large"),))
    assert cells(moved, xy, large)[:, 3].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_four_digits_are_written_in_their_quarters():
    picture, boxes = sheet((1, 2, 3, 4), np.random.default_rng(3), 400, 300)
    assert picture.size == (400, 300)
    for k, (left, top, right, bottom) in enumerate(boxes):
        assert (left + right) / 2 == pytest.approx(0.25 + 0.5 * (k % 2), abs=0.1)
        assert (top + bottom) / 2 == pytest.approx(0.25 + 0.5 * (k // 2), abs=0.1)
    assert picture_said(Shown(sheet=(1, 2, 3, 4))) == "One, two, three and four."


def test_a_tokenizer_is_kept_as_it_lies(tmp_path):
    from workbench.pocket import build

    build.build_processor(WEIGHTS).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_text("utf-8") == (WEIGHTS / name).read_text("utf-8")


def test_a_flock_has_one_colour_or_one_shape_but_for_one():
    from workbench.pocket.data import Mix, draw_shown

    mix = Mix(image=1.0, both=0.0, audio=0.0, text=0.0, digit=0.0, sheet=0.0, odd=0.0, two=0.0, flock=1.0)
    rng = np.random.default_rng(5)
    scenes = [draw_shown(mix, rng)[0].scene for _ in range(60)]
    large = [scene for scene in scenes if len(scene.things) > 2]
    assert len(large) > 20
    for scene in large:
        most = max([len(scene.having(colour)) for colour in COLOURS] + [len(scene.having(shape=s)) for s in SHAPES])
        assert most >= len(scene.things) - 1
        assert len({thing.place for thing in scene.things}) == len(scene.things)


def test_a_drill_asks_how_many_and_where(processor):
    from workbench.pocket.data import Mix, Teller, _tree

    mix = Mix(image=1.0, both=0.0, audio=0.0, text=0.0, digit=0.0, sheet=0.0, odd=0.0, two=0.0, drill=1.0)
    rng = np.random.default_rng(5)
    asked = [b.task for _ in range(8) for b in _tree(Teller(processor.tokenizer), Tones(), mix, rng).branches]
    drilled = sum(task in ("count", "where") for task in asked)
    assert drilled > 0.85 * len(asked) > 10  # the rest is what is missing, asked about now and then


def test_of_a_sound_alone_one_thing_is_asked_where_the_mix_says_so(processor):
    from workbench.pocket.data import Mix, Teller, _tree

    teller = Teller(processor.tokenizer)

    def asked(once, *, image=0.0):
        mix = Mix(
            image=image,
            both=0.0,
            audio=1.0 - image,
            text=0.0,
            digit=0.0,
            sheet=0.0,
            odd=0.0,
            two=0.0,
            beeps=1.0,
            once=once,
        )
        trees = (_tree(teller, Tones(), mix, np.random.default_rng([3, k])) for k in range(60))
        return {len(t.branches) for t in trees if t.media}

    assert asked(0.0) == {2}
    assert asked(1.0) == {1}
    assert max(asked(1.0, image=1.0)) > 2


def test_the_rest_of_the_world_is_asked_about_in_a_thousand_ways_and_never_in_those_kept_for_the_card():
    from workbench.pocket.questions import TASKS, UNKNOWN, off_world_questions

    trained, kept = off_world_questions(held_out=False), {q.lower() for q in off_world_questions(held_out=True)}
    assert len(set(trained)) == len(trained) > 1000
    assert not any(q.lower() in kept for q in trained)
    rng = np.random.default_rng(4)
    drawn = [TASKS["off-world"].make(Shown(), rng) for _ in range(3000)]
    assert {answer for _, answer in drawn} == {UNKNOWN}
    asked = {question for question, _ in drawn}
    assert asked <= set(trained)
    assert len(asked) > 600


def test_frames_of_beeps_know_how_many_have_begun():
    shown = Shown(beeps=Beeps(3, high=True))
    kind, (cut, ends) = sounds(shown, Tones(), np.random.default_rng(4))[0]
    assert (kind, len(ends)) == ("audio", len(cut))
    counted = ends[ends >= 0] - len(WORDS)
    assert (counted % 2 == 1).all()  # high
    assert sorted(set(counted // 2)) == [0, 1, 2]
    assert (np.diff(counted) >= 0).all()


def test_strange_voices_are_bent_and_the_others_stay_as_they_were():
    wave = np.sin(np.arange(12_000) * 0.05).astype(np.float32)
    plain = [speech.augment(wave, np.random.default_rng(k)) for k in range(6)]
    again = [speech.augment(wave, np.random.default_rng(k), strange=0.0) for k in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))
    bent = [speech.augment(wave, np.random.default_rng(k), strange=1.0) for k in range(6)]
    for one in bent:
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert len(one) <= 1.6 * 16_000
        assert np.abs(one).max() <= 1
    assert not any(len(a) == len(b) and np.allclose(a, b) for a, b in zip(plain, bent, strict=True))


def test_a_run_is_stopped_between_two_steps_and_goes_on_as_if_it_had_not_been(
    tmp_path, no_speech, one_thread, monkeypatch
):
    """A signal in the middle of a step, where an exception would leave half of the weights changed."""
    from workbench.pocket import optim, train
    from workbench.pocket.data import Mix
    from workbench.pocket.recipe import Recipe

    mix = Mix(rows=2, length=128, image=0.5, both=0.0, audio=0.0, text=0.5, budget=110, most=2)
    recipe = Recipe(steps=3, warmup=1, mix=mix, tail=1.0)
    assert train.train(recipe, tmp_path / "whole", tmp_path / "a")
    calls, orthogonal = [], optim.orthogonal

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return orthogonal(*given)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(optim, "orthogonal", interrupted)
    assert not train.train(recipe, tmp_path / "stopped", tmp_path / "b")
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert train.train(recipe, tmp_path / "stopped", tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert train.train(recipe, tmp_path / "third")
    whole, kept = (path / "model.safetensors" for path in (tmp_path / "a", tmp_path / "third" / "weights"))
    assert whole.read_bytes() == kept.read_bytes(), "without --export the mean lies with the checkpoint"


def test_voices_of_training_and_exam_are_apart_and_there_is_each():
    trained, held = (set(names) for names in (speech._VARIANTS, speech._HELD_OUT_VARIANTS))
    assert not trained & held
    assert not {"max", "steph3"} & (trained | held)
    if shutil.which("espeak-ng"):
        listed = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
        there = set(re.findall(r"!v/(\S+)", listed))
        assert trained | held <= there, "a variant that is not there is said in the plain voice"


def test_wilson_s_interval():
    from workbench.pocket.card import interval

    assert interval(81, 263) == pytest.approx((0.2552, 0.3662), abs=2e-4)  # Newcombe 1998, table I
    assert interval(0, 20) == pytest.approx((0.0, 0.1611), abs=2e-4)
    assert interval(20, 20) == pytest.approx((0.8389, 1.0), abs=2e-4)


def test_held_out_prompts_have_held_out_digits(monkeypatch):
    from workbench.pocket import data

    asked = []

    def drawn(*_given, held_out=False):
        asked.append(held_out)
        raise StopIteration

    monkeypatch.setattr(data, "draw", drawn)
    for held_out in (True, False):
        with pytest.raises(StopIteration):
            data.pictures(Shown(digit=3), np.random.default_rng(0), held_out=held_out)
    assert asked == [True, False]
