"""Two processes do together what one does alone: the same training, the same file of predictions."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import REPOSITORY, assert_one_message, run_script, small_reviews, write_jsonl
from small_runs import run_in_processes

from configs.training_config import TrainingConfig
from runtime.file_lock import output_lock
from training.checkpoints import fault_of, find_checkpoints, step_of
from training.optimization import mean_cross_entropy
from training.tokenized_dataset import NO_LABEL, EvenSampler, LengthGroupedSampler, TokenizedRows, collate
from training.trainer import rows_per_step, steps_per_epoch


@pytest.fixture(scope="module")
def runs(small_base, tmp_path_factory):
    """(folder, what torchrun printed): a run of two processes, taken up again after step 10, and a run of one."""
    folder, rows = tmp_path_factory.mktemp("processes"), small_reviews(120)
    # 74 rows are 9 steps of 2 x 4 and one of two rows: there the second process has nothing but filling.
    flags = ["--model_name", str(small_base), "--max_length", "64", "--lora_dropout", "0", "--batch_size", "4"]
    flags += ["--num_epochs", "2", "--eval_steps", "4", "--save_steps", "5", "--learning_rate", "5e-3"]
    for name, part in {"train": rows[:74], "validation": rows[80:103], "test": rows[103:]}.items():
        flags += [f"--{name}_file", str(write_jsonl(folder / f"{name}.jsonl", part))]
    train = ["train", *flags, "--output_dir"]
    texts = write_jsonl(folder / "texts.jsonl", [{"text": row["text"] * (1 + i % 3)} for i, row in enumerate(rows)])
    predict = ["inference", "--model_path", f"{folder}/one/lora_adapter", "--input", str(texts), "--output"]
    twice, scoring = ["--gradient_accumulation_steps", "2"], ["--head", "label_scoring"]
    work = [[*train, f"{folder}/one", *twice], [*train, f"{folder}/scoring_one", *twice, *scoring]]
    alone = run_in_processes(1, [*work, [*predict, f"{folder}/one.jsonl"]])
    forget = ["forget", f"{folder}/two", f"{folder}/resumed", "10"]
    work = [[*train, f"{folder}/two"], forget, [*train, f"{folder}/resumed"], [*predict, f"{folder}/two.jsonl"]]
    work += [[*train, f"{folder}/scoring_two", *scoring]]
    together = run_in_processes(2, work)
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    return folder, together


def history(folder):
    log = json.loads((folder / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name != "epoch"} for entry in log]


def adapter_of(folder):
    return load_file(folder / "lora_adapter" / "adapter_model.safetensors")


def test_the_loss_curve_is_that_of_one_process_with_twice_the_accumulation(runs):
    one, two = history(runs[0] / "one"), history(runs[0] / "two")
    assert len(one) == len(two) and sum("loss" in entry for entry in one) == 10
    for alone, together in zip(one, two, strict=True):
        assert alone == pytest.approx(together, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("head", ["", "scoring_"])
def test_the_adapter_and_its_figures_are_the_same(runs, head):
    folders = [runs[0] / f"{head}{count}" for count in ("one", "two")]
    one, two = map(adapter_of, folders)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)
    infos = [json.loads((folder / "lora_adapter" / "run_info.json").read_text()) for folder in folders]
    assert infos[0]["metrics"] == infos[1]["metrics"]


def test_a_run_of_two_processes_is_taken_up_again_and_ends_with_the_same_bits(runs):
    folder, printed = runs
    assert "checkpoint-10 继续训练" in printed.stdout
    assert {path.name for path in (folder / "two" / "checkpoint-20").glob("rng_state*")} == {
        "rng_state_0.pth", "rng_state_1.pth",
    }  # fmt: skip
    two, resumed = adapter_of(folder / "two"), adapter_of(folder / "resumed")
    assert all(torch.equal(two[name], resumed[name]) for name in two)
    assert history(folder / "two") == history(folder / "resumed")


def test_the_first_process_alone_speaks(runs):
    assert runs[1].stdout.count("正在载入") == 3  # three trainings
    assert runs[1].stdout.count("2 个进程") == 3
    assert runs[1].stderr.count("条预测写在") == 1


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_splits_the_model_is_refused(tmp_path, variable):
    result = run_script("train.py", "--preset", "tiny", "--output_dir", tmp_path / "new", env={variable: "true"})
    assert_one_message(result, variable.rsplit("_", 1)[-1], "torchrun", "--use_qlora")


def test_the_same_file_of_predictions(runs):
    one, two = (runs[0] / name for name in ("one.jsonl", "two.jsonl"))
    assert one.read_bytes() == two.read_bytes() and len(one.read_text(encoding="utf-8").splitlines()) == 120


def test_a_signal_stops_all_at_one_step_and_the_launchers_patience_is_said(small_base, review_files, tmp_path):
    train = ["train", "--model_name", str(small_base), *review_files, "--max_length", "32", "--num_epochs", "900"]
    work = [[*train, "--save_steps", "3", "--output_dir", str(tmp_path)]]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [sys.executable, *launcher, "tests/helpers/several_processes.py", json.dumps(work)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "45"},
    )
    while process.poll() is None and not find_checkpoints(tmp_path):
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    newest = find_checkpoints(tmp_path)[0]
    assert errors.count("收到 终止信号") == 1 and "只等 45 秒" in errors, errors
    assert errors.count(f"已停在第 {step_of(newest)} 步") == 1 and fault_of(newest) is None, errors


@pytest.mark.parametrize(("numbers", "kind"), [("0", "bug"), ("1", "mistake"), ("01", "mistake")])
def test_an_error_ends_all_processes_and_is_said_once(small_base, review_files, tmp_path, numbers, kind):
    train = ["train", "--model_name", str(small_base), *review_files, "--max_length", "32", "--max_steps", "90"]
    train += ["--save_steps", "1", "--output_dir", str(tmp_path)]
    result = run_in_processes(2, [["fail", numbers, kind], train], timeout=60)  # most of it importing
    assert result.returncode != 0 and result.stderr.count("这一步坏了") == 1, result.stderr
    assert result.stderr.count("错误：") == (kind == "mistake"), result.stderr
    # As after a kill: what has its name is whole, and the folder is free.
    assert [step_of(path) for path in find_checkpoints(tmp_path)] == [1]
    assert fault_of(tmp_path / "checkpoint-1") is None
    with output_lock(tmp_path):
        pass


def test_filling_adds_nothing_and_lets_no_row_out():
    lengths = np.random.default_rng(0).integers(3, 60, 42)
    sampler = EvenSampler(LengthGroupedSampler(lengths, 8, seed=1), multiple=8)
    indices = list(sampler)
    assert len(indices) == len(sampler) == 48 and sorted(i for i in indices if i >= 0) == list(range(42))
    assert {~i for i in indices if i < 0} == {int(lengths.argmin())} and all(i < 0 for i in indices[42:])
    sampler.set_epoch(1)
    assert list(sampler) != indices

    rows = TokenizedRows([[5] * length for length in lengths], [1] * 42)
    batch = collate([rows[i] for i in indices[40:]], pad_id=0)
    assert batch["labels"].tolist() == [1, 1] + [NO_LABEL] * 6

    class Outputs:
        logits = torch.randn(8, 2, requires_grad=True)

    mean_cross_entropy(Outputs, batch["labels"], 2).backward()
    assert (Outputs.logits.grad[2:] == 0).all() and (Outputs.logits.grad[:2] != 0).all()


def test_steps_count_the_rows_of_all_processes(monkeypatch):
    config = TrainingConfig(batch_size=4, gradient_accumulation_steps=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rows_per_step(config) == 24
    assert [steps_per_epoch(config, rows) for rows in (1, 24, 25)] == [1, 1, 2]


def test_several_processes_are_for_files_alone():
    assert_one_message(run_script("inference.py", "--text", "好", env={"WORLD_SIZE": "2"}), "--input")
