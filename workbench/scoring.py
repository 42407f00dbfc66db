"""Runs along given tokens: how probable a text was, how far two models differ on it, other continuations, and time.

The logic behind ``LoadedModel.score``, ``branch`` and ``speedup``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cache import crop, keep_all
from workbench.decoding import Engine, Run
from workbench.drafting import Drafter
from workbench.errors import Incompatible, PromptError, TraceError
from workbench.flight import Speedup
from workbench.trace import SOURCES, Settings, Trace
from workbench.turns import sound_text

if TYPE_CHECKING:
    import torch

__all__ = [
    "UNASKED",
    "begun_with",
    "check_same_words",
    "completion_ids",
    "divergence",
    "forced_by",
    "held",
    "measure",
    "one_word",
    "prompt_logprobs",
    "room_for",
    "with_reference",
]

UNASKED = Settings(
    max_new_tokens=1, temperature=1.0, top_k=0, top_p=1.0, seed=0, draft=0, top=20, image_tokens=None
)  # fmt: skip
"""Of a question that is scored: its answer was never sampled, so the filters are off."""

_ROWS = 64  # rows of logits held at once


@contextmanager
def held(*models: Any) -> Iterator[None]:
    """Keep some models (None is none) to one thread, taken in one order: two that want the same two wait in turn."""
    with ExitStack() as stack:
        for model in sorted({m for m in models if m is not None}, key=id):
            stack.enter_context(model._lock)  # noqa: SLF001 (what a loaded model is held by)
        yield


def completion_ids(prompter: Any, completion: Any, name: str = "completion", *, of: Trace | None = None) -> list[int]:
    """Token ids of a completion: a text, or ids already.

    Args:
        prompter: Of the model.
        completion: As :meth:`LoadedModel.score` takes it.
        name: What to call it.
        of: Where ``completion`` is None, its answer is taken, media tokens that the model may have said included.

    Raises:
        PromptError: It is empty, or neither, or holds a token that stands for a patch or frame.
    """
    soft = set(prompter.media_ids.values())
    if completion is None and of is not None:
        completion, soft = of.tokens.token_id, set()
    if isinstance(completion, str):
        ids = prompter.encode(sound_text(f"{name}=", completion))
    elif isinstance(completion, (Sequence, np.ndarray)) and all(
        isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in completion
    ):
        ids = [int(i) for i in completion]
        most = len(prompter.tokenizer)
        wrong = [i for i in ids if not 0 <= i < most]
        if wrong:
            raise PromptError(f"{name}= holds token id {wrong[0]}; this vocabulary has {most} tokens.")
        if media := soft.intersection(ids):
            raise PromptError(
                f"{name}= holds {prompter.piece(min(media))}, which stands for a patch or frame and is no word of an "
                "answer. Choose another token."
            )
    else:
        raise PromptError(f"{name}={completion!r}: expected a text, or token ids.")
    if not ids:
        raise PromptError(f"{name}= is empty: expected at least one token.")
    return ids


def forced_by(prompter: Any, trace: Trace, at: Any, token: Any) -> list[int]:
    """What an answer must begin with that takes ``token`` at place ``at`` of a trace's answer.

    Args:
        prompter: Of the model.
        trace: The run to part from.
        at: Index of the generated token to replace, from 0.
        token: A token id, or a text (its tokens, if it is several).

    Raises:
        TraceError: No such place.
        PromptError: No such token, or one that stands for a patch or frame.
    """
    if not isinstance(trace, Trace):
        raise TraceError(f"{type(trace).__name__} {trace!r:.60} is no Trace.")
    n = len(trace.tokens)
    if isinstance(at, bool) or not isinstance(at, (int, np.integer)) or not 0 <= at < n:
        raise TraceError(
            f"at={at!r}: this answer has {n} tokens, counted from 0; a branch takes the place of one of them "
            "(tokens of the prompt cannot be replaced: ask another question)."
        )
    if isinstance(token, str) and token in prompter.control.values():
        token = next(i for i, t in prompter.control.items() if t == token)
    if isinstance(token, (int, np.integer)) and not isinstance(token, bool):
        token = [token]
    return [*trace.tokens.token_id[:at].tolist(), *completion_ids(prompter, token, "token")]


def one_word(prompter: Any, word: Any, name: str) -> tuple[int, str] | None:
    """Id and piece of a word that is one token; None is None.

    Raises:
        PromptError: There is no such token, or the text is several.
    """
    if word is None:
        return None
    ids = completion_ids(prompter, [word] if isinstance(word, (int, np.integer)) else word, name)
    if len(ids) > 1:
        pieces = " · ".join(prompter.piece(i) for i in ids)
        raise PromptError(f"{name}={word!r} is {len(ids)} tokens ({pieces}): name one, or its id.")
    return ids[0], prompter.piece(ids[0])


def begun_with(prompter: Any, trace: Trace, forced: Any) -> list[int]:
    """Token ids that an answer to a trace's prompt is to begin with; none is fine.

    Raises:
        TraceError: It is no trace.
        PromptError: They are no token ids, or one stands for a patch or frame.
    """
    if not isinstance(trace, Trace):
        raise TraceError(f"{type(trace).__name__} {trace!r:.60} is no Trace.")
    if isinstance(forced, str) or not isinstance(forced, Iterable):
        raise PromptError(f"forced={forced!r:.60}: expected token ids.")
    ids = list(forced)
    return completion_ids(prompter, ids, "forced") if ids else []


def room_for(forced: list[int], settings: Settings, at: int, token: Any) -> None:
    """Refuse a branch whose settings end it before its own token.

    Raises:
        PromptError: They do.
    """
    if len(forced) > settings.max_new_tokens:
        raise PromptError(
            f"max_new_tokens={settings.max_new_tokens}: the answer up to at={at} and {token!r} are {len(forced)} "
            "tokens."
        )


def prompt_logprobs(engine: Engine, run: Run) -> np.ndarray:
    """(T,) float32 logprobs in nats of the prompt's tokens, each given those before it; the first is NaN.

    Soft tokens of media are placeholders to the head: theirs are NaN too.
    """
    import torch

    ids = run.request.ids[0].to(run.prompt_rows.device)
    out = torch.full((len(ids),), torch.nan)
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, _ROWS):
            stop = min(start + _ROWS, len(ids) - 1)
            logprob = engine.logits(run.prompt_rows[start:stop]).log_softmax(dim=-1)
            out[start + 1 : stop + 1] = logprob.gather(1, ids[start + 1 : stop + 1, None])[:, 0].cpu()
    out[run.request.type_ids[0] != 0] = torch.nan
    return out.numpy()


def divergence(mine: tuple[Engine, Run], theirs: tuple[Engine, Run], ids: list[int]) -> dict[str, np.ndarray]:
    """Two models on the same tokens, from all of their logits.

    Args:
        mine, theirs: The engines, and their runs over the same forced tokens.
        ids: Those tokens.

    Returns:
        ``kl`` (N,): KL(mine ‖ theirs) in nats; ``logprob`` (N,): of each token under theirs; ``agree`` (N,): whether
        both have the same first choice.
    """
    import torch

    parts: dict[str, list[Any]] = {"kl": [], "logprob": [], "agree": []}
    with torch.inference_mode():
        for start in range(0, len(ids), _ROWS):
            here = slice(start, start + _ROWS)
            p, q = (_logprobs(engine, run.forced_rows[here]) for engine, run in (mine, theirs))
            token = torch.tensor(ids[here])[:, None]
            parts["kl"].append(torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(dim=-1))
            parts["logprob"].append(q.gather(1, token)[:, 0])
            parts["agree"].append(p.argmax(dim=-1) == q.argmax(dim=-1))
    return {name: torch.cat(part).numpy() for name, part in parts.items()}


def _logprobs(engine: Engine, rows: torch.Tensor) -> torch.Tensor:
    return engine.logits(rows).cpu().double().log_softmax(dim=-1)


def with_reference(trace: Trace, mine: tuple[Engine, Run], theirs: tuple[Engine, Run], other: Any) -> Trace:
    """The trace with the reading ``reference``: exact KL to another model, for ``workbench.compare``."""
    arrays = divergence(mine, theirs, trace.tokens.token_id.tolist())
    meta = {"identity": list(other.info.identity), "name": other.info.name, "unit": "nats"}
    return replace(trace, readings={**trace.readings, "reference": {"meta": meta, "arrays": arrays}})


def check_same_words(mine: Any, theirs: Any) -> None:
    """Refuse a reference model of another vocabulary or chat template.

    Raises:
        Incompatible: They differ.
        PromptError: It is no model.
    """
    if not hasattr(theirs, "info") or not hasattr(theirs, "score"):
        raise PromptError(f"reference={theirs!r}: expected a model, as workbench.load returns it.")
    for name, attribute in (("vocabulary", "vocab_hash"), ("chat template", "chat_template_hash")):
        if getattr(mine.info, attribute) != getattr(theirs.info, attribute):
            raise Incompatible(
                f"reference={theirs.info.name}: its {name} is not that of {mine.info.name}, so the same text is not "
                "the same tokens to both."
            )


def measure(model: Any, engine: Engine, drafter: Drafter, trace: Trace, repeats: int, stop: Any) -> Speedup:
    """Run a trace's request drafted and undrafted in turns, and time single passes. See ``LoadedModel.speedup``."""
    n, sources = len(trace.tokens), trace.tokens.source == SOURCES.index("forced")
    if not n:
        raise TraceError("This answer has no tokens: there is nothing to speed up.")
    given = n if sources.all() else int(sources.argmin())
    if 1 < n == given:
        raise TraceError("All of this answer was given, none of it generated: there is nothing to speed up.")
    which = "one token" if n == 1 or not given else "one token after those it was given"
    only = TraceError(f"This answer has {which}, which is never drafted: there is nothing to speed up.")
    if n - given < 2:
        raise only
    forced = trace.tokens.token_id[:given].tolist()
    drafts = trace.settings.draft if trace.settings.draft != 0 else "auto"
    most = {"max_new_tokens": n} if trace.finish == "stopped" else {}  # what was said, not what would have been
    seconds: Mapping[bool, list[float]] = {True: [], False: []}
    parted = 0
    for turn in range(repeats + 1):  # the first pair warms up
        for drafted in (True, False) if turn % 2 else (False, True):
            if stop is not None and stop.is_set():
                raise TraceError("speedup was stopped before it had measured enough.")
            again = model.again(trace, forced=forced, draft=drafts if drafted else 0, **most)
            if len(again.tokens) - given < 2:
                raise only
            if turn:
                took = float(again.tokens.time_s[-1] - again.tokens.time_s[given])
                seconds[drafted].append(took * (n - given - 1) / (len(again.tokens) - given - 1))
                parted += again.tokens.token_id.tolist() != trace.tokens.token_id.tolist()
    usual = int(np.bincount(trace.rounds.proposed).argmax()) if len(trace.rounds) else 4
    passes, draft_s = _passes(model, engine, drafter, trace, sorted({1, 2, 3, 5, usual + 1}), repeats)
    return Speedup.of(drafts, seconds[True], seconds[False], passes, draft_s, parted)


def _passes(
    model: Any, engine: Engine, drafter: Drafter, trace: Trace, lengths: list[int], repeats: int
) -> tuple[dict[int, float], float]:
    """Median seconds of a pass over so many rows behind the trace's prompt, and of one draft."""
    import torch

    times: dict[int, list[float]] = {r: [] for r in lengths}
    drafts: list[float] = []
    with torch.inference_mode():
        cache, hidden, position = model.behind_prompt(trace)
        keep_all(cache)
        token = int(trace.tokens.token_id[0])
        for turn in range(repeats + 1):
            for r in lengths:
                engine.wait()
                began = time.perf_counter()
                engine.logits(
                    engine.rows([token] * r, position, cache) if r > 1 else engine.step(token, position, cache)
                )
                engine.wait()
                if turn:
                    times[r].append(time.perf_counter() - began)
                crop(cache, r)
            began = time.perf_counter()
            drafter.draft(token, hidden, position, cache, 2)
            if turn:
                drafts.append((time.perf_counter() - began) / 2)
    return {r: float(np.median(t)) for r, t in times.items()}, float(np.median(drafts))
