"""Load a model once per kernel: the same arguments give the same object, from any thread, after any reload."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench import headers, masks
from workbench.catalog import CATALOG, Entry, find
from workbench.counting import made_of
from workbench.drafting import check_fit
from workbench.errors import DoesNotFit, Incompatible, ModelError
from workbench.fetching import fetch, fetched
from workbench.identity import HASHED_WHOLE, model_info, weights_hash
from workbench.model import LoadedModel
from workbench.planning import of_one_source, plan, refuse
from workbench.shortage import ran_out
from workbench.versions import check_versions

__all__ = ["load", "loaded", "read_from", "unload"]


def _registry() -> Any:
    """Where this kernel's models are held: in a module of its own, which no ``importlib.reload`` empties."""
    name = "_gemma_workbench_registry"
    made = sys.modules.get(name)
    if made is None:
        made = sys.modules.setdefault(name, types.ModuleType(name))
    for part, make in (("models", dict), ("names", dict), ("lock", threading.RLock), ("loading", threading.RLock)):
        if part not in made.__dict__:  # also of one that an earlier release has made in this kernel
            made.__dict__.setdefault(part, make())
    return made


def load(
    name: str | os.PathLike = "pocket",
    *,
    variant: str | None = None,
    revision: str | None = None,
    quantization: str | None = None,
    device: str | None = None,
    drafter: str | os.PathLike | bool | None = None,
    context: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> LoadedModel:
    """Load a model, once: a second call with equal arguments returns the same object at once.

    Args:
        name: ``pocket`` (embedded, nothing is fetched), a name of ``workbench.catalog``, a folder, or a hub id.
        variant: Another hub id or folder to take the weights of ``name`` from.
        revision: Of a hub id: branch, tag or commit.
        quantization: ``int4``, ``int4+16`` or ``int8`` (see :mod:`workbench.quantization`), or ``none``. None: of a
            known model, what ``workbench.plan`` chooses; of a folder, weights as they are stored, packed ones packed.
        device: ``cpu``, ``cuda``, ``mps`` …; None takes what the plan chooses (pocket: always the CPU).
        drafter: None is the model's own, where it has one; False is none; or a folder or hub id of another.
        context: Tokens that prompt and answer may fill together; None is the model's own limit.
        force: Load although it does not fit into the free memory.
        progress: Print the line that pins what was loaded, and a bar for long steps.

    Returns:
        The model: an object for each set of arguments, the same one until it is unloaded.

    Raises:
        ModelError: An unknown name, or a folder that cannot be loaded.
        DoesNotFit: Not enough memory; says how much is missing.
        Incompatible: A release of Transformers or torch that does not work, or a drafter of another model.
    """
    if quantization is not None and not isinstance(quantization, str):
        raise ModelError(f"quantization={quantization!r}: expected a name, as 'int4', or None.")
    entry = find(variant if variant is not None else name)
    # an official variant has a drafter of its own, and so has what was made of it; others take that of ``name``
    of = find(made_of(entry))
    draws = _drafter_source(drafter, of if of.of else find(name) if variant is not None else entry)
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise ModelError(f"context={context!r}: expected a whole number of tokens, 1 or more.")
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise ModelError(f"revision={revision!r}: expected a branch, tag or commit of a hub id, or None.")
    if revision is not None and entry.local:
        raise ModelError(f"revision={revision!r}: {entry.name} lies in a folder and has none; only hub ids have.")
    held = _registry()
    if not held.models:  # what is loaded has been through this
        check_versions()
    where = device and _device(device)
    named = of_one_source(name, variant)
    asked = (entry.source, named, revision, context, draws, quantization)
    if (have := held.models.get((*asked, where))) is not None:
        return have
    with held.loading:  # one at a time, since each counts the memory; who asks for what is there does not wait
        if (model := held.models.get((*asked, where))) is None:
            made = plan(
                name, variant=variant, quantization=quantization, device=where, drafter=drafter, context=context,
                measure=False,
            )  # fmt: skip
            if (model := held.models.get((*asked, made.device))) is not None:  # as somebody else has named the device
                held.models[(*asked, where)] = model
                return model
            if not made.fits and not force:
                raise refuse(made)
            if not entry.local:  # what the plan chose for this machine
                if made.variant != entry.source:
                    if revision is not None:
                        raise ModelError(
                            f"revision={revision!r} is of one repository, and for {entry.name} this machine takes "
                            f"{made.variant}. Name yours: variant={made.variant!r}, or variant={entry.source!r}."
                        )
                    draws = entry.qat_drafter if drafter is None or drafter is True else draws
                    entry = replace(entry, source=made.variant)
                quantization = made.quantization if entry.gigabytes else quantization
            room = None if force or entry.name == "pocket" else made.name
            pinned = {
                "revision": revision, "quantization": quantization, "context": context,
                "drafter": None if drafter is None or drafter is True else drafter and os.fspath(drafter),
            }  # fmt: skip
            try:
                kept = kept_most(made.taken.free, made.taken.bytes)
                model = _load(entry, pinned, made.device, draws, room, kept, progress=progress)
            except BaseException as error:
                _let_go(error)
                raise
            with held.lock:
                taken = loaded()
                names = (model.name if n == 1 else f"{model.name} #{n}" for n in itertools.count(1))
                held.names[id(model)] = next(name for name in names if name not in taken)
                held.models[(*asked, where)] = held.models[(*asked, made.device)] = model
        return model


def kept_most(free: int | None, needed: int) -> int:
    """Bytes that kept prompts may take: 256 MiB, or a quarter of what a load leaves free, and 1 GiB at most."""
    return min(1 << 30, max(1 << 28, (free - needed) // 4 if free is not None else 0))


def loaded() -> dict[str, LoadedModel]:
    """What this kernel holds, by name; a second load of one name with other arguments gets ``name #2`` and keeps it."""
    held = _registry()
    with held.lock:
        return {held.names.get(id(model), model.name): model for model in held.models.values()}


def unload(name: str | LoadedModel | None = None) -> None:
    """Let go of a model's memory, or of all.

    Args:
        name: As :func:`loaded` lists it, or the model itself; None is every model. A run in progress is waited for.

    Raises:
        ModelError: No such model is loaded.
    """
    held = _registry()
    with held.lock:
        have = loaded()
        gone = [model for n, model in have.items() if name is None or name == n or name is model]
        if name is not None and not gone:
            raise ModelError(f"{name!r} is not loaded; loaded: {', '.join(have) or 'nothing'}.")
        held.models = {k: m for k, m in held.models.items() if not any(m is g for g in gone)}
        held.names = {i: n for i, n in held.names.items() if not any(i == id(g) for g in gone)}
    for model in gone:
        model._close()  # noqa: SLF001 (the registry is the model's owner)


def _device(asked: str) -> str:
    import torch

    try:
        kind = torch.device(asked).type
    except (RuntimeError, TypeError):
        raise ModelError(f"device={asked!r} is not a device that torch knows; try cpu, cuda or mps.") from None
    there = {
        "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }  # fmt: skip
    if not there.get(kind, False):
        raise ModelError(f"device={asked!r} is not there: `workbench doctor` says what is. Pass device='cpu'.")
    return str(torch.device(asked))


def _load(
    entry: Entry, pinned: dict[str, Any], device: str, drafter: str, room: str | None, kept: int, *, progress: bool
) -> LoadedModel:
    """Read a model.

    Args:
        entry: Of the weights themselves.
        pinned: The arguments of ``load`` that go into the line that loads the same again.
        device: Where to.
        drafter: Folder or hub id; empty for none.
        room: What to call it if the memory that the plan found has gone; None does not look again.
        kept: Bytes that kept prompts may take.
        progress: As for ``load``.
    """
    import torch
    import transformers
    from transformers.utils import logging as bars

    from workbench.packed import count
    from workbench.quantization import held_as

    revision, quantization, context = pinned["revision"], pinned["quantization"], pinned["context"]
    folder = fetched(entry, revision, progress=progress)
    dtype = torch.float32 if entry.name == "pocket" else "auto"
    headers.gemma(folder)
    headers.whole(folder)
    config = _config(entry.name, folder)
    masks.check(config)
    limit = int(config.get_text_config().max_position_embeddings)
    if context is not None and context > limit:
        raise ModelError(f"context={context:,}: {entry.name} goes up to {limit:,} tokens.")
    draws = _drafter_folder(drafter, config, progress=progress)
    held, how = read_from(entry.name, folder, lambda: held_as(folder, quantization, device))
    if room is not None:  # fetching takes an hour, and other programs take memory meanwhile
        now = plan(
            folder, quantization=quantization, device=device, drafter=bool(draws), context=context, measure=False
        )
        if not now.fits:
            raise refuse(replace(now, name=room))
    quiet = not progress or entry.name == "pocket"
    had_bars = bars.is_progress_bar_enabled()
    if quiet:
        bars.disable_progress_bar()
    try:
        processor = _processor(entry.name, folder)
        transformer = _weights(entry.name, transformers.AutoModelForMultimodalLM, folder, dtype, device, **how)
        assistant = draws and _drafter(draws, transformer.dtype, device)  # what one says, the other reads
    finally:
        if had_bars:
            bars.enable_progress_bar()
    _check_processor(processor, transformer.config.get_text_config().vocab_size, folder)
    info = model_info(entry, folder, transformer, processor, device, masks.correct(transformer))
    info = replace(info, quantization=held)
    if draws:
        own = drafter == CATALOG["pocket"].drafter
        info = replace(info, drafter="pocket-drafter" if own else drafter, drafter_hash=weights_hash(draws))
        _warn_of_another_target(assistant, drafter, entry, folder)
        _warn_of_another_kind(drafter, made_of(entry))
    model = LoadedModel(transformer, processor, info, drafter=assistant, context=context, kept_most=kept)
    if progress:
        how_held = info.dtype if held == "none" else f"{held} in {info.dtype}"
        if getattr(getattr(transformer, "hf_quantizer", None), "rounding", None):
            how_held += f" ({transformer.hf_quantizer.rounding})"
        print(  # noqa: T201 (the line that pins what was chosen)
            f"{_call(entry, folder, device, pinned)}  # {count(transformer) / 1e6:,.1f} M parameters, "
            f"{how_held}, weights {info.weights_hash[:12]}, "
            f"{f'drafter {info.drafter}' if info.drafter else 'no drafter'}"
        )
    return model


def _call(entry: Entry, folder: Path, device: str, pinned: dict[str, Any]) -> str:
    """The call that loads the same again, wherever what the plan chose would be another then."""
    name = entry.name
    if entry.local and name != "pocket":
        name = entry.source
    elif not entry.local:
        variant = {"variant": entry.source} if name in CATALOG else {}
        pinned = {**variant, **pinned, "revision": folder.name}
    more = "".join(f", {k}={v!r}" for k, v in pinned.items() if v is not None)
    return f"workbench.load({name!r}, device={device!r}{more})"


def _processor(name: str, folder: Path) -> Any:
    from transformers import AutoProcessor

    try:
        return read_from(name, folder, lambda: AutoProcessor.from_pretrained(folder, local_files_only=True))
    except ModelError as error:
        if isinstance(error.__cause__, AttributeError) and "_token_id" in str(error):
            raise ModelError(f"{error}. Is its tokenizer_config.json missing, or another model's?") from error
        raise


def _check_processor(processor: Any, vocabulary: int, folder: Path) -> None:
    """Refuse what would fail with the first question: a tokenizer of another model, or a chat template that breaks."""
    words = len(processor.tokenizer)
    if words < vocabulary // 2:
        raise ModelError(
            f"{folder} has a tokenizer of {words} tokens for a model of {vocabulary:,}: is its tokenizer.json missing?"
        )
    turn = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    try:
        processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ModelError(
            f"{folder} has no chat template that works ({error}). Take the weights whose name ends in -it, or copy "
            "their chat_template.jinja into the folder."
        ) from error


def read_from(name: str, folder: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` returns, with its many kinds of errors said as one."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    broken = (AttributeError, TypeError, ValueError, KeyError, StrictDataclassError, SafetensorError)
    try:
        return read()
    except (MemoryError, OSError, RuntimeError, *broken) as error:
        if ran_out(error):
            raise DoesNotFit(
                f"Memory ran out while {name} was read from {folder}; what had been read is let go. Something else "
                "took the memory that the plan found free, or force=True went past it: `workbench plan` counts again."
            ) from error
        raise ModelError(f"{name} could not be loaded from {folder}: {error}") from error


def _let_go(error: BaseException | None) -> None:
    """Free what was read before an error: a notebook keeps the error, and its frames would keep the weights.

    ``traceback.clear_frames`` leaves out the callers of the place where an error was caught and kept for later.
    """
    import torch

    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            for place, _line in traceback.walk_tb(one.__traceback__):
                frame: types.FrameType | None = place
                while frame is not None:
                    try:
                        frame.clear()
                    except RuntimeError:  # it is running still, and so are its callers
                        break
                    frame = frame.f_back
            todo += [one.__cause__, one.__context__]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _weights(name: str, kind: Any, folder: Path, dtype: Any, device: str, **how: Any) -> Any:
    """A Transformers model of a folder, every weight accounted for, frozen."""
    hears = getattr(_config(name, folder), "audio_config", None) is not None
    # a tower for sounds has attention of its own, and refuses the name of any other
    attention: Any = {"": "sdpa", "audio_config": "eager"} if hears else "sdpa"
    transformer, report = read_from(name, folder, lambda: kind.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, local_files_only=True, output_loading_info=True, **how
    ))  # fmt: skip
    wrong = {k: sorted(map(str, v)) for k, v in report.items() if v}
    if wrong:
        raise ModelError(f"The weights of {name} do not match its configuration: {wrong}")
    transformer = transformer.eval().to(device)
    transformer.requires_grad_(requires_grad=False)
    return transformer


def _drafter_source(asked: str | os.PathLike | bool | None, entry: Entry) -> str:
    """The folder or hub id of the drafter that ``drafter=`` means; empty for none."""
    if asked is False:
        return ""
    if asked is None or asked is True:
        if asked and not entry.drafter:
            raise ModelError(f"drafter=True: {entry.name} has no drafter of its own; pass a folder or a hub id.")
        return entry.drafter
    if isinstance(asked, (str, os.PathLike)) and str(asked).strip():
        text = os.fspath(asked)
        folder = Path(text).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
        if text.count("/") == 1 and not text.startswith((".", "~", "/")):
            return text
    raise ModelError(f"drafter={asked!r}: expected None (the model's own), False (none), a folder, or a hub id.")


def _config(name: str, folder: Path) -> Any:
    import transformers

    return read_from(name, folder, lambda: transformers.AutoConfig.from_pretrained(folder, local_files_only=True))


def _drafter_folder(source: str, model: Any, *, progress: bool) -> Path | None:
    """Where the drafter lies; one that does not fit a model of this configuration is refused."""
    if not source:
        return None
    folder = Path(source) if Path(source).is_dir() else fetch("the drafter", source, gigabytes=0.9, progress=progress)
    config = _config("the drafter", folder)
    if not config.model_type.endswith("_assistant"):
        raise Incompatible(f"{source} is no drafter but a {config.model_type}; Gemma 4's end in -assistant.")
    check_fit(config, model)
    return folder


def _drafter(folder: Path, dtype: Any, device: str) -> Any:
    """The assistant model."""
    import transformers

    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(_config("the drafter", folder))]
    return _weights("the drafter", kind, folder, dtype, device)


def _warn_of_another_kind(source: str, target: str) -> None:
    """Say that one of a pair was trained for 4 bits and the other was not; their ids tell."""
    ours, theirs = ("4 bits" if "-qat-" in name else "16 bits" for name in (source, target))
    if ours != theirs and source.startswith("google/") and target.startswith("google/"):
        warnings.warn(
            f"The drafter {source} was trained with weights of {ours}, {target} are weights of {theirs}: the answers "
            "are the same, fewer drafts will be kept. drafter=None takes the right one.",
            stacklevel=2,
        )


def _warn_of_another_target(assistant: Any, source: str, entry: Entry, folder: Path) -> None:
    """Say that a drafter was trained on other weights than these, where it says on which."""
    made_for = assistant.config.to_dict().get("target_weights")
    files = sorted(folder.glob("*.safetensors"))
    if made_for is None or len(files) != 1 or files[0].stat().st_size > HASHED_WHOLE:
        return
    if hashlib.sha256(files[0].read_bytes()).hexdigest()[: len(made_for)] != made_for:
        warnings.warn(
            f"The drafter {source} was trained for other weights than those of {entry.name}: the answers are the same, "
            "fewer drafts will be kept.",
            stacklevel=2,
        )
