"""The one loader of models: tokenizer, base (optionally in 4 bits), LoRA, and an adapter's way back.

    model, tokenizer = build_for_training(config, lora)
    model, tokenizer, sentiment = load_adapter("outputs/lora_adapter")

The only `from_pretrained` calls of the repository stand here.
"""

from pathlib import Path

import torch
from torch import nn

from configs.errors import UserError
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.hub import MODEL_FILES, fetch
from data.rows import LABEL_NAMES
from modeling.adapter import SentimentConfig, require_adapter
from modeling.devices import Device, best_device
from modeling.merge import merge_lora
from modeling.run_record import REPOSITORY

END_OF_TEXT = "<|endoftext|>"
WAY_OUT = "--model_name 本地文件夹，或 --preset tiny（内置小模型，不用网络）"


class Float32Head(nn.Linear):
    """The classification head, always in float32.

    In bf16 its logits near 4 could only differ by steps of 1/64, and its small updates would be
    lost: PEFT casts LoRA weights to float32, but not the `score` layer that it trains beside them.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # (B, T, D) -> (B, T, C)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())  # FSDP hands it over in bf16


def find_model(name: str, commit: str | None = None) -> tuple[str, str | None]:
    """(folder, commit): a folder as given, one of this repository (`tiny_base`), or else the hub's; commit or None."""
    if Path(name).is_dir():
        return name, None
    if (REPOSITORY / name / "config.json").is_file():
        return str(REPOSITORY / name), None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"没有模型文件夹 {name}；Hub 上的模型名形如 Qwen/Qwen2.5-1.5B")
    folder, commit = fetch(name, "model", MODEL_FILES, WAY_OUT, commit)
    return str(folder), commit


def lasting_name(name: str) -> str:
    """`name` as an adapter should remember it: a folder outside this repository by its full path."""
    if Path(name).is_dir() and not (REPOSITORY / name / "config.json").is_file():
        return str(Path(name).resolve())
    return name


def load_tokenizer(folder: str):
    """The tokenizer, padding on the right with `<|endoftext|>` where it names no pad token."""
    from transformers import AutoTokenizer

    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would hand back an empty tokenizer without a word
        raise UserError(f"{folder} 里没有分词器（tokenizer.json）")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or END_OF_TEXT
    tokenizer.padding_side = "right"
    return tokenizer


def load_base(folder: str, tokenizer, *, labels: list[str], quantize: bool, dtype: torch.dtype, device: Device):
    """Qwen2 with a fresh float32 `score` head, (B, T) -> (B, C). Draws the head from torch's seed."""
    from transformers import AutoModelForSequenceClassification

    model = _from_folder(
        AutoModelForSequenceClassification, folder, whole="score",
        quantize=quantize, dtype=dtype, device=device, num_labels=len(labels),
    )  # fmt: skip
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    # Qwen2.5-1.5B's config names none, and batches would be refused; pooling looks for this id.
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    model.score = _float32_head(model.score)
    return model


def load_causal_base(name: str, *, quantize: bool = False, device: Device | None = None):
    """(language model without adapter or head of ours, in evaluation mode on its device, tokenizer).

    `name` is what `find_model` takes. In 4 bits the vocabulary projection stays whole, as in
    transformers' own default: log-probabilities are read from it.
    """
    from transformers import AutoModelForCausalLM

    (folder, _), device = find_model(name), device or best_device()
    model = _from_folder(
        AutoModelForCausalLM, folder, whole="lm_head", quantize=quantize, dtype=device.weights_dtype, device=device
    )
    if not quantize:
        model = model.to(device.kind)
    return model.eval().requires_grad_(False), load_tokenizer(folder)


def _from_folder(auto_class, folder: str, *, whole: str, quantize: bool, dtype: torch.dtype, device: Device, **options):
    """The model of a local folder in main memory, or in 4 bits (all but layer `whole`) on its device."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # "score.weight is newly initialized" is meant
    transformers_logging.disable_progress_bar()
    if quantize:
        options["quantization_config"] = nf4_config(device, whole)
        # A quantised model cannot be moved after it is made.
        options["device_map"] = {"": torch.cuda.current_device()} if device.kind == "cuda" else None
    try:
        return auto_class.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} 里的模型读不出来：{str(error).splitlines()[0]}") from None


def _float32_head(score: nn.Linear) -> Float32Head:
    head = Float32Head(score.in_features, score.out_features, bias=False, device="meta")
    head.weight = nn.Parameter(score.weight.detach().float())
    return head


def nf4_config(device: Device, whole: str):
    """NF4 with double quantisation (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), all but layer `whole`."""
    from transformers import BitsAndBytesConfig

    half = torch.bfloat16 if device.bf16 or device.kind == "cpu" else torch.float16
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half,
        llm_int8_skip_modules=[whole],
    )


def build_for_training(config: TrainingConfig, lora: LoraSettings):
    """(PEFT model with trainable LoRA and head, tokenizer). Set the seed before: weights are drawn here."""
    device, (folder, commit) = best_device(), find_model(config.model_name)
    tokenizer = load_tokenizer(folder)
    base = load_base(
        folder, tokenizer, labels=LABEL_NAMES, quantize=config.use_qlora, dtype=device.weights_dtype, device=device
    )
    model = add_lora(base, lora)
    model.peft_config["default"].base_model_name_or_path = lasting_name(config.model_name)  # not the hub's cache
    model.config.base_commit = commit
    return model, tokenizer


def add_lora(base, lora: LoraSettings):
    """Freeze the base and put trainable low-rank neighbours beside its linear layers; the head stays trainable."""
    from peft import LoraConfig, TaskType, get_peft_model

    targets = lora.target_modules[0] if lora.target_modules == ["all-linear"] else lora.target_modules
    peft_config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        modules_to_save=["score"],
    )
    try:
        return get_peft_model(base, peft_config)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, nn.Linear)}
        )
        raise UserError(
            f"--target_modules：模型里没有 {'、'.join(lora.target_modules)}；可选 {'、'.join(linear)}"
        ) from None


def load_adapter(
    folder: str | Path, base_model_name: str | None = None, *, merge: bool = True, device: Device | None = None
):
    """(model in evaluation mode on its device, tokenizer, `SentimentConfig`) from an adapter folder.

    `merge` adds B A to W in float32, which moves the logits by about 1e-7, and only then casts to the
    device's dtype; merging in bf16 moves them by about 3e-3. A 4-bit base is never merged: that would
    round W + B A to 4 bits.
    """
    folder, device = require_adapter(folder), device or best_device()
    sentiment = SentimentConfig.load(folder)
    quantize = sentiment.quantization == "nf4"
    merge = merge and not quantize
    if base_model_name:
        base_folder, _ = find_model(base_model_name)
    else:
        base_folder, _ = find_model(sentiment.base_model, sentiment.base_revision)
    tokenizer = load_tokenizer(str(folder))
    dtype = torch.float32 if merge else device.weights_dtype
    base = load_base(base_folder, tokenizer, labels=sentiment.labels, quantize=quantize, dtype=dtype, device=device)
    try:
        model = _with_adapter(base, folder, merge)
    except Exception as error:  # PEFT and safetensors raise many kinds here; each means the same to the user
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder} 的适配器装不到基座 {base_folder} 上：文件损坏，或它属于另一个基座（{reason}）"
        ) from None
    if merge:
        model.model.to(device.weights_dtype)  # the head stays float32
    if not quantize:
        model = model.to(device.kind)
    return model.eval().requires_grad_(False), tokenizer, sentiment


def _with_adapter(base, folder: Path, merge: bool):
    """`base` with the adapter merged into its weights, or beside them."""
    if merge and merge_lora(base, folder):
        return base
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(folder))
    return model.merge_and_unload() if merge else model
