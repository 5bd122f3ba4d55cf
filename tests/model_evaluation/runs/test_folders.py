"""Every model and its rows have a folder; the last run's files lie in the folder above; models never mix."""

import json
import shutil
from pathlib import Path

import pytest
from small import assert_one_message, change_json, run_main, small_reviews, write_jsonl

import train
from model_evaluation import report_generator, run_full_eval
from model_evaluation.run_full_eval import STEPS
from model_evaluation.runs.folders import EARLIER, PUBLISHED, RUN_FILE, adapter_name, publish, run_name
from modeling.adapter_folder import WEIGHTS, SentimentConfig
from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json

OUTPUTS = Path("model_evaluation/outputs")


@pytest.fixture
def here(plain_adapter, tmp_path, monkeypatch):
    """A working folder with an adapter and a test file in it."""
    shutil.copytree(plain_adapter, tmp_path / "outputs" / "lora_adapter")
    write_jsonl(tmp_path / "my test.jsonl", small_reviews(12))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read_texts(monkeypatch):
    """Every text that a model has read."""
    texts, original = [], SentimentPredictor.predictions

    def predictions(self, asked, *args, **kwargs):
        texts.extend(asked)
        return original(self, asked, *args, **kwargs)

    monkeypatch.setattr(SentimentPredictor, "predictions", predictions)
    return texts


def evaluate(*flags, steps="metrics"):
    return run_main(
        run_full_eval.main, "--model_path", "outputs/lora_adapter", "--test_file", "my test.jsonl", "--steps", steps,
        *flags,
    )  # fmt: skip


def runs():
    return sorted(path.parent.name for path in OUTPUTS.glob(f"*/{RUN_FILE}"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def train_again(seed=1):
    """Other weights in the same adapter folder, of the same length."""
    weights = Path("outputs/lora_adapter") / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-seed] ^= 1
    weights.write_bytes(bytes(content))


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_two_models_in_one_adapter_folder_have_a_folder_each(here):
    result = evaluate(steps="metrics,robustness,report")
    assert result.returncode == 0, result.stderr
    (first,) = runs()
    assert first.startswith("outputs-my_test-") and len(first) == len("outputs-my_test-") + 8
    assert str(OUTPUTS / first / "metrics.json") in result.stdout
    before = contents(OUTPUTS / first)
    published = contents(OUTPUTS)
    assert published == {name: before[name] for name in published}
    assert set(published) == set(PUBLISHED) - {"confidence_analysis.json", "baseline_comparison.json"}

    train_again()
    assert evaluate().returncode == 0
    (second,) = set(runs()) - {first}
    assert contents(OUTPUTS / first) == before
    # Above lies the second run and nothing of the first: it had no robustness step.
    assert set(contents(OUTPUTS)) == {"metrics.json", "predictions.jsonl", RUN_FILE}
    assert read(OUTPUTS / "metrics.json") == read(OUTPUTS / second / "metrics.json")
    assert read(OUTPUTS / RUN_FILE)["model_fingerprint"] != read(OUTPUTS / first / RUN_FILE)["model_fingerprint"]


def test_the_same_model_again_goes_to_the_same_folder_and_reads_nothing_twice(here, read_texts):
    evaluate()
    evaluate("--max_samples", 4)
    assert len(read_texts) == 12  # the sample was answered by the first run
    evaluate()
    evaluate("--max_samples", 4)
    assert len(read_texts) == 12 and len(runs()) == 2
    (sample,) = [name for name in runs() if name.startswith("outputs-my_test-4-")]
    assert read(OUTPUTS / sample / "metrics.json")["n"] == 4 == read(OUTPUTS / "metrics.json")["n"]
    assert len((OUTPUTS / sample / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    evaluate("--max_samples", 4, "--fresh")
    assert len(read_texts) == 16


def test_other_rows_under_the_same_name_have_another_folder(here):
    evaluate()
    write_jsonl(here / "my test.jsonl", small_reviews(14))
    evaluate()
    assert len(runs()) == 2 and {read(OUTPUTS / name / "metrics.json")["n"] for name in runs()} == {12, 14}


def test_what_earlier_versions_wrote_is_set_aside(here):
    write_json(OUTPUTS / "metrics.json", {"accuracy": 0.5})
    write_json(OUTPUTS / "baseline_comparison.json", {"n": 7})
    write_json(OUTPUTS / "data_audit.json", {"of": "a data set"})
    evaluate()
    assert read(OUTPUTS / EARLIER / "metrics.json") == {"accuracy": 0.5}
    assert read(OUTPUTS / EARLIER / "baseline_comparison.json") == {"n": 7}
    assert "baseline_comparison.json" not in contents(OUTPUTS) and read(OUTPUTS / "metrics.json")["n"] == 12
    assert read(OUTPUTS / "data_audit.json") == {"of": "a data set"}
    evaluate("--max_samples", 4)
    assert read(OUTPUTS / EARLIER / "metrics.json") == {"accuracy": 0.5}


def test_a_folder_of_ones_own_belongs_to_one_model(here):
    assert evaluate("--output_dir", "mine").returncode == 0
    before = contents(here / "mine")
    assert not OUTPUTS.exists() and "report.html" not in before
    assert evaluate("--output_dir", "mine", "--max_samples", 6).returncode == 0
    before = contents(here / "mine")
    train_again()
    refused = evaluate("--output_dir", "mine", steps="robustness")
    assert_one_message(refused, "mine", "另一个模型", "metrics.json", "--output_dir")
    assert contents(here / "mine") == before

    # Also where only the result of a single step is left, without run.json.
    for name in before.keys() - {"metrics.json"}:
        (here / "mine" / name).unlink()
    assert_one_message(evaluate("--output_dir", "mine", steps="robustness"), "另一个模型", "metrics.json")
    # What replaces every result of the other model mixes nothing.
    assert evaluate("--output_dir", "mine", "--max_samples", 6).returncode == 0
    written, other = read(here / "mine" / "metrics.json"), json.loads(before["metrics.json"])
    assert written["model_fingerprint"] == read(here / "mine" / RUN_FILE)["model_fingerprint"]
    assert written["model_fingerprint"] != other["model_fingerprint"]


def test_run_json_says_how_the_run_was_made(here):
    evaluate("--max_samples", 4, "--seed", 7)
    record = read(OUTPUTS / RUN_FILE)
    assert record["flags"] == {"test_file": "my test.jsonl", "max_samples": 4, "seed": 7}
    assert record["labels"] == ["负面", "正面"] and record["training"]["max_length"] == 64
    assert record["split_fingerprints"].keys() == {"test"}
    assert record["split_fingerprints"]["test"] != record["data"]["fingerprint"]  # all rows, and the sample


def test_the_published_files_are_those_of_the_steps(here):
    assert set(PUBLISHED) == {step.file_name for step in STEPS} | {"predictions.jsonl", RUN_FILE}


def test_where_the_disk_knows_no_links_the_files_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *names: (_ for _ in ()).throw(OSError("not here")))
    for value in (1, 2):
        write_json(tmp_path / "run" / "metrics.json", value)
        write_json(tmp_path / "run" / RUN_FILE, {})
        publish(tmp_path / "run")
        assert read(tmp_path / "metrics.json") == value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "run", RUN_FILE]


def test_the_report_alone_goes_to_the_run_and_the_page_can_be_made_again(here):
    evaluate(steps="metrics")
    assert evaluate(steps="report").returncode == 0
    (name,) = runs()
    assert contents(OUTPUTS)["report.html"] == contents(OUTPUTS / name)["report.html"]
    assert run_main(report_generator.main, "--output_dir", OUTPUTS / name).returncode == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("outputs/lora_adapter", "outputs"),
        ("./outputs/lora_adapter.2", "outputs.2"),
        ("outputs/seed_1/lora_adapter/", "outputs_seed_1"),
        ("/elsewhere/deep/out/lora_adapter", "out"),
        ("/elsewhere/my_adapter", "my_adapter"),
        ("lora_adapter", "here"),
    ],
)
def test_names_of_adapters(path, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert adapter_name(path) == name


def test_names_of_runs_can_be_read_and_follow_model_and_rows():
    name = run_name(["out puts", "my: set?", None, 500], ["model", "rows"])
    assert name[:-8] == "out_puts-my_set-500-" and name == run_name(["out puts", "my: set?", 500], ["model", "rows"])
    assert len({run_name(["a"], facts)[-8:] for facts in (["model", "rows"], ["model2", "rows"], ["model", "r"])}) == 3
    assert run_name(["", "../..", "评论"], ["x"]).startswith("评论-")


def test_labels_that_are_a_scale(here):
    """The flag says so, or the adapter remembers it; --no_ordinal takes its word back."""
    result = evaluate("--ordinal")
    assert "平均差几级" in result.stdout, result.stderr
    ordinal = read(OUTPUTS / "metrics.json")["ordinal"]
    assert ordinal["mae"] == pytest.approx(1 - read(OUTPUTS / "metrics.json")["accuracy"])  # of two labels
    assert "平均差几级" not in evaluate().stdout and "ordinal" not in read(OUTPUTS / "metrics.json")

    change_json(Path("outputs/lora_adapter/sentiment_config.json"), ordinal=True)
    assert "平均差几级" in evaluate().stdout and read(OUTPUTS / "metrics.json")["unseen"]["ordinal"]
    assert "平均差几级" not in evaluate("--no_ordinal").stdout


def test_a_training_tells_its_adapter(here, small_base, review_files):
    flags = ("--model_name", small_base, *review_files, "--max_length", 32, "--max_steps", 1, "--output_dir", "scale")
    assert run_main(train.main, *flags, "--ordinal").returncode == 0
    assert SentimentConfig.load("scale/lora_adapter").ordinal
