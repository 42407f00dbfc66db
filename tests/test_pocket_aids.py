"""Helping losses of pocket's training: what a word for a colour or a shape has to find, and where patches lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.pocket import WEIGHTS
from workbench.pocket.data import Mix, Teller, batch, cells
from workbench.pocket.packing import Branch, Tree, pack
from workbench.pocket.questions import WORDS
from workbench.pocket.world import PLACES, Scene, Thing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers' own


class Tones:
    """A bank of speech without a synthesiser."""

    def take(self, word, rng):
        return np.sin(np.arange(6000) * 0.05 * (1 + WORDS.index(word))).astype(np.float32)


@pytest.fixture(scope="module")
def teller():
    from transformers import AutoProcessor

    return Teller(AutoProcessor.from_pretrained(WEIGHTS).tokenizer)


@pytest.fixture(scope="module")
def find(teller):
    from workbench.pocket import build
    from workbench.pocket.aids import Find

    torch.manual_seed(0)
    return Find(build.build_model(teller.tokenizer, 0), teller.tokenizer)


def tensors(packed):
    return {name: torch.from_numpy(value) for name, value in vars(packed).items() if name != "tasks"}


def xy_of(cols, rows):
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1).reshape(-1, 2)


def prompt(teller, *pictures, said, first=False):
    """A prompt of scenes as pictures of 6 × 6 patches (None: of no scene), and what is said behind or before."""
    xy, text = xy_of(6, 6), list(teller.text(said))
    media = [
        ("image", (np.zeros((36, 6912), np.uint8), xy, *([cells(s, xy)] if s is not None else []))) for s in pictures
    ]
    seen = [token for kind, content in media for token in teller.media(kind, content)]
    begin = list(teller.text("<bos>"))
    if first:
        return Tree(begin, [], [Branch(text + seen + text, [0.0] * (2 * len(text) + len(seen) - 1) + [1.0], media)])
    return Tree(begin + seen, media, [Branch(text, [0.0] * (len(text) - 1) + [1.0])])


def found(find, teller, *trees):
    """The words that are to be found, each with the names of its places."""
    packed = pack(list(trees), len(trees), 200, teller.image_token)
    data = tensors(packed)
    at, filled = find.labels(data)["read"]
    words = [teller.tokenizer.decode([token]).strip() for token in data["ids"][at]]
    return [(w, [PLACES[k] for k in np.flatnonzero(row)]) for w, row in zip(words, filled.numpy(), strict=True)]


TWO_STARS = Scene((Thing("red", "star", 0), Thing("blue", "star", 4), Thing("red", "cross", 8)))


def test_every_word_for_a_colour_or_a_shape_has_the_places_of_all_that_is_of_it(find, teller):
    assert found(find, teller, prompt(teller, TWO_STARS, said="Where is the red star? Is it white?")) == [
        ("red", ["top left", "bottom right"]), ("star", ["top left", "center"]), ("white", []),
    ]  # fmt: skip


def test_words_before_a_picture_or_about_two_or_about_none_find_nothing(find, teller):
    asked = "the red star"
    assert found(find, teller, prompt(teller, TWO_STARS, TWO_STARS, said=asked)) == []
    assert found(find, teller, prompt(teller, None, said=asked)) == []  # a picture of something else
    assert found(find, teller, prompt(teller, said=asked)) == []
    behind = found(find, teller, prompt(teller, TWO_STARS, said=asked, first=True))
    assert [word for word, _ in behind] == ["red", "star"]  # once: those in front could not know


def test_each_prompt_of_a_batch_is_looked_at_alone(find, teller):
    other = Scene((Thing("red", "circle", 5),))
    trees = [prompt(teller, TWO_STARS, said="red"), prompt(teller, other, said="red cross"), prompt(teller, said="red")]
    packed = pack(trees, 1, 120, teller.image_token)
    assert (packed.tree.max(), len(packed.tree)) == (2, 1)  # side by side in one row
    data = tensors(packed)
    at, filled = find.labels(data)["read"]
    assert at.sum() == 3
    assert sorted(np.flatnonzero(row).tolist() for row in filled.numpy()) == [[], [0, 8], [5]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_what_real_batches_ask_for_is_what_their_answers_say(find, teller, seed):
    """The world's own answers are the oracle: how many of a colour or a shape there are."""
    mix = Mix(rows=6, length=200, image=1.0, both=0.0, audio=0.0, text=0.0, digit=0.0, sheet=0.0, odd=0.0, two=0.0,
              budget=190, drill=1.0)  # fmt: skip
    data = tensors(batch(0, seed, teller, Tones(), mix))
    at, filled = find.labels(data)["read"]
    counts = dict(zip(("Zero", "One", "Two", "Three", "Four"), range(5), strict=True))
    places = dict(zip(map(tuple, at.nonzero().tolist()), filled.sum(-1).int().tolist(), strict=True))
    checked = 0
    for (row, col), many in places.items():
        mine = (data["tree"][row] == data["tree"][row, col]) & (data["branch"][row] == data["branch"][row, col])
        said = teller.tokenizer.decode(data["ids"][row][mine])
        question, _, answer = said.partition("<turn|>\n<|turn>model\n")
        answer = answer.removesuffix("<turn|>").rstrip(".")
        if said.count("<|turn>") == 1 and answer in counts and "ow many" in question:
            assert counts[answer] == many, said
            checked += 1
    assert checked


def test_the_loss_is_learnt_from_and_knows_when_there_is_nothing(find, teller):
    mix = Mix(rows=4, length=200, image=1.0, both=0.0, audio=0.0, text=0.0, digit=0.0, sheet=0.0, odd=0.0, two=0.0)
    data = tensors(batch(0, 1, teller, Tones(), mix))
    filled = find.labels(data)["read"][1]
    find.seen = torch.zeros(*data["ids"].shape, find.head["read"].in_features)
    with torch.no_grad():
        find.head["read"].bias.fill_(-20.0)
    wrong = find.loss(data)
    assert wrong.item() == pytest.approx(20 * filled.sum(-1).mean().item(), rel=1e-4)
    assert find.places_right == pytest.approx((filled.sum(-1) == 0).float().mean().item())
    texts = tensors(batch(0, 1, teller, Tones(), Mix(rows=2, length=200, image=0.0, both=0.0, audio=0.0, text=1.0)))
    assert find.loss(texts).item() == 0.0


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 8))
def test_ninths_of_patches_are_where_their_middles_lie(cols, rows, place):
    from workbench.pocket.features import ninth

    xy = xy_of(cols, rows)
    middle = (xy + 0.5) / (cols, rows)
    inside = (np.floor(middle * 3) == (place % 3, place // 3)).all(-1)
    assert np.array_equal(ninth(xy, np.array([cols, rows])) == place, inside)
    assert torch.equal(
        ninth(torch.from_numpy(xy), torch.tensor([cols, rows])), torch.from_numpy(ninth(xy, np.array([cols, rows])))
    )
    assert inside.any()


def test_near_places_start_alike_and_far_ones_do_not():
    from workbench.pocket.senses import waves_of_place

    waves = waves_of_place(40, 24)
    assert np.allclose(np.linalg.norm(waves, axis=1), 1)
    alike = waves @ waves.T
    assert (np.diag(alike, 1) > 0.6).all()
    assert (np.diag(alike, 1) > np.diag(alike, 3)[0]).all()
    assert np.allclose(alike, alike[0, np.abs(np.subtract.outer(np.arange(40), np.arange(40)))])  # by distance alone
    assert alike[0, 1:].max() < 0.9


def test_a_model_starts_with_places_of_a_third_of_what_fills_them(teller):
    from workbench.pocket import build, senses

    model = build.build_model(teller.tokenizer, 0)
    senses.start(model, 0)
    places = model.model.embed_vision.pos_embedding[:12].detach()
    assert places.std().item() == pytest.approx(senses.PLACE, rel=0.15)
    across = torch.einsum("ik,jk->ij", places[:, 0], places[:, 1]).abs().max() / places[0, 0].norm() ** 2
    assert across < 0.5  # the two axes do not share directions


def test_places_learn_as_fast_as_words_and_pixels_slower(teller):
    from workbench.pocket import build
    from workbench.pocket.optim import EYES, Optimizer

    model = build.build_model(teller.tokenizer, 0)
    rates = {id(p): group["rate"] for group in Optimizer(model, 0.02, 1e-3).adam.param_groups for p in group["params"]}
    eyes = model.model.embed_vision
    assert rates[id(eyes.pos_embedding)] == 1e-3
    assert rates[id(eyes.patch_dense.weight)] == pytest.approx(EYES * 1e-3)


@pytest.mark.parametrize("first", [False, True])
def test_what_is_spoken_is_to_be_known_behind_both(find, teller, first):
    """A word in a sound has no token: everything behind sound and picture is to know where there is any of it."""
    for word, places in (("star", [0, 4]), ("red", [0, 8]), ("white", []), ("seven", None)):
        xy = xy_of(6, 6)
        picture = ("image", (np.zeros((36, 6912), np.uint8), xy, cells(TWO_STARS, xy)))
        ends = np.full(8, -1)
        ends[5:] = WORDS.index(word)
        media = [("audio", (np.zeros((8, 640), np.float32), ends)), picture]
        media = media if first else media[::-1]
        seen = [token for kind, content in media
                for token in teller.media(kind, content if kind == "image" else content[0])]  # fmt: skip
        asked = list(teller.text("Where is it?"))
        prefix = list(teller.text("<bos>"))
        branch = Branch(asked, [0.0] * (len(asked) - 1) + [1.0])
        trees = [Tree(prefix + seen, media, [branch]), prompt(teller, TWO_STARS, said="Where is it?")]
        data = tensors(pack(trees, 2, 200, teller.image_token))
        at, filled = find.labels(data)["heard"]
        if places is None:
            assert at.sum() == 0
            continue
        closing = 1  # the mark that ends the last of the two
        assert at.sum(-1).tolist() == [len(asked) + closing, 0]
        assert at[0].nonzero().flatten().tolist() == list(
            range(len(prefix + seen) - closing, len(prefix + seen) + len(asked))
        )
        assert all(np.flatnonzero(row).tolist() == places for row in filled.numpy())
