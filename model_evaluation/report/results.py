"""What a report is made of: the files of an evaluation, and figures that say which file and key they come from.

    >>> Figures("metrics.json", {"accuracy": 0.9012, "n": 1626}).percent("accuracy")
    Markup('<data data-file="metrics.json" data-pointer="/accuracy" value="0.9012">90.1%</data>')

The pointer is a JSON Pointer (RFC 6901): a test follows every figure of the page back to its file.
"""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

from markupsafe import Markup

from data.dataset import LABEL_NAMES
from prediction.prediction_set import Predictions

NOTHING = "—"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Step:
    """One part of an evaluation: its name for `--steps`, what it is called, its file, what makes it."""

    name: str
    title: str
    file: str
    script: tuple[str, ...]
    needs_model: bool = True


STEPS = (
    Step("metrics", "准确率", "metrics.json", ("model_evaluation/run_full_eval.py", "--steps", "metrics")),
    Step("confidence", "置信度", "confidence_analysis.json", ("model_evaluation/confidence_analysis.py",)),
    Step("robustness", "稳健性与能力", "robustness_result.json", ("model_evaluation/robustness_test.py",)),
    Step("baselines", "与基线比较", "baseline_comparison.json", ("model_evaluation/benchmark.py",)),
    Step("audit", "数据检查", "data_audit.json", ("-m", "data.audit"), needs_model=False),
)


@dataclass
class Results:
    """`data`: step name -> what its file holds. `problems`: file name -> a sentence that says why it cannot be read."""

    folder: Path
    data: dict[str, dict] = field(default_factory=dict)
    predictions: Predictions | None = None
    problems: dict[str, str] = field(default_factory=dict)

    def figures(self, name: str) -> "Figures":
        """The figures of a step; KeyError if its file is not there."""
        return Figures(next(step.file for step in STEPS if step.name == name), self.data[name])

    @property
    def labels(self) -> list[str]:
        """Names of the label ids, as far as the files tell them."""
        named = list((self.data.get("metrics") or {}).get("per_class") or [])
        classes = len(named) if self.predictions is None else self.predictions.logits.shape[1]
        if classes and len(named) == classes:
            return named
        return LABEL_NAMES if classes in (0, len(LABEL_NAMES)) else [f"类别 {i}" for i in range(classes)]

    @property
    def temperature(self) -> float:
        """The fitted one, 1.0 where none is known."""
        return float((self.data.get("confidence") or {}).get("temperature") or 1.0)

    def label(self, label: Any) -> str:
        """A label id's name; what is no known id stands as it is."""
        known = isinstance(label, int) and 0 <= label < len(self.labels)
        return self.labels[label] if known else NOTHING if label is None else str(label)

    def command(self, step: Step) -> str:
        """The command line that makes the file of a step."""
        metrics = self.data.get("metrics") or {}
        if step.needs_model:
            chosen = ["--model_path", str(metrics["model_path"])] if metrics.get("model_path") else []
        else:  # the audit looks at a data set; which files of one's own it should be, only their owner knows
            source = str((metrics.get("data") or {}).get("source") or "")
            chosen = ["--dataset", source] if source and not Path(source).suffix else []
        words = ["python", *step.script, *chosen, "--output_dir", str(self.folder)]
        return list2cmdline(words) if os.name == "nt" else shlex.join(words)


def read_results(folder: Path) -> Results:
    """Whatever result files lie in `folder`; one that cannot be read becomes a problem, not an error."""
    results = Results(folder)
    for step in STEPS:
        found = _read(folder / step.file, _read_object, results.problems)
        if found is not None:
            results.data[step.name] = found
    results.predictions = _read(folder / PREDICTIONS, _read_predictions, results.problems)
    return results


def _read(path: Path, reader: Callable[[Path], Any], problems: dict[str, str]) -> Any:
    if not path.exists():
        return None
    try:
        return reader(path)
    except OSError as error:
        problems[path.name] = f"读不了 {path.name}（{error.strerror}）。"
    except (ValueError, KeyError, TypeError) as error:  # not UTF-8, not JSON, not the agreed shape
        problems[path.name] = unexpected(path.name, error)
    return None


def unexpected(file: str, error: Exception) -> str:
    return f"{file} 的内容不是预期的样子（{type(error).__name__}: {error}）。"


def _read_object(path: Path) -> dict:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TypeError("最外层应为对象")
    return value


def _read_predictions(path: Path) -> Predictions:
    predictions = Predictions.load(path)
    if not len(predictions):
        raise ValueError("没有一条预测")
    return predictions


class Figures:
    """Figures of one JSON file as HTML `<data>`; each method takes the path of keys to the value."""

    def __init__(self, file: str, data: dict):
        self.file, self.data = file, data

    def at(self, *path: str | int) -> Any:
        """The value itself; KeyError that names the path where there is none."""
        value: Any = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise KeyError(f"{self.file} 里没有 {pointer(path)}") from None
        return value

    def percent(self, *path: str | int) -> Markup:
        return self._shown(path, percent)

    def certainty(self, *path: str | int) -> Markup:
        return self._shown(path, certainty)

    def target(self, *path: str | int) -> Markup:
        return self._shown(path, short_percent)

    def points(self, *path: str | int) -> Markup:
        """A difference of shares, in percentage points without a sign."""
        return self._shown(path, lambda value: f"{100 * value:.1f}")

    def number(self, *path: str | int) -> Markup:
        return self._shown(path, lambda value: f"{value:.3f}")

    def count(self, *path: str | int) -> Markup:
        return self._shown(path, lambda value: f"{value:,}")

    def text(self, *path: str | int) -> Markup:
        return self._shown(path, str)

    def duration(self, *path: str | int) -> Markup:
        return self._shown(path, duration)

    def milliseconds(self, *path: str | int) -> Markup:
        return self._shown(path, lambda value: "< 0.01" if value < 0.01 else f"{value:.3g}")

    def p_value(self, *path: str | int) -> Markup:
        return self._shown(path, lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}")

    def interval(self, *path: str | int) -> Markup:
        """[low, high] as "88.6%–91.5%"."""
        if self.at(*path) is None:
            return Markup(NOTHING)
        return Markup('<span class="interval">{}–{}</span>').format(self.percent(*path, 0), self.percent(*path, 1))

    def _shown(self, path: tuple[str | int, ...], write: Callable[[Any], str]) -> Markup:
        value = self.at(*path)
        if value is None:
            return Markup(NOTHING)
        element = Markup('<data data-file="{}" data-pointer="{}" value="{}">{}</data>')
        return element.format(self.file, pointer(path), json.dumps(value, ensure_ascii=False), write(value))


def pointer(path: tuple[str | int, ...]) -> str:
    """JSON Pointer, RFC 6901."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def certainty(confidence: float) -> str:
    """A softmax never reaches 100%, and rounding must not say that it does."""
    return "> 99.9%" if confidence >= 0.9995 else percent(confidence)


def short_percent(share: float) -> str:
    """Without digits that say nothing: 0.97 is 97%."""
    return f"{100 * share:.4g}%"


def duration(seconds: float) -> str:
    """In the unit that a reader expects."""
    if seconds < 60:
        return f"{seconds:.1f} 秒"
    return f"{seconds / 60:.1f} 分钟" if seconds < 3600 else f"{seconds / 3600:.1f} 小时"
