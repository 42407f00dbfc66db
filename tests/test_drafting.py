"""Drafting changes the time an answer takes, never the answer.

Losslessness is tested in four ways: drafted runs against undrafted ones, seed for seed; against Transformers' own
``generate``; with a drafter of random weights, whose every draft is wrong; and by statistics over many seeds. The last
also shows why the workbench has its own loop: sampling with Transformers' ``assistant_model=`` drafts the arg-max, but
its acceptance test believes the draft was *sampled* from the drafter, so it accepts too often, and a word the drafter
likes comes out far more often than the model itself would say it.
"""

import json
import shutil
import threading

import numpy as np
import pytest

from tests.test_decoding import random_prompt

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.errors import Incompatible, ModelError, PromptError, TraceError  # noqa: E402
from workbench.pace import Pace  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

STORY = "Tell me a story about the picture."


@pytest.fixture(scope="module")
def random_drafter(tmp_path_factory):
    """A folder with a drafter that knows nothing."""
    from workbench.pocket import drafter, evaluate

    folder = tmp_path_factory.mktemp("drafter")
    drafter.save_drafter(drafter.build_drafter(evaluate.load(WEIGHTS)[1], 3), folder)
    return folder


@pytest.fixture(scope="module")
def bad(random_drafter):
    return workbench.load("pocket", drafter=random_drafter, progress=False)


@pytest.fixture(scope="module")
def plain():
    return workbench.load("pocket", drafter=False, progress=False)


@pytest.fixture(scope="module")
def knowing(plain, bad):
    """A model whose drafter knows the answer: half of its drafts are right."""
    return Oracle(bad)


class Oracle:
    """Asks with a drafter that proposes the undrafted run's own tokens, and now and then another."""

    def __init__(self, model):
        self.model = model

    def ask(self, truth, wrong, *args, **kwargs):
        drafter = self.model._drafter
        rng = np.random.default_rng(wrong)
        real = type(drafter).draft

        def draft(token, hidden, position, cache, count, further=None):
            ids, logprobs = real(drafter, token, hidden, position, cache, count, further)
            at = position - len(truth.prompt) + 1
            known = truth.tokens.token_id[at : at + len(ids)].tolist()
            return [
                k if rng.random() < 0.8 else i for k, i in zip(known + ids[len(known) :], ids, strict=True)
            ], logprobs

        drafter.draft = draft
        try:
            return self.model.ask(*args, **kwargs)
        finally:
            del drafter.draft


def same(a, b):
    return np.array_equal(a.tokens.token_id, b.tokens.token_id)


SETTINGS = [
    {"temperature": 0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 1.7, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.9},
]


@pytest.mark.parametrize("drafts", [1, 2, 4, 7, "auto"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_drafted_run_is_the_undrafted_one(plain, knowing, settings, drafts):
    rng = np.random.default_rng([5, 0 if drafts == "auto" else drafts])
    for seed in range(4):
        prompt = random_prompt(rng)
        question = prompt.pop("question")
        asked = {**prompt, **settings, "seed": seed, "max_new_tokens": 24}
        a = plain.ask(question, draft=0, **asked)
        b = knowing.ask(a, seed, question, draft=drafts, **asked)
        assert same(a, b)
        for name in ("logprob", "entropy", "sample_logprob", "top_logprob"):
            ours, theirs = getattr(a.tokens, name), getattr(b.tokens, name)
            np.testing.assert_allclose(ours, theirs, atol=2e-3 if name.startswith("sample") else 3e-4, rtol=1e-3)
        assert a.finish == b.finish
        assert a.text == b.text


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_a_bad_drafter_costs_time_only(plain, bad, settings, examples):
    for drafts in (3, "auto"):
        asked = {"images": [examples / "scene.png"], **settings, "seed": 11, "max_new_tokens": 40}
        a, b = plain.ask(STORY, draft=0, **asked), bad.ask(STORY, draft=drafts, **asked)
        assert same(a, b)
        assert b.rounds.accepted.sum() <= 0.2 * b.rounds.proposed.sum()


@pytest.fixture(scope="module")
def examples():
    from workbench.pocket import HERE

    return HERE / "examples"


def test_a_drafted_run_is_transformers_generate(bad, examples):
    """Past the sliding window, with a picture and a sound, sampled: the tokens of a plain ``generate``."""
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    from workbench.media import load_audio, load_image

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(other)
    processor = AutoProcessor.from_pretrained(WEIGHTS)
    picture, word = load_image(examples / "scene.png"), load_audio(examples / "seven.wav")
    content = [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": STORY}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=[picture.to_pil()], audio=[word.samples], return_tensors="pt")
    assert inputs["input_ids"].shape[1] > other.config.text_config.sliding_window
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = other.generate(**inputs, max_new_tokens=30, do_sample=True, temperature=1.3, top_k=20, top_p=0.95)
        ours = bad.ask(
            STORY, images=[picture], audio=[word], temperature=1.3, top_k=20, top_p=0.95, seed=seed, draft=3,
            max_new_tokens=30,
        )  # fmt: skip
        assert ours.ids.tolist() == theirs[0].tolist()


def test_the_short_way_through_the_drafter_is_its_models_own(bad, examples):
    trace = bad.ask(STORY, images=[examples / "scene.png"], temperature=0, max_new_tokens=1, draft=0)
    drafter = bad._drafter
    with torch.inference_mode():
        cache, hidden, position = bad.behind_prompt(trace)
        assert drafter._direct
        short = drafter.draft(5, hidden, position, cache, 6)
        drafter._direct = False
        try:
            own = drafter.draft(5, hidden, position, cache, 6)
        finally:
            drafter._direct = True
        # and by the assistant's own forward, as Transformers calls it, where the window has not cut anything off
        states = drafter.states(cache)
        at, last, state = torch.tensor([[position]]), torch.tensor([[5]]), hidden[None]
        theirs = []
        for _ in range(6):
            out = bad.drafter(
                inputs_embeds=torch.cat([drafter.embed(last), state], dim=-1), position_ids=at,
                shared_kv_states=states, use_cache=False,
            )  # fmt: skip
            last, state = out.logits.argmax(-1), out.last_hidden_state
            theirs.append(int(last))
    assert short[0] == own[0] == theirs
    np.testing.assert_allclose(short[1], own[1], atol=1e-5)


def test_rounds_tell_what_happened(plain, knowing, examples):
    asked = {"images": [examples / "scene.png"], "temperature": 0, "max_new_tokens": 40}
    a = plain.ask(STORY, draft=0, **asked)
    b = knowing.ask(a, 1, STORY, draft=4, **asked)
    r, t = b.rounds, b.tokens
    assert len(r) > 2
    assert 0 < r.accepted.sum() < r.proposed.sum()
    at = 1  # the first token is the prompt's
    for k in range(len(r)):
        n = int(r.accepted[k])
        assert r.draft_ids[k, :n].tolist() == t.token_id[at : at + n].tolist()
        assert set(t.source_names[at : at + n]) <= {"accepted"}
        np.testing.assert_allclose(r.target_logprob[k, :n], t.logprob[at : at + n], atol=1e-4)
        at += n
        if r.emitted_id[k] >= 0:
            assert t.token_id[at] == r.emitted_id[k]
            assert t.source_names[at] == ("bonus" if n == r.proposed[k] else "corrected")
            assert t.round[at] == k
            at += 1
        judged = ~np.isnan(r.target_logprob[k])
        whole = n == r.proposed[k] or r.emitted_id[k] < 0
        assert judged.sum() == (n if whole else n + 1)
        assert np.isfinite(r.draft_logprob[k, : r.proposed[k]]).all()
    assert at >= len(t) - 1
    assert set(t.source_names[at:]) <= {"plain"}  # one token of room: nothing to draft
    assert (r.draft_s > 0).all()
    assert (r.verify_s > 0).all()
    assert t.source_names[0] == "plain"
    # a rejected draft keeps the probability the model gave it: that of a second, teacher-forced run
    k = int(np.flatnonzero(r.accepted < r.proposed)[0])
    place = int(np.flatnonzero(t.round == k)[0] + r.accepted[k])
    forced = plain.score(a, [*a.tokens.token_id[:place].tolist(), int(r.draft_ids[k, r.accepted[k]])])
    assert forced.tokens.logprob[-1] == pytest.approx(r.target_logprob[k, r.accepted[k]], abs=1e-4)


@pytest.mark.parametrize("room", [1, 2, 3, 6])
def test_the_end_falls_inside_a_round(plain, knowing, examples, room):
    asked = {"images": [examples / "scene.png"], "temperature": 0, "max_new_tokens": room}
    a = plain.ask(STORY, draft=0, **asked)
    b = knowing.ask(a, 1, STORY, draft=7, **asked)
    assert same(a, b)
    assert b.finish == "max_new_tokens"
    assert (b.rounds.proposed <= max(room - 1, 0)).all()
    assert b.rounds.draft_ids.shape[1] == (7 if len(b.rounds) else 0), "as many columns as drafts were asked for"


def test_a_stop_token_inside_a_round_ends_the_run(plain, knowing, examples):
    asked = {"images": [examples / "scene.png"], "temperature": 0, "max_new_tokens": 60}
    a = plain.ask("How many shapes are there?", draft=0, **asked)
    assert a.finish == "stop_token"
    b = knowing.ask(a, 4, "How many shapes are there?", draft=7, **asked)
    assert same(a, b)
    assert b.finish == "stop_token"


def test_a_round_of_automatic_length_drafts_nothing_past_a_stop_token(examples, monkeypatch):
    class Steady(Pace):
        """Of a device on which drafts pay, whatever else this machine does meanwhile."""

        def ran(self, rows, seconds):
            super().ran(rows, 1 + 0.01 * rows)

        def drafted(self, count, seconds):
            super().drafted(count, 0.06 * count)

    model = workbench.load("pocket", progress=False)
    monkeypatch.setattr(model._drafter, "pace", Steady())
    end = model.processor.tokenizer.convert_tokens_to_ids("<turn|>")
    seen = 0
    for k in range(4):
        asked = {"images": [examples / "scene.png"], "temperature": 0, "max_new_tokens": 60, "draft": "auto"}
        rounds = model.ask(("What is at the top left?", "Describe the image.")[k % 2], **asked).rounds
        for ids, proposed in zip(rounds.draft_ids, rounds.proposed, strict=True):
            made = ids[:proposed].tolist()
            assert end not in made[:-1]
            seen += end in made
    assert seen


def test_drafting_goes_on_only_while_it_is_worth_it(bad, examples):
    """What ``further`` says is heard after every draft but the last, with its id and all logprobs so far."""
    trace = bad.ask(STORY, images=[examples / "scene.png"], temperature=0, max_new_tokens=1, draft=0)
    heard = []

    def further(last, logprobs):
        heard.append((last, len(logprobs)))
        return len(logprobs) < 3

    with torch.inference_mode():
        cache, hidden, position = bad.behind_prompt(trace)
        full, sure = bad._drafter.draft(5, hidden, position, cache, 6)
        made, their = bad._drafter.draft(5, hidden, position, cache, 6, further)
    assert made == full[:3]
    assert their == pytest.approx(sure[:3])
    assert heard == [(full[0], 1), (full[1], 2), (full[2], 3)]


def test_a_stop_event_inside_a_round(knowing, plain, examples):
    stop = threading.Event()
    asked = {"images": [examples / "scene.png"], "temperature": 0, "max_new_tokens": 60}
    a = plain.ask(STORY, draft=0, **asked)
    b = knowing.ask(
        a, 1, STORY, draft=6, stop=stop, on_token=lambda token: stop.set() if token.index == 4 else None, **asked
    )
    assert b.finish == "stopped"
    assert b.tokens.token_id.tolist() == a.tokens.token_id[: len(b.tokens)].tolist()
    assert len(b.tokens) == 5


def test_the_context_ends_a_drafted_run(random_drafter, examples):
    small = workbench.load("pocket", drafter=random_drafter, context=110, progress=False)
    trace = small.ask(STORY, images=[examples / "scene.png"], draft=8, temperature=0)
    assert trace.finish == "context"
    assert len(trace.ids) == 110


def _pairs(plain, start, at, favourite):
    """Exact probabilities of tokens ``at`` and ``at + 1`` of a run, given those before.

    Returns the first tokens told apart, and for each the probability that the favourite follows, and that another does;
    all other first tokens are the last outcome.
    """
    before = start.tokens.token_id[:at].tolist()
    suppressed = plain.transformer.generation_config.suppress_tokens
    vocabulary = plain.transformer.config.get_text_config().vocab_size

    def distribution(tokens, place):
        raw = plain.score(start, [*before, *tokens], top=1000).tokens  # all but a handful of the rarest
        logprob = np.full(vocabulary, -np.inf)
        logprob[raw.top_ids[at + place]] = raw.top_logprob[at + place]
        logprob[suppressed] = -np.inf
        p = np.exp(logprob)
        return p / p.sum()

    one = distribution([0, 0], 0)
    firsts = np.argsort(-one)[:8]
    out = np.array([[one[t] * distribution([int(t), 0], 1)[favourite], one[t]] for t in firsts])
    out[np.isin(firsts, plain.transformer.generation_config.eos_token_id), 0] = 0  # nothing comes after the end
    out[:, 1] -= out[:, 0]
    rest = 1 - out.sum()
    return firsts, np.append(out.ravel(), max(rest, 1e-12))


def _count(firsts, favourite, answers):
    counts = np.zeros(2 * len(firsts) + 1)
    place = {int(t): k for k, t in enumerate(firsts)}
    for first, *rest in answers:
        counts[2 * place[first] + (rest != [favourite]) if first in place else -1] += 1
    return counts


def _fits(counts, expected):
    """The p-value of a chi-square test; bins with few expected are one."""
    from scipy.stats import chisquare

    common = expected * counts.sum() >= 5
    observed, wanted = (np.append(x[common], x[~common].sum()) for x in (counts, expected * counts.sum()))
    return chisquare(observed[wanted > 0], wanted[wanted > 0] * observed.sum() / wanted.sum()).pvalue


def test_drafted_sampling_has_the_models_distribution(plain, bad, examples):
    """Two sampled tokens, the second one drafted: ours fit the model, Transformers' assisted sampling does not.

    Both get the same drafter: it always proposes one word, and says that it is as probable as the model finds it.
    Transformers accepts it as if it had been drawn with that probability, every time, though it was certain to be
    proposed.
    """
    from transformers import AutoModelForMultimodalLM

    drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    start = plain.ask(STORY, images=[examples / "scene.png"], draft=0, seed=0, max_new_tokens=40, **drawn)
    at = int(start.tokens.entropy[2:-2].argmax()) + 1  # the token after this one is the least sure
    favourite = int(start.tokens.top_ids[at + 1, 0])
    firsts, expected = _pairs(plain, start, at, favourite)

    before = start.tokens.token_id[:at].tolist()
    drafter = bad._drafter
    drafter.draft = lambda token, hidden, position, cache, count, _: ([favourite] * count, [np.log(0.3)] * count)
    try:
        answers = [
            bad.branch(start, at - 1, before[-1], draft=1, seed=seed, max_new_tokens=at + 3)
            .tokens.token_id[at:]
            .tolist()[:2]
            for seed in range(300)
        ]
    finally:
        del drafter.draft
    assert _fits(_count(firsts, favourite, answers), expected) > 1e-3

    target = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(target)
    assistant = bad.drafter
    logits = torch.zeros(1, 1, assistant.config.get_text_config().vocab_size)
    likely = min(0.9, float(np.exp(start.tokens.top_logprob[at + 1, 0])))
    logits[..., favourite] = np.log(likely / (1 - likely) * (logits.shape[-1] - 1))
    real = assistant.forward

    def biased(**inputs):
        out = real(**inputs)
        out.logits = logits
        return out

    assistant.forward = biased
    assistant.generation_config.num_assistant_tokens = 1
    request = bad.request(start)
    ids = torch.cat([request.ids, torch.tensor([before])], dim=1)
    types = torch.nn.functional.pad(request.type_ids, (0, at))
    theirs = []
    try:
        for seed in range(120):
            torch.manual_seed(seed)
            out = target.generate(
                ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **request.media_inputs(),
                assistant_model=assistant, do_sample=True, max_new_tokens=3, **drawn,
            )  # fmt: skip
            theirs.append(out[0, ids.shape[1] :][:2].tolist())
    finally:
        del assistant.forward
    assert _fits(_count(firsts, favourite, theirs), expected) < 1e-6


# ---- bad input


def test_a_drafter_of_another_model_is_refused(tmp_path):
    from workbench.pocket import build, drafter

    tokenizer = build.build_processor().tokenizer
    shape = {**build.SHAPE, "hidden_size": 160}
    from transformers import Gemma4UnifiedForConditionalGeneration

    other = Gemma4UnifiedForConditionalGeneration(build.build_config(tokenizer, shape))
    drafter.save_drafter(drafter.build_drafter(other), tmp_path)
    with pytest.raises(Incompatible, match=r"hidden size of the model: drafter 160, model 192"):
        workbench.load("pocket", drafter=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("drafter", "error", "said"),
    [
        (WEIGHTS, Incompatible, "no drafter"),
        ("nowhere", ModelError, "drafter='nowhere'"),
        (3, ModelError, "drafter=3"),
    ],
)
def test_what_is_no_drafter(drafter, error, said):
    with pytest.raises(error, match=said):
        workbench.load("pocket", drafter=drafter, progress=False)


@pytest.mark.parametrize("how", [{"drafter": WEIGHTS}, {"context": 10**9}])
def test_what_cannot_be_is_refused_before_any_weight_is_read(how, monkeypatch):
    monkeypatch.setattr(workbench.loading, "_weights", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises((Incompatible, ModelError), match=r"no drafter|8,192"):
        workbench.load("pocket", progress=False, **how)


def test_a_drafter_trained_for_other_weights_says_so(random_drafter, tmp_path):
    shutil.copytree(random_drafter, tmp_path / "d")
    config = tmp_path / "d" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_weights": "0" * 16}))
    with pytest.warns(UserWarning, match="other weights than those of pocket"):
        workbench.load("pocket", drafter=tmp_path / "d", progress=False)


def test_drafts_of_a_model_without_drafter(plain):
    with pytest.raises(ModelError, match="without a drafter"):
        plain.ask("Hello", draft=3)
    trace = plain.ask("Hello", temperature=0, max_new_tokens=3)
    with pytest.raises(ModelError, match="without a drafter"):
        plain.speedup(trace)


@pytest.mark.parametrize("drafts", [-1, 1000, 2.5, "many", True])
def test_impossible_draft_lengths(bad, drafts):
    with pytest.raises(PromptError, match="draft="):
        bad.ask("Hello", draft=drafts)


# ---- speed


def test_speedup_of_a_bad_drafter(bad, examples):
    from workbench import flight

    trace = bad.ask(STORY, images=[examples / "scene.png"], draft=4, temperature=0, max_new_tokens=30)
    speed = bad.speedup(trace, repeats=5)
    assert len(speed.plain_s) == len(speed.drafted_s) == 5
    assert speed.parted == 0
    assert speed.low <= speed.ratio <= speed.high
    assert speed.break_even(4) > 0
    assert "slower than without" in flight.verdict(trace, speed) or "no difference" in flight.verdict(trace, speed)
    one = bad.ask("Hello", max_new_tokens=1, temperature=0)
    with pytest.raises(TraceError, match="one token"):
        bad.speedup(one, repeats=1)


def test_speedup_of_a_stopped_run_is_of_what_it_said(bad, examples, monkeypatch):
    stop = threading.Event()
    trace = bad.ask(
        STORY, images=[examples / "scene.png"], draft=0, temperature=0, max_new_tokens=60, stop=stop,
        on_token=lambda token: stop.set() if token.index == 4 else None,
    )  # fmt: skip
    assert trace.finish == "stopped"
    assert len(trace.tokens) == 5
    again, runs = type(bad).again, []
    monkeypatch.setattr(type(bad), "again", lambda *given, **more: runs.append(again(*given, **more)) or runs[-1])
    bad.speedup(trace, repeats=1)
    assert [run.tokens.token_id.tolist() for run in runs] == [trace.tokens.token_id.tolist()] * 4


def test_speedup_of_a_branch_is_of_what_comes_after_its_forced_tokens(bad, examples, monkeypatch):
    full = bad.ask(STORY, images=[examples / "scene.png"], draft=4, temperature=1.0, seed=3, max_new_tokens=20)
    branch = bad.branch(full, at=6, token=" purple")
    assert branch.tokens.source_names[:8] == ("forced",) * 7 + ("plain",)
    again, runs = type(bad).again, []
    monkeypatch.setattr(type(bad), "again", lambda *given, **more: runs.append(again(*given, **more)) or runs[-1])
    speed = bad.speedup(branch, repeats=1)
    assert len(runs) == 4
    assert all(same(run, branch) for run in runs), "another answer was measured"
    seconds = [float(run.tokens.time_s[-1] - run.tokens.time_s[7]) for run in runs]
    assert sorted([*speed.plain_s, *speed.drafted_s]) == sorted(seconds[2:])
    for trace, said in (
        (bad.branch(full, at=0, token="One", max_new_tokens=1), "one token, which"),
        (bad.branch(full, at=3, token=" red", max_new_tokens=5), "one token after those it was given"),
        (bad.branch(full, at=3, token="<turn|>"), "All of this answer was given"),
        (bad.score(full), "All of this answer was given"),
    ):
        with pytest.raises(TraceError, match=f"{said}.*nothing to speed up"):
            bad.speedup(trace, repeats=1)
