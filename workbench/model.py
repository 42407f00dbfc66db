"""A loaded model: what ``workbench.load`` returns, and how it is asked."""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from workbench import videos
from workbench.cache import PrefixCache
from workbench.decoding import Engine, Forced, Plain, Run, generate
from workbench.drafting import Drafted, Drafter
from workbench.errors import Incompatible, ModelError, PromptError, TraceError
from workbench.features import senses_of
from workbench.inspecting import Inspecting, check_calls, check_media
from workbench.prompt import Conversation, Prompter, Request, conversation, listed
from workbench.recording import Recorder
from workbench.scoring import (
    UNASKED,
    begun_with,
    check_same_words,
    completion_ids,
    forced_by,
    held,
    prompt_logprobs,
    room_for,
    with_reference,
)
from workbench.settings import changed, configure, filled
from workbench.shortage import within
from workbench.toolcalls import Call
from workbench.tools import Desk, turns_of
from workbench.trace import ModelInfo, Segment, Settings, Timing, Token, Trace, Usage

__all__ = ["LoadedModel"]

_LABEL = re.compile(r"\Athought(\n|\Z)")  # how the model names the channel of its thoughts


class LoadedModel(Inspecting):
    """A model, its processor and its drafter, ready to be asked. Made by :func:`workbench.load`.

    One call at a time touches it; a second one waits.

    Attributes:
        transformer: The Transformers model beneath, mask correction in place.
        processor: Its processor.
        drafter: The Transformers assistant model, or None.
        info: What exactly was loaded; copied into every trace. A run of weights that were changed since has another
            ``weights_hash``, so that it is not taken for one of the model as it was.
        context: Tokens that prompt and answer may fill together.
    """

    def __init__(
        self, transformer: Any, processor: Any, info: ModelInfo, *, drafter: Any = None, context: int | None = None,
        kept_most: int = 1 << 28,
    ) -> None:  # fmt: skip
        videos.correct(transformer)
        self.transformer = transformer
        self.processor = processor
        self.drafter = drafter
        self.info = info
        self.context = context or info.context
        self._lock = threading.RLock()
        self._prompter = Prompter(processor, senses=senses_of(transformer.config))
        self._prefixes = PrefixCache(kept_most)
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
        question: str | None,
        *,
        images: Iterable[Any] = (),
        audio: Iterable[Any] = (),
        video: Iterable[Any] = (),
        system: str | None = None,
        history: Trace | Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] = (),
        run_tools: bool | Callable[[Call], bool] = False,
        tool_rounds: int = 8,
        on_round: Callable[[Trace], Any] | None = None,
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
        """Ask a question, with pictures, sounds and videos, and record everything about the answer.

            trace = model.ask("What is at the top left?", images=["scene.png"])
            trace.text

        Args:
            question: What you want to know; None where ``history`` ends with it. Control tokens (``<turn|>``) are text.
            images: Each a path, bytes, file, PIL image or array (see ``workbench.media.load_image``).
            audio: Each a path, bytes, file or ``(samples, rate)``; at most 30 s each are heard.
            video: Each a path, bytes, file or ``(frames, fps)``; 32 frames of each are seen, evenly spread (see
                ``workbench.media.load_video``).
            system: The system turn.
            history: The conversation so far: a Trace to go on from, or messages (see
                ``workbench.prompt.conversation``). Images of earlier turns come first in the trace's numbering.
            tools: Functions or JSON schemas for the chat template. What the answer calls is in ``trace.calls``.
            run_tools: Which calls of functions in ``tools`` are run: False for none, True for all, or a function of one
                :class:`~workbench.toolcalls.Call` that returns True for those to run. The results go back to the model,
                failures too, until it answers without a call.
            tool_rounds: At most so many times; the answer is then returned with its calls.
            on_round: Called with the trace of each round whose calls were run; the one returned is the last.
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
        settings = filled(
            **self._limits(), max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            seed=seed, draft=draft, top=top, image_tokens=image_tokens, thinking=thinking,
        )  # fmt: skip
        check_calls(stop, on_token=on_token, on_round=on_round)
        desk = Desk(tools, run_tools, tool_rounds)
        talk = conversation(question, images=images, audio=audio, video=video, system=system, history=history)
        while True:
            with self._lock:
                self._usable()
                request = self._prompter.build(talk, image_tokens=image_tokens, thinking=thinking, tools=desk.tools)
                trace = self._run(request, settings, began=began, on_token=on_token, stop=stop)[0]
            results = desk.answer(trace.calls) if trace.finish == "stop_token" else None
            if results is None:
                return trace
            if on_round is not None:
                on_round(trace)
            talk = replace(talk, messages=(*talk.messages, *turns_of(trace.text, trace.thought, results)))
            began = time.perf_counter()

    def score(
        self,
        asked: Trace | str | Sequence[Mapping[str, Any]],
        completion: str | Sequence[int] | None = None,
        *,
        reference: LoadedModel | None = None,
        images: Iterable[Any] = (),
        audio: Iterable[Any] = (),
        video: Iterable[Any] = (),
        system: str | None = None,
        top: int = 20,
    ) -> Trace:
        """How probable a given answer is: every token of it, and of the prompt, given those before.

            trace = model.score("What is at the top left?", "A red circle.", images=["scene.png"])
            trace.tokens.logprob.sum()

        Args:
            asked: A trace (its prompt, and its answer unless ``completion`` is given; the trace may be another model's
                of the same vocabulary and chat template), a question, or messages.
            completion: The text to score, or token ids; of text, no end of turn is added.
            reference: Another model of the same vocabulary: adds the exact KL to it at every token, which
                ``workbench.compare`` uses (``trace.readings["reference"]``).
            images, audio, video, system: With a question or messages, as for :meth:`ask`; they stand at the head of
                the user's turn that the messages end with.
            top: How many alternatives to record.

        Returns:
            A trace whose tokens all have the source ``forced``, finish ``scored``, with ``prompt.logprob``.

        Raises:
            PromptError, MediaError, TraceError: Something passed cannot be used.
            Incompatible: The trace, or the reference, is of another vocabulary or chat template.
        """
        began = time.perf_counter()
        if reference is not None:
            check_same_words(self, reference)
        what: Trace | Conversation
        if isinstance(asked, Trace):
            if system is not None or any(map(listed, (images, audio, video), ("image", "audio", "video"))):
                raise PromptError("images=, audio=, video= and system= go with a question; a trace has its own.")
            what, before = asked, asked.settings
        else:
            if completion is None:
                raise PromptError("score of a question needs completion=: the answer to score.")
            before = UNASKED
            if isinstance(asked, Mapping) or not isinstance(asked, (str, Iterable)):
                raise PromptError(
                    f"score of {type(asked).__name__}: expected a trace, a question or a list of messages."
                )
            question, history = (asked, None) if isinstance(asked, str) else (None, asked)
            what = conversation(question, images=images, audio=audio, video=video, system=system, history=history)
        ids = completion_ids(self._prompter, completion, of=asked if isinstance(asked, Trace) else None)
        changes = {"draft": 0, "top": top, "max_new_tokens": len(ids), "seed": before.seed or 0}
        settings = changed(before, changes, **self._limits())
        with held(self, reference):
            trace, run = self._along(what, settings, ids, began)
            trace = replace(trace, prompt=replace(trace.prompt, logprob=prompt_logprobs(self._engine, run)))
            if reference is not None:
                _, other = reference._along(trace, settings, ids, began)  # noqa: SLF001 (its own class)
                theirs = (reference._engine, other)  # noqa: SLF001
                trace = with_reference(trace, (self._engine, run), theirs, reference)
        return trace

    def _along(self, what: Trace | Conversation, settings: Settings, ids: list[int], began: float) -> tuple[Trace, Run]:
        with self._lock:
            self._usable()
            if isinstance(what, Conversation):
                request = self._prompter.build(what)
            else:
                request = self.request(what, same_model=False)
            return self._run(request, settings, began=began, forced=ids, score=True)

    def branch(
        self, trace: Trace, at: int, token: str | int, *, on_token: Callable[[Token], Any] | None = None,
        stop: threading.Event | None = None, **changes: Any,
    ) -> Trace:  # fmt: skip
        """The same prompt, the answer up to ``at``, another token there, and what the model says then.

            other = model.branch(trace, at=1, token=" blue")

        Args:
            trace: A run of this model.
            at: Index of the generated token whose place is taken.
            token: A token id, or a text; a text of several tokens forces them all. A token that ends a turn ends the
                answer.
            on_token, stop: As for :meth:`ask`.
            changes: Settings that differ from the trace's: ``max_new_tokens, temperature, top_k, top_p, seed, draft,
                top``. With none, forcing a sampled run's own token gives the same run again.

        Returns:
            A trace of the same prompt; tokens up to the last forced one have the source ``forced``.

        Raises:
            TraceError, PromptError: There is no such place, token or setting.
            Incompatible: The trace is of another model.
        """
        began = time.perf_counter()
        check_calls(stop, on_token=on_token)
        forced = forced_by(self._prompter, trace, at, token)
        settings = changed(trace.settings, changes, scored=trace.finish == "scored", **self._limits())
        room_for(forced, settings, at, token)
        with self._lock:
            request = self.request(trace)
            return self._run(request, settings, began=began, on_token=on_token, stop=stop, forced=forced)[0]

    def again(self, trace: Trace, *, forced: Sequence[int] = (), **changes: Any) -> Trace:
        """The same request once more, with some settings changed.

        Args:
            trace: A run of this model.
            forced: Token ids that the answer begins with; control tokens among them, but none that stands for media.
            changes: As for :meth:`branch`.

        Returns:
            The new run.

        Raises:
            TraceError, PromptError, Incompatible: As for :meth:`branch`.
        """
        began = time.perf_counter()
        ids = begun_with(self._prompter, trace, forced)
        settings = changed(trace.settings, changes, scored=trace.finish == "scored", **self._limits())
        with self._lock:
            return self._run(self.request(trace), settings, began=began, forced=ids)[0]

    def behind_prompt(self, trace: Trace) -> tuple[Any, Any, int]:
        """A cache of a trace's prompt, free to be extended, the last hidden state (1, hidden size), and its length."""
        with self._lock:
            settings = replace(trace.settings, max_new_tokens=1, draft=0)
            run = self._run(self.request(trace), settings, began=time.perf_counter())[1]
            return run.cache, run.hidden, len(run.request.prompt)

    # --- for readings: attention, lenses, occlusion, scores ----------------------------------------------------------

    def request(self, trace: Trace, *, same_model: bool = True) -> Request:
        """The prompt of a trace again, ready for a forward pass: the same token ids, or an error.

        Args:
            trace: A run.
            same_model: Refuse a run of another model; otherwise one of another vocabulary or chat template.

        Returns:
            Token ids, positions and media as tensors (``workbench.prompt.Request``).

        Raises:
            Incompatible: The trace is of another model.
            TraceError: The prompt cannot be rebuilt to the same tokens.
        """
        if not isinstance(trace, Trace):
            raise TraceError(f"{type(trace).__name__} {trace!r:.60} is no Trace.")
        words = (trace.model.vocab_hash, trace.model.chat_template_hash)
        if not same_model and words != (self.info.vocab_hash, self.info.chat_template_hash):
            raise Incompatible(
                f"This trace is of {trace.model.variant}; {self.info.variant} has another vocabulary or chat template."
            )
        with self._lock:
            self._usable()
            self._engine.look()
            now = self._now()
        if same_model and trace.model.identity != now.identity:
            raise Incompatible(
                f"This trace is of {trace.model.named}; this model is {now.named}"
                f"{', its weights changed since they were loaded' if now is not self.info else ''}. Load that model, "
                "or ask this one again."
            )
        check_media(trace)
        talk = Conversation(tuple(dict(m) for m in trace.prompt.messages), trace.images, trace.audio, trace.video)
        with self._lock:
            request = self._prompter.build(
                talk, image_tokens=trace.settings.image_tokens, thinking=trace.settings.thinking,
                tools=trace.prompt.tools,
            )  # fmt: skip
        if not np.array_equal(request.prompt.ids, trace.prompt.ids):
            raise TraceError(
                f"The trace's prompt of {len(trace.prompt)} tokens cannot be rebuilt: its conversation and media now "
                f"give {len(request.prompt)} tokens. Its file was edited, or it is of another release of Transformers."
            )
        return request

    # --- inside ------------------------------------------------------------------------------------------------------

    def _usable(self) -> None:
        if self._closed:
            raise ModelError(f"{self.info.name} was unloaded: call workbench.load({self.info.name!r}) again.")
        self._engine.check()

    def forget(self) -> None:
        """Let go of what is kept of earlier prompts, so that the next one is computed from its start.

        Call it after a change that nobody sees: of what a module only points to, as its ``config``, or of a few numbers
        of a large weight through ``.data``. Under a hook nothing is kept or used; when a weight changes, all goes.
        """
        with self._lock:
            self._prefixes.clear()

    def _close(self) -> None:
        """Let go of the weights; called by ``workbench.unload``, after any run in progress."""
        with self._lock:
            self._closed = True
            self._prefixes.clear()
            self._prompter.reader.clear()
            self.transformer = self.drafter = self._engine = self._drafter = None  # type: ignore[assignment]

    def _limits(self) -> dict[str, Any]:
        """What settings are checked against and filled from."""
        with self._lock:
            self._usable()
            return {
                "defaults": self.transformer.generation_config, "drafter": self.drafter is not None,
                "vocabulary": int(self.transformer.config.get_text_config().vocab_size),
            }  # fmt: skip

    def _run(
        self, request: Request, settings: Settings, *, began: float, on_token: Callable[[Token], Any] | None = None,
        stop: threading.Event | None = None, forced: list[int] | None = None, score: bool = False,
    ) -> tuple[Trace, Run]:  # fmt: skip
        """Run a request to its end; ``score``: along the forced tokens only, all of the prompt computed."""
        T = len(request.prompt)
        if self.context - T < 1:
            raise PromptError(
                f"The prompt has {T:,} tokens; {self.info.name} was loaded with a context of {self.context:,}, prompt "
                "and answer together. Shorten the question or the history, or ask for fewer image_tokens."
            )
        prepared = time.perf_counter()
        if T + len(forced or ()) > self.context:
            raise PromptError(
                f"{T:,} tokens of prompt and {len(forced or ()):,} of the answer given do not go into a context of "
                f"{self.context:,}. Shorten one of them, or load with context=."
            )
        room = min(settings.max_new_tokens, self.context - T)
        recorder = Recorder(
            top=settings.top, piece=self._prompter.piece, greedy=settings.temperature == 0, on_token=on_token,
            began=began,
        )  # fmt: skip
        strategy: Plain | Forced | Drafted = Forced() if score else Plain()
        if self._drafter is not None and settings.draft != 0:
            strategy = Drafted(self._drafter, settings.draft, sampled=settings.temperature > 0)
        config = configure(self.transformer.generation_config, settings)
        run = within(self, f"a prompt of {T:,} tokens and its answer", lambda: generate(
            self._engine, request, config, strategy, recorder, seed=settings.seed,
            stopped=stop.is_set if stop is not None else bool, room=room, forced=forced, whole=score,  # bool(): False
        ))  # fmt: skip
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
        trace = Trace(
            text=self._words(said, segments, T, "text"),
            thought=self._words(said, segments, T, "thought"),
            prompt=request.prompt, tokens=tokens, rounds=rounds, settings=settings, model=self._now(),
            usage=Usage(prompt=T, cached=run.cached, generated=len(tokens), **counts),
            timing=Timing(
                prepare_s=prepared - began, prefill_s=run.prefill_s, first_token_s=first,
                decode_s=(float(tokens.time_s[-1]) - first) if len(tokens) else 0.0, total_s=ended - began,
            ),
            finish=finish, segments=segments, images=request.images, audio=request.audio, video=request.video,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        return trace, run

    def _now(self) -> ModelInfo:
        """What runs: ``info``, with another hash of weights that were changed since they were loaded."""
        changed = self._engine.changed
        return replace(self.info, weights_hash=changed) if changed else self.info

    def _words(self, said: np.ndarray, segments: Sequence[Segment], start: int, kind: str) -> str:
        parts = [
            self._prompter.decode(said[s.start - start : s.stop - start].tolist()) for s in segments if s.kind == kind
        ]
        return "".join(parts) if kind == "text" else "\n".join(_LABEL.sub("", part) for part in parts)
