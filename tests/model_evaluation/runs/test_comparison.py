"""compare_runs.py: figures of several runs side by side, and a test of each pair on the rows that both have."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from report_inputs import HOSTILE, answered, invented, metrics_json
from small import assert_one_message, run_main, run_script, small_reviews

from model_evaluation import compare_runs
from model_evaluation.metrics.intervals import mcnemar_exact
from model_evaluation.metrics.ordinal import ordinal_metrics
from model_evaluation.runs.comparison import common_rows
from prediction.prediction_set import Predictions
from runtime.atomic_files import write_json
from runtime.terminal import display_width


def write_run(folder: Path, predictions: Predictions, training=None, **changes) -> Path:
    """A run's folder, as far as the comparison reads it."""
    predictions.save(folder / "predictions.jsonl")
    metrics = metrics_json(predictions)
    write_json(folder / "metrics.json", metrics | changes)
    record = {"model_fingerprint": folder.name, "data": metrics["data"], "flags": {}}
    write_json(folder / "run.json", record | {"training": training or {}})
    return folder


def weaker(predictions: Predictions, wrong: int) -> Predictions:
    """The last `wrong` answers turned round."""
    logits = predictions.logits.copy()
    logits[-wrong:] = logits[-wrong:, ::-1]
    return Predictions(predictions.texts, logits, predictions.labels)


@pytest.fixture
def three(tmp_path):
    """Runs of one test set by three models; the third saw only half of the rows, in another order."""
    first = invented(300, seed=1)
    second, third = weaker(first, 40), answered(first.texts, first.labels.tolist(), seed=5)
    settings = {"learning_rate": 1e-4, "lora_r": 8, "output_dir": "a", "weight_decay": 0.0}
    half = np.arange(299, -1, -2)
    return [
        write_run(tmp_path / "one", first, settings),
        write_run(tmp_path / "two", second, settings | {"learning_rate": 3e-4, "output_dir": "b"}),
        write_run(tmp_path / "three", third.select(half), settings | {"lora_r": 16, "new_flag": False}),
    ]


def compare(output, *folders):
    return run_main(compare_runs.main, *folders, "--output_dir", output)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_pair_is_tested_on_its_common_rows(three, tmp_path):
    result = compare(tmp_path / "out", *three)
    assert result.returncode == 0, result.stderr
    found = read(tmp_path / "out" / "comparison.json")
    assert [pair["runs"] for pair in found["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert [pair["rows"] for pair in found["pairs"]] == [300, 150, 150]

    one, two, half = (Predictions.load(folder / "predictions.jsonl") for folder in three)
    right = [predictions.pred == predictions.labels for predictions in (one, two)]
    expected = mcnemar_exact(*right, one.text_ids)
    assert {name: found["pairs"][0][name] for name in expected} == expected and expected["p_value"] < 0.01
    assert found["pairs"][0]["accuracy"] == [right[0].mean(), right[1].mean()]
    where = {text: i for i, text in enumerate(one.texts)}
    same = one.select([where[text] for text in half.texts])
    expected = mcnemar_exact(same.pred == same.labels, half.pred == half.labels, same.text_ids)
    assert {name: found["pairs"][1][name] for name in expected} == expected

    for folder, run in zip(three, found["runs"], strict=True):
        metrics = read(folder / "metrics.json")
        assert run["accuracy"] == metrics["accuracy"] and run["intervals"] == metrics["intervals"]
        assert run["unseen"]["accuracy"] == metrics["unseen"]["accuracy"]
    # Where files are written makes no model, and a setting that one side does not know is off.
    assert found["settings"] == {"learning_rate": [1e-4, 3e-4, 1e-4], "lora_r": [8, 8, 16]}


def test_no_text_leaves_the_predictions(three, tmp_path):
    compare(tmp_path / "out", *three)
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
    assert not [row["text"] for row in small_reviews(299) if row["text"] in written] and HOSTILE[:20] not in written


def test_the_terminal_has_80_columns_and_the_page_the_same_figures(three, tmp_path):
    said = compare(tmp_path / "out", *three).stdout
    assert max(map(display_width, said.replace(str(tmp_path), "").splitlines())) <= 80
    assert "learning_rate" in said and "行不全相同" in said and "3 对" in said
    found = read(tmp_path / "out" / "comparison.json")
    assert re.search(rf"1 – 2 +300 +{found['pairs'][0]['accuracy'][0]:.3f} – ", said)

    html = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [] and "<script" not in html and "default-src 'none'" in html
    values = {json.loads(about["value"]) for about, _ in page.figures}
    for run in found["runs"]:
        assert {run["accuracy"], run["f1"], run["unseen"]["accuracy"], *run["intervals"]["accuracy"]} <= values
    assert {pair["p_value"] for pair in found["pairs"]} <= values
    assert "learning_rate" in page.text and str(three[1]) in page.text


def test_labels_that_are_a_scale_have_their_figures_too(tmp_path):
    test = invented(200, classes=5)
    ordinal = ordinal_metrics(test)
    settings = {"lora_r": 8, "train_file": "a.csv"}
    folders = [write_run(tmp_path / "a", test, ordinal=ordinal), write_run(tmp_path / "b", test, settings)]
    said = compare(tmp_path / "out", *folders).stdout
    assert "二次加权 kappa" in said and f"{ordinal['mae']:.3f} (" in said
    page = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    assert read(tmp_path / "out" / "comparison.json")["settings"] == {
        "lora_r": [None, 8],
        "train_file": [None, "a.csv"],
    }
    values = [json.loads(about["value"]) for about, _ in page.figures]
    assert {ordinal["mae"], ordinal["quadratic_kappa"], *ordinal["intervals"]["within_one"]} <= set(values)


def test_repeated_rows_and_corrected_labels():
    """The k-th row of a text and label is the other's k-th; a label that was changed makes it another row."""
    a = Predictions(["好", "好！", "差", "行", "只在甲"], np.zeros((5, 2)), [1, 1, 0, 1, 0])
    b = Predictions(["行", "好", "差", "只在乙", "好", "好"], np.zeros((6, 2)), [0, 1, 0, 1, 1, 1])
    ours, theirs = common_rows(a, b, ["负面", "正面"], ["负面", "正面"])
    assert [a.texts[i] for i in ours] == ["好", "好！", "差"] and [b.texts[i] for i in theirs] == ["好", "好", "差"]
    # Labels are compared by name: the same rows, their ids the other way round.
    turned = Predictions(b.texts, b.logits, 1 - b.labels)
    again = common_rows(a, turned, ["负面", "正面"], ["正面", "负面"])
    assert [list(indices) for indices in again] == [list(ours), list(theirs)]


def test_a_name_is_looked_for_among_the_evaluations(three, tmp_path, monkeypatch):
    outputs = tmp_path / "model_evaluation" / "outputs"
    outputs.mkdir(parents=True)
    for folder in three:
        folder.rename(outputs / folder.name)
    monkeypatch.chdir(tmp_path)
    result = run_main(compare_runs.main, "one", "two")
    assert result.returncode == 0, result.stderr
    assert (outputs / "comparison.html").is_file() and "1  one" in result.stdout
    assert_one_message(run_main(compare_runs.main, "one", "four"), "four", "one、three、two")


def test_mistakes_are_named(three, tmp_path):
    out = tmp_path / "out"
    assert_one_message(compare(out, three[0], three[0]), "两次")
    assert run_main(compare_runs.main, three[0]).returncode == 2
    assert run_main(compare_runs.main).returncode == 2

    other = answered([f"别的第{i}条" for i in range(40)], [i % 2 for i in range(40)])
    assert_one_message(compare(out, three[0], write_run(tmp_path / "other", other)), "没有共同的行")
    more = write_run(tmp_path / "more", invented(100, classes=3))
    assert_one_message(compare(out, three[0], more), "标签不同", "负面、正面", "类0、类1、类2")

    (three[1] / "metrics.json").unlink()
    assert_one_message(compare(out, *three[:2]), str(three[1]), "metrics.json", "run_full_eval.py --steps metrics")
    write_json(three[1] / "metrics.json", {"accuracy": 1})
    assert_one_message(compare(out, *three[:2]), "metrics.json 的内容不是预期的样子")
    invented(300, seed=9).save(three[0] / "predictions.jsonl")
    assert_one_message(compare(out, three[0], three[2]), "不是同一次预测")
    assert not out.exists()


def test_runs_of_earlier_versions_have_no_settings(three, tmp_path):
    for folder in three[:2]:
        (folder / "run.json").unlink()
    result = compare(tmp_path / "out", *three[:2])
    assert result.returncode == 0 and "没有 run.json" in result.stdout, result.stderr


def test_help_answers_at_once():
    result = run_script("-X", "importtime", "model_evaluation/compare_runs.py", "--help")
    assert result.returncode == 0 and "RUN" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "jinja2", "sklearn"}
