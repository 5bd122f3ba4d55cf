"""The one loader of bases: where a model's files are, the model (optionally in 4 bits) with a head, its tokenizer.

    folder, commit = find_model("Qwen/Qwen2.5-1.5B")
    tokenizer = load_tokenizer(folder)

The only `from_pretrained` calls of the repository stand here and, for adapters, in modeling/lora.py.
"""

from pathlib import Path

import torch
from torch import nn

from modeling.devices import EAGER_ATTENTION_TOKENS, Device, best_device
from modeling.label_scoring import as_label_scorer, label_word_ids
from runtime.atomic_files import file_sha256
from runtime.errors import UserError, first_line, is_out_of_memory
from runtime.hub_download import MODEL_FILES, fetch
from runtime.run_info import REPOSITORY

EMBEDDED_BASE = REPOSITORY / "tiny_base"
END_OF_TEXT = "<|endoftext|>"
ADAPTER_CONFIG = "adapter_config.json"
BASE = "基座 "  # begins the name of each fact about the base in the fingerprint of a run
COMMIT = f"{BASE}commit"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json",
)  # fmt: skip
WAY_OUT = "--model_name 本地文件夹，或 --preset tiny（内置小模型，不用网络）"


def find_model(name: str, commit: str | None = None) -> tuple[str, str | None]:
    """(folder, commit): a folder as given, one of this repository (`tiny_base`), or else a hub's; commit or None.

    An adapter is a `UserError`: transformers would load the adapter's base, add the adapter, and say nothing.
    """
    if Path(name).is_dir():
        folder, commit = name, None
    elif (REPOSITORY / name / "config.json").is_file():
        folder, commit = str(REPOSITORY / name), None
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"没有模型文件夹 {name}；Hub 上的模型名形如 Qwen/Qwen2.5-1.5B")
    else:
        fetched, commit = fetch(name, "model", MODEL_FILES, WAY_OUT, commit)
        folder = str(fetched)
    if (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{name} 是适配器（里面有 {ADAPTER_CONFIG}），不能当基座。要用它预测、评估：--model_path {folder}；"
            f"要在新数据上接着训练它：train.py --init_adapter {folder}；否则写它的基座（{ADAPTER_CONFIG} 里的 "
            "base_model_name_or_path）。里面若也有完整的模型，请先把 adapter_ 开头的文件移走"
        )
    return folder, commit


def base_facts(folder: str, commit: str | None) -> dict[str, str]:
    """Identity of the base, for the fingerprint of a run: the hub's commit, or the SHA-256 of the folder's files.

    Not their times: a copy has new ones, and weights changed in place can have the old. Reading gigabytes for a hash
    takes seconds, once in a training that takes minutes or hours, and the weights are read right afterwards anyway.
    """
    if commit:
        return {COMMIT: commit}
    names = ("config.json", *TOKENIZER_FILES)
    files = [path for path in sorted(Path(folder).iterdir()) if path.suffix == ".safetensors" or path.name in names]
    return {f"{BASE}{path.name}": f"SHA-256 {file_sha256(path)[:16]}" for path in files}


def lasting_name(name: str) -> str:
    """`name` as an adapter should remember it: a folder outside this repository by its full path."""
    if Path(name).is_dir() and not (REPOSITORY / name / "config.json").is_file():
        return str(Path(name).resolve())
    return name


def load_tokenizer(folder: str):
    """The tokenizer of a local folder, padding on the right with `<|endoftext|>` where it names no pad token."""
    from transformers import AutoTokenizer

    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would hand back an empty tokenizer without a word
        raise UserError(f"{folder} 里没有分词器（tokenizer.json）")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or END_OF_TEXT
        _make_all_special(tokenizer)
    except Exception as error:  # each library has its own kind for a damaged file
        raise UserError(f"{folder} 里的分词器读不出来：{first_line(error)}") from None
    tokenizer.padding_side = "right"
    return tokenizer


def _make_all_special(tokenizer) -> None:
    """`split_special_tokens` splits special ones alone, and Qwen2.5 has others, such as `<tool_call>`."""
    from tokenizers import AddedToken

    plain = [token for token in tokenizer.added_tokens_decoder.values() if not token.special]
    tokenizer.add_tokens([AddedToken(token.content, special=True, normalized=False) for token in plain], True)


def require_fitting(tokenizer, model, folder: str) -> None:
    """A `UserError` for a tokenizer of another base, whose ids mean other tokens here or none at all."""
    tokens = max(tokenizer.get_vocab().values()) + 1
    known = model.config.vocab_size
    # The embedded base has exactly its tokenizer's tokens, and so had those before it.
    if Path(folder).resolve() == EMBEDDED_BASE and tokens != known:
        raise UserError(
            f"适配器不是在现在的内置小模型上训练的（它的分词器有 {tokens:,} 个 token，现在的有 {known:,} 个），"
            "答案会是错的。"
            "请重新训练；或取出以前的内置小模型（git archive 75a5ec5 tiny_base | tar x -C 文件夹），"
            "用 --base_model_name 文件夹/tiny_base 指定"
        )
    if tokens > known:
        raise UserError(f"分词器不属于基座 {folder}：它有 {tokens:,} 个 token，基座只认识 {known:,} 个")


def load_headed_base(folder: str, tokenizer, *, words: list[str] | None, **options):
    """The base as a label scorer with these label words, or without any as a classifier: (B, T) -> (B, C).

    `options` as for `load_base`.
    """
    if words is None:
        return load_base(folder, tokenizer, **options)
    return load_scoring_base(folder, tokenizer, words=words, **options)


class Float32Head(nn.Linear):
    """The classification head, always in float32.

    In bf16 its logits near 4 could only differ by steps of 1/64, and its small updates would be
    lost: PEFT casts LoRA weights to float32, but not the `score` layer that it trains beside them.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # (B, T, D) -> (B, T, C)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight)


def load_base(
    folder: str,
    tokenizer,
    *,
    labels: list[str],
    quantize: bool,
    dtype: torch.dtype,
    device: Device,
    new_head: bool = True,
):
    """Qwen2 with a float32 `score` head, (B, T) -> (B, C): drawn from torch's seed, or the folder's own."""
    from transformers import AutoModelForSequenceClassification

    model = _from_folder(
        AutoModelForSequenceClassification, folder, whole="score", new_head=new_head,
        quantize=quantize, dtype=dtype, device=device, num_labels=len(labels),
    )  # fmt: skip
    _name_labels(model, labels)
    # Qwen2.5-1.5B's config names none, and batches would be refused; pooling looks for this id.
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    score = Float32Head(model.score.in_features, model.score.out_features, bias=False, device="meta")
    score.weight = nn.Parameter(model.score.weight.detach().float())
    model.score = score
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


def load_merged(folder: str, tokenizer, *, labels: list[str], max_length: int, device: Device):
    """A classifier with its adapter merged into it, as `deployment/export.py` writes it, ready to answer."""
    model = load_base(
        folder, tokenizer, labels=labels, quantize=False, dtype=torch.float32, device=device, new_head=False
    )
    model.get_decoder().to(device.serving_dtype(model.config.hidden_size))
    return for_serving(model, device, quantize=False, max_length=max_length)


def _name_labels(model, labels: list[str]) -> None:
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}


def load_label_scorer(
    folder: str,
    labels: list[str],
    words: list[str],
    *,
    max_length: int,
    quantize: bool = False,
    device: Device | None = None,
):
    """(un-tuned label scorer in evaluation mode on its device, tokenizer)."""
    device = device or best_device()
    tokenizer = load_tokenizer(folder)
    model = load_scoring_base(
        folder, tokenizer, labels=labels, words=words, quantize=quantize, dtype=device.weights_dtype, device=device
    )
    if not quantize:
        model.get_decoder().to(device.serving_dtype(model.config.hidden_size))
    return for_serving(model, device, quantize, max_length), tokenizer


def load_causal_base(name: str, *, quantize: bool = False, device: Device | None = None):
    """(language model without adapter or head of ours, in evaluation mode on its device, tokenizer).

    `name` is what `find_model` takes. In 4 bits the vocabulary projection stays whole, as in transformers' default.
    """
    from transformers import AutoModelForCausalLM

    device = device or best_device()
    folder, _ = find_model(name)
    model = _from_folder(
        AutoModelForCausalLM, folder, whole="lm_head", quantize=quantize, dtype=device.weights_dtype, device=device
    )
    return for_serving(model, device, quantize), load_tokenizer(folder)


def for_serving(model, device: Device, quantize: bool, max_length: int | None = None):
    """In evaluation mode on its device; a quantised model is there already and cannot be moved.

    `max_length` is the number of tokens that it will read at most, where that is known.
    """
    if model.dtype == torch.bfloat16 and device.kind == "cpu" and max_length and max_length <= EAGER_ATTENTION_TOKENS:
        # torch's fused attention in bf16 is slower, and an answer would depend on the other texts of its batch.
        model.set_attn_implementation("eager")
    if not quantize:
        model = model.to(device.kind)
    return model.eval().requires_grad_(False)


def _from_folder(
    auto_class,
    folder: str,
    *,
    whole: str,
    quantize: bool,
    dtype: torch.dtype,
    device: Device,
    new_head: bool = True,
    **options,
):
    """The model of a local folder in main memory, or in 4 bits (all but layer `whole`, its head) on its device.

    With `new_head` the folder need not hold the head.
    """
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
    _require_whole(model, loading, folder, whole, new_head)
    return model


def _require_whole(model, loading: dict, folder: str, head: str, new_head: bool) -> None:
    """transformers fills layers that it does not find with random numbers, without a word."""
    if missing := sorted(key for key in loading["missing_keys"] if not (new_head and key.startswith(head))):
        raise UserError(
            f"{folder} 里的模型缺 {len(missing)} 个权重（{missing[0]} 等）：文件不完整，或不是语言模型的权重"
        )
    if not hasattr(model, head):
        raise UserError(f"{folder} 里的模型是 {type(model).__name__}，没有 {head} 层；请用 Qwen2.5 这一类的语言模型")


def nf4_config(device: Device, whole: str):
    """NF4 with double quantisation (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), all but layer `whole`.

    Cards before Ampere multiply it in float32: float16 would lose small gradients, which nothing scales up here. What
    the user asks for comes first.
    """
    from transformers import BitsAndBytesConfig

    multiplied_in = device.dtype or (torch.bfloat16 if device.bf16 or device.kind == "cpu" else torch.float32)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=multiplied_in,
        llm_int8_skip_modules=[whole],
    )
