"""Behind ``workbench attend``: a saved trace's attention over a picture or a sound, by its readings or by its model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, TraceError

if TYPE_CHECKING:
    from workbench.looks import Attention
    from workbench.trace import Trace

__all__ = ["arguments", "attended", "chosen", "run"]


def arguments(parser: argparse.ArgumentParser, whole: Callable[[str], int]) -> None:
    """What can be typed after ``workbench attend``; ``whole`` reads a number from 0."""
    parser.add_argument("trace", help="a .trace file")
    parser.add_argument(
        "--token", type=int, action="append", required=True, metavar="K",
        help="a token of the answer, counted from 0, or from the end as -1; repeat it to average several",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="map.png", help="where to: a .png, .svg or .pdf file")
    over = parser.add_mutually_exclusive_group()
    over.add_argument("--image", type=whole, metavar="N", help="over which picture (default: the first)")
    over.add_argument(
        "--audio", type=whole, metavar="N", help="over which sound (default: the first, without pictures)"
    )
    parser.add_argument("--layer", type=whole, metavar="N", help="one layer (default: the mean of those that see it)")
    parser.add_argument("--head", type=whole, metavar="N", help="one head (default: the mean of all)")
    parser.add_argument("--rollout", action="store_true", help="attention rollout through all layers")
    parser.add_argument("--no-sinks", action="store_true", help="without what the attention sinks take")
    parser.add_argument("--model", metavar="NAME", help="what to load (default: the name in the trace)")


def attended(
    asked: argparse.Namespace, trace: Trace, load: Callable[..., Any], note: Callable[[str], None]
) -> Attention:
    """The attention of the words asked for: what was kept in the trace, or else from its model, loaded for it.

    ``note`` is told why what was kept does not do.

    Raises:
        WorkbenchError: There is no such word, or neither readings nor model can answer.
    """
    from workbench.readings import Recorded

    tokens = [trace.index(k) for k in asked.token]
    if asked.rollout and (asked.layer is not None or asked.head is not None):
        raise TraceError("--rollout goes through all layers and heads: leave --layer and --head away.")
    chosen(asked, trace)
    recorded = Recorded(trace)
    if not recorded.lacks("attend"):  # but it may be of other words, heads or layers than these
        how = {"layers": asked.layer, "heads": asked.head, "rollout": asked.rollout}
        try:
            kept = recorded.attend(trace, tokens=tokens, **how)
        except TraceError as error:
            note(f"{error} Asking the model.")
        else:
            if (asked.head is not None or not kept.lacks_heads) and (asked.layer is not None or not kept.lacks_layers):
                return kept
            note("The trace holds attention of some layers or heads only. Asking the model for all.")
    name = asked.model or trace.model.name
    from workbench.catalog import CATALOG

    # a known name may have been loaded in many ways; a folder holds its weights in one
    way = {"quantization": trace.model.quantization} if name in CATALOG else {}
    if name in CATALOG and name == trace.model.name != "pocket":
        way["variant"] = trace.model.variant
        way |= {} if trace.model.revision == "local" else {"revision": trace.model.revision}
    try:
        model = load(name, **way)
    except ModelError as error:
        if asked.model:
            raise
        raise ModelError(f"{error} The trace was made with {name!r}: say where that lies with --model.") from error
    return model.attend(trace, tokens=tokens, rollout=asked.rollout)


def chosen(asked: argparse.Namespace, trace: Trace) -> tuple[str, int]:
    """What the map is laid over: ``("image", 0)``.

    Raises:
        TraceError: The trace does not have it.
    """
    if asked.audio is not None or (asked.image is None and not trace.images and trace.audio):
        over = ("audio", asked.audio or 0)
    else:
        over = ("image", asked.image or 0)
    trace.prompt.segment(*over)
    return over


def run(
    asked: argparse.Namespace,
    load: Callable[..., Any],
    figure: Any,
    check: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Write the figure that was asked for.

    Args:
        asked: As :func:`arguments` reads it.
        load: ``workbench.load``.
        figure: The module ``widgets.figure``: the model side imports no view.
        check: Raises when a file cannot be written.
        note: Takes a line for whoever waits.

    Raises:
        WorkbenchError: The trace, the place or the words do not fit, said before a model is loaded.
    """
    from workbench.trace import Trace

    if Path(asked.out).suffix.lower() not in figure.FORMATS:
        raise TraceError(f"--out {asked.out!r}: expected a name that ends in {', '.join(figure.FORMATS)}.")
    check(asked.out)
    trace = Trace.load(asked.trace)
    a = attended(asked, trace, load, note)
    kind, media = chosen(asked, trace)
    layer: Any = "rollout" if asked.rollout else asked.layer
    made = a.map(kind, media, token=asked.token, layer=layer, head=asked.head, sinks=not asked.no_sinks)
    figure.write(trace, made, asked.out, note=f"largest change of a logprob in the replay: {a.replay_gap:.2g} nats")
