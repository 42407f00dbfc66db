"""A loaded model: what ``workbench.load`` returns, and how it is asked."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from workbench.cache import PrefixCache
from workbench.decoding import Engine, Plain, generate
from workbench.drafting import Drafted, Drafter
from workbench.errors import Incompatible, MediaError, ModelError, PromptError, TraceError
from workbench.prompt import Conversation, Prompter, Request, conversation
from workbench.recording import Recorder
from workbench.trace import ModelInfo, Segment, Settings, Timing, Token, Trace, Usage

__all__ = ["LoadedModel"]

MOST_DRAFTS = 16
MOST_TOP = 1000


class LoadedModel:
    """A model, its processor and its drafter, ready to be asked. Made by :func:`workbench.load`.

    One call at a time touches it; a second one waits.

    Attributes:
        transformer: The Transformers model beneath, mask correction in place.
        processor: Its processor.
        drafter: The Transformers assistant model, or None.
        info: What exactly this is; copied into every trace.
        context: Tokens that prompt and answer may fill together.
    """

    def __init__(
        self, transformer: Any, processor: Any, info: ModelInfo, *, drafter: Any = None, context: int | None = None
    ) -> None:
        self.transformer = transformer
        self.processor = processor
        self.drafter = drafter
        self.info = info
        self.context = context or info.context
        self._lock = threading.RLock()
        self._prompter = Prompter(processor)
        self._prefixes = PrefixCache()
        self._engine = Engine(transformer, self._prefixes)
        self._drafter = Drafter(drafter, transformer) if drafter is not None else None
        self._closed = False

    def __repr__(self) -> str:
        state = "" if not self._closed else ", unloaded"
        i = self.info
        return f"<{i.name}: {i.dtype}, {i.quantization}, on {i.device}, {len(i.layers)} layers{state}>"

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self.info.name

    def ask(
        self,
        question: str,
        *,
        images: Iterable[Any] = (),
        audio: Iterable[Any] = (),
        video: Iterable[Any] = (),
        system: str | None = None,
        history: Trace | Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
        thinking: bool = False,
        max_new_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        draft: int | Literal["auto"] = "auto",
        top: int = 20,
        image_tokens: int | None = None,
        on_token: Callable[[Token], Any] | None = None,
        stop: threading.Event | None = None,
    ) -> Trace:
        """Ask a question, with pictures and sounds, and record everything about the answer.

            trace = model.ask("What is at the top left?", images=["scene.png"])
            trace.text

        Args:
            question: What you want to know. Control tokens in it (``<turn|>``) are read as text.
            images: Each a path, bytes, file, PIL image or array (see ``workbench.media.load_image``).
            audio: Each a path, bytes, file or ``(samples, rate)``; at most 30 s each are heard.
            video: Not yet: raises MediaError.
            system: The system turn.
            history: The conversation so far: a Trace to go on from, or messages (see
                ``workbench.prompt.conversation``). Images of earlier turns come first in the trace's numbering.
            tools: Functions or JSON schemas for the chat template. Nothing is called.
            thinking: Ask for a thought before the answer; it is in ``trace.thought``, not in ``trace.text``.
            max_new_tokens: At most so many, stop token included.
            temperature: 0 is greedy. None, as for top_k and top_p, takes the model's generation configuration.
            top_k: Draw from the k most probable tokens only; 0 is off.
            top_p: Draw from the smallest set that holds this probability only; 1.0 is off.
            seed: Makes a sampled run repeatable. None draws one; it is in ``trace.settings.seed``.
            draft: Drafts a round of multi-token prediction; 0 is none, "auto" adapts, and is none without a
                drafter. The answer does not depend on it.
            top: How many alternatives to record of every token.
            image_tokens: Soft tokens an image may take: 70, 140, 280, 560 or 1120; None is the model's default.
            on_token: Called with each :class:`~workbench.trace.Token` as soon as it is known.
            stop: An event that ends the run between two tokens; the trace so far is returned.

        Returns:
            The trace; ``trace.text`` is the answer.

        Raises:
            MediaError, PromptError: Something passed cannot be used. Raised before any work; the model stays usable.
            ModelError: It was unloaded, it has no drafter, or its logits are not finite.
        """
        began = time.perf_counter()
        config, settings = self._settings(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, draft=draft,
            top=top, image_tokens=image_tokens, thinking=thinking,
        )  # fmt: skip
        if on_token is not None and not callable(on_token):
            raise PromptError(f"on_token={on_token!r}: expected a function of one Token, or None.")
        if stop is not None and not callable(getattr(stop, "is_set", None)):
            raise PromptError(f"stop={stop!r}: expected a threading.Event, or None.")
        if list(video):
            raise MediaError("video= is not supported by this version yet: pass single frames as images=.")
        talk = conversation(question, images=images, audio=audio, system=system, history=history)
        with self._lock:
            self._usable()
            request = self._prompter.build(talk, image_tokens=image_tokens, thinking=thinking, tools=tools)
            return self._run(request, config, settings, began=began, on_token=on_token, stop=stop)

    # --- for readings: attention, lenses, occlusion, scores ----------------------------------------------------------

    def request(self, trace: Trace) -> Request:
        """The prompt of a trace again, ready for a forward pass: the same token ids, or an error.

        Raises:
            Incompatible: The trace is of another model.
            TraceError: The prompt cannot be rebuilt to the same tokens.
        """
        if trace.model.identity != self.info.identity:
            raise Incompatible(
                f"This trace is of {_identity(trace.model)}; this model is {_identity(self.info)}. Load that model, or "
                "ask this one again."
            )
        talk = Conversation(tuple(dict(m) for m in trace.prompt.messages), trace.images, trace.audio)
        with self._lock:
            self._usable()
            request = self._prompter.build(
                talk, image_tokens=trace.settings.image_tokens, thinking=trace.settings.thinking
            )
        if not np.array_equal(request.prompt.ids, trace.prompt.ids):
            raise TraceError(
                f"The trace's prompt of {len(trace.prompt)} tokens cannot be rebuilt: its conversation and media now "
                f"give {len(request.prompt)} tokens"
                + (" (it was asked with tools=, which a trace does not keep)." if len(request.prompt.ids) else ".")
            )
        return request

    # --- inside ------------------------------------------------------------------------------------------------------

    def _usable(self) -> None:
        if self._closed:
            raise ModelError(f"{self.info.name} was unloaded: call workbench.load({self.info.name!r}) again.")

    def _close(self) -> None:
        """Let go of the weights; called by ``workbench.unload``, after any run in progress."""
        with self._lock:
            self._closed = True
            self._prefixes.clear()
            self.transformer = self.drafter = self._engine = self._drafter = None  # type: ignore[assignment]

    def _settings(
        self, *, max_new_tokens: Any, temperature: Any, top_k: Any, top_p: Any, seed: Any, draft: Any, top: Any,
        image_tokens: Any, thinking: Any,
    ) -> tuple[Any, Settings]:  # fmt: skip
        """Check every number, and fill a complete generation configuration."""
        with self._lock:
            self._usable()
            import copy

            config = copy.deepcopy(self.transformer.generation_config)
        _whole("max_new_tokens", max_new_tokens, 1)
        _whole("top", top, 1, min(MOST_TOP, self.transformer.config.get_text_config().vocab_size))
        if seed is not None:
            _whole("seed", seed, 0, 2**63 - 1)
        if draft != "auto":
            _whole("draft", draft, 0, MOST_DRAFTS, also=' or "auto"')
            if draft and self.drafter is None:
                raise ModelError(f"draft={draft}: {self.info.name} was loaded without a drafter. Pass draft=0.")
        if temperature is not None and (not _number(temperature) or not 0 <= temperature <= 100):
            raise PromptError(f"temperature={temperature!r}: expected a number from 0 (greedy) to 100, or None.")
        if top_k is not None:
            _whole("top_k", top_k, 0)
        if top_p is not None and (not _number(top_p) or not 0 < top_p <= 1):
            raise PromptError(f"top_p={top_p!r}: expected a number above 0 and up to 1.0 (off), or None.")
        default = float(config.temperature if config.temperature is not None else 1.0) if config.do_sample else 0.0
        heat = default if temperature is None else float(temperature)
        config.do_sample = heat > 0
        if config.do_sample:
            config.temperature = heat
            config.top_k = int(config.top_k or 0) if top_k is None else int(top_k)
            config.top_p = float(config.top_p or 1.0) if top_p is None else float(top_p)
        else:  # Transformers warns of filters that a greedy run would not use
            config.temperature, config.top_k, config.top_p = 1.0, 50, 1.0
        config.max_new_tokens = int(max_new_tokens)
        config.max_length = None
        return config, Settings(
            max_new_tokens=int(max_new_tokens), temperature=heat,
            top_k=config.top_k if config.do_sample else 0, top_p=config.top_p if config.do_sample else 1.0,
            seed=None if not config.do_sample else int(seed) if seed is not None else secrets.randbits(32),
            draft=draft if self.drafter is not None else 0, top=int(top), image_tokens=image_tokens,
            thinking=bool(thinking),
        )  # fmt: skip

    def _run(
        self, request: Request, config: Any, settings: Settings, *, began: float,
        on_token: Callable[[Token], Any] | None, stop: threading.Event | None, forced: list[int] | None = None,
    ) -> Trace:  # fmt: skip
        T = len(request.prompt)
        if self.context - T < 1:
            raise PromptError(
                f"The prompt has {T:,} tokens; {self.info.name} was loaded with a context of {self.context:,}, prompt "
                "and answer together. Shorten the question or the history, or ask for fewer image_tokens."
            )
        prepared = time.perf_counter()
        room = min(settings.max_new_tokens, self.context - T)
        recorder = Recorder(
            top=settings.top, piece=self._prompter.piece, greedy=settings.temperature == 0, on_token=on_token,
            began=began,
        )  # fmt: skip
        strategy: Plain | Drafted = Plain()
        if self._drafter is not None and settings.draft != 0:
            strategy = Drafted(self._drafter, settings.draft, sampled=settings.temperature > 0)
        run = generate(
            self._engine, request, config, strategy, recorder, seed=settings.seed,
            stopped=stop.is_set if stop is not None else _never, room=room, forced=forced,
        )  # fmt: skip
        rounds = strategy.rounds()
        tokens = recorder.tokens(rounds.draft_ids)
        ended = time.perf_counter()
        finish = "context" if run.finish == "max_new_tokens" and room < settings.max_new_tokens else run.finish
        stopping = finish == "stop_token"
        said = tokens.token_id[: len(tokens) - stopping]
        segments = self._prompter.segments(tokens.token_id, start=T, role="model")
        first = float(tokens.time_s[0]) if len(tokens) else ended - began
        counts = {kind: sum(len(s) for s in request.prompt.segments if s.kind == kind)
                  for kind in ("image", "audio", "video")}  # fmt: skip
        return Trace(
            text=self._words(said, segments, T, "text"),
            thought=self._words(said, segments, T, "thought").removeprefix("thought\n"),
            prompt=request.prompt, tokens=tokens, rounds=rounds, settings=settings, model=self.info,
            usage=Usage(prompt=T, cached=run.cached, generated=len(tokens), **counts),
            timing=Timing(
                prepare_s=prepared - began, prefill_s=run.prefill_s, first_token_s=first,
                decode_s=(float(tokens.time_s[-1]) - first) if len(tokens) else 0.0, total_s=ended - began,
            ),
            finish=finish, segments=segments, images=request.images, audio=request.audio,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )  # fmt: skip

    def _words(self, said: np.ndarray, segments: Sequence[Segment], start: int, kind: str) -> str:
        parts = [said[s.start - start : s.stop - start] for s in segments if s.kind == kind]
        return "".join(self._prompter.decode(ids.tolist()) for ids in parts)


def _never() -> bool:
    return False


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _whole(name: str, value: Any, low: int, high: int | None = None, also: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low or (high and value > high):
        limits = f"from {low} to {high:,}" if high else f"of {low} or more"
        raise PromptError(f"{name}={value!r}: expected a whole number {limits}{also}.")


def _identity(info: ModelInfo) -> str:
    return f"{info.variant} (revision {info.revision}, {info.quantization}, weights {info.weights_hash[:12]})"
