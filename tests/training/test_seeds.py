"""`train.py --seeds`: each seed as by itself, resumed as a whole, compared in the end."""

import json
import shutil
import statistics

import pytest
from safetensors.torch import load_file
from small import assert_one_message, run_main
from small_runs import as_if_killed, interrupt

import train
from runtime.terminal import display_width
from training.seeds import seeds_table, summarise

SETTINGS = [
    "--max_length",
    "64",
    "--max_steps",
    "12",
    "--eval_steps",
    "6",
    "--save_steps",
    "4",
    "--learning_rate",
    "3e-3",
]


@pytest.fixture(scope="module")
def command(small_base, review_files):
    return ["--model_name", small_base, *review_files, *SETTINGS]


@pytest.fixture(scope="module")
def two_seeds(command, tmp_path_factory):
    """(finished command, output folder) of a training with the seeds 1 and 7."""
    output = tmp_path_factory.mktemp("seeds")
    return run_main(train.main, *command, "--output_dir", output, "--seeds", "1,7"), output


def run_info(folder):
    return json.loads((folder / "lora_adapter" / "run_info.json").read_text())


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/adapter_model.safetensors")}


def test_the_file_and_the_table_hold_mean_range_and_deviation_of_the_runs(two_seeds):
    result, output = two_seeds
    assert result.returncode == 0, result.stderr
    found = json.loads((output / "seeds.json").read_text())
    infos = {seed: run_info(output / f"seed_{seed}") for seed in (1, 7)}
    assert infos[1]["config"]["seed"] == 1 and infos[1]["config"]["seeds"] is None
    for split in ("validation", "test"):
        for name in ("accuracy", "f1", "auc"):
            values = [info["metrics"][split][name] for info in infos.values()]
            figures = found["summary"][split][name]
            assert (figures["min"], figures["max"]) == (min(values), max(values))
            assert figures["mean"] == pytest.approx(sum(values) / 2)
            assert figures["sd"] == pytest.approx(statistics.stdev(values))
    best = max((1, 7), key=lambda seed: infos[seed]["metrics"]["validation"]["accuracy"])
    assert found["best_seed"] == best
    end = result.stdout[result.stdout.index("== 2 个种子") :]
    assert "标准差" in end and f"种子 {best}" in end and f"--model_path {output}/seed_{best}/lora_adapter" in end
    assert all(display_width(line) <= 80 for line in seeds_table(found).splitlines())
    for seed in (1, 7):
        assert json.loads((output / f"seed_{seed}" / "lora_adapter" / "seeds.json").read_text()) == found


def test_a_seed_trains_as_it_does_by_itself(two_seeds, command, tmp_path):
    assert run_main(train.main, *command, "--output_dir", tmp_path, "--seed", "7").returncode == 0
    ours, alone = (
        load_file(folder / "lora_adapter" / "adapter_model.safetensors")
        for folder in (two_seeds[1] / "seed_7", tmp_path)
    )
    assert ours.keys() == alone.keys() and all(ours[name].equal(alone[name]) for name in ours)


def test_the_same_command_goes_on_with_what_is_not_finished(two_seeds, command, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(two_seeds[1], output)
    as_if_killed(output / "seed_7", 8)
    before = times(output / "seed_1")
    (output / "lora_adapter").mkdir()  # of another training
    result = run_main(train.main, *command, "--output_dir", output, "--seeds", "1,7")
    assert result.returncode == 0, result.stderr
    assert "seed_1 已经训练完" in result.stdout and "checkpoint-8 继续训练" in result.stdout
    assert "不属于这几个种子" in result.stdout
    assert times(output / "seed_1") == before
    assert json.loads((output / "seeds.json").read_text()) == json.loads((two_seeds[1] / "seeds.json").read_text())

    # Another seed more is the only one to be trained.
    more = run_main(train.main, *command, "--output_dir", output, "--seeds", "1,7,3")
    assert more.returncode == 0 and more.stdout.count("已经训练完") == 2 and more.stdout.count("训练损失") == 1
    assert list(json.loads((output / "seeds.json").read_text())["runs"]) == ["1", "7", "3"]

    # Other settings would not be the same training; the old one stays.
    refused = run_main(train.main, *command, "--output_dir", output, "--seeds", "1,7", "--lora_r", "4")
    assert_one_message(refused, "seed_1", "lora_r", "适配器 8，现在 4", "--output_dir", "--resume_from_checkpoint none")
    assert times(output / "seed_1") == before


def test_a_signal_ends_all_seeds_and_they_go_on(command, tmp_path, monkeypatch):
    from training.trainer import SentimentTrainer

    plain = SentimentTrainer.training_step

    def stop_in_the_second(self, *args, **kwargs):
        if self.args.seed == 7 and self.state.global_step == 5:
            interrupt()
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SentimentTrainer, "training_step", stop_in_the_second)
        stopped = run_main(train.main, *command, "--output_dir", tmp_path, "--seeds", "7,2")
    assert stopped.returncode == 143 and "已停在第 6 步" in stopped.stderr
    assert not (tmp_path / "seed_2").exists() and not (tmp_path / "seeds.json").exists()
    result = run_main(train.main, *command, "--output_dir", tmp_path, "--seeds", "7,2")
    assert result.returncode == 0 and "checkpoint-6 继续训练" in result.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "1,2", "--seed", "3"], ["--seed ", "--seeds", "只能给一个"]),
        (["--seeds", "1,1"], ["--seeds", "不同的整数", "1,1"]),
        (["--seeds", "1,-2"], ["--seeds", "1,-2"]),
        (["--seeds", "1，2"], ["--seeds", "应为整数", "1，2"]),
        (["--seeds", "1,2", "--resume_from_checkpoint", "outputs/checkpoint-3"], ["--seeds", "auto 或 none"]),
    ],
)
def test_a_mistyped_seed_is_one_message(flags, words):
    assert_one_message(run_main(train.main, *flags), *words)


def test_an_undefined_metric_leaves_no_figure_and_one_seed_no_deviation():
    metrics = {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.4, "auc": None}
    summary = summarise({3: {"metrics": {"validation": metrics}, "best": {"by": "f1"}}})
    assert summary["summary"]["validation"]["auc"] is None
    assert summary["summary"]["validation"]["f1"] == {"mean": 0.4, "min": 0.4, "max": 0.4, "sd": None}
    assert (summary["best_seed"], summary["best_by"]) == (3, "f1")
    assert [line.split() for line in seeds_table(summary).splitlines()] == [
        ["种子", "验证准确率", "验证", "F1"],
        ["3", "0.5000", "0.4000"],
        ["平均", "0.5000", "0.4000"],
        ["范围", "0.5000–0.5000", "0.4000–0.4000"],
    ]
