"""Attention of test traces, made without a model: each word looks at one patch, one frame and one word."""

import numpy as np

from workbench.columns import Segment
from workbench.maps import Map
from workbench.occlusions import Occlusion
from workbench.readings import Attention, Layer, Lens


def hot(trace, token, head):
    """The patch of the first picture that a head looks at for a word."""
    (segment,) = [s for s in trace.prompt.segments if s.kind == "image" and s.media == 0]
    return (3 * token + head) % len(segment)


def make_attention(trace, tokens=None, heads=2):
    """Half of each row on one patch of picture 0 (see :func:`hot`), a quarter on frame ``token`` of sound 0, the rest
    on the first position."""
    T, n = len(trace.prompt), len(trace.tokens)
    wanted = list(range(n)) if tokens is None else [tokens] if isinstance(tokens, int) else list(tokens)
    image, sound = (
        next((s for s in trace.prompt.segments if s.kind == kind and s.media == 0), None) for kind in ("image", "audio")
    )
    weights = np.zeros((heads, len(wanted), T + n), np.float16)
    for row, token in enumerate(wanted):
        for head in range(heads):
            weights[head, row, 0] = 0.25
            weights[head, row, image.start + hot(trace, token, head)] += 0.5
            weights[head, row, sound.start + token % len(sound)] += 0.25
    layers = tuple(
        Layer(k, kind, trace.model.window if kind == "sliding" else None) for k, kind in enumerate(trace.model.layers)
    )
    return Attention(
        positions=np.array(wanted) + T - 1, layers=layers, heads=np.arange(heads), weights=(weights,) * len(layers),
        starts=np.zeros(len(layers)), bidirectional=True, replay_gap=1e-6, identity=trace.model.identity,
        **Attention.places_of(trace),
    )  # fmt: skip


def make_occlusion(trace, token, kind, media):
    """Hiding place ``token + 1`` costs 2 nats; hiding the first helps by 1."""
    (segment,) = [s for s in trace.prompt.segments if s.kind == kind and s.media == media]
    values = np.zeros(len(segment), np.float32)
    values[0], values[token + 1] = -1, 2
    shape = (segment.rows, segment.cols) if segment.rows else (len(segment),)
    made = Map(kind, media, values.reshape(shape), np.arange(segment.start, segment.stop), unit="nats")
    return Occlusion(made, [token], -1.0, np.ones(len(segment), bool), "mean", 3, len(segment), trace.model.identity)


def make_lens(trace, media=0):
    """After the embedding each patch is nearest to word 1, after the first layer to word 2."""
    (segment,) = [s for s in trace.prompt.segments if s.kind == "image" and s.media == media]
    P = len(segment)
    ids = np.stack([np.full((P, 1), 1), np.full((P, 1), 2)])
    zeros = np.zeros((2, P), np.float32)
    return Lens(
        positions=np.arange(segment.start, segment.stop), layers=[-1, 0], final_ids=np.full(P, 2), top_ids=ids,
        top_logprob=zeros[..., None], rank=zeros, logprob=zeros, kl=zeros, pieces={1: " red", 2: "<b>blue"},
        over="image", media=media, segments=(Segment("image", segment.start, segment.stop),),
        prompt_tokens=len(trace.prompt), identity=trace.model.identity,
    )  # fmt: skip


class Looker:
    """An inspector that answers as above; counts what it was asked."""

    def __init__(self, trace):
        self.info, self.asked = trace.model, []

    def attend(self, trace, tokens=None):
        self.asked.append(tokens)
        return make_attention(trace, tokens)

    def occlude(self, trace, token, over="image", media=0):
        return make_occlusion(trace, token, over, media)

    def lens(self, trace, over="image", media=0):
        return make_lens(trace, media)
