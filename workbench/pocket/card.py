"""``CARD.md``: what the pocket model and its drafter can do, what they cannot, and how that was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.pocket.recipe import POCKET

if TYPE_CHECKING:
    from workbench.pocket.acceptance import Acceptance
    from workbench.pocket.evaluate import Scores

__all__ = ["drafts_table", "interval", "table", "write"]

_INTRO = """# The pocket model

A `Gemma4UnifiedForConditionalGeneration` of {parameters:.2f} million parameters, trained from scratch by this repository on
a world it makes itself: pictures of one to four coloured shapes, spoken words, and a little more. It is loaded by the same code
as Gemma 4 12B and has the same parts (sliding and full attention, K = V on full layers, 48-pixel patches, 640-sample
sound frames, the same control tokens), so everything the workbench shows of it, it shows of the real one.

- Pictures: red, green, blue, yellow, purple or white circles, squares, triangles, stars and crosses, small or large, at nine
  places; two pictures of which one changed; a handwritten digit, or four.
- Sounds: the words zero to nine, the colours and the shapes; one to five beeps, high or low. A picture and a sound together.
- Text: counting, sums of one digit, spelling, very short stories about a picture.
- Answers in English, in one fixed form each; to anything else it says that it only knows shapes, digits and sounds.

It starts with the eyes of a retina and the ears of a cochlea (`senses.py`: patches as their lowest cosines, sound frames
as a bank of band filters) and with places as waves along both axes; everything else, and those too from there on, is
learnt in one run of {steps:,} steps (`python -m workbench.pocket.train`): crowded pictures and few questions first, then
sounds, then the whole world, with helpers that are thrown away afterwards (`aids.py`): heads that read shapes off image
tokens and words off sound tokens half-way through the network, and one that finds the place of every colour and shape named.
These weights are the mean of the last {tail:,} steps'.

Measured by `python -m workbench.pocket.evaluate`: exact match of the whole greedy answer on held-out scenes, voices and
renderers, weights as stored (bf16), computed with in float32. Its pictures, recordings and wordings are of a seed by which
nothing was chosen. The 150 "unseen questions" are twelve, each typed in many ways: their interval is too narrow.

*Missing*: asked for a picture or a sound that is not there. *Off-world*: about something else than shapes, digits and sounds.
*Both: word, place*: a question about one of a picture and a sound shown together; *heard and found*: where the shape is that is
heard; *see and hear*: what both are, in one answer. *One of two*: a question about one of two pictures.

## Exact match

{table}
"""

_LIMITS = """
## What it cannot do

- It knows nothing but its world. No photo was in its training; parts of two are in this exam.
- **Human voices are untested.** It learnt speech from synthesisers (espeak-ng, flite). The flite row is of a speaker that it
  never heard; festival's voice is another engine with the recordings of a speaker whom it heard through flite.
- Of five to eight shapes it still says what is at a place, but counts and describes badly: the last rows. Touching shapes,
  other colours, letters in pictures: it will answer, and be wrong.
- It says words it is sure of and words it guesses in the same tone. Look at the probabilities: that is what they are for.
"""


def table(scores: Scores) -> str:
    """The exact-match table, Markdown."""
    lines = ["| task | exact match | 95 % | asked |", "|---|---:|---:|---:|"]
    for row in scores.asked:
        if row != "story":
            low, high = interval(scores.right[row], scores.asked[row])
            lines.append(f"| {row} | {scores.share(row):.3f} | {low:.2f}–{high:.2f} | {scores.asked[row]} |")
    lines.append(f"| story: entropy, nats a token | {scores.story_entropy:.2f} | | {scores.asked['story']} |")
    return "\n".join(lines)


def interval(right: int, asked: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (https://doi.org/10.1080/01621459.1927.10502953)."""
    if not asked:
        return 0.0, 1.0
    z, p = 1.96, right / asked
    middle, spread = p + z * z / (2 * asked), z * math.sqrt(p * (1 - p) / asked + z * z / (4 * asked * asked))
    whole = 1 + z * z / asked
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def drafts_table(kept: Acceptance) -> str:
    """Acceptance by position, by task and by modality, Markdown."""
    modalities = [g for g in ("text", "image", "sound", "image and sound") if g in kept.kept]
    tasks = [g for g in kept.kept if g not in ("all", *modalities)]
    lines = ["| | 1st draft | 2nd | 3rd | 4th | tokens a round |", "|---|---:|---:|---:|---:|---:|"]
    for name in ("all", *modalities, *tasks):
        shares = " | ".join(f"{x:.2f}" if x == x else "–" for x in kept.by_position(name))  # noqa: PLR0124 (NaN)
        lines.append(f"| {name} | {shares} | {kept.tokens_a_round(name):.2f} |")
    return "\n".join(lines)


def confusions(scores: Scores, row: str, most: int = 8) -> str:
    """The commonest mistakes of a row of spoken words."""
    wrong = [(n, said, heard) for (said, heard), n in scores.heard[row].items() if said != heard]
    listed = [f"{said} as {heard} ({n})" for n, said, heard in sorted(wrong, reverse=True)[:most]]
    return ", ".join(listed) or "none"


def write(
    scores: Scores,
    folder: Path,
    curve: list,
    kept: Acceptance | None,
    looks: str = "",
    shown: str = "",
) -> str:
    """The whole card.

    Args:
        scores: of ``evaluate.measure``.
        folder: the weights measured.
        curve: of the training run, rows of (step, loss, share of answer tokens right).
        kept: the drafter's acceptance, if there is one.
        looks: the table of ``looked``, if it was measured.
        shown: the table of ``contact``, whose sheet lies beside the card as ``samples.jpg``.
    """
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as stored:
        parameters = sum(_count(stored.get_slice(k).get_shape()) for k in stored.keys()) / 1e6  # noqa: SIM118
    tail = round(POCKET.tail * POCKET.steps)
    parts = [_INTRO.format(parameters=parameters, steps=POCKET.steps, tail=tail, table=table(scores))]
    for row in scores.heard:
        where = row.removeprefix("word, ")
        parts.append(f"\nMisheard, by the first piece of the answer, {where}: {confusions(scores, row)}.\n")
    if shown:
        parts.append(
            "\n## Ten of the tests' sample\n\n![Pictures and sounds, numbered](samples.jpg)\n\n"
            "The first of ten rows each of the small exam that the tests keep (`tests/pocket_sample.zip`), not chosen by "
            f"their answers.\n\n{shown}\n"
        )
    if looks:
        parts.append(
            '\n## Worth looking into\n\nHeld-out scenes of two to four shapes ("What is at the top left?") and held-out '
            "voices; the head is chosen on the first half of them and judged on the second. The ninth of the picture is "
            f"covered with the picture's median colour.\n\n{looks}\n"
        )
    if kept is not None:
        parts.append(
            "\n## The drafter\n\nFour drafts a round, greedy, held-out prompts; a share is of the drafts that were judged "
            f"(those before them in the round were right).\n\n{drafts_table(kept)}\n"
        )
    if curve:
        ends = ", ".join(f"{phase.until:,}" for phase in POCKET.early)
        parts.append(
            f"\n## Learning curve\n\nWhat is asked changes at steps {ends} (`recipe.py`): harder, so that the loss rises there."
            "\n\n| step | loss | answer tokens right |\n|---:|---:|---:|\n"
        )
        chosen = [*curve[:: max(1, len(curve) // 28)], curve[-1]]
        parts += [f"| {int(step)} | {loss:.3f} | {right:.3f} |\n" for step, loss, right in chosen]
    parts.append(_LIMITS)
    return "".join(parts)


def _count(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
