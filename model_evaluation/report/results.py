"""The files that a report is made of: read whatever is there, and say what is missing or broken.

results = read_results(Path("model_evaluation/outputs"))
results.data["metrics"]["accuracy"], results.problems
"""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import numpy as np
from jinja2 import UndefinedError

from data.dataset import LABEL_NAMES
from model_evaluation.benchmark import BaselinesStep
from model_evaluation.classification_report import MetricsStep
from model_evaluation.confidence_analysis import ConfidenceStep
from model_evaluation.metrics.classification import confusion_matrix
from model_evaluation.robustness_test import RobustnessStep
from model_evaluation.runs.folders import RUN_FILE
from modeling.adapter_folder import RUN_INFO, SEEDS, TRAINING_LOG
from prediction.prediction_set import Predictions

PREDICTIONS = "predictions.jsonl"
AUDIT = "data_audit.json"
TRAINING_FILES = (TRAINING_LOG, RUN_INFO, SEEDS)  # of the adapter
# Errors of an older or foreign result file. One of our own would fail the tests, which render them all.
FOREIGN_FILE_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError, UndefinedError)


@dataclass(frozen=True)
class Section:
    """One result file as the page shows it; `script` are the words after `python` that make the file."""

    name: str
    title: str
    file_name: str
    script: tuple[str, ...]


SECTIONS = (
    Section(MetricsStep.name, "准确率", MetricsStep.file_name, MetricsStep.script),
    Section(ConfidenceStep.name, "置信度", ConfidenceStep.file_name, ConfidenceStep.script),
    Section(RobustnessStep.name, "稳健性与能力", RobustnessStep.file_name, RobustnessStep.script),
    Section(BaselinesStep.name, "与基线比较", BaselinesStep.file_name, BaselinesStep.script),
    Section("audit", "数据检查", AUDIT, ("-m", "data.audit")),
)


@dataclass
class Results:
    """`data`: section name -> content of its file. `problems`: file name -> a sentence why it is not shown.

    `run` is the content of run.json, which tells how the files were made; empty for files of earlier versions.
    """

    folder: Path
    data: dict[str, dict] = field(default_factory=dict)
    predictions: Predictions | None = None
    problems: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    training_log: list[dict] = field(default_factory=list)  # these three lie in the adapter's folder
    best_step: int | None = None
    seeds: dict | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the label ids, as far as the files tell them."""
        named = list((self.data.get("metrics") or {}).get("per_class") or [])
        classes = len(named) if self.predictions is None else self.predictions.logits.shape[1]
        if classes and len(named) == classes:
            return named
        if classes in (0, len(LABEL_NAMES)):
            return LABEL_NAMES
        return [f"类别 {i}" for i in range(classes)]

    @property
    def temperature(self) -> float:
        """The fitted one, 1.0 where none is known."""
        return float((self.data.get("confidence") or {}).get("temperature") or 1.0)

    def label(self, label: Any) -> str:
        """A label id's name; what is no known id stands as it is."""
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return self.labels[label]
        return "—" if label is None else str(label)

    def predictions_are_of_another_run(self) -> bool:
        """Whether the confusion matrix of predictions.jsonl is another one than that of metrics.json."""
        written = (self.data.get("metrics") or {}).get("confusion_matrix")
        if written is None or self.predictions is None or self.predictions.labels is None:
            return False
        if not known_labels(self.predictions).all():
            return True
        classes = self.predictions.logits.shape[1]
        return confusion_matrix(self.predictions.labels, self.predictions.pred, classes).tolist() != written

    def command(self, section: Section) -> str:
        """The command line that makes the file of a section."""
        metrics = self.data.get("metrics") or {}
        words = ["python", *section.script]
        flags = dict(self.run.get("flags", {"output_dir": str(self.folder)}))
        if section.name == "audit":
            # The audit looks at a data set; which files of one's own it should be, only their owner knows.
            source = str((metrics.get("data") or {}).get("source") or "")
            flags = {name: value for name, value in flags.items() if name == "output_dir"}
            if source and not Path(source).suffix:
                flags = {"dataset": source} | flags
        elif metrics.get("model_path"):
            flags = {"model_path": metrics["model_path"]} | flags
        for name, value in flags.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no_{name}")
            else:
                words += [f"--{name}", str(value)]
        return list2cmdline(words) if os.name == "nt" else shlex.join(words)


def known_labels(predictions: Predictions) -> np.ndarray:
    """(N,) bool: which rows have a label that the model can give."""
    if predictions.labels is None:
        return np.zeros(len(predictions), dtype=bool)
    return (predictions.labels >= 0) & (predictions.labels < predictions.logits.shape[1])


def read_results(folder: Path) -> Results:
    """The result files that lie in `folder`; one that cannot be read becomes a problem, not an error."""
    results = Results(folder)
    results.run = _read(results, folder / RUN_FILE, _read_object) or {}
    results.predictions = _read(results, folder / PREDICTIONS, _read_predictions)
    for section in SECTIONS:
        if section.file_name != AUDIT and (found := _read(results, folder / section.file_name, _read_object)):
            results.data[section.name] = found
    _add_audit(results)
    _add_training(results)
    return results


def _read(results: Results, path: Path, reader: Callable[[Path], Any]) -> Any:
    """The content of a file; None where there is none, or where it cannot be read, which is noted."""
    if not path.exists():
        return None
    try:
        return reader(path)
    except OSError as error:
        results.problems[path.name] = f"读不了 {path.name}（{error.strerror}）。"
    except FOREIGN_FILE_ERRORS as error:  # not UTF-8, not JSON, not the agreed shape
        results.problems[path.name] = unexpected(path.name, error)
    return None


def _add_audit(results: Results) -> None:
    """The data audit that lies with the results or in the folder above, if it is of the data that they are about."""
    about = set((results.run.get("split_fingerprints") or {}).values())
    about |= {(data.get("data") or {}).get("fingerprint") for data in results.data.values()} - {None}
    for folder in (results.folder, results.folder.absolute().parent):
        audit, of = _read(results, folder / AUDIT, _read_audit) or (None, set())
        if audit is None:
            continue
        if not about or about & of:
            results.data["audit"] = audit
            results.problems.pop(AUDIT, None)
            return
        source = audit["data"].get("source")
        results.problems[AUDIT] = f"{folder / AUDIT} 检查的是另一份数据（{source}），没有放进来。"


def unexpected(file_name: str, error: Exception) -> str:
    return f"{file_name} 的内容不是预期的样子（{explained(error)}）。"


def explained(error: Exception) -> str:
    if isinstance(error, UndefinedError):
        return str(error)
    return f"没有 {error.args[0]}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def _read_object(path: Path) -> dict:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TypeError("最外层应为对象")
    return value


def _read_audit(path: Path) -> tuple[dict, set[str]]:
    """The audit, and the fingerprints of the splits that it is about."""
    audit = _read_object(path)
    return audit, set(audit["data"]["fingerprints"].values())


def _read_predictions(path: Path) -> Predictions:
    predictions = Predictions.load(path)
    if not len(predictions):
        raise ValueError("没有一条预测")
    return predictions


def _add_training(results: Results) -> None:
    """What the evaluated adapter, if it is still there, tells of its training; one of an earlier version, nothing."""
    model_path = (results.data.get("metrics") or {}).get("model_path")
    if not model_path:
        return
    adapter = Path(str(model_path))
    results.training_log = _read(results, adapter / TRAINING_LOG, _read_lines) or []
    if results.training_log:
        results.best_step = _read(results, adapter / RUN_INFO, _read_best_step)
    results.seeds = _read(results, adapter / SEEDS, _read_object)


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_best_step(path: Path) -> int:
    return int(_read_object(path)["best"]["step"])
