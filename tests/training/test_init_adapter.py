"""An adapter is no base, and its training can be gone on with on new data; through the real scripts."""

import json
import shutil

import pytest
from loopback_hub import LoopbackHub, hub_environment
from safetensors.torch import load_file
from small import assert_one_message, change_json, run_main, run_script, write_jsonl
from small_runs import as_if_killed

import eval as evaluation
import inference
import train
from data.seen_texts import read_seen_texts, seen_mask
from training.checkpoints import find_checkpoints

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("script", ["train.py", "eval.py", "inference.py", "benchmarks/memory.py"])
def test_an_adapter_is_no_base(plain_adapter, review_files, tmp_path, script):
    if script == "train.py":
        result = run_main(train.main, "--model_name", plain_adapter, *review_files, "--output_dir", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    elif script == "eval.py":
        result = run_main(evaluation.main, "--zero_shot", "--model_name", plain_adapter, *review_files[-2:])
    elif script == "inference.py":
        arguments = ["--model_path", plain_adapter, "--base_model_name", plain_adapter, "--text", "好"]
        result = run_main(inference.main, *arguments)
    else:
        result = run_script(script, "--model_name", plain_adapter, "--output", tmp_path / "memory.json")
    assert_one_message(result, str(plain_adapter), "不能当基座", "--model_path", "--init_adapter", "base_model_name")


def test_nor_is_one_on_the_hub(plain_adapter, review_files, tmp_path):
    folder = tmp_path / "hub" / "models" / "somebody" / "adapter"
    folder.mkdir(parents=True)
    for path in plain_adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with LoopbackHub(tmp_path / "hub") as hub:
        environment = {"HF_HUB_OFFLINE": ""} | hub_environment(hub.url, tmp_path / "home")
        command = ["train.py", "--model_name", "somebody/adapter", *review_files, "--output_dir", tmp_path / "out"]
        assert_one_message(run_script(*command, env=environment), "somebody/adapter", "不能当基座")


NEW_TEXTS = ["油耗低，动力足，", "油耗高，动力差，", "试驾了三次，", "刚提车，", "跑高速，", "堵车时，"]


@pytest.fixture(scope="module")
def new_reviews(tmp_path_factory):
    """Flags that name files of another domain than the adapter was trained on."""
    folder, flags = tmp_path_factory.mktemp("cars"), []
    rows = [
        {"text": f"{NEW_TEXTS[2 + i % 4]}{NEW_TEXTS[1 - i % 2]}{i}公里", "label": i % 2} for i in range(90)
    ]  # 0 is bad, 1 is good
    for name, part in {"train": rows[:60], "validation": rows[60:80], "test": rows[80:]}.items():
        flags += [f"--{name}_file", write_jsonl(folder / f"{name}.jsonl", part)]
    return flags


def go_on(initial, reviews, output, *flags):
    return run_main(train.main, "--init_adapter", initial, *reviews, "--output_dir", output, *flags)


def run_info(adapter):
    return json.loads((adapter / "run_info.json").read_text(encoding="utf-8"))


def test_it_starts_at_the_adapters_answers(adapter, review_files, new_reviews, tmp_path):
    """A learning rate of nothing: what comes out is what went in, but for what belongs to one training alone."""
    initial = shutil.copytree(adapter, tmp_path / "initial")
    change_json(initial / "sentiment_config.json", temperature=2.5, thresholds={"0.97": 0.9})
    result = go_on(initial, review_files, tmp_path / "out", "--learning_rate", "1e-30", "--max_steps", "1")
    assert result.returncode == 0, result.stderr
    new = tmp_path / "out" / "lora_adapter"
    assert (new / WEIGHTS).read_bytes() == (initial / WEIGHTS).read_bytes()
    before, after = (run_info(folder) for folder in (initial, new))
    assert after["metrics"] == before["metrics"] and after["config"]["init_adapter"] == str(initial)
    assert after["fingerprint"]["--init_adapter 的权重"].startswith("SHA-256 ")
    settings = json.loads((new / "sentiment_config.json").read_text(encoding="utf-8"))
    assert (settings["temperature"], settings["thresholds"]) == (1.0, {})
    assert settings["max_length"] == 64  # as the adapter has it, not the default


def test_it_learns_the_new_data_and_remembers_what_it_has_seen(adapter, review_files, new_reviews, tmp_path):
    flags = ["--learning_rate", "1e-3", "--eval_steps", "2", "--num_epochs", "4"]
    result = go_on(adapter, new_reviews, tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    log = json.loads((find_checkpoints(tmp_path)[0] / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert losses[-1] < 0.8 * losses[0], losses
    new = tmp_path / "lora_adapter"
    texts = [json.loads(line)["text"] for line in new_reviews[1].read_text(encoding="utf-8").splitlines()]
    assert seen_mask(new, texts).all() and set(read_seen_texts(adapter)) <= set(read_seen_texts(new))


def test_every_difference_is_named_at_once(adapter, base_copy, new_reviews, tmp_path):
    config = json.loads((base_copy / "config.json").read_text())
    (base_copy / "config.json").write_text(json.dumps(config))  # the same settings, written otherwise
    flags = ["--model_name", base_copy, "--labels", "正面,负面", "--lora_r", "4", "--lora_alpha", "8", "--use_qlora"]
    result = go_on(adapter, new_reviews, tmp_path / "out", *flags, "--target_modules", "q_proj")
    names = [
        "--labels",
        "--lora_r：适配器 8，现在 4",
        "--lora_alpha",
        "--target_modules",
        "--use_qlora",
        "--model_name",
    ]
    assert_one_message(result, *names, "基座 config.json", "去掉这些参数")
    assert "基座 model.safetensors" not in result.stderr and not (tmp_path / "out").exists()


def test_another_head_is_refused(adapter, new_reviews, tmp_path):
    result = go_on(adapter, new_reviews, tmp_path / "out", "--head", "label_scoring", "--label_words", "坏,好")
    assert_one_message(result, "--head：适配器 classifier，现在 label_scoring", "--label_words")
    assert not (tmp_path / "out").exists()


def test_labels_that_the_adapter_does_not_know_are_refused(adapter, tmp_path):
    rows = [{"text": f"第{i}次，{'好' * (i % 3)}", "label": ["差", "中", "好"][i % 3]} for i in range(60)]
    result = go_on(adapter, ["--train_file", write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    assert_one_message(result, "a.jsonl", "第 1")


def test_a_base_that_is_elsewhere_now_is_the_same_and_one_changed_in_place_is_not(base_copy, review_files, tmp_path):
    first = ["--max_length", "64", "--max_steps", "2", "--output_dir", tmp_path / "first"]
    assert run_main(train.main, "--model_name", base_copy, *review_files, *first).returncode == 0
    moved = base_copy.rename(tmp_path / "moved")
    initial, short = tmp_path / "first" / "lora_adapter", ["--max_steps", "1"]
    assert_one_message(go_on(initial, review_files, tmp_path / "out", *short), str(base_copy))
    result = go_on(initial, review_files, tmp_path / "out", *short, "--model_name", moved)
    assert result.returncode == 0, result.stderr
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    moved.rename(base_copy)
    assert_one_message(go_on(initial, review_files, tmp_path / "other", *short), "基座 model.safetensors")


@pytest.mark.parametrize("flags", [["--use_qlora"], ["--head", "label_scoring", "--label_words", "差,好"]])
def test_with_every_head_and_precision(small_base, review_files, tmp_path, flags):
    """The settings come from the adapter: no flag but the data is needed."""
    first = ["--model_name", small_base, "--max_length", "32", "--target_modules", "all-linear", "--lora_r", "4"]
    short = ["--max_steps", "2", "--output_dir", tmp_path / "first"]
    assert run_main(train.main, *review_files, *first, *flags, *short).returncode == 0
    initial = tmp_path / "first" / "lora_adapter"
    still = ["--learning_rate", "1e-30", "--max_steps", "1", "--target_modules", "all-linear"]
    result = go_on(initial, review_files, tmp_path / "out", *still)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "lora_adapter" / WEIGHTS).read_bytes() == (initial / WEIGHTS).read_bytes()
    assert run_info(tmp_path / "out" / "lora_adapter")["metrics"] == run_info(initial)["metrics"]


SHORT = ["--max_steps", "4", "--save_steps", "1", "--eval_steps", "1"]


@pytest.mark.parametrize("killed", ["after a step", "after the adapter was replaced"])
def test_a_run_that_replaces_its_own_beginning_is_gone_on_with(adapter, new_reviews, tmp_path, killed):
    """To the same bits; until the new adapter is whole the old one stays."""
    outcome = go_on(adapter, new_reviews, tmp_path / "whole", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    output = tmp_path / "out"
    own = shutil.copytree(adapter, output / "lora_adapter")
    assert go_on(own, new_reviews, output, *SHORT).returncode == 0
    if killed == "after a step":
        as_if_killed(output, step=2)
        shutil.copytree(adapter, own)
    else:
        (output / "run_finished.json").unlink()
    result = go_on(own, new_reviews, output, *SHORT)
    assert result.returncode == 0 and "继续训练" in result.stdout, result.stderr
    assert (own / WEIGHTS).read_bytes() == (tmp_path / "whole" / "lora_adapter" / WEIGHTS).read_bytes()
    assert (own / WEIGHTS).read_bytes() != (adapter / WEIGHTS).read_bytes()


def test_an_interrupted_run_goes_on_only_from_the_adapter_it_began_with(adapter, new_reviews, tmp_path):
    assert go_on(adapter, new_reviews, tmp_path / "out", *SHORT).returncode == 0
    whole = (tmp_path / "out" / "lora_adapter" / WEIGHTS).read_bytes()
    as_if_killed(tmp_path / "out", step=2)
    other = shutil.copytree(adapter, tmp_path / "other")
    content = bytearray((other / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (other / WEIGHTS).write_bytes(content)
    assert_one_message(go_on(other, new_reviews, tmp_path / "out", *SHORT), "属于另一次训练", "--init_adapter 的权重")
    assert go_on(adapter, new_reviews, tmp_path / "out", *SHORT).returncode == 0
    assert (tmp_path / "out" / "lora_adapter" / WEIGHTS).read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, ["DoRA"]),
        ({"target_modules": ".*proj"}, ["target_modules"]),
        ({"lora_alpha": "16"}, ["lora_alpha"]),
        ({"target_modules": ["q_proj"]}, ["对不上"]),
    ],
)
def test_an_adapter_that_cannot_be_gone_on_with(adapter_copy, review_files, tmp_path, change, words):
    change_json(adapter_copy / "adapter_config.json", **change)
    assert_one_message(go_on(adapter_copy, review_files, tmp_path / "out"), *words)


def test_weights_that_are_no_numbers_are_no_beginning(adapter_copy, review_files, tmp_path):
    from safetensors.torch import save_file

    tensors = load_file(adapter_copy / WEIGHTS)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, adapter_copy / WEIGHTS)
    assert_one_message(go_on(adapter_copy, review_files, tmp_path / "out"), "NaN")
