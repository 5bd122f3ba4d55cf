"""The progress of a training: table, lines, training_log.jsonl, and the warnings before it starts."""

import json
import shutil

import numpy as np
import pytest
from small import run_main, small_reviews, write_jsonl
from small_runs import as_if_killed, go_on, make_trainer, outcome, rows

import train
from configs.training_config import TrainingConfig
from data.dataset import Rows
from modeling.base_model import load_tokenizer
from runtime.terminal import display_width
from training.callbacks import log_lines
from training.checkpoints import find_checkpoints
from training.run_summary import data_warnings, describe_cut
from training.tokenized_dataset import LengthGroupedSampler, rare_labels, tokenize


def read_log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_evaluation_is_a_row_of_a_table_within_eighty_columns(trained):
    result, output = trained
    lines = result.stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if "".join(line.split()) == "步轮训练损失验证损失准确率宏平均F1")
    evaluations = [entry for entry in read_log(output) if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [10, 20, 30, 40]
    scores = []
    for line, entry in zip(lines[header + 1 :], evaluations, strict=False):
        step, epoch, _, loss, accuracy, f1, *best = line.split()
        assert (int(step), float(epoch)) == (entry["step"], entry["epoch"])
        assert (loss, accuracy, f1) == tuple(
            f"{entry[name]:.4f}" for name in ("eval_loss", "eval_accuracy", "eval_macro_f1")
        )
        scores.append((entry["eval_accuracy"], -entry["eval_loss"]))
        assert bool(best) == (scores.index(max(scores)) == len(scores) - 1)
    tables = [line for line in lines if line.startswith(("步  ", "验证集", "测试集")) or "AUC" in line]
    assert len(tables) == 4 and all(display_width(line) <= 80 for line in [*tables, *lines[header : header + 5]])


def test_no_dictionary_is_printed_and_no_carriage_return_into_a_log_file(trained):
    said = trained[0].stdout + trained[0].stderr
    assert "{'" not in said and "\r" not in said


def test_every_slow_part_is_announced(trained):
    said = trained[0].stdout
    parts = ("载入程序库", "读取数据", "核对基座", "载入基座", "步数", "最好的适配器")
    assert sorted(parts, key=said.index) == list(parts)


def test_the_log_holds_each_loss_and_each_evaluation_and_lies_beside_the_adapter(trained):
    output = trained[1]
    log, state = read_log(output), json.loads((find_checkpoints(output)[0] / "trainer_state.json").read_text())
    assert log == state["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(4, 41, 4))
    assert {"epoch", "loss", "learning_rate"} <= log[0].keys()
    adapter_log = output / "lora_adapter" / "training_log.jsonl"
    assert adapter_log.read_bytes() == (output / "training_log.jsonl").read_bytes()


@pytest.mark.parametrize("step", [21, 30])
def test_killed_and_resumed_the_log_has_no_line_twice_and_none_missing(whole_run, small_base, tmp_path, step):
    whole, folder = whole_run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "lora_adapter").mkdir()
    (tmp_path / "run_finished.json").touch()
    as_if_killed(tmp_path, step)
    # What a killed process had written after its last checkpoint, the last line not to its end.
    if step == 30:
        (tmp_path / "training_log.jsonl").unlink()
    else:
        with (tmp_path / "training_log.jsonl").open("a") as file:
            file.write('{"step": 31, "lo')
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole


def test_a_loss_that_is_no_number_is_null_and_the_closing_summary_no_line():
    history = [{"loss": float("nan"), "epoch": 1.0, "step": 3}, {"train_runtime": 3.0, "epoch": 1.0, "step": 3}]
    assert log_lines(history) == ['{"step": 3, "epoch": 1.0, "loss": null}\n']


# ---- which step is the best


def skewed(count: int = 60) -> Rows:
    return Rows(rows(count).texts, [int(i % 20 == 0) for i in range(count)])


def test_rare_is_less_than_a_tenth_or_half_an_even_share():
    assert rare_labels([0] * 19 + [1]) == {1: 0.05}
    assert rare_labels([0] * 9 + [1]) == {}
    assert rare_labels(list(range(20)) * 5) == {}  # twenty labels, even
    assert rare_labels(list(range(20)) * 5 + [0] * 120) == dict.fromkeys(range(1, 20), 5 / 220)


@pytest.mark.parametrize(("asked", "by"), [("auto", "f1"), ("f1", "f1"), ("accuracy", "accuracy")])
def test_rare_labels_make_macro_f1_the_measure_unless_another_is_asked_for(small_base, tmp_path, asked, by):
    trainer = make_trainer(small_base, tmp_path, skewed(), best_by=asked, max_steps=1)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.best.by == by
    assert trainer.best.score == entry["eval_macro_f1" if by == "f1" else "eval_accuracy"]
    assert entry["eval_macro_f1"] != entry["eval_accuracy"]


def test_a_checkpoint_of_an_earlier_version_goes_on_by_accuracy(small_base, tmp_path):
    trainer = make_trainer(small_base, tmp_path, skewed(), max_steps=4, save_steps=2, eval_steps=2)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "best_adapter.json").write_text('{"accuracy": 0.5, "loss": 0.7, "step": 2, "misses": 0}')
    resumed = make_trainer(small_base, tmp_path, skewed(), checkpoint=checkpoint, max_steps=4)
    assert (resumed.best.by, resumed.best.score, resumed.best.step) == ("accuracy", 0.5, 2)


# ---- warnings before the first step


def test_small_and_skewed_data_are_warned_of_before_the_training(small_base, tmp_path):
    labelled = [{"text": r["text"], "label": int(i % 20 == 0)} for i, r in enumerate(small_reviews(100))]
    flags = ["--model_name", small_base, "--max_length", "16", "--max_steps", "2", "--output_dir", tmp_path / "out"]
    for name, part in {"train": labelled[:80], "validation": labelled[80:]}.items():
        flags += [f"--{name}_file", write_jsonl(tmp_path / f"{name}.jsonl", part)]
    result = run_main(train.main, *flags)
    assert result.returncode == 0, result.stderr
    before = result.stdout[: result.stdout.index("训练损失")]
    for words in ("训练只有 80 条", "验证只有 20 条", "正面（5.0%）", "--class_weights balanced", "--best_by", "截断"):
        assert words in before
    assert "宏平均 F1 最高" in result.stdout
    info = json.loads((tmp_path / "out" / "lora_adapter" / "run_info.json").read_text())
    assert info["best"]["by"] == "f1"


def test_plenty_of_even_data_is_not_warned_of(small_base):
    tokenizer = load_tokenizer(str(small_base))
    tokenized = {"train": tokenize(rows(200), tokenizer, 64), "validation": tokenize(rows(50), tokenizer, 64)}
    assert data_warnings(TrainingConfig(), tokenized, "accuracy") == []


def test_cut_rows_are_counted_and_a_larger_length_priced(small_base):
    tokenizer = load_tokenizer(str(small_base))
    texts = ["好" * n for n in [4] * 80 + [40] * 20]  # three tokens a character
    for template in (None, "评论：{text}\n情感："):
        tokenized = tokenize(Rows(texts, [0, 1] * 50), tokenizer, 32, template)
        prompt = 0 if template is None else len(tokenized.input_ids[-1]) - 32
        assert tokenized.full_lengths == [12 + prompt] * 80 + [120 + prompt] * 20
        sampler = LengthGroupedSampler(tokenized.lengths, 8, seed=0)
        config = TrainingConfig(max_length=32, batch_size=8)
        line = describe_cut(config, tokenized, sampler, most=512)
        read = 20 * (120 - 32) / (80 * (12 + prompt) + 20 * (32 + prompt))
        assert "20.0% 的训练评论超过 32 个 token" in line and f"改成 128 则只有 0.0%，每轮多读 {read:.1%}" in line
        # A base that reads no more than that has nothing to offer.
        assert "改成" not in describe_cut(config, tokenized, sampler, most=32 + prompt)
    whole = tokenize(Rows(texts, [0, 1] * 50), tokenizer, 128)
    assert describe_cut(TrainingConfig(max_length=128), whole, LengthGroupedSampler(whole.lengths, 8, 0), 512) is None


def test_a_row_of_just_the_length_is_not_cut(small_base):
    tokenized = tokenize(Rows(["好" * 10], [0]), load_tokenizer(str(small_base)), 30)
    assert np.array_equal(tokenized.full_lengths, tokenized.lengths)
