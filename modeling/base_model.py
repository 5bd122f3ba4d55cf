"""The one loader of models: base (optionally in 4 bits), head, LoRA, and an adapter's way back.

    model, tokenizer = build_for_training(config, lora)
    model, tokenizer, sentiment = load_adapter("outputs/lora_adapter")

The only `from_pretrained` calls of the repository stand here and, for the tokenizer, in modeling/model_files.py.
"""

import warnings
from pathlib import Path

import torch
from torch import nn

from configs.lora_config import LoraSettings
from configs.training_config import CLASSIFIER, TrainingConfig
from data.dataset import LABEL_NAMES
from modeling.adapter_folder import TASK_TYPES, WEIGHTS, SentimentConfig
from modeling.devices import Device, best_device
from modeling.label_scoring import as_label_scorer, label_word_ids
from modeling.lora import merge_lora
from modeling.model_files import find_model, lasting_name, load_tokenizer, require_fitting
from runtime.errors import UserError, first_line, is_out_of_memory


class Float32Head(nn.Linear):
    """The classification head, always in float32.

    In bf16 its logits near 4 could only differ by steps of 1/64, and its small updates would be
    lost: PEFT casts LoRA weights to float32, but not the `score` layer that it trains beside them.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # (B, T, D) -> (B, T, C)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())  # FSDP hands it over in bf16


def load_base(folder: str, tokenizer, *, labels: list[str], quantize: bool, dtype: torch.dtype, device: Device):
    """Qwen2 with a fresh float32 `score` head, (B, T) -> (B, C). Draws the head from torch's seed."""
    from transformers import AutoModelForSequenceClassification

    model = _from_folder(
        AutoModelForSequenceClassification, folder, whole="score",
        quantize=quantize, dtype=dtype, device=device, num_labels=len(labels),
    )  # fmt: skip
    _name_labels(model, labels)
    # Qwen2.5-1.5B's config names none, and batches would be refused; pooling looks for this id.
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    model.score = _float32_head(model.score)
    return model


def load_scoring_base(
    folder: str, tokenizer, *, labels: list[str], words: list[str], quantize: bool, dtype: torch.dtype, device: Device
):
    """Qwen2 as a language model whose forward answers with the label words' log-probabilities, (B, T) -> (B, C)."""
    from transformers import AutoModelForCausalLM

    if len(words) != len(labels):
        raise UserError(
            f"--label_words 有 {len(words)} 个（{'、'.join(words)}），标签有 {len(labels)} 个（{'、'.join(labels)}）"
        )
    try:
        token_ids = label_word_ids(tokenizer, words)
    except ValueError as error:
        raise UserError(str(error)) from None
    # In 4 bits the vocabulary projection stays whole: log-probabilities are read from it.
    model = _from_folder(AutoModelForCausalLM, folder, whole="lm_head", quantize=quantize, dtype=dtype, device=device)
    _name_labels(model, labels)
    model.config.use_cache = False
    return as_label_scorer(model, token_ids)


def _name_labels(model, labels: list[str]) -> None:
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}


def load_label_scorer(
    folder: str, labels: list[str], words: list[str], *, quantize: bool = False, device: Device | None = None
):
    """(un-tuned label scorer in evaluation mode on its device, tokenizer)."""
    device, tokenizer = device or best_device(), load_tokenizer(folder)
    model = load_scoring_base(
        folder, tokenizer, labels=labels, words=words, quantize=quantize, dtype=device.weights_dtype, device=device
    )
    if not quantize:
        model.get_decoder().to(device.serving_dtype(model.config.hidden_size))
    return _for_serving(model, device, quantize), tokenizer


def load_causal_base(name: str, *, quantize: bool = False, device: Device | None = None):
    """(language model without adapter or head of ours, in evaluation mode on its device, tokenizer).

    `name` is what `find_model` takes. In 4 bits the vocabulary projection stays whole, as in transformers' default.
    """
    from transformers import AutoModelForCausalLM

    (folder, _), device = find_model(name), device or best_device()
    model = _from_folder(
        AutoModelForCausalLM, folder, whole="lm_head", quantize=quantize, dtype=device.weights_dtype, device=device
    )
    return _for_serving(model, device, quantize), load_tokenizer(folder)


def _for_serving(model, device: Device, quantize: bool):
    """In evaluation mode on its device; a quantised model is there already and cannot be moved."""
    return (model if quantize else model.to(device.kind)).eval().requires_grad_(False)


def _from_folder(auto_class, folder: str, *, whole: str, quantize: bool, dtype: torch.dtype, device: Device, **options):
    """The model of a local folder in main memory, or in 4 bits (all but layer `whole`) on its device."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # "score.weight is newly initialized" is meant
    transformers_logging.disable_progress_bar()
    if quantize:
        options["quantization_config"] = nf4_config(device, whole)
        # A quantised model cannot be moved after it is made, and left to itself transformers knows no MPS.
        options["device_map"] = {"": torch.cuda.current_device() if device.kind == "cuda" else device.kind}
    try:
        # Left open, transformers asks on the terminal whether to run the folder's own code, and takes a "y" that
        # is piped in. Weights in pickle files could run code too.
        model, loading = auto_class.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # transformers, safetensors and their checks raise many kinds here
        if is_out_of_memory(error):
            raise
        raise UserError(f"{folder} 里的模型读不出来：{first_line(error)}") from None
    _require_whole(model, loading, folder, whole)
    return model


def _require_whole(model, loading: dict, folder: str, head: str) -> None:
    """transformers fills layers that it does not find with random numbers, without a word."""
    if missing := sorted(key for key in loading["missing_keys"] if not key.startswith(head)):
        raise UserError(
            f"{folder} 里的模型缺 {len(missing)} 个权重（{missing[0]} 等）：文件不完整，或不是语言模型的权重"
        )
    if not hasattr(model, head):
        raise UserError(f"{folder} 里的模型是 {type(model).__name__}，没有 {head} 层；请用 Qwen2.5 这一类的语言模型")


def _float32_head(score: nn.Linear) -> Float32Head:
    head = Float32Head(score.in_features, score.out_features, bias=False, device="meta")
    head.weight = nn.Parameter(score.weight.detach().float())
    return head


def nf4_config(device: Device, whole: str):
    """NF4 with double quantisation (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), all but layer `whole`.

    Cards before Ampere multiply it in float32: float16 would lose small gradients, which nothing scales up here.
    """
    from transformers import BitsAndBytesConfig

    multiplied_in = torch.bfloat16 if device.bf16 or device.kind == "cpu" else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=multiplied_in,
        llm_int8_skip_modules=[whole],
    )


def build_for_training(
    config: TrainingConfig, lora: LoraSettings, labels: list[str] = LABEL_NAMES, commit: str | None = None
):
    """(PEFT model with trainable LoRA and head, tokenizer). Set the seed before: weights are drawn here.

    `commit` is the hub's, where it should not be the newest.
    """
    device, (folder, commit) = best_device(), find_model(config.model_name, commit)
    tokenizer = load_tokenizer(folder)
    base = load_headed_base(
        config.head, folder, tokenizer, labels=labels, words=config.words_for(labels),
        quantize=config.use_qlora, dtype=device.weights_dtype, device=device,
    )  # fmt: skip
    model = add_lora(base, lora, config.head)
    model.peft_config["default"].base_model_name_or_path = lasting_name(config.model_name)  # not the hub's cache
    model.config.base_commit = commit
    return model, tokenizer


def load_headed_base(head: str, folder: str, tokenizer, *, words: list[str] | None, **options):
    """The base with the head of an adapter: (B, T) -> (B, C); `options` as for `load_base`."""
    if head == CLASSIFIER:
        return load_base(folder, tokenizer, **options)
    return load_scoring_base(folder, tokenizer, words=words, **options)


def add_lora(base, lora: LoraSettings, head: str = CLASSIFIER):
    """Freeze the base and put trainable low-rank neighbours beside its linear layers; a new head stays trainable."""
    from peft import LoraConfig, get_peft_model

    if head != CLASSIFIER and "lm_head" in lora.target_modules:
        raise UserError("--target_modules：label_scoring 只读 lm_head 的权重，不能给它加 LoRA；请去掉 lm_head")
    adapts_embeddings = any(name.rsplit(".", 1)[-1] == "embed_tokens" for name in lora.target_modules)
    if adapts_embeddings and _has_tied_embeddings(base):
        raise UserError(
            "--target_modules：这个基座的 lm_head 与 embed_tokens 是同一个矩阵，label_scoring 要读它，"
            "不能给它加 LoRA；请去掉 embed_tokens"
        )
    targets = lora.target_modules[0] if lora.target_modules == ["all-linear"] else lora.target_modules
    peft_config = LoraConfig(
        task_type=TASK_TYPES[head],
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        modules_to_save=["score"] if head == CLASSIFIER else None,
    )
    if targets != "all-linear":
        _require_targets(base, targets)
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
    """Whether a vocabulary projection reads the embeddings' own matrix; a classifier has no projection."""
    projection = model.get_output_embeddings()
    return projection is not None and projection.weight is model.get_input_embeddings().weight


def _check_weights(folder: Path) -> None:
    """A `ValueError` for weights that are no numbers, as of a training that diverged: every answer would be one."""
    from safetensors.torch import load_file

    for name, tensor in load_file(folder / WEIGHTS).items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} 里有 NaN 或无穷大")


def load_adapter(
    folder: str | Path, base_model_name: str | None = None, *, merge: bool = True, device: Device | None = None
):
    """(model in evaluation mode on its device, tokenizer, `SentimentConfig`) from an adapter folder.

    `merge` adds B A to W in float32, which moves the logits by about 1e-7, and only then casts to what the
    device serves in; merging in bf16 moves them by about 3e-3. A 4-bit base is never merged: that would
    round W + B A to 4 bits.
    """
    folder, device = Path(folder), device or best_device()
    sentiment = SentimentConfig.load(folder)
    quantize = sentiment.quantization == "nf4"
    merge = merge and not quantize
    if base_model_name:
        base_folder, _ = find_model(base_model_name)
    else:
        base_folder, _ = find_model(sentiment.base_model, sentiment.base_revision)
    tokenizer = load_tokenizer(str(folder))
    dtype = torch.float32 if merge else device.weights_dtype
    base = load_headed_base(
        sentiment.head, base_folder, tokenizer, labels=sentiment.labels, words=sentiment.label_words,
        quantize=quantize, dtype=dtype, device=device,
    )  # fmt: skip
    require_fitting(tokenizer, base, base_folder)
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
    return _for_serving(model, device, quantize), tokenizer, sentiment


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
