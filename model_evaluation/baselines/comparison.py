"""Is the fine-tuned model worth its price? The same rows, answered by everything cheaper.

    comparison = compare_baselines(predictor, predictions, train_rows, test_rows, model_path="./outputs/lora_adapter")
    print(comparison_table(comparison))

For the command line see `model_evaluation/benchmark.py`.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from data.dataset import Rows, stratified_sample
from model_evaluation.baselines.models import FITTERS, Baseline, Task
from model_evaluation.metrics.classification import classification_metrics
from model_evaluation.metrics.intervals import mcnemar_exact
from model_evaluation.metrics.terminal_table import display_width
from prediction.prediction_set import Predictions

BASE = "zero_shot"  # the baseline that the improvement is measured against
FIGURES = ("accuracy", "f1", "auc")
TIMED_TEXTS, WARM_UP_TEXTS, REPEATS = 64, 3, 5
TIMING_BUDGET = 20.0  # seconds for one model, after which no further repeat begins


def compare_baselines(
    predictor,
    predictions: Predictions,
    train_rows: Rows,
    test_rows: Rows,
    *,
    model_path: str | Path | None = None,
    names: Sequence[str] = tuple(FITTERS),
    seed: int = 42,
    progress: bool = False,
) -> dict[str, Any]:
    """The content of baseline_comparison.json, but for where it was made.

    `predictions` are the fine-tuned model's for `test_rows`; `predictor` (a `SentimentPredictor`) is only timed, and
    names the base, which is loaded beside it. `train_rows` are those that the adapter was trained on. `model_path`,
    its folder, tells what its training cost; without it these two figures are None.

    Returns {"n", "fine_tuned_model": entry, "baseline_model": entry of the un-tuned base or None, "improvement",
    "relative_improvement", "baselines": {name: entry} of the others, "timing"}; for an entry see `baseline_entry`.
    ValueError for predictions of other rows and for a name not in `FITTERS`.
    """
    from tqdm import tqdm

    _check(predictions, test_rows, names)
    labels = predictor.labels
    task = Task(
        train_rows, test_rows, labels, predictor.config.max_length, seed, lambda: _load_base(predictor), progress,
        predictor.config.prompt_template, predictor.config.label_words,
    )  # fmt: skip
    options = {"labels": labels, "sample": stratified_sample(test_rows, TIMED_TEXTS, seed).texts, "seed": seed}
    fine_tuned = baseline_entry(fine_tuned_model(predictor, model_path), predictions, None, **options)
    entries = {}
    for name in tqdm(names, desc="基线", unit="个", leave=False, disable=not progress):
        if (baseline := FITTERS[name](task)) is not None:
            answers = Predictions(test_rows.texts, baseline.answer(test_rows.texts), test_rows.labels)
            entries[name] = baseline_entry(baseline, answers, predictions, **options)
    base = entries.pop(BASE, None)
    return {
        "n": len(test_rows),
        "fine_tuned_model": fine_tuned,
        "baseline_model": base,
        **improvement(fine_tuned["accuracy"], base["accuracy"] if base else None),
        "baselines": entries,
        "timing": {"texts": len(options["sample"]), "batch": 1, "repeats": REPEATS, "budget_seconds": TIMING_BUDGET},
    }


def baseline_entry(
    baseline: Baseline,
    answers: Predictions,
    fine_tuned: Predictions | None,
    *,
    labels: list[str],
    sample: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """JSON-ready: title, accuracy, f1 (macro), auc, intervals, mcnemar, costs and note; `sample` are the texts to time.

    `mcnemar`: `b` rows that only the fine-tuned model has right, `c` rows that only this one has; None for the
    fine-tuned model itself.
    """
    metrics = classification_metrics(answers, labels, seed=seed)
    return {
        "title": baseline.title,
        **{name: metrics[name] for name in FIGURES},
        "intervals": {name: metrics["intervals"][name] for name in FIGURES},
        "mcnemar": None if fine_tuned is None else mcnemar_exact(_right(fine_tuned), _right(answers)),
        "trained_parameters": baseline.trained_parameters,
        "train_seconds": baseline.train_seconds,
        "milliseconds_per_text": milliseconds_per_text(baseline.answer, sample),
        "note": baseline.note,
    }


def fine_tuned_model(predictor, model_path: str | Path | None) -> Baseline:
    """The adapter in the same form as what it is compared with."""
    parameters, seconds = (None, None) if model_path is None else training_cost(model_path)
    return Baseline("微调模型", lambda texts: predictor.predictions(list(texts)).logits, parameters, seconds)


def training_cost(model_path: str | Path) -> tuple[int, float]:
    """(LoRA and head parameters in the adapter file, seconds of the run that wrote it, its evaluations included)."""
    from safetensors import safe_open

    from modeling.adapter_folder import read_run_info

    with safe_open(Path(model_path) / "adapter_model.safetensors", framework="numpy") as file:
        parameters = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    return parameters, read_run_info(model_path)["seconds"]


def milliseconds_per_text(answer: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> float:
    """One text at a time, as an interactive user waits for it: the median over the repeats of a pass's mean."""
    for text in texts[:WARM_UP_TEXTS]:
        answer([text])
    passes: list[float] = []
    while len(passes) < REPEATS and sum(passes) < TIMING_BUDGET:
        start = time.perf_counter()
        for text in texts:
            answer([text])
        passes.append(time.perf_counter() - start)
    return 1000 * median(passes) / len(texts)


def improvement(fine_tuned: float, base: float | None) -> dict[str, str | None]:
    """Accuracies to `improvement` in points (0.9 against 0.75 is "+15.0%") and `relative_improvement` ("+20.0%").

    None without a base; the relative one also where the base is never right.
    """
    if base is None:
        return {"improvement": None, "relative_improvement": None}
    relative = signed_percent((fine_tuned - base) / base) if base else None
    return {"improvement": signed_percent(fine_tuned - base), "relative_improvement": relative}


def signed_percent(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.1%}"  # + 0.0 makes -0.0 positive


def comparison_table(comparison: dict[str, Any]) -> str:
    """One line for each model in the terminal, and the notes below."""
    entries = [comparison["fine_tuned_model"], comparison["baseline_model"], *comparison["baselines"].values()]
    entries = [entry for entry in entries if entry]
    titles = ["", "准确率", "95% 区间", "F1", "AUC", "McNemar p", "训练参数", "训练秒", "毫秒/条"]
    table = [titles, *([entry["title"], *_cells(entry)] for entry in entries)]
    widths = [max(display_width(row[i]) for row in table) for i in range(len(titles))]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in table]
    notes = [f"{entry['title']}：{entry['note']}" for entry in entries if entry["note"]]
    return "\n".join([*lines, "", *notes])


def _cells(entry: dict[str, Any]) -> list[str]:
    low, high = entry["intervals"]["accuracy"]
    p_value = entry["mcnemar"] and entry["mcnemar"]["p_value"]
    return [
        _shown(entry["accuracy"], ".4f"),
        f"{low:.4f} – {high:.4f}",
        _shown(entry["f1"], ".4f"),
        _shown(entry["auc"], ".4f"),
        "< 0.0001" if p_value is not None and p_value < 0.0001 else _shown(p_value, ".4f"),
        _shown(entry["trained_parameters"], ",d"),
        _shown(entry["train_seconds"], ".1f"),
        _shown(entry["milliseconds_per_text"], ".2f"),
    ]


def _shown(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - display_width(cell))


def _check(predictions: Predictions, test_rows: Rows, names: Sequence[str]) -> None:
    if predictions.texts != test_rows.texts or predictions.labels is None:
        raise ValueError("预测与要比较的评论不是同一批")
    if predictions.labels.tolist() != list(test_rows.labels):
        raise ValueError("预测里的标签与要比较的评论的标签不同")
    if unknown := [name for name in names if name not in FITTERS]:
        raise ValueError(f"没有这样的基线：{'、'.join(unknown)}；可选 {'、'.join(FITTERS)}")


def _load_base(predictor) -> tuple[Any, Any]:
    """The base that the predictor's adapter stands on, in the same number of bits."""
    from modeling.base_model import load_causal_base

    return load_causal_base(predictor.model.config.name_or_path, quantize=predictor.config.quantization == "nf4")


def _right(predictions: Predictions) -> np.ndarray:
    return predictions.pred == predictions.labels
