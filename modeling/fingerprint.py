"""Which model gave an answer: one short name for everything that its logits depend on."""

import hashlib
import json
from pathlib import Path

from data.atomic import file_sha256
from modeling.adapter import SentimentConfig, require_adapter

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json")


def model_fingerprint(model_path: str | Path, base_model_name: str | None = None) -> str:
    """16 hex digits that change when the model's logits may: the adapter's files, its settings, or the base.

    Temperature and thresholds play no part: they are read off the logits. A base that is a folder counts by names,
    sizes and times of its files, since reading gigabytes for a hash would take longer than many an evaluation.
    """
    from modeling.builder import find_model

    folder, sentiment = require_adapter(model_path), SentimentConfig.load(model_path)
    base, _ = find_model(base_model_name or sentiment.base_model, None if base_model_name else sentiment.base_revision)
    facts = {
        "files": {name: file_sha256(folder / name) for name in ADAPTER_FILES if (folder / name).is_file()},
        "base": base,
        "revision": sentiment.base_revision,
        "base_files": _file_facts(Path(base)),
        "settings": [sentiment.labels, sentiment.max_length, sentiment.quantization, sentiment.head],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _file_facts(folder: Path) -> list[list]:
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
