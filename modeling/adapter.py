"""The adapter folder: what lies in it beside the weights, so that it reloads with no other flag.

lora_adapter/
  adapter_model.safetensors  adapter_config.json    PEFT's own
  tokenizer.json  tokenizer_config.json             the tokenizer it was trained with
  sentiment_config.json                             `SentimentConfig`, below
  training_text_hashes.bin                          which texts it has seen (data/seen_texts.py)
  run_info.json                                     how it was made
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from data.atomic import atomic_folder, write_json
from data.seen_texts import save_seen_texts

FORMAT_VERSION = 1
FILE_NAME = "sentiment_config.json"
RUN_INFO = "run_info.json"
DEFAULT_ADAPTER = "./outputs/lora_adapter"
CLASSIFIER = "classifier"


@dataclass
class SentimentConfig:
    """What `SentimentPredictor` must know. `thresholds` maps a target precision such as "0.97" to a confidence."""

    base_model: str
    base_revision: str | None
    labels: list[str]
    max_length: int
    quantization: str | None = None  # "nf4" or None
    head: str = CLASSIFIER
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / FILE_NAME, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> "SentimentConfig":
        """Read and check; every fault is a `UserError` that names the file."""
        path = require_adapter(folder) / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            config = cls(**values)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            newer = isinstance(error, TypeError) and values.get("format_version", 0) > FORMAT_VERSION
            hint = "它来自更新的版本，请更新本仓库" if newer else f"文件损坏（{error}），请重新训练或恢复备份"
            raise UserError(f"{path}：{hint}") from None
        if config.format_version > FORMAT_VERSION:
            raise UserError(
                f"{path}：格式版本 {config.format_version} 比本仓库认识的 {FORMAT_VERSION} 新，请更新本仓库"
            )
        if config.head != CLASSIFIER:
            raise UserError(f"{path}：不认识的分类头 {config.head!r}")
        return config


def require_adapter(folder: str | Path) -> Path:
    """The folder, if it holds an adapter of ours."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"没有适配器文件夹 {folder}；先运行 python train.py，或用 --model_path 指定")
    needed = (FILE_NAME, "adapter_config.json", "adapter_model.safetensors")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise UserError(f"{folder} 不是完整的适配器文件夹，缺 {'、'.join(missing)}")
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:  # PEFT would look for another one on the hub
        raise UserError(f"{folder / 'adapter_config.json'}：文件损坏（{error}），请重新训练或恢复备份") from None
    return folder


def save_adapter(
    folder: str | Path,
    model,
    tokenizer,
    sentiment: SentimentConfig,
    seen: list[str],
    info: dict,
    trained: dict | None = None,
) -> None:
    """Write the whole adapter folder, or leave the old one as it is. `seen` are the training texts.

    `trained` are the trainable parameters by name, where the model itself holds only pieces of them (FSDP).
    """
    with atomic_folder(folder) as new:
        model.save_pretrained(new, state_dict=trained, save_embedding_layers=False)
        (new / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        tokenizer.save_pretrained(new)
        sentiment.save(new)
        save_seen_texts(new, seen)
        write_json(new / RUN_INFO, info)


def read_run_info(folder: str | Path) -> dict:
    """`run_info.json` of an adapter folder; it says which data the adapter was trained on."""
    path = require_adapter(folder) / RUN_INFO
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} 缺失或损坏（{type(error).__name__}），不知道它是怎样训练的") from None
