"""The adaptive draft length, on simulated devices and drafters whose best length can be computed."""

import itertools

import numpy as np
import pytest

from workbench.pace import LONGEST, Pace, fixed

DEVICES = {
    "flat, as a GPU": lambda rows: 1.0 + 0.01 * rows,
    "a row costs a quarter": lambda rows: 0.75 + 0.25 * rows,
    "steep, as int4 on a CPU": lambda rows: 0.35 + 0.65 * rows,
}
DRAFTERS = {"good": 0.95, "fair": 0.7, "poor": 0.3, "useless": 0.0}
DRAFT = 0.06  # of a single step


def expected(share, cost, drafts):
    """Seconds a token at a fixed length, in the long run."""
    tokens = sum(share**i for i in range(drafts + 1))
    return (cost(drafts + 1) + drafts * DRAFT) / tokens


class Always:
    """A chooser that never changes its mind."""

    def __init__(self, drafts):
        self.next = fixed(drafts)

    def further(self, logprobs):
        return True

    def judged(self, accepted, logprobs):
        pass


def run(pace, share, cost, rng, tokens, noise=0.05, chooser=None, drafter=None):
    """Simulate an answer; returns its seconds.

    ``drafter`` gives the chance that the next draft is kept and how sure the drafter is of it (a probability); without
    one the chance is always ``share``, and the drafter says so.
    """
    chooser = chooser or pace.run(sampled=False)
    drafter = drafter or (lambda: (share, max(share, 1e-3)))
    seconds, left = 0.0, tokens
    while left > 0:
        most = chooser.next(left - 1)
        made = []
        while len(made) < most and (not made or chooser.further([float(np.log(sure)) for _, sure in made])):
            made.append(drafter())
        drafts = len(made)
        took = cost(drafts + 1) * rng.normal(1, noise)
        pace.ran(drafts + 1, took)
        seconds += took
        if drafts:
            drafting = drafts * DRAFT * rng.normal(1, noise)
            pace.drafted(drafts, drafting)
            seconds += drafting
            kept = int(np.argmin(np.append(rng.random(drafts) < [chance for chance, _ in made], False)))
            chooser.judged(kept, [float(np.log(sure)) for _, sure in made][: kept + 1])
            left -= min(kept + 1, left)
        else:
            left -= 1
    return seconds


@pytest.mark.parametrize(("device", "drafter"), list(itertools.product(DEVICES, DRAFTERS)))
def test_auto_is_nearly_the_best_length(device, drafter):
    cost, share = DEVICES[device], DRAFTERS[drafter]
    best = min(expected(share, cost, k) for k in range(LONGEST + 1))
    rng = np.random.default_rng(0)
    pace = Pace()
    for _ in range(3):
        run(pace, share, cost, rng, 60)
    tokens = 60
    mean = np.mean([run(pace, share, cost, rng, tokens) for _ in range(40)]) / tokens
    assert mean <= 1.10 * best
    assert mean <= 1.05 * expected(share, cost, 0)


def test_the_first_run_already_learns():
    """From nothing, one answer of 60 tokens loses little to the length that would have been best for it."""
    rng = np.random.default_rng(1)
    for cost, share in itertools.product(DEVICES.values(), DRAFTERS.values()):
        mean = np.mean([run(Pace(), share, cost, rng, 60) for _ in range(30)])
        best = min(
            np.mean([run(Pace(), share, cost, rng, 60, chooser=Always(k)) for _ in range(30)])
            for k in range(LONGEST + 1)
        )
        assert mean <= 1.25 * best


def mixed(rng, easy, *, knows):
    """A drafter of easy words (kept 98 times in 100) and hard ones (30), which may know how sure it can be."""

    def draft():
        chance = 0.98 if rng.random() < easy else 0.3
        return chance, chance if knows else 0.8

    return draft


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("easy", [0.9, 0.6, 0.3])
def test_a_drafter_that_knows_when_it_is_sure_beats_every_fixed_length(device, easy):
    cost, rng = DEVICES[device], np.random.default_rng(3)
    fixed_lengths = [
        np.mean(
            [run(Pace(), 0, cost, rng, 60, chooser=Always(k), drafter=mixed(rng, easy, knows=True)) for _ in range(60)]
        )
        for k in range(LONGEST + 1)
    ]
    means = {}
    for knows in (True, False):
        pace = Pace()
        for _ in range(4):
            run(pace, 0, cost, rng, 60, drafter=mixed(rng, easy, knows=knows))
        means[knows] = np.mean([run(pace, 0, cost, rng, 60, drafter=mixed(rng, easy, knows=knows)) for _ in range(60)])
    assert means[True] <= 1.03 * min(fixed_lengths)
    assert means[False] <= 1.10 * min(fixed_lengths)


@pytest.mark.parametrize("device", DEVICES)
def test_a_short_answer_the_drafter_is_sure_of_is_one_round(device):
    """After long answers of which it was less sure: what was kept on average must not cut the round short."""
    cost, rng = DEVICES[device], np.random.default_rng(4)
    pace = Pace()
    for _ in range(4):
        run(pace, 0, cost, rng, 60, drafter=mixed(rng, 0.6, knows=True))
    sure = lambda: (0.999, 0.999)  # noqa: E731
    best = min(run(Pace(), 0, cost, rng, 9, 0, Always(k), sure) for k in range(LONGEST + 1))
    assert np.mean([run(pace, 0, cost, rng, 9, drafter=sure) for _ in range(20)]) <= 1.10 * best


def test_a_drafter_that_becomes_useful_is_noticed():
    rng = np.random.default_rng(2)
    cost = DEVICES["flat, as a GPU"]
    pace = Pace()
    for _ in range(5):
        run(pace, 0.0, cost, rng, 60)
    for _ in range(12):
        run(pace, 0.95, cost, rng, 100)
    assert run(pace, 0.95, cost, rng, 100) / 100 <= 1.2 * min(expected(0.95, cost, k) for k in range(LONGEST + 1))


def test_one_unlucky_timing_is_not_believed_for_ever():
    cost, share = DEVICES["flat, as a GPU"], 0.95
    best = min(expected(share, cost, k) for k in range(LONGEST + 1))
    for rows in range(4, LONGEST + 2):
        rng = np.random.default_rng(rows)
        pace = Pace()
        pace.ran(1, cost(1))
        for k in range(2, LONGEST + 2):
            pace.ran(k, cost(k) * (6 if k >= rows else 1))  # the machine was busy
        for _ in range(2):
            run(pace, share, cost, rng, 60)
        mean = np.mean([run(pace, share, cost, rng, 60) for _ in range(20)]) / 60
        assert mean <= 1.10 * best


def test_lengths_never_pass_the_room_left():
    chooser = Pace().run(sampled=True)
    for room in (0, 1, 2, 3, 0, 5):
        assert 0 <= chooser.next(room) <= room
    assert fixed(4)(2) == 2
    assert fixed(4)(-1) == 0
