"""What makes training faster gives the gradients of the plain way."""

import contextlib

import pytest
import torch
from peft import get_peft_model_state_dict
from small_runs import make_trainer

from configs.lora_config import LoraSettings
from modeling.cpu_speed import CpuDropout, random_bits
from modeling.devices import Device


class LikeAGpu(Device):
    """The CPU, with the frozen base in bf16 as a GPU holds it."""

    weights_dtype = torch.bfloat16


def test_inputs_left_in_bf16_train_the_same_adapter_with_fewer_casts(small_base, tmp_path, monkeypatch):
    for module in ("training", "builder"):
        monkeypatch.setattr(f"modeling.{module}.best_device", lambda: LikeAGpu("cpu", True))

    def train(folder):
        trainer = make_trainer(small_base, tmp_path / folder, max_steps=4)
        with torch.profiler.profile() as profile:
            trainer.train()
        casts = next(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")
        return get_peft_model_state_dict(trainer.finished_model()), casts, trainer

    ours, casts, trainer = train("ours")
    with monkeypatch.context() as patch:
        patch.setattr("modeling.training.disable_input_dtype_casting", lambda *args: contextlib.nullcontext())
        plain, plain_casts, _ = train("plain")
    assert casts <= plain_casts - 4 * 2 * 4 * 2  # steps x layers x modules x (forward, backward)
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], atol=1e-6, rtol=1e-3)
    # Outside of training there is no autocast, and a float32 adapter meets bf16 inputs again.
    assert torch.isfinite(trainer.finished_model()(input_ids=torch.tensor([[5, 6]])).logits).all()


def test_cpu_dropout_drops_its_share_keeps_the_mean_and_repeats_with_the_seed():
    dropout, ones = CpuDropout(0.05), torch.ones(1000, 1003, requires_grad=True)
    torch.manual_seed(1)
    dropout(ones).sum().backward()
    out = ones.grad  # the mask, scaled
    dropped = float((out == 0).float().mean())
    assert abs(dropped - 0.05) < 0.001 and abs(float(out.mean()) - 1) < 0.001
    assert abs(float((out[:-1] * out[1:]).mean()) - 1) < 0.002  # neighbours are independent
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), out)
    assert dropout.eval()(ones) is ones


def test_random_bits_are_uniform():
    bits = random_bits(torch.Size([1000, 999])).double()
    assert abs(float(bits.mean())) < 100 and float(bits.min()) < -32700 and float(bits.max()) > 32700
    assert float(bits.std()) == pytest.approx(2**16 / 12**0.5, rel=0.01)


def test_the_fast_cpu_way_gives_the_gradients_of_the_plain_one(small_base, tmp_path, monkeypatch):
    """bf16 here, where attention is torch's matrix products instead of its fused kernel; no dropout."""
    gradients = []
    for fast in (False, True):
        monkeypatch.setattr("modeling.training.best_device", lambda: Device("cpu", True))
        if not fast:
            monkeypatch.setattr("modeling.training.faster_on_cpu", lambda *args: None)
        trainer = make_trainer(small_base, tmp_path / str(fast), lora=LoraSettings(lora_dropout=0.0))
        base = trainer.model.get_base_model()
        assert base.config._attn_implementation == ("eager" if fast else "sdpa")
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch).backward()
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad})
        monkeypatch.undo()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name], atol=1e-4, rtol=1e-3)
