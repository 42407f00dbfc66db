"""The traced loop: every token drawn exactly as Transformers draws it, and everything written down.

It runs inside ``transformer.generate(custom_generate=…)``: logits processors, their order and the generation
configuration are Transformers' own, so seed for seed the tokens are those of a plain ``generate`` on the
mask-corrected model. The forward passes are called without the bookkeeping of ``generate``, which on a small model is
most of the time.

The pass over the prompt starts behind the longest prefix the :class:`~workbench.cache.PrefixCache` knows.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench import masks
from workbench.cache import PrefixCache, hooks_of, narrow, rewound, weights_of
from workbench.errors import ModelError
from workbench.finite import NotFinite, check, culprit, refusal
from workbench.prompt import Request
from workbench.recording import Recorder
from workbench.trace import Rounds

if TYPE_CHECKING:
    import torch

__all__ = ["Engine", "Forced", "Plain", "Run", "force", "generate"]

_ROWS = 64  # of forced tokens whose logits are there at once


@dataclass(eq=False)
class Run:
    """One run's state, as its strategy (plain or drafted) sees it.

    Attributes:
        ids: Prompt and answer so far.
        cache: Keys and values of all ``ids`` but the last.
        hidden: (1, hidden size) last hidden state of the row that predicted the next token.
        forced: What the answer must begin with.
        whole: Run over all of the prompt, and keep its last hidden states in ``prompt_rows``, (T, hidden size).
        forced_rows: (n, hidden size) those that predicted the forced tokens.
    """

    request: Request
    recorder: Recorder
    processors: Any
    stops: frozenset[int]
    room: int
    sample: bool
    generator: torch.Generator | None
    stopped: Callable[[], bool]
    forced: list[int]
    ids: torch.Tensor
    cache: Any = None
    hidden: Any = None
    whole: bool = False
    prompt_rows: Any = None
    forced_rows: Any = None
    cached: int = 0
    prefill_s: float = 0.0
    finish: str = ""
    generated: list[int] = field(default_factory=list)

    def draw(self, logits: torch.Tensor) -> tuple[int, Any]:
        """Choose the next token from one row of logits, in order, as ``generate`` would; does not emit it.

        Args:
            logits: (1, V) float32, the model's own.

        Returns:
            The token, and the processed logits (1, V) it was drawn from.

        Raises:
            NotFinite: There is nothing to choose from.
        """
        import torch

        check(logits)
        scores = self.processors(self.ids, logits)
        if self.sample:
            probabilities = torch.softmax(scores, dim=-1)
            return int(torch.multinomial(probabilities, 1, generator=self.generator)), scores
        return int(scores.argmax(dim=-1)), scores

    def emit(self, token: int, logits: torch.Tensor, scores: torch.Tensor, source: str, round_: int = -1) -> bool:
        """Write a token down. Returns whether the run ends with it."""
        import torch

        self.generated.append(token)
        self.ids = torch.cat([self.ids, torch.tensor([[token]], device=self.ids.device)], dim=1)
        self.recorder.add(token, logits, scores, source, round_)
        if token in self.stops and source != "forced":
            self.finish = "stop_token"
        elif len(self.generated) >= self.room:
            self.finish = "max_new_tokens"
        elif self.stopped():
            self.finish = "stopped"
        return bool(self.finish)


class Engine:
    """Forward passes of one Transformers model: over a prompt, and over the next rows.

    Args:
        transformer: A Gemma 4 ``…ForConditionalGeneration``, masks corrected.
        prefixes: Where to look for and keep prompts.
    """

    def __init__(self, transformer: Any, prefixes: PrefixCache) -> None:
        self.transformer = transformer
        self.prefixes = prefixes
        text = transformer.config.get_text_config()
        self.window = int(text.sliding_window or 0)
        self.cap = text.final_logit_softcapping
        self.bidirectional = masks.both_ways(transformer)
        # Straight to the decoder where nothing but embeddings and layers lies between; other members of the family
        # have inputs per layer, which their own forward prepares.
        self.direct = transformer.config.model_type == "gemma4_unified"
        self._open = {"full_attention": None, "sliding_attention": None}
        self._pad = text.pad_token_id
        ids = (getattr(transformer.config, f"{kind}_token_id", None) for kind in ("image", "audio", "video"))
        self._soft = frozenset(i for i in ids if i is not None)
        self._hooks, self._weights = hooks_of(transformer), weights_of(transformer)
        self._made = self._weights[1]

    def check(self) -> None:
        """Refuse to run under another attention implementation: other ones read the masks made for this one otherwise.

        Raises:
            ModelError: ``transformer.set_attn_implementation`` was called.
        """
        now = self.transformer.config.get_text_config()._attn_implementation  # noqa: SLF001 (there is no other way to ask)
        if now != "sdpa":
            raise ModelError(
                f"model.transformer was set to attention {now!r}; the workbench's own passes need 'sdpa'. Set it back: "
                "model.transformer.set_attn_implementation('sdpa')"
            )

    def look(self) -> None:
        """Look at the weights; when one has changed, what is kept of prompts goes."""
        weights = weights_of(self.transformer)
        if weights != self._weights:
            self.prefixes.clear()
            self._weights = weights

    @property
    def changed(self) -> str:
        """Of weights that were not what was loaded when they were last looked at: a hash; else nothing."""
        now = self._weights[1]
        return "" if now == self._made else hashlib.sha256(repr(now).encode()).hexdigest()

    def _known(self) -> PrefixCache | None:
        """What is kept of prompts, if it is of the model as it is now: no hook came onto it, and no weight changed."""
        self.look()
        return self.prefixes if hooks_of(self.transformer) == self._hooks else None

    def said(self, tokens: Iterable[int]) -> list[int]:
        """Token ids of an answer as the model is given them.

        A media token that a model says itself stands for no patch and no frame: Transformers embeds padding there.
        """
        return [self._pad if token in self._soft else int(token) for token in tokens]

    def prefill(self, run: Run) -> torch.Tensor:
        """The pass over the prompt, from behind the longest known prefix on.

        Returns:
            (1, V) float32 logits of the first generated token; ``run.cache`` and ``run.hidden`` are set.
        """
        from transformers import DynamicCache

        began = time.perf_counter()
        request, device = run.request, self.transformer.device
        ids = request.prompt.ids
        T = len(ids)
        known = self._known()
        start, cache = (0, None) if run.whole or known is None else known.longest(ids, request.features)
        if cache is None:
            cache = DynamicCache(config=self.transformer.config.get_text_config())
        media_end = max((f.stop + 1 for f in request.features), default=0)
        behind_media = start < media_end < T and known is not None
        with narrow(cache, media_end if behind_media else None) as at_media_end:
            rows = self._rows(
                request.ids[:, start:].to(device),
                start,
                cache,
                masks.build(request.type_ids.to(device), self.window, start=start, bidirectional=self.bidirectional),
                {k: v.to(device) for k, v in request.media_inputs(start).items()},
                request.type_ids[:, start:].to(device),
            )
        if known is not None:
            if behind_media:
                known.add(ids[:media_end], request.features, at_media_end())
            known.add(ids, request.features, rewound(cache, 0))
        run.cache, run.hidden, run.cached = cache, rows[:, -1], start
        run.prompt_rows = rows[0] if run.whole else None
        logits = self.logits(rows[:, -1])
        self.wait()
        run.prefill_s = time.perf_counter() - began
        return logits

    def step(self, token: int, position: int, cache: Any) -> torch.Tensor:
        """One token after the cache. Returns its last hidden state, (1, hidden size)."""
        import torch

        ids = torch.tensor([self.said([token])], device=self.transformer.device)
        return self._rows(ids, position, cache, self._open, {}, None)[:, -1]

    def rows(self, tokens: list[int], start: int, cache: Any) -> torch.Tensor:
        """Several tokens after the cache at once. Returns their last hidden states, (rows, hidden size)."""
        import torch

        device = self.transformer.device
        types = torch.zeros((1, start + len(tokens)), dtype=torch.long, device=device)
        mask = masks.build(types, self.window, start=start, bidirectional=False)
        return self._rows(torch.tensor([self.said(tokens)], device=device), start, cache, mask, {}, None)[0]

    def wait(self) -> None:
        """Until the device has done what it was told: for clocks."""
        import torch

        kind = self.transformer.device.type
        if kind in ("cuda", "mps", "xpu"):
            getattr(torch, kind).synchronize()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, hidden size) last hidden states to (n, V) float32 logits, soft-capped."""
        import torch

        out = self.transformer.lm_head(hidden)
        if self.cap is not None:  # in the model's own type and order of operations, as its forward does
            out = torch.tanh(out / self.cap) * self.cap
        return out.float()

    def _rows(
        self, ids: Any, start: int, cache: Any, mask: dict[str, Any], media: dict[str, Any], types: Any
    ) -> torch.Tensor:
        import torch

        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        if self.direct and not media:
            return self.transformer.model.language_model(input_ids=ids, **given).last_hidden_state
        return self.transformer.model(input_ids=ids, mm_token_type_ids=types, **given, **media).last_hidden_state

    def refuse(self, run: Run) -> ModelError:
        """Why a run whose logits are not finite ends: one more pass over its tokens, every layer watched."""
        import torch
        from transformers import DynamicCache

        self.prefixes.clear()  # what was computed in this run may be wrong too
        device = self.transformer.device
        types = torch.nn.functional.pad(run.request.type_ids, (0, len(run.generated))).to(device)
        media = {k: v.to(device) for k, v in run.request.media_inputs(0).items()}

        def again() -> None:
            cache = DynamicCache(config=self.transformer.config.get_text_config())
            mask = masks.build(types, self.window, bidirectional=self.bidirectional)
            ids = torch.cat([run.request.ids, torch.tensor([self.said(run.generated)], dtype=torch.long)], dim=1)
            self.logits(self._rows(ids.to(device), 0, cache, mask, media, types)[:, -1])

        return refusal(culprit(self.transformer, again), len(run.generated))


class Plain:
    """One token after another."""

    def __call__(self, engine: Engine, run: Run, logits: torch.Tensor) -> None:
        """Go on from the prompt's logits until something ends the run."""
        started = force(engine, run, logits)
        if started is None:
            return
        logits = started
        token, scores = run.draw(logits)
        while not run.emit(token, logits, scores, "plain"):
            run.hidden = engine.step(token, run.ids.shape[1] - 1, run.cache)
            logits = engine.logits(run.hidden)
            token, scores = run.draw(logits)

    def rounds(self) -> Rounds:
        """None: nothing is drafted."""
        return Rounds.none()


class Forced:
    """The forced tokens and nothing after them."""

    def __call__(self, engine: Engine, run: Run, logits: torch.Tensor) -> None:
        """Run over the forced tokens."""
        force(engine, run, logits)
        run.finish = "scored"

    def rounds(self) -> Rounds:
        """None: nothing is drafted."""
        return Rounds.none()


def force(engine: Engine, run: Run, logits: torch.Tensor) -> torch.Tensor | None:
    """Emit the tokens the answer must begin with, in one pass over them.

    A draw is made and dropped for each, so that a sampled run that is forced along its own tokens goes on as it did.

    Args:
        logits: (1, V) that predict the first of them.

    Returns:
        (1, V) logits of the next token; None where the run ended within.
    """
    import torch

    tokens, run.forced = run.forced, []
    if not tokens:
        return logits
    hidden = engine.rows(tokens, run.ids.shape[1], run.cache)
    run.forced_rows = torch.cat([run.hidden, hidden[:-1]])
    after = hidden[:0]  # logits of some rows at a time: of 12B, each is a megabyte
    for i, token in enumerate(tokens):
        _, scores = run.draw(logits)
        ended = run.emit(token, logits, scores, "forced")
        if i == len(tokens) - 1 and token in run.stops:  # before all else that ends it here, as in emit
            run.finish, ended = "stop_token", True
        if ended:
            return None
        if i % _ROWS == 0:
            after = engine.logits(hidden[i : i + _ROWS])
        logits = after[i % _ROWS : i % _ROWS + 1]
    run.hidden = hidden[-1:]
    return logits


def _chain(processors: Any) -> Callable[[Any, Any], Any]:
    """Transformers' logits processors in their order, without its look at each one's signature at every token."""
    if any(len(inspect.signature(p.__call__).parameters) > 2 for p in processors):
        return processors  # the list itself says what such a processor lacks

    def run(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for processor in processors:
            scores = processor(ids, scores)
        return scores

    return run


def generate(
    engine: Engine,
    request: Request,
    config: Any,
    strategy: Any,
    recorder: Recorder,
    *,
    seed: int | None,
    stopped: Callable[[], bool],
    room: int,
    forced: list[int] | None = None,
    whole: bool = False,
) -> Run:
    """Run a request to its end, through Transformers' ``generate``.

    Args:
        config: A complete ``GenerationConfig``.
        strategy: :class:`Plain`, or drafting's.
        recorder: Takes every token; its callback may raise, which ends the run.
        seed: For sampling; the draws are those of ``torch.manual_seed(seed)`` before a plain ``generate``.
        stopped: Asked between two tokens.
        room: Tokens that may be generated.
        forced: Tokens the answer must begin with.
        whole: See :class:`Run`.
    """
    import torch

    runs: list[Run] = []

    def loop(_model: Any, input_ids: torch.Tensor, logits_processor: Any, generation_config: Any, **_: Any) -> Any:
        generator = None
        if generation_config.do_sample:
            generator = torch.Generator(device=input_ids.device)
            generator.manual_seed(int(seed or 0))
        ends = generation_config._eos_token_tensor  # noqa: SLF001 (Transformers' own prepared list)
        run = Run(
            request=request, recorder=recorder, processors=_chain(logits_processor),
            stops=frozenset(() if ends is None else ends.tolist()), room=room,
            sample=generation_config.do_sample, generator=generator, stopped=stopped, forced=list(forced or ()),
            ids=input_ids, whole=whole,
        )  # fmt: skip
        runs.append(run)
        if stopped():
            run.finish = "stopped"
            return input_ids
        try:
            logits = engine.prefill(run)
            strategy(engine, run, logits)
        except NotFinite:
            raise engine.refuse(run) from None
        return run.ids

    with torch.inference_mode():
        ids = request.ids.to(engine.transformer.device)
        engine.transformer.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=config, custom_generate=loop
        )
    recorder.flush()
    return runs[0]
