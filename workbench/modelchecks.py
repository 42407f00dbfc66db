"""The checks of ``workbench doctor --selftest NAME``: what each looks at, and what it makes of it.

Numbers in 16 bits differ from kernel to kernel by their rounding. So two runs may part where the two best words lie
close together, and no nearer than that are they compared; in float32 they have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import grid, headers
from workbench.attention import attention_by
from workbench.catalog import CATALOG, Shape, find
from workbench.counting import made_of
from workbench.modeltrial import QUESTION, Found, Tried, Watch
from workbench.packed import Int4Linear, Int8Linear, count, held_bytes, layers
from workbench.planning import plan

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = ["CHECKS"]

_NEAR = {"float32": 1e-3, "float16": 0.25, "bfloat16": 0.5}  # nats between two words that rounding may swap
_OFF = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}  # of a row of attention, its parts' differences summed / 2
_SAMPLE = 6  # layers whose weights are read again
_COLUMNS = 128  # of each of them


# --- configuration and token counts -----------------------------------------------------------------------------------


def _configuration(tried: Tried) -> Found:
    """The model's configuration against the catalog."""
    config = tried.model.transformer.config
    text = config.get_text_config()
    settings = text.to_dict()
    kinds = ["full" if kind == "full_attention" else "sliding" for kind in text.layer_types]
    own = {kind: text.per_layer_config[f"{kind}_attention"] for kind in sorted(set(kinds))}
    found: dict[str, Any] = {
        "layers": len(kinds), "hidden": text.hidden_size, "intermediate": text.intermediate_size,
        "heads": text.num_attention_heads, "vocabulary": text.vocab_size, "window": text.sliding_window,
        "context": text.max_position_embeddings, "shared": settings.get("num_kv_shared_layers") or 0,
        "per_layer": settings.get("hidden_size_per_layer_input") or 0,
        "experts": (settings.get("num_experts") or 0) if settings.get("enable_moe_block") else 0,
    }  # fmt: skip
    if "sliding" in own:
        found |= {"kv_heads": own["sliding"].num_key_value_heads, "head_dim": own["sliding"].head_dim}
    if "full" in own:
        found |= {"full_kv_heads": own["full"].num_key_value_heads, "full_head_dim": own["full"].head_dim}
    numbers = {**found, "weights": count(tried.model.transformer), "full_layers": kinds.count("full")}
    shape = _shape(tried.name, found)
    if shape is None:
        said = f"{len(kinds)} layers of {text.hidden_size}; the catalog has no model of this shape to compare with"
        return Found("note", said, numbers)
    wrong = [f"{k} {v}, expected {getattr(shape, k)}" for k, v in found.items() if v != getattr(shape, k)]
    at = [k for k, kind in enumerate(kinds) if kind == "full"]
    if at != [k for k in range(shape.layers) if shape.full(k)]:
        wrong.append(f"full layers {at}")
    if abs(numbers["weights"] / shape.weights - 1) > 0.01:
        wrong.append(f"{numbers['weights']:,} weights, expected {shape.weights:,}")
    if wrong:
        return Found("wrong", "; ".join(wrong), numbers)
    return Found("ok", f"{len(found) + 2} settings as in the catalog, {numbers['weights']:,} weights", numbers)


def _shape(name: str, found: Mapping[str, Any]) -> Shape | None:
    """The catalog's shape of a name, or of a folder that has one's layers and width."""
    entry = find(name)
    if entry.shape is not None:
        return entry.shape
    known = [e.shape for e in CATALOG.values() if e.shape is not None]
    return next((s for s in known if (s.layers, s.hidden) == (found["layers"], found["hidden"])), None)


def _ids(tried: Tried) -> Found:
    """Token ids of our prompt against those of Transformers' own processor, and the counts of the published rule."""
    trace, kinds = tried.answer(), tried.media
    theirs = _inputs(tried)["input_ids"][0].tolist()
    ours = trace.prompt.ids.tolist()
    numbers: dict[str, Any] = {"image": trace.usage.image, "audio": trace.usage.audio, "prompt": len(ours)}
    said = []
    wrong = [] if ours == theirs else [f"{len(ours)} token ids that are not the {len(theirs)} of the processor"]
    if "images" in kinds:
        grid_, expected = _patches(tried)
        said.append(f"a picture of 640×400 is {trace.usage.image} tokens ({grid_[0]} rows of {grid_[1]})")
        if trace.usage.image != expected[0] * expected[1] or grid_ != expected:
            wrong.append(f"{grid_[0]}×{grid_[1]} patches, expected {expected[0]}×{expected[1]}")
    if "audio" in kinds:
        said.append(f"1.3 s of sound are {trace.usage.audio}")
        # 20,800 samples, 640 each; a tower's 129 frames of a spectrogram, 4 each, are as many
        if trace.usage.audio != 33:
            wrong.append(f"{trace.usage.audio} tokens of sound, expected 33")
    return Found("wrong" if wrong else "ok", "; ".join([*wrong, *said]), numbers)


def _patches(tried: Tried) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) of the picture in the prompt, and by the rule: whole squares of 48 pixels, up to the budget."""
    (segment,) = [s for s in tried.answer().prompt.segments if s.kind == "image"]
    budget = int(tried.model.processor.image_processor.max_soft_tokens)
    scale = (budget * 48 * 48 / (640 * 400)) ** 0.5
    return (int(segment.rows or 0), int(segment.cols or 0)), (int(400 * scale / 48), int(640 * scale / 48))


def _inputs(tried: Tried) -> Any:
    """The same question through Transformers' processor alone."""
    processor, media = tried.model.processor, tried.media
    content: list[dict[str, str]] = [{"type": "image"}] * len(media.get("images", ()))
    content += [{"type": "audio"}] * len(media.get("audio", ()))
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return processor(
        text=text, images=media.get("images"), audio=[s for s, _ in media.get("audio", ())] or None,
        return_tensors="pt", add_special_tokens=False,
    )  # fmt: skip


# --- weights ----------------------------------------------------------------------------------------------------------


def _weights(tried: Tried) -> Found:
    """Weights as they are held against those in the files: integer by integer where they came packed."""
    model = tried.model
    rounding = getattr(getattr(model.transformer, "hf_quantizer", None), "rounding", None)
    held = {n: m for n, m in layers(model.transformer) if isinstance(m, (Int4Linear, Int8Linear))}
    from workbench.fetching import fetched

    entry = find(model.info.variant if not find(tried.name).local else tried.name)
    folder = fetched(entry, progress=False)
    files = _files(folder)
    plain = {
        n: m
        for n, m in model.transformer.named_modules()
        if n.endswith(("q_proj", "down_proj")) and hasattr(m, "weight")
    }
    names = sorted(held or plain)
    chosen = names[:: max(1, len(names) // _SAMPLE)]
    off = {name: _difference(model.transformer.get_submodule(name), files[name]) for name in chosen}
    worst = max(off, key=lambda name: off[name])
    qat = "-qat-" in made_of(entry)
    numbers: dict[str, Any] = {"layers": len(held), "looked_at": chosen, "largest_step": off[worst]}
    what = f"{len(chosen)} of {len(names)} layers looked at"
    if off[worst] > 0.25:  # of a step of the grid: another integer than the file's
        return Found("wrong", f"{worst} is off by {off[worst]:.2g} of a step; {what}", numbers)
    if not held:
        return Found("ok", f"held as stored ({model.info.quantization}); {what}", numbers)
    if rounding is None:
        return Found("ok", f"integers and scales are those of the files; {what}", numbers)
    numbers |= {"exact": rounding.exact / max(rounding.weights, 1), "relative_error": rounding.relative}
    level = "wrong" if qat and rounding.exact != rounding.weights else "ok"
    said = "recovered exactly from" if rounding.exact == rounding.weights else f"{rounding} of"
    return Found(level, f"{said} {'weights trained for 4 bits' if qat else 'the plain weights'}; {what}", numbers)


def _files(folder: Path) -> dict[str, dict[str, tuple[Path, str]]]:
    """By the model's own names of its layers: file and key of each tensor that makes the weight, by its last name."""
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM

    from workbench.quantization import renamer

    with torch.device("meta"):
        named = renamer(AutoModelForMultimodalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)))
    out: dict[str, dict[str, tuple[Path, str]]] = {}
    for path in headers.whole(folder):
        for key in headers.read(path):
            stem, _, last = key.rpartition(".")
            if last in ("weight", "weight_packed", "weight_scale"):
                out.setdefault(named(f"{stem}.weight").removesuffix(".weight"), {})[last] = (path, key)
    return out


def _difference(layer: Any, where: Mapping[str, tuple[Path, str]]) -> float:
    """The largest difference between a layer's weights as held and as stored, in steps of the grid they are held on."""
    import torch
    from safetensors import safe_open

    read = {}
    for last, (path, key) in where.items():  # a layer's tensors may lie in several files
        with safe_open(path, framework="pt") as tensors:
            read[last] = tensors.get_tensor(key)
    if isinstance(layer, Int4Linear):
        if "weight_packed" in read:
            codes, scale = read["weight_packed"].contiguous().view(torch.uint8), read["weight_scale"]
        else:
            codes, scale, _ = grid.to_grid(read["weight"])
        shown = grid.values(codes[:, : _COLUMNS // 2], scale[:, : _COLUMNS // grid.GROUP].float())
        step = scale[:, : _COLUMNS // grid.GROUP].float().repeat_interleave(grid.GROUP, dim=1)
        mine = layer.columns(0, shown.shape[1]).float().cpu()
    elif isinstance(layer, Int8Linear):
        codes, scale = (read["weight_packed"], read["weight_scale"]) if "weight_packed" in read else grid.to_int8(
            read["weight"]
        )  # fmt: skip
        shown, step = codes.float() * scale.float()[:, None], scale.float()[:, None]
        mine = layer.rows(slice(None)).float().cpu()
    else:
        shown = read["weight"].float()
        step, mine = shown.abs().clamp(min=1e-6), layer.weight.detach().float().cpu()
    return float(((mine - shown).abs() / step.clamp(min=1e-12)).nan_to_num(nan=float("inf")).max())


# --- against Transformers ---------------------------------------------------------------------------------------------


def _generate(tried: Tried) -> Found:
    """Greedy tokens against Transformers' ``generate`` on the same weights."""
    import torch

    model, trace = tried.model, tried.answer()
    given = {k: v.to(model.transformer.device) for k, v in _inputs(tried).items()}
    with torch.inference_mode():
        out = model.transformer.generate(**given, do_sample=False, max_new_tokens=tried.tokens)
    theirs = out[0, given["input_ids"].shape[1] :].tolist()
    steps = np.diff(trace.tokens.time_s)
    speed = {
        "first_token_s": trace.timing.first_token_s, "step_s": float(np.median(steps)) if len(steps) else None,
        "prompt_tokens": trace.usage.prompt, "answer": trace.text,
    }  # fmt: skip
    found = _agree(tried, trace, theirs, "Transformers' generate")
    said = f"{found.text}; first word after {trace.timing.first_token_s:.1f} s"
    if len(steps):
        said += f", then {float(np.median(steps)):.3f} s a word"
    return Found(found.level, said, {**found.numbers, **speed})


def _agree(tried: Tried, trace: Trace, theirs: list[int], whose: str) -> Found:
    ours = trace.tokens.token_id.tolist()
    same = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    numbers: dict[str, Any] = {"tokens": len(ours), "same": same}
    if ours == theirs:
        return Found("ok", f"all {len(ours)} tokens are those of {whose}", numbers)
    if same == len(ours) or same == len(theirs):
        return Found("wrong", f"{len(ours)} tokens, and {len(theirs)} of {whose}", numbers)
    margin = float(trace.tokens.margin[same])
    near = _NEAR.get(tried.dtype, 0.5)
    numbers["margin"] = margin
    said = f"token {same} is not that of {whose}; the two best lie {margin:.2g} nats apart"
    return Found("note" if margin < near else "wrong", f"{said} (rounding may swap {near:g})", numbers)


def _attention(tried: Tried) -> Found:
    """Attention of a few layers against Transformers' ``eager``, row by row."""
    model, trace = tried.model, tried.answer()
    kinds = list(model.info.layers)
    chosen = sorted({0, len(kinds) - 1, *(kinds.index(k) for k in set(kinds)), max(0, len(kinds) - 2)})
    mine = model.attend(trace, layers=chosen)
    theirs = _eager(tried, trace, chosen)
    worst, each = 0.0, {}
    for i, layer in enumerate(chosen):
        rows = np.zeros((len(mine.heads), len(mine.positions), len(trace.ids)), np.float32)
        start, weights = int(mine.starts[i]), mine.weights[i]
        rows[..., start : start + weights.shape[2]] = weights
        eager = theirs[layer][:, mine.positions]
        each[str(layer)] = float(np.abs(rows - eager).sum(-1).max() / 2)
        worst = max(worst, each[str(layer)])
    limit = _OFF.get(tried.dtype, 0.05)
    said = f"layers {', '.join(map(str, chosen))}: rows at most {worst:.1e} away"
    level = "ok" if worst <= limit else "note" if worst <= 4 * limit else "wrong"
    return Found(level, said, {"away": each, "limit": limit, "replay_gap": float(mine.replay_gap)})


def _eager(tried: Tried, trace: Trace, chosen: list[int]) -> dict[int, np.ndarray]:
    """By layer, (heads, T, T) float32 of Transformers' eager attention; of the other layers nothing is kept."""
    import torch

    model = tried.model
    request = model.request(trace)
    device = model.transformer.device
    ids = torch.as_tensor(trace.ids.astype(np.int64), device=device)[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens))).to(device)
    media = {k: v.to(device) for k, v in request.media_inputs().items()}
    out: dict[int, np.ndarray] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            out[layer] = output[1][0].float().cpu().numpy()

        return hook

    blocks = model.transformer.get_decoder().layers
    with attention_by("eager", model.transformer.config.get_text_config()), torch.inference_mode():
        hooks = [blocks[k].self_attn.register_forward_hook(keep(k)) for k in chosen]
        try:
            model.transformer.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False, **media
            )
        finally:
            for hook in hooks:
                hook.remove()
    return out


# --- drafts and memory ------------------------------------------------------------------------------------------------


def _drafts(tried: Tried) -> Found:
    """Drafted tokens against undrafted ones, and how many drafts are kept."""
    from workbench import flight

    model = tried.model
    if model.drafter is None:
        return Found("note", "loaded without a drafter")
    plain = tried.answer()
    drafted = model.ask(QUESTION, **tried.media, temperature=0, draft=4, max_new_tokens=tried.tokens)
    rounds = drafted.rounds
    judged, kept = int(flight.judged(rounds).sum()), int(flight.kept(rounds).sum())
    found = _agree(tried, plain, drafted.tokens.token_id.tolist(), "the run with 4 drafts a round")
    by_place = [None if np.isnan(x) else float(x) for x in flight.acceptance_by_position(rounds)] if len(rounds) else []
    numbers = {
        **found.numbers, "judged": judged, "kept": kept, "by_position": by_place,
        "tokens_a_round": flight.tokens_a_round(rounds), "drafter": model.info.drafter,
        "seconds_ratio": drafted.timing.decode_s / plain.timing.decode_s if plain.timing.decode_s else None,
    }  # fmt: skip
    said = f"{kept} of {judged} drafts kept, {flight.tokens_a_round(rounds):.1f} tokens a round"
    return Found(found.level, f"{said}; {found.text}", numbers)


def _memory(tried: Tried) -> Found:
    """Bytes held before and after ten tokens, the most while they came, and what the plan said."""
    model = tried.model
    before = held_bytes(model.transformer, model.drafter)
    with Watch() as watch:
        model.ask(QUESTION, **tried.media, temperature=0, max_new_tokens=10)
    after = held_bytes(model.transformer, model.drafter)
    made = plan(tried.name, quantization=model.info.quantization,
                device=model.info.device, drafter=model.drafter is not None, measure=False)  # fmt: skip
    counted = made.taken.weights + made.taken.drafter
    numbers = {"held": before, "held_after": after, "peak_bytes": watch.peak, "planned": counted}
    peak = "" if watch.peak is None else f", {watch.peak / 1e9:.2f} GB at most while answering"
    said = f"{before / 1e9:.2f} GB held, {after / 1e9:.2f} after ten tokens{peak}; the plan counted {counted / 1e9:.2f}"
    return Found("ok" if before == after else "wrong", said, numbers)


CHECKS: dict[str, Callable[[Tried], Found]] = {
    "configuration": _configuration,
    "token ids and counts": _ids,
    "weights": _weights,
    "greedy tokens": _generate,
    "attention": _attention,
    "drafts": _drafts,
    "memory": _memory,
}
"""By name, in the order they are run in."""
