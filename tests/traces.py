"""Traces as a run would leave them, made without a model: for tests of what reads, saves and shows them."""

import math

import numpy as np

from workbench.media import load_audio, load_image
from workbench.trace import ModelInfo, Prompt, Rounds, Segment, Settings, Timing, Tokens, Trace, Usage

WORDS = ["A", " red", " circle", " lies", " at", " the", " top", " left", ",", " beside", " a", " star", "."]
INFO = ModelInfo(
    name="pocket", variant="pocket", revision="1", weights_hash="ab" * 32, quantization="none", dtype="float32",
    device="cpu", attention="sdpa", mask_correction=True, chat_template_hash="cd" * 32, vocab_hash="ef" * 32,
    layers=("sliding", "sliding", "full"), window=64, context=2048, versions={"numpy": np.__version__},
)  # fmt: skip


def make_image(height, width, name="scene.png", seed=0):
    """A gradient with a bright square: no two corners alike."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y + 40 * seed) % 256], axis=-1)
    pixels[height // 4 : height // 2, width // 8 : width // 4] = 255
    return load_image(pixels.astype(np.uint8), name=name)


def make_sound(seconds, name="word.wav"):
    """A tone that fades."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    return load_audio((0.8 * np.sin(2 * math.pi * 220 * t) * np.exp(-2 * t)).astype(np.float32), rate=16_000, name=name)


def make_tokens(n, top=5, words=WORDS, seed=0, probability=None, source=None, round_=None, finish=True):
    """Columns of ``n`` tokens. Probabilities are drawn from a Dirichlet over ``top`` + 1, or given for the chosen."""
    rng = np.random.default_rng(seed)
    pieces = [words[k % len(words)] for k in range(n)]
    if finish and n:
        pieces[-1] = "<turn|>"
    more = [f" word{k}" for k in range(top)]
    vocabulary = {
        piece: 100 + k for k, piece in enumerate(dict.fromkeys([*words, "<turn|>", " blue", " green", "\n", *more]))
    }
    text_of = {i: piece for piece, i in vocabulary.items()}
    ids = np.array([vocabulary[piece] for piece in pieces], np.int32)
    p = np.sort(rng.dirichlet(np.full(top + 1, 0.3), n).clip(1e-9), axis=1)[:, ::-1]  # (n, top + 1), the rest last
    if probability is not None:
        p[:] = (1 - np.asarray(probability)[:, None]) / top
        p[:, 0] = probability
    top_ids = np.stack([[i, *[j for j in text_of if j != i][: top - 1]] for i in ids]) if n else np.zeros((0, top))
    top_logprob = np.log(p[:, :top]).astype(np.float32)
    top_sample = top_logprob.copy()
    top_sample[:, 3:] = -np.inf
    return Tokens(
        token_id=ids, piece=tuple(pieces), logprob=top_logprob[:, 0], sample_logprob=top_sample[:, 0],
        entropy=-(p * np.log(p)).sum(axis=1), rank=np.zeros(n), margin=np.maximum(0, np.log(p[:, 0] / p[:, 1])),
        source=np.zeros(n) if source is None else source, round=np.full(n, -1) if round_ is None else round_,
        time_s=0.1 + 0.05 * np.arange(n), top_ids=top_ids, top_logprob=top_logprob, top_sample_logprob=top_sample,
        top_pieces={int(i): text_of[int(i)] for i in np.unique(top_ids)},
    )  # fmt: skip


def make_rounds(count, k=3):
    """Rounds that keep 0, 1, 2 … of 3 drafts in turn; the last one proposes one draft only. Sources and rounds too.

    Returns:
        The rounds, and for each token they emitted its source and its round.
    """
    rng = np.random.default_rng(1)
    proposed = np.full(count, k)
    if count:
        proposed[-1] = 1
    accepted = np.minimum(np.arange(count) % (k + 1), proposed)
    absent = np.arange(k)[None] >= proposed[:, None]
    source, round_ = [0], [-1]  # the first word comes from the pass over the prompt
    for r in range(count):
        source += [1] * accepted[r] + [3 if accepted[r] == proposed[r] else 2]
        round_ += [r] * (accepted[r] + 1)
    logprob = [np.where(absent, np.nan, -rng.exponential(1, (count, k))) for _ in range(2)]
    logprob[1][np.arange(k)[None] > accepted[:, None]] = np.nan  # the target judges up to the first rejected draft
    rounds = Rounds(
        draft_ids=np.where(absent, -1, 100 + np.arange(k)[None]), draft_logprob=logprob[0], target_logprob=logprob[1],
        proposed=proposed, accepted=accepted, emitted_id=np.full(count, 101), draft_s=np.full(count, 0.002),
        verify_s=np.full(count, 0.01),
    )  # fmt: skip
    return rounds, np.array(source), np.array(round_)


def make_trace(
    tokens=7, *, images=((36, 60), (50, 20)), audio=(1.3,), rounds=0, text=None, question="What is at the top left?",
    top=5, words=WORDS, names=("scene.png", "two.png"), thought=0, probability=None, readings=None, history=(),
    finish="stop_token", seed=0,
):  # fmt: skip
    """A trace of a question with pictures (height, width) and sounds (seconds).

    Patches are 12 pixels, so that (36, 60) has 3 rows and 5 columns; frames are 40 ms. ``thought`` of the tokens are a
    thought. ``rounds`` replaces ``tokens`` by what so many rounds of drafts emit.
    """
    pictures = tuple(make_image(*size, name=names[k % len(names)], seed=k) for k, size in enumerate(images))
    sounds = tuple(make_sound(seconds) for seconds in audio)
    made, source, round_ = make_rounds(rounds) if rounds else (Rounds.none(), None, None)
    n = len(source) if rounds else tokens
    columns = make_tokens(n, top, words, seed, probability, source, round_, finish == "stop_token")

    pieces, segments = [], []

    def add(kind, texts, **more):
        segments.append(Segment(kind, len(pieces), len(pieces) + len(texts), **more))
        pieces.extend(texts)

    add("control", ["<bos>", "<|turn>", "user", "\n"])
    for k, (height, width) in enumerate(images):
        rows, cols = max(1, height // 12), max(1, width // 12)
        y, x = np.divmod(np.arange(rows * cols), cols)
        size = np.array([width / cols, height / rows] * 2)
        add("control", ["<|image>"], role="user")
        add("image", ["<|image|>"] * (rows * cols), media=k, role="user", rows=rows, cols=cols,
            boxes=np.stack([x, y, x + 1, y + 1], axis=1) * size)  # fmt: skip
        add("control", ["<image|>"], role="user")
    for k, sound in enumerate(sounds):
        count = max(1, math.ceil(len(sound.samples) / 640))
        start = np.arange(count) * 40.0
        add("control", ["<|audio>"], role="user")
        add("audio", ["<|audio|>"] * count, media=k, role="user", start_ms=start,
            end_ms=np.minimum(start + 40, sound.duration_ms))  # fmt: skip
        add("control", ["<audio|>"], role="user")
    add("text", [word if k == 0 else " " + word for k, word in enumerate(question.split(" "))], role="user")
    add("control", ["<turn|>", "\n", "<|turn>", "model", "\n"])

    length = len(pieces)
    parts = [("thought", thought), ("text", n - thought - (finish == "stop_token" and n > 0)),
             ("control", int(finish == "stop_token" and n > 0))]  # fmt: skip
    answer, at = [], length
    for kind, count in parts:
        if count:
            answer.append(Segment(kind, at, at + count, role="model"))
            at += count
    said = columns.piece[thought : n - (finish == "stop_token")]
    content = [{"type": "image", "index": k} for k in range(len(pictures))]
    content += [{"type": "audio", "index": k} for k in range(len(sounds))] + [{"type": "text", "text": question}]
    return Trace(
        text="".join(said) if text is None else text, thought="".join(columns.piece[:thought]),
        prompt=Prompt(np.arange(length) % 97, tuple(pieces), tuple(segments),
                      (*history, {"role": "user", "content": content})),
        tokens=columns, rounds=made, model=INFO, finish=finish, segments=tuple(answer), images=pictures, audio=sounds,
        settings=Settings(max_new_tokens=64, temperature=0.7, top_k=0, top_p=1.0, seed=42, draft=3 if rounds else 0,
                          top=top, image_tokens=70),
        usage=Usage(prompt=length, cached=0, generated=n, image=sum(len(s) for s in segments if s.kind == "image"),
                    audio=sum(len(s) for s in segments if s.kind == "audio"), video=0),
        timing=Timing(prepare_s=0.02, prefill_s=0.08, first_token_s=0.1, decode_s=max(0.0, 0.05 * (n - 1)),
                      total_s=0.1 + max(0.0, 0.05 * (n - 1))),
        readings=readings or {}, created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


def same(a, b):
    """Whether two traces are equal in every bit that is saved."""

    def equal(x, y):
        if isinstance(x, np.ndarray):
            return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        if isinstance(x, (tuple, list)):
            return len(x) == len(y) and all(map(equal, x, y))
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(equal(x[key], y[key]) for key in x)
        if hasattr(x, "__dataclass_fields__"):
            return type(x) is type(y) and all(equal(getattr(x, f), getattr(y, f)) for f in x.__dataclass_fields__)
        return x == y

    return equal(a, b)
