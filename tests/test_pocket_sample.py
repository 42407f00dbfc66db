"""The floor of each figure of pocket's card, on a small part of its exam that lies in the repository.

``python -m workbench.pocket.sample`` makes the part again; ``python -m workbench.pocket.evaluate`` measures all of it.
"""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from workbench.pocket import WEIGHTS, evaluate, sample  # noqa: E402
from workbench.pocket.data import Teller  # noqa: E402
from workbench.pocket.exam import tree  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers' own

CASES = sample.read(Path(__file__).with_name("pocket_sample.zip"))


@pytest.fixture(scope="module")
def scores():
    processor, model = evaluate.load(WEIGHTS)
    teller = Teller(processor.tokenizer)
    found = evaluate.Scores()
    evaluate.score(model, teller, [tree(teller, case) for case in CASES], found)
    return found


# Right answers of this sample at least: those counted when the sample or the weights came, less one for another
# machine's rounding.
FLOORS: dict[str, int] = {
    "beeps": 19,  # of 20
    "both: place": 13,  # of 14
    "both: word": 12,  # of 14
    "colour": 22,  # of 24
    "colour, 5 to 8 shapes": 11,  # of 12
    "colour, other renderer": 12,  # of 16
    "count": 21,  # of 24
    "count, 5 to 8 shapes": 7,  # of 12
    "count, other renderer": 14,  # of 16
    "counting": 7,  # of 8
    "digit": 19,  # of 20
    "digit of four": 9,  # of 10
    "four digits": 5,  # of 10
    "heard and found": 10,  # of 14
    "high or low": 19,  # of 20
    "missing": 4,  # of 5
    "off-world picture": 4,  # of 5
    "off-world, parts of two photos": 4,  # of 5
    "off-world, unseen questions": 4,  # of 5
    "one of two": 20,  # of 24
    "place": 23,  # of 24
    "place, 5 to 8 shapes": 10,  # of 12
    "place, other renderer": 15,  # of 16
    "scene, 1 to 3 shapes": 16,  # of 20
    "scene, 1 to 3 shapes, other renderer": 7,  # of 10
    "scene, 4 shapes": 2,  # of 4
    "scene, 4 shapes, other renderer": 5,  # of 6
    "scene, 5 to 8 shapes": 0,  # of 12
    "second turn": 7,  # of 8
    "see and hear": 9,  # of 14
    "shape": 22,  # of 24
    "shape, 5 to 8 shapes": 11,  # of 12
    "size": 18,  # of 20
    "spelling": 7,  # of 8
    "sums": 7,  # of 8
    "what changed": 8,  # of 16
    "what changed, drawn anew": 3,  # of 8
    "where": 22,  # of 24
    "where, 5 to 8 shapes": 9,  # of 12
    "where, other renderer": 15,  # of 16
    "with a system prompt": 7,  # of 8
    "word, festival (a trained speaker, another engine)": 29,  # of 31
    "word, unseen espeak-ng voices": 28,  # of 31
    "word, unseen flite voice": 29,  # of 31
    "yes or no": 17,  # of 24
}


@pytest.mark.parametrize("row", sorted(FLOORS))
def test_pocket_knows_what_its_card_says(scores, row):
    assert scores.right[row] >= FLOORS[row], f"{scores.right[row]} of {scores.asked[row]}"


def test_every_row_of_the_sample_has_a_floor(scores):
    assert set(scores.asked) - {"story"} == set(FLOORS)


def test_stories_leave_open_how_they_go_on(scores):
    assert scores.story_entropy >= 0.5  # nats a token
