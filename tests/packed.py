"""Small checkpoints in the packed formats, made from the pocket model."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from workbench.pocket import WEIGHTS

WEIGHTS_OF_CT = {
    "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "actorder": None,
}  # fmt: skip


def on_grid(weight):
    """A weight of the same shape and size whose groups of 32 are small integers times a scale; codes and scales too.

    The scales have 5 significant bits, so that the products are exact in bfloat16.
    """
    groups = weight.float().reshape(-1, 32)
    scale = (groups.abs().amax(dim=1, keepdim=True) / 7).clamp(min=1e-4).bfloat16()
    scale = (scale.view(torch.int16) & ~7).view(torch.bfloat16).to(weight.dtype)
    codes = (groups / scale.float()).round().clamp(-8, 7)
    value = (codes * scale.float()).to(weight.dtype).reshape(weight.shape)
    return value, codes.reshape(weight.shape).to(torch.int32) + 8, scale.reshape(len(weight), -1)


def linears(tensors):
    """Names of the text model's linear layers."""
    return [k for k in tensors if ".layers." in k and k.endswith("_proj.weight")]


def grid_folder(folder):
    """The pocket model with its linear layers on the int4 grid, as plain weights; returns what they were made of."""
    shutil.copytree(WEIGHTS, folder)
    tensors = load_file(folder / "model.safetensors")
    made = {}
    for key in linears(tensors):
        tensors[key], *made[key] = on_grid(tensors[key])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return made


def compressed_folder(folder, shards=1, **weights):
    """The same model in compressed-tensors' ``pack-quantized`` form, written by hand: 8 codes to an int32."""
    made = grid_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    for key, (codes, scale) in made.items():
        name = key.removesuffix(".weight")
        rows, columns = tensors.pop(key).shape
        words = torch.zeros((rows, columns // 8), dtype=torch.int64)
        for k in range(8):
            words |= codes[:, k::8].to(torch.int64) << (4 * k)
        tensors[f"{name}.weight_packed"] = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
        tensors[f"{name}.weight_scale"] = scale
        tensors[f"{name}.weight_shape"] = torch.tensor([rows, columns])
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    index = {}
    for n in range(shards):
        name = f"model-{n + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        part = {k: tensors[k] for k in keys[n::shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, name))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*vision.*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**WEIGHTS_OF_CT, **weights}}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return made
