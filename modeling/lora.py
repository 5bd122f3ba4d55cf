"""LoRA: W + (alpha / r) B A. Put beside a base's weights for training, loaded from an adapter folder, merged.

    model, tokenizer = build_for_training(config, lora)
    model, tokenizer, sentiment = load_adapter("outputs/lora_adapter")

Merging is done here without PEFT: with its import, `inference.py --text` takes 1.3 times the processor time from start
to answer (3.7 s for 2.8 s on the small base, two CPU cores). The result is that of PEFT's `merge_and_unload` bit for
bit (`tests/modeling/test_lora.py`).
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from configs.lora_config import LoraSettings
from configs.training_config import CLASSIFIER, TrainingConfig
from data.dataset import LABEL_NAMES
from modeling.adapter_folder import TASK_TYPES, WEIGHTS, SentimentConfig, require_adapter
from modeling.base_model import (
    Float32Head,
    find_model,
    for_serving,
    load_headed_base,
    load_tokenizer,
    require_fitting,
)
from modeling.devices import Device, best_device
from runtime.errors import UserError, first_line, is_out_of_memory

PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
# What is read here, what plays no part once an adapter is trained, and what only another switch brings to life.
UNDERSTOOD = {
    "r", "lora_alpha", "target_modules", "modules_to_save", "peft_type", "task_type", "init_lora_weights",
    "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision", "auto_mapping",
    "megatron_core", "qalora_group_size",
}  # fmt: skip


def build_for_training(
    config: TrainingConfig, lora: LoraSettings, labels: list[str] = LABEL_NAMES, commit: str | None = None
):
    """(PEFT model with trainable LoRA and head, tokenizer). Set the seed before: weights are drawn here.

    `commit` is the hub's, where it should not be the newest.
    """
    device = best_device()
    folder, _ = find_model(config.model_name, commit)
    tokenizer = load_tokenizer(folder)
    base = load_headed_base(
        folder, tokenizer, labels=labels, words=config.words_for(labels),
        quantize=config.use_qlora, dtype=device.weights_dtype, device=device,
    )  # fmt: skip
    model = add_lora(base, lora, config.head)
    # For PEFT's own loaders: the hub's name and commit, not the hub's cache; a folder's full path, which alone is found
    # from any other folder.
    peft_config = model.peft_config["default"]
    peft_config.base_model_name_or_path = config.model_name if commit else str(Path(folder).resolve())
    peft_config.revision = commit
    return model, tokenizer


def add_lora(base, lora: LoraSettings, head: str = CLASSIFIER):
    """Freeze the base and add a trainable low-rank update to its linear layers; a new head stays trainable."""
    from peft import LoraConfig, get_peft_model

    if head != CLASSIFIER and "lm_head" in lora.target_modules:
        raise UserError("--target_modules：label_scoring 只读 lm_head 的权重，不能给它加 LoRA；请去掉 lm_head")
    adapts_embeddings = any(name.rsplit(".", 1)[-1] == "embed_tokens" for name in lora.target_modules)
    if adapts_embeddings and _has_tied_embeddings(base):
        raise UserError(
            "--target_modules：这个基座的 lm_head 与 embed_tokens 是同一个矩阵，label_scoring 要读它，"
            "不能给它加 LoRA；请去掉 embed_tokens"
        )
    targets: str | list[str] = lora.target_modules
    if lora.target_modules == ["all-linear"]:
        targets = "all-linear"  # PEFT's own word
    else:
        _require_targets(base, lora.target_modules)
    peft_config = LoraConfig(
        task_type=TASK_TYPES[head],
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        modules_to_save=["score"] if head == CLASSIFIER else None,
    )
    return get_peft_model(base, peft_config)


def _require_targets(base, targets: list[str]) -> None:
    """Every name must be of layers that can carry LoRA; of several, PEFT leaves out those that it does not find."""
    able, found, unable = set(), set(), {}
    for path, module in base.named_modules():
        is_linear = isinstance(module, nn.Linear) and not isinstance(module, Float32Head)
        if is_linear:
            able.add(path.rsplit(".", 1)[-1])
        for name in targets:
            if path == name or path.endswith(f".{name}"):
                found.add(name)
                if not is_linear and not isinstance(module, nn.Embedding):
                    unable[name] = f"{name}（{type(module).__name__}）"
    problems = []
    if unable:
        problems.append(f"不能给 {'、'.join(unable[name] for name in targets if name in unable)} 加 LoRA")
    if missing := [name for name in targets if name not in found]:
        problems.append(f"模型里没有 {'、'.join(missing)}")
    if problems:
        raise UserError(f"--target_modules：{'；'.join(problems)}；可选 {'、'.join(sorted(able))}")


def _has_tied_embeddings(model) -> bool:
    """True where the vocabulary projection reads the embeddings' own matrix; a classifier has no projection."""
    projection = model.get_output_embeddings()
    return projection is not None and projection.weight is model.get_input_embeddings().weight


def load_adapter(
    folder: str | Path,
    base_model_name: str | None = None,
    *,
    merge: bool = True,
    quantize: bool = True,
    device: Device | None = None,
):
    """(model in evaluation mode on its device, tokenizer, `SentimentConfig`) from an adapter folder.

    `merge` adds B A to W in float32, which moves the logits by about 1e-7, and only then casts to what the
    device serves in; merging in bf16 moves them by about 3e-3. A 4-bit base is never merged: that would
    round W + B A to 4 bits. `quantize=False` loads the base of such an adapter whole, which answers a little otherwise.
    """
    # What the adapter says about itself, and its base.
    folder = require_adapter(folder)
    device = device or best_device()
    sentiment = SentimentConfig.load(folder)
    quantize = quantize and sentiment.quantization == "nf4"
    merge = merge and not quantize
    if base_model_name:
        base_folder, _ = find_model(base_model_name)
    else:
        base_folder, _ = find_model(sentiment.base_model, sentiment.base_revision)

    # The base with its head, in float32 where the update is to be added to it.
    tokenizer = load_tokenizer(str(folder))
    dtype = torch.float32 if merge else device.weights_dtype
    base = load_headed_base(
        base_folder, tokenizer, labels=sentiment.labels, words=sentiment.label_words,
        quantize=quantize, dtype=dtype, device=device,
    )  # fmt: skip
    require_fitting(tokenizer, base, base_folder)

    # The adapter.
    try:
        _check_weights(folder)
        model = _with_adapter(base, folder, merge)
    except Exception as error:  # PEFT and safetensors raise many kinds here; each means the same to the user
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{folder} 的适配器装不到基座 {base_folder} 上：文件损坏，或它属于另一个基座（{first_line(error)}）"
        ) from None
    if merge:
        model.get_decoder().to(device.serving_dtype(model.config.hidden_size))  # a classification head stays float32
    return for_serving(model, device, quantize, sentiment.max_length), tokenizer, sentiment


def _check_weights(folder: Path) -> None:
    """A `ValueError` for weights that are no numbers, as of a training that diverged: every answer would be one."""
    for name, tensor in load_file(folder / WEIGHTS).items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} 里有 NaN 或无穷大")


def _with_adapter(base, folder: Path, merge: bool):
    """`base` with the adapter merged into its weights, or beside them where that would give other answers."""
    if merge and merge_lora(base, folder):
        return base
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")  # else they would stay random
        model = PeftModel.from_pretrained(base, str(folder))
    # Merged into a tied matrix, LoRA on the embeddings would change the projection too, which training left alone.
    adapts_embeddings = hasattr(base.get_input_embeddings(), "base_layer")
    if not merge or (adapts_embeddings and _has_tied_embeddings(base)):
        return model
    return model.merge_and_unload()


def merge_lora(model: nn.Module, folder: str | Path) -> bool:
    """Merge the adapter of `folder` into the float32 `model`; False, and nothing done, where PEFT has to look at it."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if not is_plain_lora(config):
        return False
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(Path(folder) / WEIGHTS).items()}
    # Everything is checked before the first weight is changed: what does not fit exactly is for PEFT to judge.
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
            fits = weight is not None and weight.shape == update.shape  # else `merge_lora` turns it down
            new[f"{module}.weight"] = weight + update if fits else update
        elif not name.endswith(LORA_B):
            new[name] = tensor
    return new


def adapted_weights(model: nn.Module, config: dict[str, Any]) -> set[str]:
    """Names of the weights that an adapter must speak of: of its target layers, and of those that it replaces."""
    last = {name: name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {*(config["target_modules"] or ()), *(config.get("modules_to_save") or ())}
    return {f"{name}.weight" for name, short in last.items() if short in chosen}


def is_plain_lora(config: dict[str, Any]) -> bool:
    """True where every other switch of the adapter is off (no DoRA, rank-stabilised scaling, biases, patterns, …)."""
    initial = config.get("init_lora_weights", True)  # PiSSA, OLoRA and LoftQ change the base as well
    return (
        config.get("peft_type") == "LORA"
        and initial in (True, False, "gaussian")
        and all(value in (None, False, "none", {}, []) for name, value in config.items() if name not in UNDERSTOOD)
    )
