"""Exercises as students answer them: other right ways are right, and slips that people make are not."""

import math

import numpy as np
import pytest

from workbench import lessons
from workbench.lessons import checking
from workbench.media.images import patch_grid


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def grid(width, height, budget, whole=math.floor):
    side = math.sqrt(width * height / budget)  # of a square, in pixels of the original
    return whole(height / side), whole(width / side)


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def kept(p, top_p, extra=1):
    return int(np.searchsorted(np.cumsum(sorted(p, reverse=True)), top_p)) + extra


def masked(query, keys, position, after=1):
    scores = np.array([query @ key for key in keys])
    return softmax(np.where(np.arange(len(keys)) < position + after, scores, -np.inf))


def ranks(x):
    return np.argsort(np.argsort(np.ravel(x)))


def patches(values, rows, cols):
    return np.asarray(values).reshape(rows, cols, 48, 48, 3)


def emitted(drafts, words):
    n = 0
    while n < len(drafts) and drafts[n] == words[n]:
        n += 1
    return words[: n + 1]


def codes(packed):
    return np.stack([packed % 16, packed // 16], axis=-1).reshape(len(packed), -1)


def fitting(group, scales, low=-8, high=7):
    off = [np.square(np.clip(np.rint(group / s), low, high) * s - group).sum() for s in scales]
    return scales[int(np.argmin(off))]


RIGHT = {
    "02.1": lambda w, h, b: np.array(patch_grid(h, w, b)),
    "02.2": lambda s, x, y: s.start + int((y // s.boxes[0, 3]) * s.cols + x // s.boxes[0, 2]),
    "02.3": lambda v, r, c: np.concatenate(np.concatenate(patches(v, r, c), axis=1), axis=1),
    "03.1": lambda ms: -(-ms // 40),
    "03.2": 325,
    "03.3": lambda w: np.fft.rfftfreq(640, 1 / 16000)[np.abs(np.fft.rfft(w)).argmax(axis=1)],
    "04.1": lambda x, t: softmax(np.asarray(x) / t),
    "04.2": kept,
    "05.1": masked,
    "05.2": lambda q, k, sliding, window, same: (k <= q or (same and sliding)) and not (sliding and q - k >= window),
    "06.2": lambda a, b: float(np.corrcoef(ranks(a), ranks(b))[1, 0]),
    "07.1": lambda h, g, w, n: int(np.sum(w @ (h * g) > w[n] @ (h * g))),
    "07.2": lambda rank: next(k for k in range(len(rank)) if not any(rank[k:])),
    "07.3": lambda train, test: np.mean(np.asarray(test) == max(sorted(set(train)), key=list(train).count)),
    "08.1": lambda drafts, words: np.array(emitted(drafts, words)),
    "08.2": lambda a, k: k + 1.0 if a == 1 else (1 - a ** (k + 1)) / (1 - a),
    "09.1": fitting,
    "09.2": codes,
    "09.3": lambda p, q: sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a > -math.inf),
    "10.2": lambda n, s: np.array([s * (n + 1) / 2, n * s]),
    "10.3": lambda host, share: bool(share) or not (host.startswith("127.") or host in ("localhost", "::1")),
    "11.1": lambda n: 16_384 * n + 335_544_320,
    "11.3": lambda w, a, item, pace: [w * item, pace / a / item],
}
WRONG = {
    "02.1": [lambda w, h, b: grid(w, h, b, round), lambda w, h, b: (h // 48, w // 48), lambda w, h, b: grid(h, w, b)],
    "02.2": [lambda s, x, y: s.start, lambda s, x, y: s.start + int(x // 32), lambda s, x, y: s.stop - 1],
    "02.3": [
        lambda v, r, c: v.reshape(r * 48, c * 48, 3),
        lambda v, r, c: patches(v, r, c).transpose(1, 2, 0, 3, 4).reshape(r * 48, c * 48, 3),
        patches,
    ],
    "03.1": [lambda ms: ms // 40, lambda ms: ms // 40 + 1, lambda ms: round(ms / 40)],
    "03.2": [341, 400, "350 Hz"],
    "03.3": [
        lambda w: np.abs(np.fft.rfft(w)).argmax(axis=1),
        lambda w: np.fft.rfft(w).real.argmax(axis=1) * 25.0,
        lambda w: 25.0,
    ],
    "04.1": [
        lambda x, t: np.exp(x / t) / np.exp(x / t).sum(),
        lambda x, t: softmax(np.asarray(x) * t),
        lambda x, t: softmax(x),
    ],
    "04.2": [lambda p, t: kept(p, t, 0), lambda p, t: int((np.cumsum(p) < t).sum()) + 1, lambda p, t: len(p)],
    "05.1": [
        lambda q, k, at: masked(q, k, at, 0) if at else softmax(k @ q),
        lambda q, k, at: softmax(k @ q),
        lambda q, k, at: k @ q,
    ],
    "05.2": [
        lambda q, k, sliding, window, same: k <= q,
        lambda q, k, sliding, window, same: abs(q - k) < window and (k <= q or same) if sliding else k <= q,
        lambda q, k, sliding, window, same: k <= q or same,
    ],
    "06.1": [(0, 9), (6, 0), 3],
    "06.2": [
        lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1],
        lambda a, b: np.corrcoef(ranks(a), ranks(b)),
        lambda a, b: 1.0,
    ],
    "07.1": [
        lambda h, g, w, n: int((w @ h > w[n] @ h).sum()),
        lambda h, g, w, n: int((w @ (h * g) >= w[n] @ (h * g)).sum()),
        lambda h, g, w, n: int((w @ (h * g)).argmax()),
    ],
    "07.2": [lambda r: int(np.argmin(r)), lambda r: len(r) - 1, lambda r: int(np.count_nonzero(r))],
    "07.3": [
        lambda train, test: max(list(test).count(k) for k in set(test)) / len(test),
        lambda train, test: 1 / len(set(train)),
        lambda train, test: max(list(train).count(k) for k in set(train)) / len(train),
    ],
    "08.1": [
        lambda d, w: w,
        lambda d, w: [x for x, y in zip(d, w, strict=False) if x == y],
        lambda d, w: emitted(d, w)[:-1],
    ],
    "08.2": [lambda a, k: a * k, lambda a, k: 1 + a * k, lambda a, k: sum(a**i for i in range(k))],
    "09.1": [lambda g, s: min(s, key=abs), lambda g, s: fitting(g, s, -99, 99), lambda g, s: s[0]],
    "09.2": [
        lambda p: np.stack([p >> 4, p & 15], axis=-1).reshape(len(p), -1),
        lambda p: np.hstack([p & 15, p >> 4]),
        lambda p: p & 15,
    ],
    "09.3": [
        lambda p, q: (np.exp(q) * (q - p)).sum(),
        lambda p, q: (np.exp(p) * (p - q)).sum(),
        lambda p, q: (p - q).sum(),
    ],
    "10.2": [lambda n, s: (s * n / 2, s * n), lambda n, s: s * n, lambda n, s: (s, s * n)],
    "10.3": [
        lambda host, share: share,
        lambda host, share: host != "127.0.0.1" or share,
        lambda host, share: np.zeros(2),
    ],
    "11.1": [lambda n: 48 * 2 * 8 * 256 * 2 * n, lambda n: 16_384 * n, lambda n: 335_544_320],
    "11.2": [1024, 10**9, -1],
    "11.3": [
        lambda w, a, item, pace: (a * item, pace / (a * item)),
        lambda w, a, item, pace: (w * item, pace / (w * item)),
        lambda w, a, item, pace: w * item,
    ],
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # slips divide by nothing
@pytest.mark.parametrize("name", RIGHT)
def test_another_right_way_is_right(name):
    done = lessons.check(name, RIGHT[name])
    assert done.right is True, done


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", WRONG)
def test_three_slips_get_two_hints_and_then_the_solution(name):
    done = [lessons.check(name, answer) for answer in WRONG[name]]
    assert [one.right for one in done] == [False] * 3, done
    assert [bool(one.hint) for one in done] == [True, True, False]
    assert [bool(one.solution) for one in done] == [False, False, True]


def test_nearly_every_exercise_was_tried():
    assert set(lessons.exercises()) - set(WRONG) == {"04.3", "08.3", "10.1"}  # whole: of the model, or any number


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("04.2", lambda p, t: int((np.cumsum(np.sort(p)[::-1]) <= t).sum()) + 1),  # one too many at a tie
        ("09.1", lambda g, s: fitting(g, s, -8, 8)),  # a code that four bits lack
        ("09.1", lambda g, s: min(s, key=lambda x: np.abs(np.clip(np.round(g / x), -8, 7) * x - g).sum())),
    ],
)
def test_nearly_right_is_not_right(name, answer):
    lessons.check(name, answer)
    assert not checking.read()[name]["right"]


def test_who_divides_by_the_root_is_told_that_gemma_does_not():
    scaled = lessons.check("05.1", lambda q, k, at: masked(q / np.sqrt(len(q)), k, at))
    assert "divides the scores by √d" in repr(scaled)
    for wrong in (lambda q, k, at: k @ q, lambda q, k, at: [[1], [2, 3]], lambda q, k, at: "no"):
        assert "√d" not in repr(lessons.check("05.1", wrong))
