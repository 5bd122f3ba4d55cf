"""The evaluation scripts: one run of the model, kept answers, calibration of the adapter, steps that fail."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from small import REPOSITORY, assert_one_message, run_script, write_jsonl

from configs.command_line import parse_config
from configs.evaluation_config import StepConfig
from data.dataset import Rows
from data.seen_texts import save_seen_texts
from model_evaluation import confidence_analysis, robustness_test, run_full_eval
from model_evaluation.confidence_analysis import save_calibration, thinned, unseen_rows
from model_evaluation.evaluation import Evaluation
from model_evaluation.metrics.selective_prediction import threshold_table
from model_evaluation.robustness.perturbations import PERTURBATIONS
from modeling.adapter_folder import SentimentConfig
from modeling.fingerprint import model_fingerprint
from prediction import predictor
from prediction.prediction_cache import PredictionCache
from prediction.prediction_set import Predictions, softmax

CONTRACT = {
    "metrics.json": {"accuracy", "precision", "recall", "f1", "auc", "confusion_matrix", "unseen", "seen"},
    "confidence_analysis.json": {
        "avg_confidence", "high_confidence_ratio", "low_confidence_samples", "confidence_distribution",
        "temperature", "calibration", "risk_coverage", "thresholds",
    },
    "robustness_result.json": {
        "original_accuracy", "perturbed_accuracy", "robustness_score", "perturbation_tests", "behaviour",
        "forward_passes",
    },
}  # fmt: skip
MODEL_STEPS = "metrics,confidence,robustness"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def timeless(path):
    """A result file without what differs between two equal runs."""
    result = read(path)
    del result["environment"]
    result.pop("forward_passes", None)
    return result


@pytest.fixture
def own_adapter(adapter, tmp_path):
    """A copy that a test may write into."""
    return shutil.copytree(adapter, tmp_path / "adapter")


@pytest.fixture(scope="module")
def evaluated(adapter, tmp_path_factory):
    """(finished process, adapter, output folder) of the model's steps through the real command line."""
    folder = tmp_path_factory.mktemp("evaluated")
    own, output = shutil.copytree(adapter, folder / "adapter"), folder / "results"
    result = run_script(
        "model_evaluation/run_full_eval.py", "--model_path", own, "--output_dir", output, "--steps", MODEL_STEPS,
        "--max_samples", "6",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result, own, output


@pytest.fixture
def asked(monkeypatch):
    """The lists of texts that a model was asked for, one for each call."""
    from prediction.predictor import SentimentPredictor

    calls, original = [], SentimentPredictor.predictions

    def predictions(self, texts, *args, **kwargs):
        calls.append(texts)
        return original(self, texts, *args, **kwargs)

    monkeypatch.setattr(SentimentPredictor, "predictions", predictions)
    return calls


def evaluate(monkeypatch, *flags) -> int:
    monkeypatch.setattr(sys, "argv", ["run_full_eval.py", *map(str, flags)])
    return run_full_eval.main()


# ---- the files


@pytest.mark.parametrize("name", CONTRACT)
def test_result_files_keep_the_contract(evaluated, name):
    result = read(evaluated[2] / name)
    assert CONTRACT[name] <= result.keys()
    assert result["data"]["n"] == 6 and result["data"]["split"] == "test"
    assert result["environment"]["versions"]["torch"]
    assert result["model_path"] == str(evaluated[1])


def test_predictions_hold_the_evaluated_rows(evaluated):
    predictions = Predictions.load(evaluated[2] / "predictions.jsonl")
    assert len(predictions) == 6 and sorted(predictions.labels) == [0, 0, 0, 1, 1, 1]
    accuracy = float((predictions.pred == predictions.labels).mean())
    assert read(evaluated[2] / "metrics.json")["accuracy"] == accuracy
    assert read(evaluated[2] / "robustness_result.json")["original_accuracy"] == accuracy


def test_robustness_covers_every_perturbation(evaluated):
    assert set(read(evaluated[2] / "robustness_result.json")["perturbation_tests"]) == set(PERTURBATIONS)


def test_the_terminal_tells_what_was_done_and_where_it_is(evaluated):
    said = evaluated[0].stdout
    assert "[3/3] 稳健性" in said and "不同的文本" in said
    for name in CONTRACT:
        assert str(evaluated[2] / name) in said


# ---- one run of the model, and kept answers


def test_the_model_reads_each_distinct_text_once_and_never_again(own_adapter, tmp_path, monkeypatch, asked):
    flags = ("--model_path", own_adapter, "--output_dir", tmp_path / "out", "--steps", MODEL_STEPS, "--max_samples", 4)
    read_rows, original = [], predictor.predict_logits
    monkeypatch.setattr(
        predictor,
        "predict_logits",
        lambda model, rows, *a, **k: read_rows.extend(rows) or original(model, rows, *a, **k),
    )
    assert evaluate(monkeypatch, *flags) == 0
    assert len(asked) == 1 and len(asked[0]) == len(set(asked[0]))
    assert asked[0] == sorted(asked[0])
    first = {name: timeless(tmp_path / "out" / name) for name in CONTRACT}
    passes = read(tmp_path / "out" / "robustness_result.json")["forward_passes"]
    assert passes["predicted_texts"] == passes["distinct_texts"] <= len(asked[0]) < passes["requested_texts"]
    assert len(read_rows) == passes["distinct_texts"]  # what went into the model's one loop

    assert evaluate(monkeypatch, *flags) == 0
    assert len(asked) == 1  # not one text more, whatever the calibration has written into the adapter
    assert {name: timeless(tmp_path / "out" / name) for name in CONTRACT} == first

    assert evaluate(monkeypatch, *flags, "--fresh") == 0
    assert asked[1] == asked[0]


def test_single_scripts_use_the_same_answers(own_adapter, tmp_path, monkeypatch, asked):
    flags = ["--model_path", str(own_adapter), "--output_dir", str(tmp_path / "out")]
    assert evaluate(monkeypatch, *flags, "--steps", MODEL_STEPS) == 0
    confidence = timeless(tmp_path / "out" / "confidence_analysis.json")
    for script in (confidence_analysis, robustness_test):
        monkeypatch.setattr(sys, "argv", ["script.py", *flags])
        script.main()
    assert len(asked) == 1
    assert timeless(tmp_path / "out" / "confidence_analysis.json") == confidence


class Counter:
    """Stands for a predictor; logits are (length, 0)."""

    def __init__(self):
        self.calls = []

    def __call__(self):
        return self

    def predictions(self, texts, labels=None, progress=None):
        self.calls.append(texts)
        return Predictions(texts, [[len(text), 0] for text in texts])


ROWS = Rows(["好好", "差"], [1, 0])


def saved_cache(folder):
    cache = PredictionCache(folder, "model", Counter())
    cache.predict_missing([*ROWS.texts, "不在测试集里"])
    cache.save(ROWS)


@pytest.mark.parametrize(
    ("fingerprint", "fresh", "calls"),
    [("model", False, []), ("another", False, [["不在测试集里", "好好"]]), ("model", True, [["不在测试集里", "好好"]])],
)
def test_predictions_are_kept_for_the_same_model(tmp_path, fingerprint, fresh, calls):
    saved_cache(tmp_path)
    predictor = Counter()
    cache = PredictionCache(tmp_path, fingerprint, predictor, fresh=fresh)
    cache.predict_missing(["好好", "不在测试集里", "好好"])
    assert predictor.calls == calls
    assert cache.logits(["不在测试集里", "好好"]).tolist() == [[6, 0], [2, 0]]


def test_only_unknown_texts_are_read(tmp_path):
    saved_cache(tmp_path)
    predictor = Counter()
    cache = PredictionCache(tmp_path, "model", predictor)
    cache.predict_missing(["好好", "新", "新", " 新 "])
    assert predictor.calls == [[" 新 ", "新"]]  # the predictor itself reads the two as one
    assert cache.counts() | {"seconds": 0} == {
        "requested_texts": 4, "distinct_texts": 2, "predicted_texts": 1, "seconds": 0,
    }  # fmt: skip


def test_a_file_that_something_else_has_written_is_not_believed(tmp_path):
    saved_cache(tmp_path)
    Predictions(ROWS.texts, [[9, 9], [9, 9]], ROWS.labels).save(tmp_path / "predictions.jsonl")
    predictor = Counter()
    cache = PredictionCache(tmp_path, "model", predictor)
    cache.predict_missing([*ROWS.texts, "不在测试集里"])
    assert predictor.calls == [sorted(ROWS.texts)]  # the other file is untouched
    cache.save(ROWS)
    assert Predictions.load(tmp_path / "predictions.jsonl").logits.tolist() == [[2, 0], [1, 0]]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"model": "model"}', '{"model": "model", "files": null}'])
def test_a_damaged_key_means_predicting_again(tmp_path, damage):
    saved_cache(tmp_path)
    (tmp_path / "predictions_key.json").write_text(damage, encoding="utf-8")
    assert PredictionCache(tmp_path, "model", Counter()).missing(["差"]) == ["差"]


def test_other_rows_of_the_same_model_make_a_new_predictions_file(tmp_path):
    saved_cache(tmp_path)
    cache = PredictionCache(tmp_path, "model", Counter())
    cache.predict_missing(["不在测试集里"])
    cache.save(Rows(["不在测试集里"], [0]))
    assert Predictions.load(tmp_path / "predictions.jsonl").texts == ["不在测试集里"]
    assert PredictionCache(tmp_path, "model", Counter()).missing(ROWS.texts) == []


def test_the_fingerprint_follows_the_weights_and_not_the_calibration(own_adapter):
    before = model_fingerprint(own_adapter)
    save_calibration(str(own_adapter), 2.0, [{"target": 0.97, "threshold": 0.9}])
    assert model_fingerprint(own_adapter) == before
    weights = own_adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_fingerprint(own_adapter) != before


def test_what_was_predicted_in_another_precision_is_not_used(own_adapter):
    fingerprints = [
        Evaluation(StepConfig(model_path=str(own_adapter), dtype=dtype)).fingerprint
        for dtype in ("auto", "float32", "bfloat16")
    ]
    assert fingerprints[0] == model_fingerprint(own_adapter) and len(set(fingerprints)) == 3


def test_the_fingerprint_follows_the_base(own_adapter, small_base, tmp_path):
    other = shutil.copytree(small_base, tmp_path / "base")
    assert model_fingerprint(own_adapter, str(other)) != model_fingerprint(own_adapter, str(small_base))


# ---- calibration


def sure_predictions(n: int, seed: int) -> Predictions:
    """Twice as sure as right: labels drawn from softmax(logits / 2)."""
    rng = np.random.default_rng(seed)
    logits = np.stack([np.zeros(n), rng.normal(0, 6, n)], axis=1)
    labels = (rng.random(n) < softmax(logits, 2.0)[:, 1]).astype(int)
    return Predictions([f"第{i}条" for i in range(n)], logits, labels)


def test_the_analysis_finds_the_temperature_and_thresholds_after_it():
    result = confidence_analysis.confidence_analysis(sure_predictions(4000, 0), sure_predictions(2000, 1))
    assert result["temperature"] == pytest.approx(2.0, rel=0.1) and result["rejected_temperature"] is None
    test = result["calibration"]["test"]
    assert test["after"]["ece"] < test["before"]["ece"] / 2
    # Labels follow softmax(logits / 2), so at T = 2 the confidence is the precision, row by row.
    by_target = {row["target"]: row for row in result["thresholds"]}
    assert 0.6 < by_target[0.95]["threshold"] < by_target[0.97]["threshold"] < by_target[0.99]["threshold"] < 1
    assert by_target[0.95]["test"]["precision"] > 0.93
    assert result["risk_coverage"]["threshold"][-1] == pytest.approx(0.5, abs=0.01)


def test_a_temperature_that_makes_the_held_out_rows_worse_is_not_applied():
    """The validation rows are answered twice as surely as they should be, the test rows just as they should."""
    test = sure_predictions(2000, 1)
    test = Predictions(test.texts, test.logits / 2, test.labels)
    result = confidence_analysis.confidence_analysis(sure_predictions(4000, 0), test)
    rejected, calibration = result["rejected_temperature"], result["calibration"]["test"]
    assert rejected["temperature"] == pytest.approx(2.0, rel=0.1) and rejected["ece_after"] > rejected["ece_before"]
    assert result["temperature"] == calibration["temperature"] == 1.0
    assert calibration["before"] == calibration["after"] and calibration["after"]["ece"] == rejected["ece_before"]
    assert result["thresholds"] == threshold_table(sure_predictions(4000, 0), test, 1.0)
    evaluation = SimpleNamespace(config=SimpleNamespace(model_path="x"))
    lines = confidence_analysis._calibration_lines(evaluation, result)
    assert "没有采用" in lines and f"{rejected['ece_after']:.4f}" in lines


def test_calibration_goes_into_the_adapter_and_again_gives_the_same_bytes(own_adapter):
    path = own_adapter / "sentiment_config.json"
    table = [
        {"target": 0.95, "threshold": 0.8},
        {"target": 0.97, "threshold": 0.9},
        {"target": 0.99, "threshold": None},
    ]
    before = SentimentConfig.load(own_adapter)
    save_calibration(str(own_adapter), 1.5, table)
    first, after = path.read_bytes(), SentimentConfig.load(own_adapter)
    assert (after.temperature, after.thresholds) == (1.5, {"0.95": 0.8, "0.97": 0.9})
    assert after.without_threshold == ["0.99"]
    assert (after.base_model, after.labels, after.max_length) == (before.base_model, before.labels, before.max_length)
    save_calibration(str(own_adapter), 1.5, table)
    assert path.read_bytes() == first
    save_calibration(str(own_adapter), 1.5, [{"target": 0.95, "threshold": None}])
    assert SentimentConfig.load(own_adapter).thresholds == {}  # an old threshold does not outlive its proof


def test_the_evaluation_calibrates_the_adapter_and_twice_gives_the_same(evaluated, monkeypatch):
    _, own, output = evaluated
    first, analysis = (own / "sentiment_config.json").read_bytes(), timeless(output / "confidence_analysis.json")
    assert SentimentConfig.load(own).temperature == analysis["temperature"]
    flags = ("--model_path", own, "--output_dir", output, "--steps", "confidence", "--max_samples", "6")
    assert evaluate(monkeypatch, *flags) == 0
    assert (own / "sentiment_config.json").read_bytes() == first
    assert timeless(output / "confidence_analysis.json") == analysis


def test_validation_rows_seen_in_training_choose_nothing(tmp_path):
    save_seen_texts(tmp_path, ["背下来的。"])
    rows = Rows(["新的", "背下来的！", "也是新的"], [1, 0, 0])
    assert unseen_rows(str(tmp_path), rows) == Rows(["新的", "也是新的"], [1, 0])


def test_a_file_without_validation_rows_is_calibrated_on_the_adapters_own(own_adapter, tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "mine.jsonl", [{"text": "很满意", "label": 1}, {"text": "太差了", "label": 0}])
    flags = ("--model_path", own_adapter, "--test_file", file, "--output_dir", tmp_path / "out")
    assert evaluate(monkeypatch, *flags, "--steps", "confidence") == 0
    data = read(tmp_path / "out" / "confidence_analysis.json")["data"]
    assert (data["source"], data["n"], data["validation"]["n"]) == (str(file), 2, 20)


def test_a_curve_is_thinned_to_its_ends_and_points_between():
    curve = {name: list(range(1000)) for name in ("threshold", "coverage", "risk")} | {"aurc": 0.1}
    thin = thinned(curve)
    assert len(thin["risk"]) == 200 and (thin["risk"][0], thin["risk"][-1]) == (0, 999)
    assert thin["risk"] == thin["coverage"] == thin["threshold"] and thin["aurc"] == 0.1
    short = {name: [0, 1] for name in ("threshold", "coverage", "risk")}
    assert thinned(short) == short


# ---- steps that fail, and mistakes


def test_a_failing_step_lets_the_others_finish_and_the_exit_code_tells(own_adapter, tmp_path):
    (own_adapter / "training_text_hashes.bin").unlink()  # metrics need it, robustness does not
    result = run_script(
        "model_evaluation/run_full_eval.py", "--model_path", own_adapter, "--output_dir", tmp_path / "out",
        "--steps", "metrics,robustness", "--max_samples", "4",
    )  # fmt: skip
    assert result.returncode == 1
    assert "「指标」失败" in result.stderr and "training_text_hashes.bin" in result.stderr
    assert re.search(r"^指标 +失败：.*training_text_hashes", result.stdout, re.MULTILINE)
    assert re.search(r"^稳健性与行为测试 +完成.*robustness_result.json$", result.stdout, re.MULTILINE)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert (tmp_path / "out" / "robustness_result.json").exists()
    assert (tmp_path / "out" / "predictions.jsonl").exists()


def test_the_report_says_what_failed_and_alone_needs_no_model(own_adapter, tmp_path, monkeypatch, asked):
    (own_adapter / "training_text_hashes.bin").unlink()
    flags = ("--model_path", own_adapter, "--output_dir", tmp_path / "out")
    assert evaluate(monkeypatch, *flags, "--steps", "metrics,report") == 1
    assert "training_text_hashes.bin" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(asked) == 1
    (tmp_path / "out" / "report.html").unlink()
    assert evaluate(monkeypatch, *flags, "--steps", "report") == 0
    assert (tmp_path / "out" / "report.html").exists() and len(asked) == 1


def test_a_step_whose_texts_cannot_be_made_does_not_stop_the_others(own_adapter, tmp_path, monkeypatch, capsys):
    def broken():
        raise ImportError("no module named opencc")

    monkeypatch.setattr("model_evaluation.robustness_test.load_suite", broken)
    flags = ("--model_path", own_adapter, "--output_dir", tmp_path / "out", "--steps", "metrics,robustness")
    assert evaluate(monkeypatch, *flags) == 1
    assert "no module named opencc" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.json").exists()


def test_the_validation_split_does_not_judge_what_it_has_chosen(own_adapter, tmp_path):
    result = run_script(
        "model_evaluation/confidence_analysis.py", "--model_path", own_adapter, "--split", "validation",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert_one_message(result, "验证集", "--split test")
    assert SentimentConfig.load(own_adapter).temperature == 1.0


@pytest.mark.parametrize("script", ["run_full_eval.py", "confidence_analysis.py", "robustness_test.py"])
def test_help_answers_without_heavy_imports(script):
    result = run_script("-X", "importtime", f"model_evaluation/{script}", "--help")
    assert result.returncode == 0 and "--fresh" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "datasets", "peft", "sklearn", "scipy", "jieba"}


def test_a_missing_file_is_one_message(own_adapter, tmp_path):
    result = run_script(
        "model_evaluation/run_full_eval.py", "--model_path", own_adapter, "--test_file", tmp_path / "none.csv"
    )
    assert_one_message(result, "none.csv")


def test_every_step_names_its_own_file_and_the_command_that_makes_it():
    assert len({step.file_name for step in run_full_eval.STEPS}) == len(run_full_eval.STEPS)
    for step in run_full_eval.STEPS:
        assert (REPOSITORY / step.script[0]).is_file()
        assert step.title and step.file_name in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_steps_are_known_and_run_in_their_order(capsys):
    (everything,) = parse_config([run_full_eval.FullEvaluationConfig], [], description="")
    assert everything.steps == ["metrics", "confidence", "robustness", "baselines", "report"]
    (config,) = parse_config([run_full_eval.FullEvaluationConfig], ["--steps", "report, metrics"], description="")
    assert config.steps == ["report", "metrics"]
    with pytest.raises(SystemExit) as ended:
        parse_config([run_full_eval.FullEvaluationConfig], ["--steps", "metrics,metric"], description="")
    assert ended.value.code == 2
    assert "--steps" in (message := capsys.readouterr().err) and "得到 metric\n" in message
