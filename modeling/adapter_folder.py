"""The adapter folder: what lies in it beside the weights, so that it reloads with no other flag. Exported models too.

lora_adapter/
  adapter_model.safetensors  adapter_config.json    PEFT's own
  tokenizer.json  tokenizer_config.json             the tokenizer it was trained with
  sentiment_config.json                             `SentimentConfig`, below
  training_text_hashes.bin                          which texts it has seen (data/seen_texts.py)
  run_info.json                                     how it was made
  config.yaml                                       the same settings, for train.py --config
  training_log.jsonl                                loss and validation figures by step (training/callbacks.py)
  seeds.json                                        the same training with other seeds (training/seeds.py)
  README.md                                         the model card (modeling/model_card.py)

`deployment/export.py` writes folders that hold a whole model in place of an adapter, and else the same files.
"""

import dataclasses
import glob
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import numpy as np

from configs.config_file import CONFIG_FILE, config_text
from configs.fields import check_fields
from configs.prompt_template import prompt_problems
from configs.training_config import CLASSIFIER, LABEL_SCORING, DataConfig, source_problems
from data.polarity import Polarity, polarity_of
from data.seen_texts import save_seen_texts
from modeling.model_card import adapter_card
from runtime.atomic_files import atomic_folder, file_sha256, link_or_copy, recover_folder, write_json
from runtime.errors import UserError

FORMAT_VERSION = 3  # 2 knows the head label_scoring, 3 targets without a threshold and which labels are the sentiments
FILE_NAME = "sentiment_config.json"
RUN_INFO = "run_info.json"
TRAINING_LOG = "training_log.jsonl"
SEEDS = "seeds.json"
TASK_TYPES = {CLASSIFIER: "SEQ_CLS", LABEL_SCORING: "CAUSAL_LM"}  # PEFT's name for each head
WEIGHTS = "adapter_model.safetensors"
MAX_RANK = 1024
DEFAULT_ADAPTER = "./outputs/lora_adapter"
MOST_JSON_BYTES = 16 * 2**20  # ours have some thousand
ADAPTER, MERGED, ONNX, OPENVINO = "adapter", "merged", "onnx", "openvino"
MODEL_FILES = {
    ADAPTER: ("adapter_config.json", WEIGHTS),
    MERGED: ("config.json",),
    ONNX: ("model.onnx",),
    OPENVINO: ("openvino_model.xml", "openvino_model.bin"),
}


@dataclass
class SentimentConfig:
    """Settings that `SentimentPredictor` reads.

    `thresholds` maps a target precision such as "0.97" to a confidence; `without_threshold` are the targets that an
    evaluation has tried to reach and could not. Both are empty where none has.
    """

    base_model: str
    base_revision: str | None
    labels: list[str]
    max_length: int
    quantization: str | None = None  # "nf4" or None
    head: str = CLASSIFIER
    prompt_template: str | None = None  # both of the head label_scoring alone
    label_words: list[str] | None = None
    ordinal: bool = False  # the labels are a scale, in their order
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    without_threshold: list[str] = field(default_factory=list)
    sentiments: list[str] | None = None  # the negative and the positive label, where labels have such a meaning
    format_version: int = FORMAT_VERSION

    def save(self, folder: str | Path) -> None:
        """Write the file, whole or not at all; a link in its place is a `UserError`."""
        refuse_link(folder)
        write_json(Path(folder) / FILE_NAME, dataclasses.asdict(self))

    @property
    def polarity(self) -> Polarity | None:
        """The label ids of the two sentiments; in an adapter of an earlier version by the labels' words alone."""
        return polarity_of(self.labels, self.sentiments)

    def problems(self) -> list[str]:
        """The fields whose values cannot be, each as `name=value`."""
        # The head label_scoring has a prompt and a word for each label; a classifier has neither.
        if self.head == LABEL_SCORING:
            template, words = self.prompt_template, self.label_words or []
            has_template = isinstance(template, str) and not prompt_problems(template, None)
            has_words = _are_labels(words) and _are_labels(self.labels) and len(words) == len(self.labels)
        else:
            has_template = self.prompt_template is None
            has_words = self.label_words is None
        checks = {
            "base_model": isinstance(self.base_model, str) and self.base_model,
            "base_revision": self.base_revision is None or isinstance(self.base_revision, str),
            "labels": _are_labels(self.labels),
            "max_length": _is_number(self.max_length, 1, 32768) and isinstance(self.max_length, int),
            "quantization": self.quantization in (None, "nf4"),
            "head": self.head in tuple(TASK_TYPES),
            "prompt_template": has_template,
            "label_words": has_words,
            "ordinal": isinstance(self.ordinal, bool),
            "temperature": _is_number(self.temperature, 1e-6, 1e6),
            "thresholds": isinstance(self.thresholds, dict)
            and all(_is_target(name) and _is_number(value, 0, 1) for name, value in self.thresholds.items()),
            "without_threshold": isinstance(self.without_threshold, list)
            and all(isinstance(name, str) and _is_target(name) for name in self.without_threshold),
            "sentiments": self.sentiments is None
            or (
                _are_labels(self.sentiments) and len(self.sentiments) == 2 and set(self.sentiments) <= set(self.labels)
            ),
            "format_version": isinstance(self.format_version, int),
        }
        return [f"{name}={getattr(self, name)!r:.60}" for name, sound in checks.items() if not sound]

    @classmethod
    def load(cls, folder: str | Path) -> "SentimentConfig":
        """Read and check; every fault is a `UserError` that names the file."""
        path = require_model(folder) / FILE_NAME
        values = read_object(path)
        version = values.get("format_version", FORMAT_VERSION)
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(f"{path}：格式版本 {version!s:.20} 比本仓库认识的 {FORMAT_VERSION} 新，请更新本仓库")
        try:
            config = cls(**values)
        except TypeError as error:
            raise damaged(path, error) from None
        # Before the rest: a template that is missing is then no damage.
        if config.head in tuple(TASK_TYPES) and model_kind(folder) == ADAPTER:
            config._check_head(path, Path(folder))
        if problems := config.problems():
            raise damaged(path, "、".join(problems))
        return config

    def _check_head(self, path: Path, folder: Path) -> None:
        """The file must name the head that the adapter was trained with: PEFT would load it on another's base too."""
        task = read_object(folder / "adapter_config.json").get("task_type")
        if task != TASK_TYPES[self.head]:
            trained = next((head for head, name in TASK_TYPES.items() if name == task), task)
            raise UserError(
                f"{path} 写着 {self.head}，而旁边的适配器是用 --head {trained} 训练的，不能当作 {self.head} 载入；"
                "请恢复原来的 sentiment_config.json"
            )


def refuse_link(folder: str | Path) -> None:
    """A `UserError` where sentiment_config.json is a link: writing would change a file of another folder."""
    path = Path(folder) / FILE_NAME
    if path.is_symlink():
        raise UserError(
            f"{path} 是指向 {os.path.realpath(path)} 的链接，不写进去（那是别的文件夹的文件）；"
            "请把适配器连同内容复制一份（cp -rL），用 --model_path 指定那一份"
        )


def model_kind(folder: str | Path) -> str:
    """Kind of model that a folder holds, by its files: ONNX, OPENVINO, MERGED, else ADAPTER."""
    there = [kind for kind in (ONNX, OPENVINO, ADAPTER) if (Path(folder) / MODEL_FILES[kind][0]).is_file()]
    if there:
        return there[0]
    return MERGED if any(Path(folder).glob("model*.safetensors")) else ADAPTER


def require_model(folder: str | Path) -> Path:
    """The folder, if it holds an adapter of ours or a model that was exported from one."""
    folder = Path(folder)
    recover_folder(Path(os.path.realpath(folder)))  # "." has no name beside which an old folder could lie
    if not folder.is_dir():
        raise UserError(f"没有适配器文件夹 {folder}；先运行 python train.py，或用 --model_path 指定")
    kind = model_kind(folder)
    if missing := [name for name in (FILE_NAME, *MODEL_FILES[kind]) if not (folder / name).is_file()]:
        pickled = WEIGHTS in missing and (folder / "adapter_model.bin").is_file()
        hint = "；adapter_model.bin 是 pickle 文件，其中可以夹带程序，不载入" if pickled else ""
        whole = "适配器文件夹" if kind == ADAPTER else f"导出的模型（{kind}）"
        raise UserError(f"{folder} 不是完整的{whole}，缺 {'、'.join(missing)}{hint}")
    if kind == ADAPTER:
        _check_peft_config(folder / "adapter_config.json")
    return folder


def require_adapter(folder: str | Path) -> Path:
    """The folder, if it holds an adapter of ours: an exported model can be neither trained nor exported again."""
    folder = require_model(folder)
    if (kind := model_kind(folder)) != ADAPTER:
        raise UserError(f"{folder} 是导出的模型（{kind}），这里要的是适配器：训练写出的 lora_adapter 文件夹")
    return folder


def _check_peft_config(path: Path) -> None:
    """Only a plain LoRA of a size that can be: PEFT would import any module that `megatron_core` names."""
    config = read_object(path)
    if config.get("peft_type") != "LORA" or config.get("megatron_config"):
        raise damaged(path, f"不是普通的 LoRA 适配器：peft_type={config.get('peft_type')!r:.60}")
    if not (isinstance(config.get("r"), int) and 1 <= config["r"] <= MAX_RANK):
        raise damaged(path, f"r={config.get('r')!r:.60}")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of ours; every fault is a `UserError` that names the file."""
    try:
        if (size := path.stat().st_size) > MOST_JSON_BYTES:
            raise damaged(path, f"{size:,} 字节，太大")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(value, dict):
        raise damaged(path, "不是 JSON 对象")
    return value


def damaged(path: Path, reason: Any) -> UserError:
    """The error to raise for a file of ours that cannot be used."""
    return UserError(f"{path}：文件损坏（{reason!s:.300}），请重新训练或恢复备份")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_target(name: str) -> bool:
    """A target precision such as "0.97"."""
    try:
        return 0 < float(name) < 1
    except ValueError:
        return False


def _are_labels(labels: Any) -> bool:
    """At least two different names that a terminal can show."""
    return (
        isinstance(labels, list)
        and all(isinstance(label, str) and label.strip() and label.isprintable() for label in labels)
        and len(set(labels)) == len(labels) >= 2
    )


def save_adapter(
    folder: str | Path,
    model,
    tokenizer,
    sentiment: SentimentConfig,
    seen: list[str],
    info: dict,
    seen_before: np.ndarray | None = None,
    log: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write the whole adapter folder, or leave the old one as it is. `seen` are the training texts.

    `seen_before` are the hashes of those of an adapter that this training went on from (`read_seen_texts`); `log` are
    the lines of training_log.jsonl. An adapter with other weights is kept beside the new one, and a line says where,
    unless `overwrite` is set.
    """
    with atomic_folder(folder) as new:
        model.save_pretrained(new, save_embedding_layers=False)
        tokenizer.save_pretrained(new)
        sentiment.save(new)
        save_seen_texts(new, seen, seen_before)
        write_json(new / RUN_INFO, info)
        # In place of PEFT's empty card.
        (new / "README.md").write_text(adapter_card(sentiment, info, tokenizer.pad_token_id), encoding="utf-8")
        (new / CONFIG_FILE).write_text(config_text(info.get("config", {})), encoding="utf-8")
        if log:
            (new / TRAINING_LOG).write_text("".join(log), encoding="utf-8", newline="")
        if not overwrite:
            _keep_replaced(Path(os.path.realpath(folder)), new)


def _keep_replaced(old: Path, new: Path) -> None:
    """Give the files of the folder `old` a second home, `old`.<n>, unless `new` or one of those has its weights."""
    kept = [path for path in old.parent.glob(f"{glob.escape(old.name)}.*") if path.suffix[1:].isdecimal()]
    if not (old / WEIGHTS).is_file():
        return
    replaced = file_sha256(old / WEIGHTS)
    if any((path / WEIGHTS).is_file() and file_sha256(path / WEIGHTS) == replaced for path in [new, *kept]):
        return
    number = 1 + max([int(path.suffix[1:]) for path in kept], default=0)
    with atomic_folder(f"{old}.{number}") as copy:
        shutil.copytree(old, copy, copy_function=link_or_copy, dirs_exist_ok=True)
    print(f"原来的适配器留在 {old}.{number}（不想留：--overwrite）", flush=True)


def read_run_info(folder: str | Path) -> dict:
    """`run_info.json` of an adapter folder; it says which data the adapter was trained on."""
    path = require_model(folder) / RUN_INFO
    if not path.is_file():
        raise UserError(f"{path} 缺失，不知道它是怎样训练的")
    info = read_object(path)
    if wrong := [name for name in ("config", "data_fingerprint") if not isinstance(info.get(name), dict)]:
        raise damaged(path, f"没有 {'、'.join(wrong)}")
    wrong = _setting_problems(info["config"])
    if "seconds" in info and not _is_number(info["seconds"], 0, 1e12):
        wrong.append(f"seconds={info['seconds']!r:.60}")
    if wrong:
        raise damaged(path, "、".join(wrong))
    return info


def _setting_problems(settings: dict) -> list[str]:
    """Problems of the recorded choice of data, one each, which an evaluation reads again as `DataConfig`."""
    hints = get_type_hints(DataConfig)
    recorded = {name: value for name, value in settings.items() if name in hints}
    if wrong := [f"{name}={value!r:.60}" for name, value in recorded.items() if not _is_of(value, hints[name])]:
        return wrong
    config = DataConfig(**recorded)
    return check_fields(config) + source_problems(config)


def _is_of(value: Any, hint: Any) -> bool:
    """True for a value from a JSON file that is of a field's type, and a text one that a path can be made of."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if isinstance(value, list):
        return list[str] in kinds and all(_is_of(item, str) for item in value)
    if isinstance(value, str) and ("\0" in value or re.search("[\ud800-\udfff]", value)):
        return False
    return type(value) in kinds
