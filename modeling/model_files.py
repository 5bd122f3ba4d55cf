"""Where a model's files are (a folder, this repository, the hub's cache), and the tokenizer among them."""

from pathlib import Path

from runtime.atomic_files import file_sha256
from runtime.errors import UserError, first_line
from runtime.hub_download import MODEL_FILES, fetch
from runtime.run_info import REPOSITORY

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
    """(folder, commit): a folder as given, one of this repository (`tiny_base`), or else the hub's; commit or None.

    An adapter is a `UserError`: transformers would load the adapter's base, add the adapter, and say nothing.
    """
    folder, commit = _find(name, commit)
    if (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{name} 是适配器（里面有 {ADAPTER_CONFIG}），不能当基座。要用它预测、评估：--model_path {folder}；"
            f"要在新数据上接着训练它：train.py --init_adapter {folder}；否则写它的基座（{ADAPTER_CONFIG} 里的 "
            "base_model_name_or_path）。里面若也有完整的模型，请先把 adapter_ 开头的文件移走"
        )
    return folder, commit


def _find(name: str, commit: str | None) -> tuple[str, str | None]:
    if Path(name).is_dir():
        return name, None
    if (REPOSITORY / name / "config.json").is_file():
        return str(REPOSITORY / name), None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"没有模型文件夹 {name}；Hub 上的模型名形如 Qwen/Qwen2.5-1.5B")
    folder, commit = fetch(name, "model", MODEL_FILES, WAY_OUT, commit)
    return str(folder), commit


def base_facts(folder: str, commit: str | None) -> dict[str, str]:
    """Which base it is, for the fingerprint of a run: the hub's commit, or the SHA-256 of the folder's files.

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
    """The tokenizer, padding on the right with `<|endoftext|>` where it names no pad token."""
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
    """A tokenizer of another base would give ids that the embedding does not have."""
    if (largest := max(tokenizer.get_vocab().values())) >= model.config.vocab_size:
        raise UserError(
            f"分词器不属于基座 {folder}：它有 {largest + 1:,} 个 token，基座只认识 {model.config.vocab_size:,} 个"
        )
