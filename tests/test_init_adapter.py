"""An adapter is no base, and its training can be gone on with on new data; through the real scripts."""

import pytest
from loopback_hub import LoopbackHub, hub_environment
from small import assert_one_message, run_main, run_script

import eval as evaluation
import inference
import train


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
