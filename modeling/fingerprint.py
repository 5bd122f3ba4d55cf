"""A short name for a model, which changes with everything that its logits depend on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from modeling.adapter_folder import ADAPTER, FILE_NAME, WEIGHTS, SentimentConfig, model_kind
from runtime.atomic_files import file_sha256

ADAPTER_FILES = (WEIGHTS, "adapter_config.json", "tokenizer.json")
SETTINGS = ("base_revision", "labels", "max_length", "quantization", "head", "prompt_template", "label_words")
WEIGHT_SUFFIXES = (".json", ".safetensors", ".bin", ".onnx", ".data", ".xml")


def model_fingerprint(model_path: str | Path, base_model_name: str | None = None) -> str:
    """16 hex digits that change when the model's logits may: the adapter's files, its settings, or the base.

    Temperature and thresholds play no part: they are read off the logits. A base that is a folder, and an exported
    model, count by names, sizes and times of their files, since reading gigabytes for a hash would take longer than
    many an evaluation.
    """
    folder, sentiment = Path(model_path), SentimentConfig.load(model_path)
    if model_kind(folder) != ADAPTER:
        return _digest({"files": _file_facts(folder), "settings": _settings(sentiment)})
    if base_model_name:
        sentiment = dataclasses.replace(sentiment, base_model=base_model_name, base_revision=None)
    files = {name: file_sha256(folder / name) for name in ADAPTER_FILES if (folder / name).is_file()}
    return settings_fingerprint(sentiment, files=files)


def settings_fingerprint(sentiment: SentimentConfig, **more) -> str:
    """The same of a base with the settings of `sentiment`, and of whatever `more` the answers depend on."""
    from modeling.base_model import find_model

    base, _ = find_model(sentiment.base_model, sentiment.base_revision)
    return _digest(more | {"base": base, "base_files": _file_facts(Path(base)), "settings": _settings(sentiment)})


def _settings(sentiment: SentimentConfig) -> dict[str, Any]:
    return {name: getattr(sentiment, name) for name in SETTINGS}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _file_facts(folder: Path) -> list[list]:
    """Name, size and time of each file that logits depend on; none where `folder` is the hub's name of a base."""
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_SUFFIXES and path.name != FILE_NAME]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
