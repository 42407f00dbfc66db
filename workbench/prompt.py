"""A conversation with its media to token ids, segments and model inputs, through the model's own processor.

    messages ──► chat template ──► placeholders widened ──► ids ──► segments (which token is which patch, frame, word)

Two things are done that the processor alone does not do. Control tokens that somebody typed stay text: ``<turn|>`` in a
question would otherwise end the turn, and ``<|audio|>`` would ask for a sound that is not there. And the features of a
picture, sound or video are kept, so that a second question on it does not process it again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.conversation import Conversation, conversation, listed
from workbench.errors import PromptError
from workbench.features import SENSES, Feature, Reader, frozen, on_picture, shown
from workbench.media import Audio, Image, Video
from workbench.media.images import IMAGE_TOKENS
from workbench.spans import kinds_of
from workbench.tools import mapped, schemas_of, texts_in
from workbench.trace import Prompt, Segment

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGE_TOKENS", "Conversation", "Feature", "Prompter", "Request", "conversation", "listed"]

"""Budgets of soft tokens an image that the image processor takes."""


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


def _joined(content: Any) -> Any:
    """A turn's parts, neighbouring texts made one as the template joins them: no control token comes together there."""
    if isinstance(content, str):
        return content
    out: list[dict[str, Any]] = []
    for part in content:
        if out and part["type"] == out[-1]["type"] == "text":
            out[-1] = {**out[-1], "text": out[-1]["text"].strip() + part["text"].strip()}
        else:
            out.append(part)
    return out


class Prompter:
    """A processor, with memory for the features of the last pictures, sounds and videos.

    Args:
        processor: The model's own, as ``AutoProcessor`` gives it.
        keep: How many pictures, sounds and videos to remember.
        senses: The kinds of media that the model takes; a processor is the same for all members of a family.
    """

    def __init__(self, processor: Any, keep: int = 16, senses: Iterable[str] = SENSES) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.reader = Reader(processor, keep, senses)
        self._lock = threading.Lock()
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
        with self._lock:  # a tokenizer keeps what it was last told of control tokens, for all threads
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
    ) -> Request:
        """Token ids, segments and features of a conversation.

        Args:
            talk: From :func:`conversation`.
            image_tokens: At most so many soft tokens an image, one of :data:`IMAGE_TOKENS`; None takes the processor's.
            thinking: Put the thinking token at the head of the system turn.
            tools: JSON schemas or functions, as the chat template takes them; the schemas are kept in the prompt.

        Raises:
            PromptError: A budget that does not exist, a tool that cannot be described.
            MediaError: A kind of media that this model does not take, or a sound too short for it.
        """
        import torch

        if image_tokens is not None and (isinstance(image_tokens, bool) or image_tokens not in IMAGE_TOKENS):
            raise PromptError(f"image_tokens={image_tokens!r}: expected one of {', '.join(map(str, IMAGE_TOKENS))}.")
        read = self.reader
        read.check(talk)
        pictures = [read.picture(image, image_tokens) for image in talk.images]
        sounds = [read.sound(sound) for sound in talk.audio]
        videos = [read.video(video) for video in talk.video]
        given = schemas_of(tools)
        messages, schemas, restore = self._neutral(talk.messages, given)
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking, tools=schemas or None
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
        places = {
            "image": [on_picture(im, part) for im, (_, [part]) in zip(talk.images, pictures, strict=True)],
            "audio": [read.in_time(s, part) for s, (_, [part]) in zip(talk.audio, sounds, strict=True)],
            "video": [
                {"media": k, **on_picture(still, part), **shown(video, frame, part.tokens)}
                for k, (video, (_, parts)) in enumerate(zip(talk.video, videos, strict=True))
                for frame, (still, part) in enumerate(zip(video.stills, parts, strict=True))
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
                part = next(made[segment.kind])
                if part.tokens != len(segment):
                    raise PromptError(
                        f"{segment.kind} {segment.media} has {part.tokens} features but {len(segment)} places in the "
                        "prompt. This is a fault of the processor; please report it with the picture or sound."
                    )
                features.append(Feature(segment.kind, segment.start, segment.stop, part.values, part.xy, part.key))
        prompt = Prompt(
            ids=frozen(ids.astype(np.int32)),
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
            with self._lock:
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
        messages = [{**m, "content": _joined(m["content"])} for m in messages]
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
            places: For each kind of media, where its tokens lie in picture or time (fields of Segment). None for
                answers: a media token that a model says itself is a control token.
            start: Position of the first id.
            role: Whose turn the first id lies in (for answers: ``model``).

        Returns:
            Segments that cover ``start`` to ``start + n``, in order. A thought, a declaration, a call and a result is a
            segment each; results have the role ``tool``.
        """
        media_ids = {} if places is None else self.media_ids
        kinds, roles, spans = kinds_of(ids, self.control, self.piece, media_ids, role)
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
                more = {"media": seen[kind], **(places[kind][seen[kind]] if places else {})}
                seen[kind] += 1
            out.append(Segment(kind, start + a, start + b, role=roles[a], **more))
        return tuple(out)
