"""Multi-token prediction: a small drafter proposes the next words, the model judges them all in one pass.

The drafter (a Transformers ``Gemma4…AssistantForCausalLM``) has no keys or values of its own. From the embedding of
the last token, the hidden state that predicted it and the model's own keys and values it drafts the likeliest next
token, then, at the same position, the one after. The model then runs over the last token and all drafts at once.

Every token is still drawn from the model's own distribution, in order, with the draws an undrafted run would make; a
draft is kept when the draw happens to equal it. So the tokens are the undrafted run's, seed for seed, whatever the
drafter says: a bad one costs time, never words. (Transformers' own sampling with ``assistant_model=`` does not have
this property: it drafts the arg-max but accepts as if the draft had been sampled, which shifts the distribution towards
the drafter's favourites. ``tests/test_drafting.py`` shows both.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cache import crop, keep_all
from workbench.decoding import Engine, Run, force
from workbench.errors import Incompatible
from workbench.pace import Chooser, Pace, fixed
from workbench.trace import Rounds

if TYPE_CHECKING:
    import torch

__all__ = ["Drafted", "Drafter"]


class Drafter:
    """A drafter beside its model.

    Args:
        assistant: The Transformers assistant model.
        transformer: The model it drafts for.

    Raises:
        Incompatible: The two do not fit together.
    """

    def __init__(self, assistant: Any, transformer: Any) -> None:
        check_fit(assistant.config, transformer.config)
        self.assistant = assistant
        self.embed = transformer.get_input_embeddings()
        self.pace = Pace()
        theirs = transformer.config.get_text_config()
        own = theirs.num_hidden_layers - int(getattr(theirs, "num_kv_shared_layers", 0) or 0)
        kinds = list(theirs.layer_types[:own])
        # the last layer of each kind that computes keys and values: 12B's 46 (sliding) and 47 (full)
        self.sources = {kind: max(i for i, k in enumerate(kinds) if k == kind) for kind in set(kinds)}
        self._window = int(assistant.config.get_text_config().sliding_window or 0)
        self._open = {"full_attention": None, "sliding_attention": None}
        # Where nothing but layers lies between input and norm, they are called without Transformers' bookkeeping, and
        # the rotation of the one position is computed once a round: together a quarter of a small drafter's time.
        self._direct = assistant.model.config.model_type in ("gemma4_text", "gemma4_unified_text")

    def states(self, cache: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The model's keys and values the drafter reads, by kind of layer, cut to its window on sliding ones.

        Transformers lets it see two positions more there, which its training did not: only drafts can differ by that.
        """
        out = {}
        for kind, index in self.sources.items():
            layer = cache.layers[index]
            cut = slice(-(self._window - 1), None) if kind == "sliding_attention" and self._window > 1 else slice(None)
            out[kind] = layer.keys[:, :, cut], layer.values[:, :, cut]
        return out

    def draft(
        self,
        token: int,
        hidden: torch.Tensor,
        position: int,
        cache: Any,
        count: int,
        further: Callable[[int, list[float]], bool] | None = None,
    ) -> tuple[list[int], list[float]]:
        """Draft what comes after a token.

        Args:
            token: The last known token; the model has not run over it yet.
            hidden: (1, hidden size) the model's last hidden state that predicted it.
            position: Where the token stands. All drafts are made from there.
            cache: The model's, of everything before the token.
            count: How many at most.
            further: Asked after each draft, with its id and the logprobs so far, whether another is worth its time.

        Returns:
            The drafts, and the logprob in nats of each under the drafter's own distribution.
        """
        import torch

        a = self.assistant
        shared = self.states(cache)
        at = torch.tensor([[position]], device=hidden.device)
        last = torch.tensor([[token]], device=hidden.device)
        state = hidden[None]
        ids, logprobs = [], []
        sure: list[float] = []  # the same logprobs, on the host
        inner = self._layers(hidden, at, shared) if self._direct else self._model(at, shared)
        for made in range(1, count + 1):
            out = inner(a.pre_projection(torch.cat([self.embed(last), state], dim=-1)))
            state = a.post_projection(out)
            logits = a.lm_head(out) if a.masked_embedding is None else a.masked_embedding(out, a.lm_head.weight)
            logits = logits.float()
            best, last = logits.max(dim=-1)
            ids.append(last)
            logprobs.append(best - logits.logsumexp(dim=-1))
            if further is not None and made < count:
                # waits for the device: once a draft, and only where the answer can save one
                here, how_sure = torch.stack([last[0, 0].float(), logprobs[-1][0, 0]]).tolist()  # ids are exact
                sure.append(how_sure)
                if not further(int(here), sure):
                    break
        return torch.cat(ids, dim=1)[0].tolist(), torch.cat(logprobs, dim=1)[0].tolist()

    def _model(self, at: torch.Tensor, shared: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The drafter's layers and norm, for one query. A mask over what one query may see is no mask at all."""

        def run(x: torch.Tensor) -> torch.Tensor:
            return self.assistant.model(
                inputs_embeds=x, attention_mask=self._open, position_ids=at, shared_kv_states=shared, use_cache=False
            ).last_hidden_state

        return run

    def _layers(
        self, like: torch.Tensor, at: torch.Tensor, shared: dict[str, Any]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The same, layer by layer."""
        model = self.assistant.model
        kinds = list(model.config.layer_types)
        turned = {kind: model.rotary_emb(like, at, kind) for kind in set(kinds)}

        def run(x: torch.Tensor) -> torch.Tensor:
            for layer, kind in zip(model.layers, kinds, strict=True):
                x = layer(
                    x, shared_kv_states=shared, position_embeddings=turned[kind], attention_mask=None, position_ids=at,
                    past_key_values=None,
                )  # fmt: skip
            return model.norm(x)

        return run


class Drafted:
    """The strategy of a drafted run: rounds of draft and verify, written down.

    Args:
        drafter: Proposes.
        drafts: Drafts a round, or "auto".
        sampled: Whether the run draws at random (acceptance is remembered apart).
    """

    def __init__(self, drafter: Drafter, drafts: int | str, sampled: bool) -> None:
        self.drafter = drafter
        self.chooser: Chooser | None = drafter.pace.run(sampled) if drafts == "auto" else None
        self._next: Callable[[int], int] = self.chooser.next if self.chooser else fixed(int(drafts))
        self._widest = 0 if drafts == "auto" else int(drafts)
        self._rows: list[dict[str, Any]] = []

    def __call__(self, engine: Engine, run: Run, logits: torch.Tensor) -> None:
        """Go on from the prompt's logits until something ends the run."""
        started = force(engine, run, logits)
        if started is None:
            return
        logits = started
        token, scores = run.draw(logits)
        ended = run.emit(token, logits, scores, "plain")
        keep_all(run.cache)
        while not ended:
            most = self._next(run.room - len(run.generated) - 1)
            ended = self._round(engine, run, most) if most else self._step(engine, run)

    def _step(self, engine: Engine, run: Run) -> bool:
        began = time.perf_counter()
        run.hidden = engine.step(run.generated[-1], run.ids.shape[1] - 1, run.cache)
        crop(run.cache, 0)
        logits = engine.logits(run.hidden)
        engine.wait()
        self.drafter.pace.ran(1, time.perf_counter() - began)
        token, scores = run.draw(logits)
        return run.emit(token, logits, scores, "plain")

    def _round(self, engine: Engine, run: Run, most: int) -> bool:
        """One round, of at most so many drafts. Returns whether the run ended in it."""
        import torch

        began = time.perf_counter()
        last, position = run.generated[-1], run.ids.shape[1] - 1
        further = partial(self._further, run.stops) if self.chooser else None
        ids, draft_logprob = self.drafter.draft(last, run.hidden, position, run.cache, most, further)
        drafts = len(ids)
        drafted = time.perf_counter()
        hidden = engine.rows([last, *ids], position, run.cache)
        logits = engine.logits(hidden)
        judged = logits[:-1].log_softmax(dim=-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])
        target_logprob = judged[:, 0].tolist()
        verified = time.perf_counter()
        self.drafter.pace.drafted(drafts, drafted - began)
        self.drafter.pace.ran(drafts + 1, verified - drafted)
        number = len(self._rows)
        row: dict[str, Any] = {
            "draft_ids": ids, "draft_logprob": draft_logprob, "proposed": drafts, "accepted": 0, "emitted_id": -1,
            "target_logprob": target_logprob, "draft_s": drafted - began, "verify_s": verified - drafted,
        }  # fmt: skip
        self._rows.append(row)
        ended = False
        seen = 0  # drafts the model judged
        for i in range(drafts + 1):
            here = logits[i : i + 1]
            token, scores = run.draw(here)
            bonus = i == drafts
            seen = min(i + 1, drafts)
            kept = not bonus and token == ids[i]
            row["accepted"] += kept
            ended = run.emit(token, here, scores, "accepted" if kept else "bonus" if bonus else "corrected", number)
            run.hidden = hidden[i : i + 1]
            if not kept:
                row["emitted_id"] = token
            if ended or not kept:
                break
        row["target_logprob"] = [*target_logprob[:seen], *[float("nan")] * (drafts - seen)]
        crop(run.cache, drafts - row["accepted"])
        if self.chooser:
            self.chooser.judged(row["accepted"], draft_logprob[:seen])
        return ended

    def _further(self, stops: frozenset[int], draft: int, logprobs: list[float]) -> bool:
        """Whether a round of automatic length goes on after a draft. Nothing comes after a stop token."""
        return draft not in stops and self.chooser is not None and self.chooser.further(logprobs)

    def rounds(self) -> Rounds:
        """What was drafted, as columns."""
        if not self._rows:
            return Rounds.none()
        widest = max(self._widest, *(r["proposed"] for r in self._rows))
        columns: dict[str, Any] = {name: [r[name] for r in self._rows] for name in Rounds.DTYPES}
        for name, blank in (("draft_ids", -1), ("draft_logprob", np.nan), ("target_logprob", np.nan)):
            columns[name] = [[*row, *[blank] * (widest - len(row))] for row in columns[name]]
        return Rounds(**columns)


def check_fit(drafter: Any, model: Any) -> None:
    """Refuse a drafter that was made for another model.

    Args:
        drafter, model: Their Transformers configurations: enough to tell before any weight is read.

    Raises:
        Incompatible: Another vocabulary, hidden size or shape of keys; says which.
    """
    mine, theirs = drafter.get_text_config(), model.get_text_config()
    wanted = {
        "vocabulary": (mine.vocab_size, theirs.vocab_size),
        "hidden size of the model": (drafter.backbone_hidden_size, theirs.hidden_size),
    }
    for kind in sorted(set(mine.layer_types)):
        if kind not in theirs.layer_types:
            raise Incompatible(f"The drafter reads the keys of a {kind} layer, and the model has none.")
        for name, attribute in (("key-value heads", "num_key_value_heads"), ("head size", "head_dim")):
            wanted[f"{name} of {kind} layers"] = tuple(
                getattr(c.per_layer_config[kind], attribute) for c in (mine, theirs)
            )
    wrong = [f"{name}: drafter {a}, model {b}" for name, (a, b) in wanted.items() if a != b]
    if wrong:
        raise Incompatible(f"This drafter was made for another model ({'; '.join(wrong)}). Load the model's own.")
