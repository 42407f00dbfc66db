"""``CARD.md``: what the pocket model and its drafter can do, what they cannot, and how that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.pocket.acceptance import Acceptance
    from workbench.pocket.evaluate import Scores

__all__ = ["drafts_table", "table", "write"]

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
as a bank of band filters); everything else, and those too from there on, is learnt in stages (CONTRIBUTING.md has the
commands): crowded pictures and few questions first, then sounds, then the whole world, with two helpers that are thrown away
afterwards, one that reads shapes off image tokens and one that reads words off sound tokens half-way through the network.
These weights are the mean of the last two stages'.

Measured by `python -m workbench.pocket.evaluate`: exact match of the whole greedy answer on held-out scenes, voices and
renderers, weights as stored (bf16), computed with in float32.

## Exact match

{table}
"""

_LIMITS = """
## What it cannot do

- It knows nothing but its world. No photo was in its training; parts of two are in this exam.
- **Human voices are untested.** It learnt speech from synthesisers (espeak-ng, flite). Of one that it never heard it
  reads as many words as the festival row says.
- More than four shapes, touching shapes, other colours, letters in pictures: it will answer, and be wrong. So it
  is, often, in the rows of the table below .8.
- It says words it is sure of and words it guesses in the same tone. Look at the probabilities: that is what they are for.
"""


def table(scores: Scores) -> str:
    """The exact-match table, Markdown."""
    lines = ["| task | exact match | asked |", "|---|---:|---:|"]
    lines += [f"| {row} | {scores.share(row):.3f} | {scores.asked[row]} |" for row in scores.asked if row != "story"]
    lines.append(f"| story: entropy, nats a token | {scores.story_entropy:.2f} | {scores.asked['story']} |")
    return "\n".join(lines)


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
    curves: dict[str, list],
    kept: Acceptance | None,
    looks: str = "",
    shown: str = "",
) -> str:
    """The whole card.

    Args:
        scores: of ``evaluate.measure``.
        folder: the weights measured.
        curves: by training run, in order, rows of (step, loss, share of answer tokens right).
        kept: the drafter's acceptance, if there is one.
        looks: the table of ``looked``, if it was measured.
        shown: the table of ``contact``, whose sheet lies beside the card as ``samples.jpg``.
    """
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as stored:
        parameters = sum(_count(stored.get_slice(k).get_shape()) for k in stored.keys()) / 1e6  # noqa: SIM118
    parts = [_INTRO.format(parameters=parameters, table=table(scores))]
    for row in scores.heard:
        where = row.removeprefix("word, ")
        parts.append(f"\nMisheard, by the first piece of the answer, {where}: {confusions(scores, row)}.\n")
    if shown:
        parts.append(
            "\n## Ten of the exam\n\n![Six scenes, digits and pairs, and four sounds, numbered](samples.jpg)\n\n"
            f"The first of ten rows each, not chosen by their answers.\n\n{shown}\n"
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
    if curves:
        parts.append(
            "\n## Learning curve\n\nOf the last stages: each asks more of what the one before did badly, so that its loss "
            "begins above where that one ended.\n\n| stage | step | loss | answer tokens right |\n|---|---:|---:|---:|\n"
        )
        for stage, curve in curves.items():
            chosen = [*curve[:: max(1, len(curve) // 10)], curve[-1]]
            parts += [f"| {stage} | {int(step)} | {loss:.3f} | {right:.3f} |\n" for step, loss, right in chosen]
    parts.append(_LIMITS)
    return "".join(parts)


def _count(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
