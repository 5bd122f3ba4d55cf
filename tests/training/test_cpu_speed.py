"""Training made faster on a CPU has the gradients of the plain way."""

import contextlib

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from small import small_reviews
from small_runs import make_trainer, resumable_trainer

from modeling.base_model import nf4_config
from modeling.devices import Device
from prediction.predictor import SentimentPredictor
from training.optimization import CpuDropout, random_bits


class LikeAGpu(Device):
    """The CPU, with the frozen base in bf16 as a GPU holds it."""

    weights_dtype = torch.bfloat16


def test_inputs_left_in_bf16_train_the_same_adapter_with_fewer_casts(small_base, tmp_path, monkeypatch):
    for module in ("training.trainer", "modeling.lora"):
        monkeypatch.setattr(f"{module}.best_device", lambda: LikeAGpu("cpu", True))

    def train(folder):
        trainer = resumable_trainer(small_base, tmp_path / folder, max_steps=4)
        with torch.profiler.profile() as profile:
            trainer.train()
        casts = next(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")
        return get_peft_model_state_dict(trainer.finished_model()), casts, trainer

    ours, casts, trainer = train("ours")
    with monkeypatch.context() as patch:
        patch.setattr("training.trainer.disable_input_dtype_casting", lambda *args: contextlib.nullcontext())
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
        monkeypatch.setattr("training.trainer.best_device", lambda: Device("cpu", True))
        if not fast:
            monkeypatch.setattr("training.trainer.faster_on_cpu", lambda *args: None)
        trainer = make_trainer(small_base, tmp_path / str(fast))
        base = trainer.model.get_base_model()
        assert base.config._attn_implementation == ("eager" if fast else "sdpa")
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        trained = {n: p for n, p in trainer.model.train().named_parameters() if p.requires_grad}
        generator = torch.Generator().manual_seed(0)
        for name in sorted(name for name in trained if "lora_B" in name):  # from 0, A has no gradient
            trained[name].data.normal_(std=0.1, generator=generator)
        trainer.compute_loss(trainer.model, batch).backward()
        gradients.append({name: parameter.grad for name, parameter in trained.items()})
        monkeypatch.undo()
    for name, plain in gradients[0].items():
        largest = float(plain.abs().max())
        assert largest > 0
        torch.testing.assert_close(gradients[1][name], plain, atol=0.02 * largest, rtol=0.02)


def test_large_bases_are_served_in_bf16_where_a_cpu_multiplies_it(plain_adapter, monkeypatch):
    assert Device("cpu", True).serving_dtype(1536) == torch.bfloat16
    assert Device("cpu", True).serving_dtype(256) == Device("cpu", False).serving_dtype(1536) == torch.float32
    assert Device("cuda", True).serving_dtype(256) == torch.bfloat16
    texts = [row["text"] for row in small_reviews(20)]
    exact = SentimentPredictor(lora_path=plain_adapter, device=Device("cpu", False)).predictions(texts).probs
    monkeypatch.setattr("modeling.devices.LARGE_HIDDEN_SIZE", 64)
    predictor = SentimentPredictor(lora_path=plain_adapter, device=Device("cpu", True))
    assert predictor.model.get_decoder().embed_tokens.weight.dtype == torch.bfloat16
    assert predictor.model.score.weight.dtype == torch.float32
    np.testing.assert_allclose(predictor.predictions(texts).probs, exact, atol=5e-3)


def test_4_bit_weights_are_multiplied_in_bf16_or_exactly():
    devices = [Device("cuda", True), Device("cpu", True), Device("cpu", False), Device("cuda", False)]
    found = [nf4_config(device, "score").bnb_4bit_compute_dtype for device in devices]
    assert found == [torch.bfloat16] * 3 + [torch.float32]


def test_a_cpu_computes_no_padding_for_a_single_text(plain_adapter):
    predictor = SentimentPredictor(lora_path=plain_adapter, device=Device("cpu", False))
    shapes = []
    predictor.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    predictor.predict("abcdefghijk")
    assert shapes == [(1, 11)]  # the throwaway tokenizer's tokens are bytes
