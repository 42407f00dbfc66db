"""Pictures, sounds and videos as a model's own processor makes them, and where each soft token lies in them.

What the model embeds is kept, so that a second question on a picture does not process it again. A soft token is a
place: in members without an encoder one patch or one piece of sound; in those with towers what a tower makes of
several, pooled in squares, row by row, or halved in time twice.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.conversation import Conversation
from workbench.errors import MediaError
from workbench.media import Audio, Image, Video

if TYPE_CHECKING:
    import torch

__all__ = ["SENSES", "SUBSAMPLED", "Feature", "Part", "Reader", "frozen", "on_picture", "senses_of", "shown"]

SENSES = ("image", "audio", "video")
"""Kinds of media that a model may take."""

SUBSAMPLED = 4
"""Frames of a spectrogram from one soft token to the next: a tower halves their number twice (Transformers'
``Gemma4AudioSubSampleConvProjection``)."""

_REFUSED = {
    "image": ("this model sees no pictures", "images"),
    "audio": ("this model hears no sounds", "audio"),
    "video": ("this model sees no videos", "video"),
}


@dataclass(frozen=True, eq=False)
class Part:
    """A picture, sound or frame as the processor made it.

    Attributes:
        values, xy, key: Those of :class:`Feature`.
        tokens: How many soft tokens the model makes of it.
    """

    values: torch.Tensor
    xy: torch.Tensor | None
    key: str
    tokens: int


Made = tuple[str, list[Part]]
"""The words that stand for one medium, and its parts: a picture and a sound have one, a video one a frame."""


@dataclass(frozen=True, eq=False)
class Feature:
    """What the processor made of one picture, sound or frame of a video.

    Attributes:
        kind: ``image``, ``audio`` or ``video``.
        start, stop: Positions of its soft tokens.
        values: What the model embeds. Where no encoder comes first, a row a soft token: (n, 6912) float32 patches or
            (n, 640) float32 frames. For a tower, several: (9 n, 768) patches, of which 3 × 3 are pooled, or (m, 128)
            frames of a spectrogram, of which 4 go into a token.
        xy: Column and row of each patch, int64; None for sounds.
        key: A hash of the content and of how it was processed.
    """

    kind: str
    start: int
    stop: int
    values: torch.Tensor
    xy: torch.Tensor | None
    key: str


class Reader:
    """A processor, with memory for the last pictures, sounds and videos.

    Args:
        processor: The model's own, as ``AutoProcessor`` gives it.
        keep: How many to remember.
        senses: The kinds of media that the model takes.
        most_bytes: What all of them together may hold; the last one stays whatever it takes.
    """

    def __init__(
        self, processor: Any, keep: int = 16, senses: Iterable[str] = SENSES, most_bytes: int = 256 << 20
    ) -> None:
        self.processor = processor
        self.senses = frozenset(senses)
        self._keep, self._most = keep, most_bytes
        self._features: OrderedDict[str, Made] = OrderedDict()

    @property
    def bytes(self) -> int:
        """What is remembered, in memory."""
        parts = (part for _, made in self._features.values() for part in made)
        return sum(t.nbytes for part in parts for t in (part.values, part.xy) if t is not None)

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()

    def check(self, talk: Conversation) -> None:
        """Refuse media that the model has nothing for: its processor may take them all the same.

        Raises:
            MediaError: Says which, and what to do.
        """
        for kind, given in (("image", talk.images), ("audio", talk.audio), ("video", talk.video)):
            if given and kind not in self.senses:
                words, argument = _REFUSED[kind]
                raise MediaError(
                    f"{given[0].name}: {words}: its configuration has no part for them. Leave {argument}= "
                    "out, or load a model that does."
                )

    def picture(self, image: Image, image_tokens: int | None) -> Made:
        """A picture, of at most so many soft tokens; None takes the processor's own budget."""
        budget = image_tokens or self.processor.image_processor.max_soft_tokens
        key = hashlib.blake2b(image.data, person=b"image%d" % budget).hexdigest()

        def make() -> Made:
            made = self.processor.image_processor([image.to_pil()], max_soft_tokens=budget, return_tensors="pt")
            tokens = int(made["num_soft_tokens_per_image"][0])
            values, xy = made["pixel_values"][0], made["image_position_ids"][0]
            return self.processor.replace_image_token(made, image_idx=0), [_part(values, xy, key, tokens)]

        return self._remember(key, make)

    def sound(self, sound: Audio) -> Made:
        """A sound.

        Raises:
            MediaError: It is too short to become a token.
        """
        key = hashlib.blake2b(sound.data, person=b"audio").hexdigest()

        def make() -> Made:
            made = self.processor.feature_extractor([sound.samples], return_tensors="pt")
            words = self.processor.replace_audio_token(made, audio_idx=0)
            tokens = words.count(self.processor.audio_token)
            if not tokens:
                raise MediaError(f"{sound.name}: {sound.duration_ms:.0f} ms are too short for this model to hear.")
            return words, [Part(_unpadded(made), None, key, tokens)]

        return self._remember(key, make)

    def heard(self, samples: np.ndarray) -> torch.Tensor:
        """What the processor makes of (n,) samples: (frames, …)."""
        return _unpadded(self.processor.feature_extractor([samples], return_tensors="pt"))

    def video(self, video: Video) -> Made:
        """A video, a part a frame.

        Raises:
            MediaError: The processor has none for them.
        """
        from transformers.video_utils import VideoMetadata

        reader = getattr(self.processor, "video_processor", None)
        if reader is None:
            raise MediaError(f"{video.name}: this model sees no videos. Pass single frames as images=.")
        keys = [hashlib.blake2b(still.data, person=b"video%d" % reader.max_soft_tokens) for still in video.stills]
        whole = hashlib.blake2b(b"".join([k.digest() for k in keys]) + video.seconds.tobytes(), person=b"video")

        def make() -> Made:
            made = reader(
                [video.frames], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
            )
            tokens = int(made["num_soft_tokens_per_video"][0])
            # one a second, so that the "frame numbers" are the seconds each frame is shown at, even or not
            times = VideoMetadata(total_num_frames=len(video), fps=1.0, frames_indices=video.seconds.tolist())
            words = self.processor.replace_video_token({**made, "video_metadata": [times]}, video_idx=0)
            frames = zip(made["pixel_values_videos"], made["video_position_ids"], keys, strict=True)
            return words, [_part(values, xy, k.hexdigest(), tokens) for values, xy, k in frames]

        return self._remember(whole.hexdigest(), make)

    def in_time(self, sound: Audio, part: Part) -> dict[str, Any]:
        """When each soft token of a sound is heard.

        One of raw samples is its own piece of time. One of a tower is made of frames of a spectrogram on both sides of
        its middle, which lies at 0, 40, 80 … ms: to it belong the moments that are nearest to its middle.
        """
        reader, n = self.processor.feature_extractor, part.tokens
        if not hasattr(reader, "hop_length"):
            starts = np.arange(n) * float(self.processor.audio_ms_per_token)
            ends = np.minimum(starts + float(self.processor.audio_ms_per_token), sound.duration_ms)
        else:
            step = SUBSAMPLED * 1000 * reader.hop_length / reader.sampling_rate
            starts = np.maximum((np.arange(n) - 0.5) * step, 0)
            ends = np.append(starts[1:], sound.duration_ms)
        return {"start_ms": frozen(starts), "end_ms": frozen(ends)}

    def _remember(self, key: str, make: Callable[[], Made]) -> Made:
        found = self._features.pop(key, None)
        found = make() if found is None else found
        self._features[key] = found
        while len(self._features) > self._keep or (len(self._features) > 1 and self.bytes > self._most):
            self._features.popitem(last=False)
        return found


def senses_of(config: Any) -> list[str]:
    """The kinds of media that a model of this configuration has parts for."""
    parts = {"image": "vision_config", "video": "vision_config", "audio": "audio_config"}
    return [kind for kind, part in parts.items() if getattr(config, part, None) is not None]


def _part(values: torch.Tensor, xy: torch.Tensor, key: str, tokens: int) -> Part:
    """A picture or frame without what the processor padded it with."""
    n = int((xy >= 0).all(dim=-1).sum())
    return Part(values[:n].clone(), xy[:n].clone(), key, tokens)


def _unpadded(made: Any) -> torch.Tensor:
    """(frames, …) of a sound that the processor made."""
    values: torch.Tensor = made["input_features"][0, : int(made["input_features_mask"][0].sum())].clone()
    return values


def on_picture(image: Image, part: Part) -> dict[str, Any]:
    """Where each soft token lies on the original: the processor stretches the whole picture over the whole grid."""
    xy = part.xy.numpy()  # type: ignore[union-attr]
    side = math.isqrt(len(xy) // part.tokens)  # patches that are pooled into one token, either way
    cols, rows = (int(n) // side for n in xy.max(axis=0) + 1)
    at = (xy if side == 1 else np.stack(np.divmod(np.arange(rows * cols), cols)[::-1], axis=1)).astype(np.float64)
    size = np.array([image.width / cols, image.height / rows])
    return {"rows": rows, "cols": cols, "boxes": frozen(np.hstack([at * size, (at + 1) * size]).astype(np.float32))}


def shown(video: Video, frame: int, n: int) -> dict[str, Any]:
    """When a frame of a video is shown, for each of its n tokens."""
    return {name: frozen(np.full(n, getattr(video, name)[frame])) for name in ("start_ms", "end_ms")}


def frozen(array: np.ndarray) -> np.ndarray:
    """An array that cannot be written to."""
    array.setflags(write=False)
    return array
