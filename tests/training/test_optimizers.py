"""The paged optimizer: which one is picked, that it trains, and that a resumed run has its state, paged again."""

import json

import bitsandbytes.functional
import pytest
import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from peft import get_peft_model_state_dict
from small import assert_one_message, run_main
from small_runs import At, go_on, interrupt, outcome, resumable_trainer

import train
from configs.training_config import ADAMW, PAGED_ADAMW
from modeling.devices import Device
from runtime.errors import UserError
from runtime.signals import Interrupted
from training.checkpoints import find_checkpoints
from training.optimization import optimizer_name

PAGED = [PAGED_ADAMW, "paged_adamw_8bit"]
CPU, CUDA, MPS = Device("cpu", False), Device("cuda", True), Device("mps", False)


@pytest.mark.parametrize(
    ("asked", "use_qlora", "device", "name"),
    [
        (None, False, CUDA, ADAMW),
        (None, True, CUDA, PAGED_ADAMW),
        (None, True, CPU, ADAMW),
        (None, True, MPS, "adamw_torch"),
        (ADAMW, True, CUDA, ADAMW),
        ("paged_adamw_8bit", False, CUDA, "paged_adamw_8bit"),
        (PAGED_ADAMW, False, CPU, PAGED_ADAMW),
    ],
)
def test_which_optimizer(asked, use_qlora, device, name):
    assert optimizer_name(asked, use_qlora, device) == name


def test_mps_has_no_paged_memory():
    with pytest.raises(UserError, match=r"--optim paged_adamw_8bit.*MPS"):
        optimizer_name("paged_adamw_8bit", True, MPS)


def test_the_flag_reaches_the_training_which_says_that_a_cpu_does_not_page(small_base, review_files, tmp_path):
    flags = ["--model_name", small_base, *review_files, "--max_length", "64", "--max_steps", "2"]
    result = run_main(train.main, *flags, "--output_dir", tmp_path, "--optim", PAGED_ADAMW)
    assert result.returncode == 0, result.stderr
    assert f"--optim {PAGED_ADAMW}" in result.stdout and "不分页" in result.stdout
    (checkpoint,) = find_checkpoints(tmp_path)
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"][0]
    assert state["__bnb_optimizer_quant_state__"].keys() >= {"state1", "state2"}
    (tmp_path / "run_finished.json").unlink()
    again = run_main(train.main, *flags, "--output_dir", tmp_path, "--optim", ADAMW)  # another state
    assert_one_message(again, "optim", PAGED_ADAMW)
    assert "分页" not in run_main(train.main, *flags, "--output_dir", tmp_path / "plain").stdout
    info = json.loads((tmp_path / "lora_adapter" / "run_info.json").read_text(encoding="utf-8"))
    assert info["config"]["optim"] == PAGED_ADAMW


def test_it_is_adamw(small_base, tmp_path, monkeypatch):
    monkeypatch.setattr("training.trainer.best_device", lambda: CPU)
    found = []
    for name in (ADAMW, PAGED_ADAMW):
        trainer = resumable_trainer(small_base, tmp_path / name, max_steps=10, optim=name, weight_decay=0.1)
        trainer.train()
        found.append(get_peft_model_state_dict(trainer.model))
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optim", PAGED)
def test_stopped_and_resumed_it_ends_with_the_same_bits(small_base, tmp_path, optim):
    settings = {"optim": optim, "max_steps": 20}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    stop_at_ten(small_base, tmp_path / "stopped", settings)
    assert outcome(go_on(small_base, tmp_path / "stopped", **settings), tmp_path / "stopped") == expected


def stop_at_ten(small_base, folder, settings):
    trainer = resumable_trainer(small_base, folder, **settings)
    trainer.add_callback(At(10, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()


@pytest.fixture
def managed(monkeypatch):
    """As on CUDA: the state lies in buffers that the driver pages, and nothing else can be fetched from there."""
    buffers = []

    def get_state_buffer(self, parameter, dtype=torch.float32):
        buffer = torch.zeros_like(parameter, dtype=dtype)
        buffer.is_paged, buffer.page_deviceid = True, 0
        buffers.append(buffer)
        return buffer

    def prefetch_tensor(tensor, to_cpu=False):
        assert any(tensor is buffer for buffer in buffers), "not paged memory"

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", get_state_buffer)
    monkeypatch.setattr(bitsandbytes.functional, "prefetch_tensor", prefetch_tensor)
    return buffers


@pytest.mark.parametrize("optim", PAGED)
def test_a_resumed_state_is_paged_again(small_base, tmp_path, managed, optim):
    settings = {"optim": optim, "max_steps": 20}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    stop_at_ten(small_base, tmp_path / "stopped", settings)
    managed.clear()
    trainer = go_on(small_base, tmp_path / "stopped", **settings)
    states = trainer.optimizer.optimizer.state.values()
    assert len(managed) == 2 * len(states) > 0
    assert all(any(state[name] is buffer for buffer in managed) for state in states for name in ("state1", "state2"))
    assert outcome(trainer, tmp_path / "stopped") == expected


def test_a_state_saved_on_a_gpu_is_taken_up_on_a_cpu(small_base, tmp_path, managed, monkeypatch):
    settings = {"optim": PAGED_ADAMW, "max_steps": 20}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    stop_at_ten(small_base, tmp_path / "stopped", settings)
    monkeypatch.undo()
    assert outcome(go_on(small_base, tmp_path / "stopped", **settings), tmp_path / "stopped") == expected
