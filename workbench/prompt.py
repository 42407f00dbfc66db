"""A conversation with its media to token ids, segments and model inputs, through the model's own processor.

    messages ──► chat template ──► placeholders widened ──► ids ──► segments (which token is which patch, frame, word)

Two things are done that the processor alone does not do. Control tokens that somebody typed stay text: ``<turn|>`` in a
question would otherwise end the turn, and ``<|audio|>`` would ask for a sound that is not there. And the features of a
picture, sound or video are kept, so that a second question on it does not process it again.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.conversation import Conversation, conversation
from workbench.errors import MediaError, PromptError
from workbench.media import Audio, Image, Video
from workbench.spans import kinds_of
from workbench.tools import mapped, schemas_of, texts_in
from workbench.trace import Prompt, Segment

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGE_TOKENS", "Conversation", "Feature", "Prompter", "Request", "conversation"]

IMAGE_TOKENS = (70, 140, 280, 560, 1120)
"""Budgets of soft tokens an image that the image processor takes."""

_Made = tuple[str, list[tuple[Any, Any, str]]]


@dataclass(frozen=True, eq=False)
class Feature:
    """What the processor made of one picture, sound or frame of a video.

    Attributes:
        kind: ``image``, ``audio`` or ``video``.
        start, stop: Positions of its soft tokens.
        values: (n, 6912) float32 patches or (n, 640) float32 frames; n = stop - start.
        xy: (n, 2) int64 column and row of each patch; None for sounds.
        key: A hash of the content and of how it was processed.
    """

    kind: str
    start: int
    stop: int
    values: torch.Tensor
    xy: torch.Tensor | None
    key: str


@dataclass(frozen=True, eq=False)
class Request:
    """All that a forward pass needs.

    Attributes:
        prompt: Ids and segments, for the trace.
        ids: (1, T) int64.
        type_ids: (1, T) int64; 0 text, 1 image, 2 video, 3 audio.
        features: Of the media, in order of position.
        images, audio, video: The media themselves.
    """

    prompt: Prompt
    ids: torch.Tensor
    type_ids: torch.Tensor
    features: tuple[Feature, ...]
    images: tuple[Image, ...]
    audio: tuple[Audio, ...]
    video: tuple[Video, ...] = ()

    def media_inputs(self, start: int = 0) -> dict[str, torch.Tensor]:
        """The model's media arguments for the soft tokens from position ``start`` on; media before it are left out."""
        import torch

        out: dict[str, torch.Tensor] = {}
        chosen = [f for f in self.features if f.start >= start]
        pad = torch.nn.functional.pad
        for kind, pixels, places in (
            ("image", "pixel_values", "image_position_ids"), ("video", "pixel_values_videos", "video_position_ids"),
        ):  # fmt: skip
            pictures = [f for f in chosen if f.kind == kind]
            if pictures:
                most = max(len(f.values) for f in pictures)
                out[pixels] = torch.stack([pad(f.values, (0, 0, 0, most - len(f.values))) for f in pictures])
                out[places] = torch.stack([pad(f.xy, (0, 0, 0, most - len(f.values)), value=-1) for f in pictures])
        sounds = [f.values for f in chosen if f.kind == "audio"]
        if sounds:
            out["input_features"] = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
            lengths = torch.tensor([len(s) for s in sounds])
            out["input_features_mask"] = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return out


class Prompter:
    """A processor, with memory for the features of the last pictures, sounds and videos.

    Args:
        processor: The model's own, as ``AutoProcessor`` gives it.
        keep: How many pictures, sounds and videos to remember.
    """

    def __init__(self, processor: Any, keep: int = 16) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._keep = keep
        self._features: OrderedDict[str, _Made] = OrderedDict()
        control = {i: t.content for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        self.control: dict[int, str] = {int(i): text for i, text in control.items()}
        longest_first = sorted(self.control.values(), key=len, reverse=True)
        self._is_control = re.compile("|".join(map(re.escape, longest_first)))
        self._id_of = {text: i for i, text in self.control.items()}
        self.media_ids = {"image": processor.image_token_id, "audio": processor.audio_token_id,
                          "video": processor.video_token_id}  # fmt: skip

    # --- pieces -----------------------------------------------------------------------------------------------------

    def piece(self, token_id: int) -> str:
        """The text of one token alone: control tokens by name, a lone byte as ``<0xE2>``."""
        return str(self.tokenizer.convert_ids_to_tokens(int(token_id))).replace("▁", " ")

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens in it are text too."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, control tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    # --- building ---------------------------------------------------------------------------------------------------

    def build(
        self,
        talk: Conversation,
        *,
        image_tokens: int | None = None,
        thinking: bool = False,
        tools: Sequence[Any] = (),
        generate: bool = True,
    ) -> Request:
        """Token ids, segments and features of a conversation.

        Args:
            talk: From :func:`conversation`.
            image_tokens: At most so many soft tokens an image, one of :data:`IMAGE_TOKENS`; None takes the processor's.
            thinking: Put the thinking token at the head of the system turn.
            tools: JSON schemas or functions, as the chat template takes them; the schemas are kept in the prompt.
            generate: End with the opening of the model's turn.

        Raises:
            PromptError: A budget that does not exist, a tool that cannot be described.
            MediaError: A video, and this model's processor has none for them.
        """
        import torch

        if image_tokens is not None and (isinstance(image_tokens, bool) or image_tokens not in IMAGE_TOKENS):
            raise PromptError(f"image_tokens={image_tokens!r}: expected one of {', '.join(map(str, IMAGE_TOKENS))}.")
        pictures = [self._picture(image, image_tokens) for image in talk.images]
        sounds = [self._sound(sound) for sound in talk.audio]
        videos = [self._video(video) for video in talk.video]
        given = schemas_of(tools)
        messages, schemas, restore = self._neutral(talk.messages, given)
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate, enable_thinking=thinking, tools=schemas or None
        )
        texts, _ = self.processor.get_text_with_replacements(
            [text],
            images_replacements=[words for words, _ in pictures],
            videos_replacements=[words for words, _ in videos],
            audio_replacements=[words for words, _ in sounds],
        )
        ids = self._ids(texts[0], restore)
        types = np.zeros(len(ids), dtype=np.int64)
        for kind, value in (("image", 1), ("video", 2), ("audio", 3)):
            types[ids == self.media_ids[kind]] = value
        frame_ms = float(self.processor.audio_ms_per_token)
        places = {
            "image": [_on_picture(im, xy) for im, (_, [(_, xy, _)]) in zip(talk.images, pictures, strict=True)],
            "audio": [_in_time(s, len(v), frame_ms) for s, (_, [(v, _, _)]) in zip(talk.audio, sounds, strict=True)],
            "video": [
                {"media": k, **_on_picture(still, xy), **_shown(video, frame, len(xy))}
                for k, (video, (_, parts)) in enumerate(zip(talk.video, videos, strict=True))
                for frame, (still, (_, xy, _)) in enumerate(zip(video.stills, parts, strict=True))
            ],
        }
        segments = self.segments(ids, places)
        made = {
            kind: iter([part for _, parts in several for part in parts])
            for kind, several in (("image", pictures), ("audio", sounds), ("video", videos))
        }
        features = []
        for segment in segments:
            if segment.media is not None:
                values, xy, key = next(made[segment.kind])
                if len(values) != len(segment):
                    raise PromptError(
                        f"{segment.kind} {segment.media} has {len(values)} features but {len(segment)} places in the "
                        "prompt. This is a fault of the processor; please report it with the picture or sound."
                    )
                features.append(Feature(segment.kind, segment.start, segment.stop, values, xy, key))
        prompt = Prompt(
            ids=_frozen(ids.astype(np.int32)),
            pieces=tuple(self.piece(i) for i in ids),
            segments=segments,
            messages=talk.messages,
            tools=tuple(given),
        )
        return Request(
            prompt, torch.from_numpy(ids)[None], torch.from_numpy(types)[None], tuple(features), talk.images,
            talk.audio, talk.video,
        )  # fmt: skip

    def _ids(self, text: str, restore: Mapping[str, str]) -> np.ndarray:
        if not restore:
            return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        ids: list[int] = []
        pattern = re.compile("|".join(map(re.escape, restore)))
        at = 0
        for match in [*self._is_control.finditer(text), None]:
            words = text[at : match.start()] if match else text[at:]
            if words:
                ids += self.encode(pattern.sub(lambda m: restore[m.group()], words))
            if match:
                ids.append(self._id_of[match.group()])
                at = match.end()
        return np.array(ids, dtype=np.int64)

    def _neutral(
        self, messages: Sequence[Mapping[str, Any]], schemas: list[Any]
    ) -> tuple[list[dict[str, Any]], list[Any], dict[str, str]]:
        """Messages and tools for the template, with typed control tokens behind stand-ins that no text holds."""
        everything = "".join(texts_in([[{**m, "role": ""} for m in messages], schemas]))
        typed = sorted(set(self._is_control.findall(everything)))
        marks = (chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in everything)
        stand_in = dict(zip(typed, marks, strict=False))
        if len(stand_in) < len(typed):
            raise PromptError("The question holds every private-use character there is; take some out.")

        def shield(value: Any) -> Any:
            return mapped(value, lambda text: self._is_control.sub(lambda m: stand_in[m.group()], text))

        out = []
        for message in messages:
            role = "assistant" if message["role"] == "model" else message["role"]
            out.append({**shield({k: v for k, v in message.items() if k != "role"}), "role": role})
        return out, shield(schemas), {mark: text for text, mark in stand_in.items()}

    # --- media ------------------------------------------------------------------------------------------------------

    # Each gives the words that stand for one medium, and of each of its parts (a picture and a sound have one, a video
    # one a frame) the values, their places and a key.

    def _picture(self, image: Image, image_tokens: int | None) -> _Made:
        budget = image_tokens or self.processor.image_processor.max_soft_tokens
        key = hashlib.blake2b(image.data, person=b"image%d" % budget).hexdigest()

        def make() -> _Made:
            made = self.processor.image_processor([image.to_pil()], max_soft_tokens=budget, return_tensors="pt")
            n = int(made["num_soft_tokens_per_image"][0])
            values, xy = made["pixel_values"][0, :n].clone(), made["image_position_ids"][0, :n].clone()
            return self.processor.replace_image_token(made, image_idx=0), [(values, xy, key)]

        return self._remember(key, make)

    def _sound(self, sound: Audio) -> _Made:
        key = hashlib.blake2b(sound.data, person=b"audio").hexdigest()

        def make() -> _Made:
            made = self.processor.feature_extractor([sound.samples], return_tensors="pt")
            n = int(made["input_features_mask"][0].sum())
            words = self.processor.replace_audio_token(made, audio_idx=0)
            return words, [(made["input_features"][0, :n].clone(), None, key)]

        return self._remember(key, make)

    def _video(self, video: Video) -> _Made:
        from transformers.video_utils import VideoMetadata

        reader = getattr(self.processor, "video_processor", None)
        if reader is None:
            raise MediaError(f"{video.name}: this model sees no videos. Pass single frames as images=.")
        keys = [hashlib.blake2b(still.data, person=b"video%d" % reader.max_soft_tokens) for still in video.stills]
        whole = hashlib.blake2b(b"".join([k.digest() for k in keys]) + video.seconds.tobytes(), person=b"video")

        def make() -> _Made:
            made = reader(
                [video.frames], do_sample_frames=False, input_data_format="channels_last", return_tensors="pt"
            )
            n = int(made["num_soft_tokens_per_video"][0])
            # one a second, so that the "frame numbers" are the seconds each frame is shown at, even or not
            times = VideoMetadata(total_num_frames=len(video), fps=1.0, frames_indices=video.seconds.tolist())
            words = self.processor.replace_video_token({**made, "video_metadata": [times]}, video_idx=0)
            values, xy = made["pixel_values_videos"][:, :n], made["video_position_ids"][:, :n]
            return words, [(v.clone(), p.clone(), k.hexdigest()) for v, p, k in zip(values, xy, keys, strict=True)]

        return self._remember(whole.hexdigest(), make)

    def _remember(self, key: str, make: Callable[[], _Made]) -> _Made:
        found = self._features.pop(key, None)
        found = make() if found is None else found
        self._features[key] = found
        while len(self._features) > self._keep:
            self._features.popitem(last=False)
        return found

    # --- segments ---------------------------------------------------------------------------------------------------

    def segments(
        self,
        ids: np.ndarray,
        places: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        *,
        start: int = 0,
        role: str | None = None,
    ) -> tuple[Segment, ...]:
        """Which token is what.

        Args:
            ids: (n,) token ids.
            places: For each kind of media, where its tokens lie in picture or time (fields of Segment); not in answers.
            start: Position of the first id.
            role: Whose turn the first id lies in (for answers: ``model``).

        Returns:
            Segments that cover ``start`` to ``start + n``, in order. A thought, a declaration, a call and a result is a
            segment each; results have the role ``tool``.
        """
        kinds, roles, spans = kinds_of(ids, self.control, self.piece, self.media_ids, role)
        out: list[Segment] = []
        seen = dict.fromkeys(self.media_ids, 0)
        what = list(zip(kinds, roles, spans, strict=True))
        edges = [k for k in range(1, len(ids)) if what[k] != what[k - 1]]
        for a, b in zip([0, *edges], [*edges, len(ids)], strict=True):
            kind = kinds[a] if len(ids) else ""
            if a == b:
                continue
            more: dict[str, Any] = {}
            if kind in seen:
                more = {"media": seen[kind], **(places[kind][seen[kind]] if places and kind in places else {})}
                seen[kind] += 1
            out.append(Segment(kind, start + a, start + b, role=roles[a], **more))
        return tuple(out)


def _on_picture(image: Image, xy: torch.Tensor) -> dict[str, Any]:
    """Where each patch lies on the original: the processor stretches the whole picture over the whole grid."""
    cols, rows = (int(n) + 1 for n in xy.max(dim=0).values)
    at = xy.numpy().astype(np.float64)
    size = np.array([image.width / cols, image.height / rows])
    return {"rows": rows, "cols": cols, "boxes": _frozen(np.hstack([at * size, (at + 1) * size]).astype(np.float32))}


def _shown(video: Video, frame: int, n: int) -> dict[str, Any]:
    """When a frame of a video is shown, for each of its n patches."""
    return {name: _frozen(np.full(n, getattr(video, name)[frame])) for name in ("start_ms", "end_ms")}


def _in_time(sound: Audio, n: int, frame_ms: float) -> dict[str, Any]:
    starts = np.arange(n) * frame_ms
    return {"start_ms": _frozen(starts), "end_ms": _frozen(np.minimum(starts + frame_ms, sound.duration_ms))}


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
