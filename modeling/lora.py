"""LoRA added to the weights, W + (alpha / r) B A, without PEFT, whose import takes longer than all else at the start.

    merged = merge_lora(base, folder)  # False: this adapter has something in it that only PEFT understands

Equal to PEFT's `merge_and_unload` bit for bit (`tests/modeling/test_lora.py`).
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from modeling.adapter_folder import WEIGHTS

PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
# What is read here, what plays no part once an adapter is trained, and what only another switch brings to life.
UNDERSTOOD = {
    "r", "lora_alpha", "target_modules", "modules_to_save", "peft_type", "task_type", "init_lora_weights",
    "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision", "auto_mapping",
    "megatron_core", "qalora_group_size",
}  # fmt: skip


def merge_lora(model: nn.Module, folder: str | Path) -> bool:
    """Merge the adapter of `folder` into the float32 `model`; False, and nothing done, where PEFT has to look at it."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if not is_plain_lora(config):
        return False
    tensors = {name.removeprefix(PREFIX): t for name, t in load_file(Path(folder) / WEIGHTS).items()}
    with torch.no_grad():
        weights = dict(model.named_parameters())
        new = merged_weights(weights, tensors, config["lora_alpha"] / config["r"])
        ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith(LORA_A)}
        if ranks != {config["r"]} or new.keys() != adapted_weights(model, config):
            return False
        if any(name not in weights or weights[name].shape != value.shape for name, value in new.items()):
            return False
        for name, value in new.items():
            weights[name].copy_(value)
    return True


def merged_weights(weights: dict, tensors: dict, scaling: float) -> dict[str, torch.Tensor]:
    """Name of a weight -> its new value: W + scaling * B A, or the tensor that replaces it (the head)."""
    new = {}
    for name, tensor in tensors.items():
        if name.endswith(LORA_A):  # (r, d_in)
            module = name.removesuffix(LORA_A)
            update = (tensors[module + LORA_B] @ tensor) * scaling  # (d_out, d_in)
            weight = weights.get(f"{module}.weight")
            new[f"{module}.weight"] = update if weight is None or weight.shape != update.shape else weight + update
        elif not name.endswith(LORA_B):
            new[name] = tensor
    return new


def adapted_weights(model: nn.Module, config: dict[str, Any]) -> set[str]:
    """Names of the weights that an adapter must speak of: of its target layers, and of those that it replaces."""
    last = {name: name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {*(config["target_modules"] or ()), *(config.get("modules_to_save") or ())}
    return {f"{name}.weight" for name, short in last.items() if short in chosen}


def is_plain_lora(config: dict[str, Any]) -> bool:
    """Whether every other switch of the adapter is off (no DoRA, rank-stabilised scaling, biases, patterns, …)."""
    initial = config.get("init_lora_weights", True)  # PiSSA, OLoRA and LoftQ change the base as well
    return (
        config.get("peft_type") == "LORA"
        and initial in (True, False, "gaussian")
        and all(value in (None, False, "none", {}, []) for name, value in config.items() if name not in UNDERSTOOD)
    )
