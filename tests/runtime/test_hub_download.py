"""`python train.py` on its default path, through the real hub libraries, against a hub on this machine."""

import json
import time

import pytest
from loopback_hub import LoopbackHub, hub_environment, lay_out_dataset, lay_out_model
from small import assert_one_message, run_script, small_reviews

from data.dataset import Rows

ONLINE = {"HF_HUB_OFFLINE": ""}  # run_script is offline by itself
SHORT = ["--max_steps", "2", "--max_length", "32", "--batch_size", "4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    reviews = small_reviews(60)
    rows = Rows([row["text"] for row in reviews], [row["label"] for row in reviews])
    lay_out_model(root)
    lay_out_dataset(
        root,
        {"train": rows.select(range(40)), "validation": rows.select(range(40, 50)), "test": rows.select(range(50, 60))},
    )
    return root


def train(url, home, *arguments, **more):
    environment = hub_environment(url, home, **more)
    return run_script("train.py", *SHORT, *arguments, env=ONLINE | environment)


@pytest.fixture(scope="module")
def first_run(root, tmp_path_factory):
    """(result, home with the warm cache, output) of the default command."""
    home, output = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("out")
    with LoopbackHub(root) as hub:
        result = train(hub.url, home, "--output_dir", output)
        commit = hub.repository("models", "Qwen/Qwen2.5-1.5B").commit()
        asked = {request.path for request in hub.requests}
    assert result.returncode == 0, result.stdout + result.stderr
    return result, home, output, commit, asked


def test_the_default_command_trains_on_the_hubs_model_and_reviews(first_run):
    result, _, output, commit, asked = first_run
    config = json.loads((output / "lora_adapter" / "sentiment_config.json").read_text())
    assert (config["base_model"], config["base_revision"]) == ("Qwen/Qwen2.5-1.5B", commit)
    info = json.loads((output / "lora_adapter" / "run_info.json").read_text())
    assert info["metrics"]["test"]["n"] == 10 and "train 40，validation 10，test 10" in result.stdout
    assert any("Qwen/Qwen2.5-1.5B" in path for path in asked) and any(
        "lansinuote/ChnSentiCorp" in path for path in asked
    )
    assert (
        json.loads((output / "lora_adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "Qwen/Qwen2.5-1.5B"
    )


def test_a_warm_cache_serves_when_the_hub_is_gone(first_run, tmp_path):
    _, home, output, *_ = first_run
    gone = "http://127.0.0.1:9"
    result = train(gone, home, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    answer = run_script(
        "inference.py", "--model_path", output / "lora_adapter", "--text", "好",
        env=ONLINE | hub_environment(gone, home),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


def test_an_unreachable_hub_ends_within_seconds_with_the_ways_out(tmp_path):
    started = time.monotonic()
    result = train("http://127.0.0.1:9", tmp_path, "--output_dir", tmp_path / "out")
    assert_one_message(result, "127.0.0.1:9", "HF_ENDPOINT", "--train_file", "--preset tiny")
    assert time.monotonic() - started < 60  # most of it importing, on a busy machine
    assert not (tmp_path / "out").exists()


def test_a_hub_that_never_answers(root, tmp_path):
    with LoopbackHub(root) as hub:
        hub.delay = 300
        started = time.monotonic()
        result = train(hub.url, tmp_path, "--output_dir", tmp_path / "out")
        assert time.monotonic() - started < 60  # left to themselves the libraries never end
    assert_one_message(result, "HF_ENDPOINT", "--preset tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_name", "no/such-model"], ["no/such-model", "--model_name"]),
        (["--dataset", "no/such-data"], ["no/such-data", "--train_file"]),
        (["--model_name", "no such/model"], ["no such/model"]),
    ],
)
def test_names_that_are_not_there(root, first_run, tmp_path, arguments, words):
    with LoopbackHub(root) as hub:
        assert_one_message(train(hub.url, first_run[1], "--output_dir", tmp_path, *arguments), *words)
