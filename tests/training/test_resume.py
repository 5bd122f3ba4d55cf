"""Stopped anywhere and resumed, a training ends as if nothing had happened: the same bits, best step and log."""

import shutil
import signal

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from small_runs import At, go_on, interrupt, outcome, resumable_trainer
from transformers import set_seed

from modeling.batching import pad
from runtime.signals import Interrupted
from training.checkpoints import (
    Run,
    choose_checkpoint,
    find_checkpoints,
    step_of,
)


@pytest.mark.parametrize("steps", [[1, 4], [3, 7, 13], [30]], ids=str)
def test_stopped_by_a_signal_after_any_step_it_ends_with_the_same_bits(small_base, tmp_path, whole_run, steps):
    for step, number in zip(steps, [signal.SIGTERM, signal.SIGINT] * 2, strict=False):
        checkpoint, _ = choose_checkpoint(tmp_path, "auto", run := Run({}))
        trainer = resumable_trainer(small_base, tmp_path, checkpoint, run)
        trainer.add_callback(At(step - 1, lambda number=number: interrupt(number)))
        with pytest.raises(Interrupted, match=f"第 {step} 步") as stop:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        assert stop.value.number == number and step_of(find_checkpoints(tmp_path)[0]) == step
        assert not (tmp_path / "lora_adapter").exists()
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole_run[0]


VARIANTS = {
    "accumulation": {"batch_size": 2, "gradient_accumulation_steps": 3},
    "qlora": {"use_qlora": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_bits_in_every_way_to_train(small_base, tmp_path, variant):
    settings = VARIANTS[variant] | {"max_steps": 20}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    trainer = resumable_trainer(small_base, tmp_path / "stopped", **settings)
    trainer.add_callback(At(10, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()
    assert outcome(go_on(small_base, tmp_path / "stopped", **settings), tmp_path / "stopped") == expected


def test_an_evaluation_leaves_a_4_bit_base_as_it_was(small_base, tmp_path):
    """On a CPU with AVX512-BF16 bitsandbytes would repack it for inference, rounded, and go on training with that."""
    trainer = resumable_trainer(small_base, tmp_path, use_qlora=True)

    def gradients():
        set_seed(0)
        trainer.model.train().zero_grad()
        trainer.model(**pad([[5, 6, 7], [8] * 12], 0)).logits.square().sum().backward()
        return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    before = gradients()
    trainer.evaluate()
    after = gradients()
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(("method", "step"), [("evaluate", 4), ("_save_checkpoint", 7)])
def test_a_signal_during_an_evaluation_or_a_save_is_heard_when_it_is_done(
    small_base, tmp_path, whole_run, monkeypatch, method, step
):
    trainer = resumable_trainer(small_base, tmp_path)
    original = getattr(trainer, method)
    monkeypatch.setattr(trainer, method, lambda *arguments, **kwargs: (interrupt(), original(*arguments, **kwargs))[1])
    with pytest.raises(Interrupted, match=f"第 {step} 步"):
        trainer.train()
    assert [path.name for path in find_checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole_run[0]


def test_signals_have_their_old_meaning_after_the_training(small_base, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    resumable_trainer(small_base, tmp_path, max_steps=1).train()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_killed_after_the_last_checkpoint_no_step_is_added(small_base, tmp_path, whole_run):
    shutil.copytree(whole_run[1], tmp_path, dirs_exist_ok=True)
    again = go_on(small_base, tmp_path)
    assert again.state.global_step == 30 and outcome(again, tmp_path) == whole_run[0]


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(small_base, tmp_path, whole_run):
    """The files beside Trainer's, by the letter, in the form that they have had from the beginning."""
    shutil.copytree(find_checkpoints(whole_run[1])[1], old := tmp_path / "checkpoint-28")
    (old / "best_adapter.json").write_text('{"accuracy": 1.0, "loss": -1.0, "step": 8, "misses": 3}')
    (old / "loss_since_last_log.json").write_text('{"loss_sum": 900.0, "last_logged_step": 27, "seconds": 77.5}')
    trainer = resumable_trainer(small_base, tmp_path, old, early_stopping_patience=4)
    trainer.train(resume_from_checkpoint=str(old))
    best = load_file(old / "best_adapter.safetensors")
    assert (trainer.best.step, trainer.best.loss, trainer.best.misses) == (8, -1.0, 4)
    assert all(torch.equal(best[name], t) for name, t in get_peft_model_state_dict(trainer.finished_model()).items())
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert 299 < losses[30] < 303  # 900 and two more steps, over three steps
    assert trainer.loss_sum.seconds_before == 77.5


def test_patience_is_kept_and_nothing_follows_its_end(small_base, tmp_path):
    """A constant validation accuracy: the first evaluation is the best, and patience ends at the fourth."""
    settings = {"early_stopping_patience": 3, "learning_rate": 1e-30, "save_steps": 5}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    assert expected["checkpoints"] == ["checkpoint-16"] and expected["best"][-1] == 3
    folder = tmp_path / "stopped"
    for step in (6, 13):
        checkpoint, _ = choose_checkpoint(folder, "auto", run := Run({}))
        trainer = resumable_trainer(small_base, folder, checkpoint, run, **settings)
        trainer.add_callback(At(step, interrupt))
        with pytest.raises(Interrupted):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assert outcome(go_on(small_base, folder, **settings), folder) == expected
    assert outcome(go_on(small_base, folder, **settings), folder) == expected  # killed while it measured
