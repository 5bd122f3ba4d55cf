"""The fine-tuned model beside everything cheaper, on the same rows: how often right, how sure that is, what it costs.

    comparison = compare_baselines(predictor, predictions, train_rows, model_path="./outputs/lora_adapter")
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
from data.polarity import Polarity, polarity_of
from model_evaluation.baselines.models import FITTERS, Baseline, Task
from model_evaluation.metrics.classification import classification_metrics
from model_evaluation.metrics.intervals import mcnemar_exact
from prediction.prediction_set import Predictions
from runtime.terminal import ProgressBar, text_table

FIGURES = ("accuracy", "f1", "auc")
TIMED_TEXTS = 64
WARM_UP_TEXTS = 3
REPEATS = 5
TIMING_BUDGET = 20.0  # seconds for one model, after which no further repeat begins


def compare_baselines(
    predictor,
    predictions: Predictions,
    train_rows: Rows,
    *,
    model_path: str | Path,
    seed: int = 42,
    polarity: Polarity | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The content of baseline_comparison.json, but for where it was made.

    `predictions` are the fine-tuned model's for N labelled rows; `predictor` (a `SentimentPredictor`) is only timed,
    and names the base, which is loaded beside it. `train_rows` are those that the adapter was trained on, `model_path`
    its folder, which tells what its training cost. `polarity` are the label ids of the two sentiments, by default as
    the words of the labels tell.

    Returns {"n", "n_texts" (different ones), "fine_tuned_model": entry, "baseline_model": entry of the un-tuned base,
    "improvement", "relative_improvement", "baselines": {name: entry} of the others, "timing"}; for an entry see
    `baseline_entry`.
    """
    labels = predictor.labels
    test_rows = Rows(predictions.texts, predictions.labels.tolist(), labels)
    polarity = polarity or polarity_of(labels)
    task = task_of_adapter(predictor, train_rows, test_rows, polarity=polarity, seed=seed, progress=progress)
    timed = stratified_sample(test_rows, TIMED_TEXTS, seed).texts

    parameters, seconds = training_cost(model_path)
    adapter = Baseline("微调模型", lambda texts: predictor.predictions(list(texts)).logits, parameters, seconds)
    fine_tuned = baseline_entry(adapter, predictions, None, labels=labels, timed=timed, seed=seed)

    entries = {}
    with ProgressBar(len(FITTERS), "基线" if progress else None, "个") as bar:
        for name, fit in FITTERS.items():
            baseline = fit(task)
            if baseline is not None:
                answers = Predictions(test_rows.texts, baseline.answer(test_rows.texts), predictions.labels)
                entries[name] = baseline_entry(baseline, answers, predictions, labels=labels, timed=timed, seed=seed)
            bar.update(1)
    base = entries.pop("zero_shot")

    return {
        "n": len(test_rows),
        "n_texts": len(predictions.first_rows),
        "fine_tuned_model": fine_tuned,
        "baseline_model": base,
        **improvement(fine_tuned["accuracy"], base["accuracy"]),
        "baselines": entries,
        "timing": {"texts": len(timed), "batch": 1, "repeats": REPEATS, "budget_seconds": TIMING_BUDGET},
    }


def task_of_adapter(
    predictor, train_rows: Rows, test_rows: Rows, *, polarity: Polarity | None, seed: int, progress: bool
) -> Task:
    """The adapter's own task for the baselines: the same labels, prompt and length, the same base."""
    from modeling.base_model import load_causal_base

    config = predictor.config

    def load_base() -> tuple[Any, Any]:
        return load_causal_base(predictor.base, quantize=config.quantization == "nf4")

    return Task(
        train=train_rows,
        test=test_rows,
        labels=predictor.labels,
        polarity=polarity,
        max_length=config.max_length,
        seed=seed,
        load_base=load_base,
        progress=progress,
        prompt_template=config.prompt_template,
        label_words=config.label_words,
    )


def baseline_entry(
    baseline: Baseline,
    answers: Predictions,
    fine_tuned: Predictions | None,
    *,
    labels: list[str],
    timed: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The figures of one model, JSON-ready: title, accuracy, f1 (macro), auc, intervals, mcnemar, costs and note.

    `timed` are the texts to time it on. `mcnemar`: `b` texts that only the fine-tuned model has right, `c` texts that
    only this one has; None for the fine-tuned model itself, whose `fine_tuned` is None.
    """
    metrics = classification_metrics(answers, labels, seed=seed)
    mcnemar = None
    if fine_tuned is not None:
        right_before, right = fine_tuned.pred == fine_tuned.labels, answers.pred == answers.labels
        mcnemar = mcnemar_exact(right_before, right, answers.text_ids)
    return {
        "title": baseline.title,
        **{name: metrics[name] for name in FIGURES},
        "intervals": {name: metrics["intervals"][name] for name in FIGURES},
        "mcnemar": mcnemar,
        "trained_parameters": baseline.trained_parameters,
        "train_seconds": baseline.train_seconds,
        "milliseconds_per_text": milliseconds_per_text(baseline.answer, timed),
        "note": baseline.note,
    }


def training_cost(model_path: str | Path) -> tuple[int | None, float | None]:
    """(LoRA and head parameters in the adapter file, seconds of the run that wrote it or None if it says none).

    The seconds include the run's evaluations. In an exported model nothing tells which parameters were trained: None.
    """
    from safetensors import safe_open

    from modeling.adapter_folder import ADAPTER, model_kind, read_run_info

    if model_kind(model_path) != ADAPTER:
        return None, read_run_info(model_path).get("seconds")
    with safe_open(Path(model_path) / "adapter_model.safetensors", framework="numpy") as file:
        parameters = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    return parameters, read_run_info(model_path).get("seconds")


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


def improvement(fine_tuned: float, base: float) -> dict[str, str | None]:
    """Accuracies to `improvement` in points (0.9 against 0.75 is "+15.0%") and `relative_improvement` ("+20.0%").

    The relative one is None where the base is never right.
    """
    relative = signed_percent((fine_tuned - base) / base) if base else None
    return {"improvement": signed_percent(fine_tuned - base), "relative_improvement": relative}


def signed_percent(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.1%}"  # + 0.0 makes -0.0 positive


def comparison_table(comparison: dict[str, Any]) -> str:
    """One line for each model in the terminal, and the notes below."""
    entries = [comparison["fine_tuned_model"], comparison["baseline_model"], *comparison["baselines"].values()]
    table = [["", "准确率", "95% 区间", "F1", "AUC", "McNemar p", "训练参数", "训练秒", "毫秒/条"]]
    for entry in entries:
        low, high = entry["intervals"]["accuracy"]
        p_value = entry["mcnemar"] and entry["mcnemar"]["p_value"]
        table.append(
            [
                entry["title"],
                f"{entry['accuracy']:.4f}",
                f"{low:.4f} – {high:.4f}",
                f"{entry['f1']:.4f}",
                _shown(entry["auc"], ".4f"),
                "< 0.0001" if p_value is not None and p_value < 0.0001 else _shown(p_value, ".4f"),
                _shown(entry["trained_parameters"], ",d"),
                _shown(entry["train_seconds"], ".1f"),
                f"{entry['milliseconds_per_text']:.2f}",
            ]
        )
    notes = [f"{entry['title']}：{entry['note']}" for entry in entries if entry["note"]]
    return "\n".join([text_table(table), "", *notes])


def _shown(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)
