"""A short name for a model, which changes with everything that its logits depend on."""

import dataclasses
import hashlib
import json
from pathlib import Path

from modeling.adapter_folder import WEIGHTS, SentimentConfig
from runtime.atomic_files import file_sha256

ADAPTER_FILES = (WEIGHTS, "adapter_config.json", "tokenizer.json")


def model_fingerprint(model_path: str | Path, base_model_name: str | None = None) -> str:
    """16 hex digits that change when the model's logits may: the adapter's files, its settings, or the base.

    Temperature and thresholds play no part: they are read off the logits. A base that is a folder counts by names,
    sizes and times of its files, since reading gigabytes for a hash would take longer than many an evaluation.
    """
    folder, sentiment = Path(model_path), SentimentConfig.load(model_path)
    if base_model_name:
        sentiment = dataclasses.replace(sentiment, base_model=base_model_name, base_revision=None)
    files = {name: file_sha256(folder / name) for name in ADAPTER_FILES if (folder / name).is_file()}
    return settings_fingerprint(sentiment, files=files)


def settings_fingerprint(sentiment: SentimentConfig, **more) -> str:
    """The same of a base with the settings of `sentiment`, and of whatever `more` the answers depend on."""
    from modeling.base_model import find_model

    base, _ = find_model(sentiment.base_model, sentiment.base_revision)
    names = ("base_revision", "labels", "max_length", "quantization", "head", "prompt_template", "label_words")
    facts = more | {
        "base": base,
        "base_files": _file_facts(Path(base)),
        "settings": {name: getattr(sentiment, name) for name in names},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _file_facts(folder: Path) -> list[list]:
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
