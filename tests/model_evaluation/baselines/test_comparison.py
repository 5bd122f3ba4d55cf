import json

import numpy as np
import pytest
from small import run_script, small_reviews

from data.dataset import LABEL_NAMES, Rows
from model_evaluation.baselines import comparison
from model_evaluation.baselines.comparison import (
    baseline_entry,
    compare_baselines,
    comparison_table,
    improvement,
    milliseconds_per_text,
    training_cost,
)
from model_evaluation.baselines.models import FITTERS, Baseline
from prediction.prediction_set import Predictions
from prediction.predictor import SentimentPredictor

# What `review_files` holds: the adapter was trained on the first 80 rows.
REVIEWS = small_reviews(120)
TRAIN, TEST = (Rows([r["text"] for r in part], [r["label"] for r in part]) for part in (REVIEWS[:80], REVIEWS[100:]))


@pytest.fixture(scope="module")
def predictor(adapter):
    return SentimentPredictor(lora_path=adapter)


@pytest.mark.parametrize(
    ("fine_tuned", "base", "points", "relative"),
    [
        (0.9, 0.75, "+15.0%", "+20.0%"),
        (0.95, 0.75, "+20.0%", "+26.7%"),
        (0.5, 0.8, "-30.0%", "-37.5%"),
        (0.8, 0.8, "+0.0%", "+0.0%"),
        (0.79999, 0.8, "+0.0%", "+0.0%"),
        (0.5, 0.0, "+50.0%", None),
    ],
)
def test_improvement_by_hand(fine_tuned, base, points, relative):
    assert improvement(fine_tuned, base) == {"improvement": points, "relative_improvement": relative}


def test_mcnemar_counts_rows_that_one_alone_has_right():
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    fine = np.array([1, 1, 1, 1, 0, 0, 0, 1])  # wrong: the last
    other = np.array([1, 0, 0, 0, 1, 0, 0, 0])  # right: 0, 5, 6, 7
    texts = [str(i) for i in range(8)]
    predictions = {name: Predictions(texts, np.eye(2)[pred], labels) for name, pred in (("f", fine), ("o", other))}
    baseline = Baseline("零", lambda texts: np.zeros((len(texts), 2)), trained_parameters=0)
    entry = baseline_entry(baseline, predictions["o"], predictions["f"], labels=LABEL_NAMES, timed=texts, seed=0)
    # Fine-tuned alone: rows 1-4; the other alone: row 7. Two-sided: 2 (C(5,0) + C(5,1)) / 2^5.
    assert entry["mcnemar"] == {"b": 4, "c": 1, "p_value": pytest.approx(12 / 32)}
    assert entry["accuracy"] == 0.5
    low, high = entry["intervals"]["accuracy"]
    assert low < 0.5 < high


class Clock:
    """Stands in for `time`: each answer takes the next of `seconds`."""

    def __init__(self, seconds):
        self.now, self.seconds, self.asked = 0.0, iter(seconds), []

    def perf_counter(self):
        return self.now

    def answer(self, texts):
        self.asked.append(texts)
        self.now += next(self.seconds)


def test_timing_is_the_median_pass_over_single_texts_after_a_warm_up(monkeypatch):
    clock = Clock([50, 50, 1, 1, 9, 9, 2, 2, 3, 3, 4, 4])  # warm-up, then five passes of two texts
    monkeypatch.setattr(comparison, "time", clock)
    monkeypatch.setattr(comparison, "TIMING_BUDGET", 1000.0)
    assert milliseconds_per_text(clock.answer, ["甲", "乙"]) == 3000
    assert clock.asked == [["甲"], ["乙"]] * 6


def test_timing_of_a_slow_model_stops_at_its_budget(monkeypatch):
    clock = Clock([8] * 100)
    monkeypatch.setattr(comparison, "time", clock)
    assert milliseconds_per_text(clock.answer, ["甲", "乙"]) == 8000
    assert len(clock.asked) == 2 + 2 * 2  # warm-up, and two passes of 16 s in a budget of 20 s


def test_training_cost_is_that_of_the_adapter_file(adapter, predictor):
    parameters, seconds = training_cost(adapter)
    # LoRA r = 8 on q, k, v, o of 2 layers (64 wide; k and v 32), and the head 64 -> 2.
    assert parameters == 2 * 8 * ((64 + 64) * 2 + (64 + 32) * 2) + 2 * 64
    assert seconds == json.loads((adapter / "run_info.json").read_text(encoding="utf-8"))["seconds"]


@pytest.fixture(scope="module")
def compared(predictor, adapter):
    """(comparison, texts that the fine-tuned model was asked for during it)."""
    predictions, asked = predictor.predictions(TEST.texts, TEST.labels), []
    original = predictor.predictions
    predictor.predictions = lambda texts, *a, **k: asked.append(texts) or original(texts, *a, **k)
    try:
        return compare_baselines(predictor, predictions, TRAIN, model_path=adapter, seed=0), asked
    finally:
        del predictor.predictions


def test_comparison_has_the_agreed_shape(compared):
    result, _ = compared
    json.dumps(result, allow_nan=False)
    assert result["n"] == len(TEST)
    assert set(result["baselines"]) == set(FITTERS) - {"zero_shot"}
    entries = [result["fine_tuned_model"], result["baseline_model"], *result["baselines"].values()]
    for entry in entries:
        assert list(entry) == [
            "title", "accuracy", "f1", "auc", "intervals", "mcnemar", "trained_parameters", "train_seconds",
            "milliseconds_per_text", "note",
        ]  # fmt: skip
        assert set(entry["intervals"]) == {"accuracy", "f1", "auc"}
        assert entry["milliseconds_per_text"] > 0
        low, high = entry["intervals"]["accuracy"]
        assert low <= entry["accuracy"] <= high
    assert result["fine_tuned_model"]["mcnemar"] is None
    for entry in entries[1:]:
        assert entry["mcnemar"]["b"] - entry["mcnemar"]["c"] == round(
            len(TEST) * (entries[0]["accuracy"] - entry["accuracy"])
        )
    assert result["improvement"].endswith("%")


def test_majority_has_half_the_auc_and_the_share_of_its_label(compared):
    majority = compared[0]["baselines"]["majority"]
    assert majority["accuracy"] == TEST.labels.count(0) / len(TEST) and majority["auc"] == 0.5


def test_the_fine_tuned_model_reads_no_test_row_a_second_time_but_to_be_timed(compared):
    assert all(len(texts) == 1 for texts in compared[1])


def test_table_shows_every_model_once(compared):
    table = comparison_table(compared[0])
    for title in ("微调模型", "多数类", "SnowNLP 自带分类器", "TF-IDF + 逻辑回归", "冻结的基座 + 线性探针"):
        assert sum(line.startswith(f"{title} ") for line in table.splitlines()) == 1


def test_the_command_writes_the_file_and_prints_the_table(adapter, tmp_path):
    result = run_script("model_evaluation/benchmark.py", "--model_path", adapter, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "baseline_comparison.json").read_text(encoding="utf-8"))
    keys = {"fine_tuned_model", "baseline_model", "improvement", "relative_improvement", "environment", "data"}
    assert keys <= set(written)
    assert "TF-IDF" in result.stdout and "Traceback" not in result.stderr
    assert written["fine_tuned_model"]["trained_parameters"] == training_cost(adapter)[0]
