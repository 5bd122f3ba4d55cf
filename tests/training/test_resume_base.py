"""A training goes on with the base that it began with, or not at all; on the real command line."""

import json
import os
import shutil

import pytest
from loopback_hub import LoopbackHub, hub_environment, lay_out_dataset, lay_out_model
from small import assert_one_message, run_script, small_reviews
from small_runs import as_if_killed

from data.dataset import Rows
from runtime.atomic_files import write_json
from training.checkpoints import MANIFEST, _digest, read_manifest

SHORT = ["--max_steps", "4", "--save_steps", "1", "--eval_steps", "1", "--max_length", "32", "--batch_size", "4"]
WEIGHTS = "lora_adapter/adapter_model.safetensors"


def change_weights(path):
    """Other weights of the same size, and the file's old time: only its content tells."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def on_a_folder(base_copy, review_files, tmp_path):
    """The command of a run on a base of its own, which was killed after its second step."""
    command = ["train.py", "--model_name", base_copy, *review_files, *SHORT, "--output_dir", tmp_path / "out"]
    result = run_script(*command)
    assert result.returncode == 0, result.stderr
    as_if_killed(tmp_path / "out", step=2)
    return command


def test_with_other_weights_in_the_folder_it_is_refused(on_a_folder, base_copy, tmp_path):
    change_weights(base_copy / "model.safetensors")
    before = sorted(tmp_path.rglob("*"))
    assert_one_message(run_script(*on_a_folder), "checkpoint-2 属于另一次训练", "基座 model.safetensors")
    assert sorted(tmp_path.rglob("*")) == before
    named = run_script(*on_a_folder, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-2")
    assert_one_message(named, "checkpoint-2 属于另一次训练", "基座 model.safetensors")


def test_with_another_tokenizer_it_is_refused(on_a_folder, base_copy):
    (base_copy / "tokenizer.json").write_text((base_copy / "tokenizer.json").read_text() + "\n")
    assert_one_message(run_script(*on_a_folder), "属于另一次训练", "基座 tokenizer.json")


def test_a_folder_copied_anew_is_the_same_base(on_a_folder, base_copy):
    shutil.move(base_copy, base_copy.with_name("old"))
    shutil.copytree(base_copy.with_name("old"), base_copy, copy_function=shutil.copyfile)  # with new times
    (base_copy / "笔记.txt").write_text("不是模型的一部分")
    result = run_script(*on_a_folder)
    assert result.returncode == 0 and "checkpoint-2 继续训练" in result.stdout, result.stderr


def test_a_checkpoint_that_says_nothing_of_the_base_is_gone_on_from(on_a_folder, base_copy, tmp_path):
    """Those of earlier versions; which base it is cannot be checked, and the next checkpoint knows."""
    checkpoint = tmp_path / "out" / "checkpoint-2"
    manifest = read_manifest(checkpoint)
    manifest["fingerprint"] = {k: v for k, v in manifest["fingerprint"].items() if not k.startswith("基座 ")}
    write_json(checkpoint / MANIFEST, manifest | {"sha256": _digest(manifest)})
    result = run_script(*on_a_folder)
    assert result.returncode == 0 and "checkpoint-2 没有记下基座" in result.stdout, result.stderr
    newer = read_manifest(tmp_path / "out" / "checkpoint-4")["fingerprint"]
    assert any(name == "基座 model.safetensors" for name in newer)


@pytest.fixture
def moved_hub(tmp_path):
    """(environment of a client, old commit, train): after a killed run on the hub's base, `main` has moved on."""
    root, reviews = tmp_path / "hub", small_reviews(60)
    rows = Rows([row["text"] for row in reviews], [row["label"] for row in reviews])
    lay_out_model(root)
    parts = {"train": range(40), "validation": range(40, 50), "test": range(50, 60)}
    lay_out_dataset(root, {name: rows.select(part) for name, part in parts.items()})
    with LoopbackHub(root) as hub:
        commit = hub.repository("models", "Qwen/Qwen2.5-1.5B").commit()

        def train(*flags, home="home"):
            environment = {"HF_HUB_OFFLINE": ""} | hub_environment(hub.url, tmp_path / home)
            return run_script("train.py", *SHORT, "--output_dir", tmp_path / "out", *flags, env=environment)

        first = train()
        assert first.returncode == 0, first.stderr
        shutil.copytree(tmp_path / "out", tmp_path / "whole")
        as_if_killed(tmp_path / "out", step=2)
        lay_out_model(root, seed=1)
        assert hub.repository("models", "Qwen/Qwen2.5-1.5B").commit() != commit
        yield commit, train


def test_when_the_hub_has_moved_on_it_goes_on_with_the_commit_it_began_with(moved_hub, tmp_path):
    commit, train = moved_hub
    result = train()
    assert result.returncode == 0 and "checkpoint-2 继续训练" in result.stdout, result.stderr
    config = json.loads((tmp_path / "out" / "lora_adapter" / "sentiment_config.json").read_text())
    assert config["base_revision"] == commit
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    # So does one that goes on from the finished adapter.
    result = train("--init_adapter", tmp_path / "whole" / "lora_adapter", "--output_dir", tmp_path / "next")
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "next" / "lora_adapter" / "sentiment_config.json").read_text())
    assert config["base_revision"] == commit
    # That run is finished: the next one begins with what the hub has now.
    assert train().returncode == 0
    config = json.loads((tmp_path / "out" / "lora_adapter" / "sentiment_config.json").read_text())
    assert config["base_revision"] != commit


def test_a_commit_that_is_gone_is_refused(moved_hub, tmp_path):
    """Neither in this machine's cache nor on the hub any more."""
    before = (tmp_path / "out" / "checkpoint-2" / MANIFEST).read_bytes()
    assert_one_message(moved_hub[1](home="another"), "Qwen/Qwen2.5-1.5B")
    assert (tmp_path / "out" / "checkpoint-2" / MANIFEST).read_bytes() == before
    assert not (tmp_path / "out" / "lora_adapter").exists()
