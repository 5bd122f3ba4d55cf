"""Training on throwaway models: gradients, adapter, best step; and the real command line, killed and resumed."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from small import REPOSITORY, assert_one_message, run_main, run_script
from small_runs import make_trainer, rows
from transformers import set_seed

import train
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.dataset import LABEL_NAMES
from data.preprocessing import encode_texts
from modeling.adapter_folder import SentimentConfig, save_adapter
from modeling.base_model import load_tokenizer
from modeling.batching import pad, predict_logits
from modeling.devices import Device
from modeling.lora import build_for_training
from prediction.predictor import SentimentPredictor
from runtime.errors import UserError
from training import trainer as training
from training.callbacks import BestAdapter
from training.checkpoints import fault_of, find_checkpoints
from training.tokenized_dataset import LengthGroupedSampler
from training.trainer import steps_per_epoch


def trained_weights(*arguments) -> dict[str, torch.Tensor]:
    trainer = make_trainer(*arguments[:2], **arguments[2])
    trainer.train()
    return get_peft_model_state_dict(trainer.model)


def test_loading_gives_float32_head_and_adapter_and_a_frozen_base(small_base):
    model, _ = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings(), LABEL_NAMES)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "score" in name for name in trainable)
    assert len(trainable) == 2 * 4 * 2 + 1  # layers x modules x (A, B), and the head
    assert all(p.dtype == torch.float32 for p in trainable.values())


def test_head_stays_float32_on_a_bf16_base(small_base):
    from modeling.base_model import load_base, load_tokenizer
    from modeling.devices import Device
    from modeling.lora import add_lora

    base = load_base(
        str(small_base), load_tokenizer(str(small_base)), labels=["a", "b"], quantize=False,
        dtype=torch.bfloat16, device=Device("cpu", True),
    )  # fmt: skip
    model = add_lora(base, LoraSettings())
    assert base.model.embed_tokens.weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(**pad([[5, 6, 7]], 0)).logits.dtype == torch.float32


def test_pad_token_is_taken_from_the_tokenizer(small_base):
    assert json.loads((small_base / "config.json").read_text()).get("pad_token_id") is None
    model, tokenizer = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings(), LABEL_NAMES)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0


def test_a_fresh_adapter_changes_nothing(small_base):
    """B = 0: the logits are those of the base alone."""
    model, _ = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings(), LABEL_NAMES)
    model.eval()
    batch = pad([[5, 6, 7], [8] * 12], 0)
    with torch.no_grad(), model.disable_adapter():
        hidden = model.base_model.model.model(**batch).last_hidden_state
    with torch.no_grad():
        logits = model(**batch).logits
    head = model.base_model.model.score.modules_to_save["default"].weight
    expected = torch.stack([hidden[0, 2] @ head.T, hidden[1, 11] @ head.T])
    torch.testing.assert_close(logits, expected)


def test_the_seed_decides_the_fresh_weights(small_base):
    def fresh(seed):
        set_seed(seed)
        model, _ = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings(), LABEL_NAMES)
        return get_peft_model_state_dict(model)

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_moves_the_adapter_and_never_the_base(small_base, tmp_path):
    trainer = make_trainer(small_base, tmp_path, max_steps=3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) != parameter.requires_grad, name


def test_the_figures_at_the_end_are_those_of_the_served_model(small_base, tmp_path, monkeypatch):
    """Trained under bf16 autocast, measured as it is served: in float32, merged."""
    monkeypatch.setattr("training.trainer.best_device", lambda: Device("cpu", True))
    trainer = make_trainer(small_base, tmp_path, max_steps=3, learning_rate=1e-2)
    trainer.train()
    texts, tokenizer = rows().texts, load_tokenizer(str(small_base))
    ids = encode_texts(tokenizer, texts, 64)
    autocast = predict_logits(trainer.model, ids, 0)
    measured = predict_logits(trainer.finished_model(), ids, 0)
    sentiment = SentimentConfig(base_model=str(small_base), base_revision=None, labels=["负面", "正面"], max_length=64)
    save_adapter(tmp_path / "adapter", trainer.model, tokenizer, sentiment, texts, {})
    served = SentimentPredictor(lora_path=tmp_path / "adapter", device=Device("cpu", True)).predictions(texts).logits
    np.testing.assert_allclose(measured, served, atol=2e-5)
    assert np.abs(autocast - served).max() > 1e-4


# 40 rows are two and a half steps of 16, so the last step is a smaller one in every case.
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 4), (8, 2), (1, 16)])
def test_gradient_accumulation_equals_the_large_batch(small_base, tmp_path, float32, batch, accumulation):
    settings = {"num_epochs": 2, "learning_rate": 1e-3, "seed": 3}
    large = trained_weights(small_base, tmp_path / "a", settings | {"batch_size": 16})
    split = settings | {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    small = trained_weights(small_base, tmp_path / "b", split)
    for name in large:
        torch.testing.assert_close(small[name], large[name], atol=2e-5, rtol=1e-3)


def test_gradient_norm_does_not_grow_with_accumulation(small_base, tmp_path):
    norms = []
    for batch, accumulation in [(16, 1), (4, 4)]:
        trainer = make_trainer(
            small_base, tmp_path / str(batch), batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1
        )
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_gradient_checkpointing_gives_the_same_gradients(small_base, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            small_base, tmp_path / str(checkpointing), gradient_checkpointing=checkpointing, max_steps=1
        )
        trainer.train()  # sets up activation checkpointing
        trainer.model.zero_grad()
        batch = pad([[5, 6, 7], [8] * 12], 0)
        trainer.model.train()
        trainer.model(**batch).logits.square().sum().backward()
        assert trainer.model.base_model.model.is_gradient_checkpointing == checkpointing
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad})
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if "lora_A" not in name)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-5, rtol=1e-3)


def test_qlora_trains_on_the_cpu(small_base, tmp_path):
    trainer = make_trainer(small_base, tmp_path, use_qlora=True, max_steps=2)
    layer = trainer.model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == torch.uint8 and layer.base_layer.weight.quant_type == "nf4"
    before = layer.lora_B["default"].weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, layer.lora_B["default"].weight)


@pytest.mark.parametrize(("kind", "place"), [("cuda", 3), ("mps", "mps"), ("cpu", "cpu")])
def test_a_four_bit_base_is_made_where_the_batches_go(small_base, monkeypatch, kind, place):
    """Left to itself, transformers makes it on a device of its own choice, which on a Mac is the CPU."""

    def from_pretrained(folder, **options):
        raise RuntimeError(f"on {options['device_map']}")

    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("modeling.lora.best_device", lambda: Device(kind, False))
    for head, auto_class in (("classifier", "SequenceClassification"), ("label_scoring", "CausalLM")):
        monkeypatch.setattr(f"transformers.AutoModelFor{auto_class}.from_pretrained", from_pretrained)
        config = TrainingConfig(model_name=str(small_base), use_qlora=True, head=head)
        with pytest.raises(UserError, match=re.escape(f"on { ({'': place}) }")):
            build_for_training(config, LoraSettings())


def test_sampler_holds_every_row_once_and_pads_little():
    lengths = np.random.default_rng(0).integers(8, 250, 1003)
    sampler = LengthGroupedSampler(lengths, 8, seed=1)
    order = sampler.order(0)
    assert sorted(order) == list(range(1003))
    assert (order == LengthGroupedSampler(lengths, 8, seed=1).order(0)).all()
    assert (order != sampler.order(1)).any() and (order != LengthGroupedSampler(lengths, 8, 2).order(0)).any()

    def padding(indices):
        batches = [lengths[indices[i : i + 8]] for i in range(0, len(indices), 8)]
        return 1 - lengths.sum() / sum(batch.max() * len(batch) for batch in batches)

    assert padding(order) < 0.05 < 0.3 < padding(np.arange(1003))
    # Groups come in random order, not from long to short.
    means = [lengths[order[i : i + 8]].mean() for i in range(0, 400, 8)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5


def test_steps_per_epoch_counts_the_smaller_last_step():
    config = TrainingConfig(batch_size=4, gradient_accumulation_steps=3)
    assert [steps_per_epoch(config, n) for n in (1, 12, 13, 24)] == [1, 1, 2, 2]


def test_best_adapter_prefers_accuracy_then_lower_loss_then_the_earlier(small_base, tmp_path):
    model, _ = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings(), LABEL_NAMES)
    head = model.base_model.model.score.modules_to_save["default"].weight
    best = BestAdapter(tmp_path, patience=2)
    offers = [(0.8, 0.5), (0.9, 0.6), (0.9, 0.6), (0.9, 0.55), (0.85, 0.1), (0.7, 0.1)]
    for step, (accuracy, loss) in enumerate(offers, start=1):
        assert not best.should_stop
        head.data.fill_(step)
        best.offer(model, accuracy, loss, step)
    assert (best.step, best.score, best.misses, best.should_stop) == (4, 0.9, 2, True)
    best.load_into(model)
    assert (head == 4).all()


def test_the_run_leaves_what_the_contract_names(trained):
    result, output = trained
    adapter = output / "lora_adapter"
    names = "adapter_model.safetensors adapter_config.json tokenizer.json sentiment_config.json run_info.json"
    assert set(names.split()) <= {path.name for path in adapter.iterdir()}
    config = json.loads((adapter / "sentiment_config.json").read_text())
    assert (config["labels"], config["max_length"], config["head"]) == (["负面", "正面"], 64, "classifier")
    info = json.loads((adapter / "run_info.json").read_text())
    assert {"config", "versions", "git", "data_fingerprint", "device", "seconds", "metrics"} <= set(info)
    assert info["metrics"]["validation"]["n"] == 20 and info["metrics"]["test"]["n"] == 20
    assert info["config"]["learning_rate"] == 5e-3 and info["versions"]["torch"].startswith("2.")
    for word in ("可训练", "填充", "步数", "写到", "验证集", "测试集", "inference.py"):
        assert word in result.stdout
    assert len(list(output.glob("checkpoint-*"))) == 3


def test_it_learns(trained):
    info = json.loads((trained[1] / "lora_adapter" / "run_info.json").read_text())
    assert info["metrics"]["validation"]["accuracy"] >= 0.9


def train_command(small_base, review_files):
    return [
        "train.py", "--model_name", str(small_base), *review_files, "--max_length", "64",
        "--max_steps", "40", "--eval_steps", "9", "--save_steps", "4", "--batch_size", "4", "--save_total_limit", "2",
        "--learning_rate", "3e-3",
    ]  # fmt: skip


def kill_after_checkpoint(command, output, step):
    """A real `python train.py`, killed with SIGKILL once checkpoint-`step` or a later one is there."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        steps = [int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")]
        if max(steps, default=0) >= step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def interrupted(small_base, review_files, tmp_path_factory):
    """(command without --output_dir, folder of a run that was killed after its 8th step)."""
    output = tmp_path_factory.mktemp("interrupted")
    command = train_command(small_base, review_files)
    kill_after_checkpoint([*command, "--output_dir", str(output)], output, 8)
    return command, output


def test_killed_and_resumed_ends_with_the_same_bits(interrupted, tmp_path):
    command, killed = interrupted[0], tmp_path / "killed"
    shutil.copytree(interrupted[1], killed)
    whole = tmp_path / "whole"
    assert run_script(*command, "--output_dir", whole).returncode == 0
    kill_after_checkpoint([*command, "--output_dir", str(killed)], killed, 20)
    result = run_script(*command, "--output_dir", killed)
    assert result.returncode == 0 and "继续训练" in result.stdout, result.stdout + result.stderr
    assert_same_adapter(whole, killed)
    states = [json.loads((f / "checkpoint-40" / "trainer_state.json").read_text()) for f in (whole, killed)]
    assert states[0]["log_history"] == states[1]["log_history"]
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-36", "checkpoint-40"]

    # A finished run starts anew, and its checkpoints give way to the new run's.
    again = run_script(*command, "--output_dir", killed)
    assert again.returncode == 0 and "从头开始" in again.stdout
    assert_same_adapter(whole, killed)


def assert_same_adapter(one, other):
    first, second = (load_file(folder / "lora_adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_of_another_run_end_with_what_differs(interrupted, tmp_path):
    shutil.copytree(interrupted[1], tmp_path, dirs_exist_ok=True)
    command = [*interrupted[0], "--output_dir", tmp_path, "--lora_r", "4", "--seed", "1"]
    before = sorted(path.name for path in tmp_path.rglob("*"))
    refused = run_script(*command)
    assert_one_message(refused, "lora_r", "检查点 8，现在 4", "seed", "--output_dir", "--resume_from_checkpoint none")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    result = run_script(*command, "--resume_from_checkpoint", "none", "--max_steps", "5")
    assert result.returncode == 0
    manifests = [json.loads((path / "manifest.json").read_text()) for path in tmp_path.glob("checkpoint-*")]
    assert manifests and all(manifest["fingerprint"]["lora_r"] == 4 for manifest in manifests)


def test_a_diverged_run_says_so_at_its_next_evaluation_and_leaves_the_old_adapter(
    small_base, review_files, tmp_path, monkeypatch
):
    command = ["--model_name", small_base, *review_files, "--max_length", "64", "--output_dir", tmp_path]
    assert run_main(train.main, *command, "--max_steps", "2").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "lora_adapter").iterdir()}
    losses, loss_of = [], training.mean_cross_entropy

    def diverging(*args, **kwargs):
        losses.append(loss_of(*args, **kwargs))
        return losses[-1] * (1 if len(losses) < 7 else float("nan"))

    monkeypatch.setattr(training, "mean_cross_entropy", diverging)
    result = run_main(train.main, *command, "--max_steps", "40", "--eval_steps", "5", "--save_steps", "3")
    assert_one_message(result, "发散", "第 10 步", "--learning_rate", "--resume_from_checkpoint none")
    assert len(losses) == 10
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if None in entry.values()] == [8, 10]
    assert all(entry["loss"] != 0 for entry in log if "loss" in entry)
    assert {path.name: path.read_bytes() for path in (tmp_path / "lora_adapter").iterdir()} == before
    checkpoints = find_checkpoints(tmp_path)
    assert [path.name for path in checkpoints] == ["checkpoint-9", "checkpoint-6", "checkpoint-3"]
    assert all(fault_of(path) is None for path in checkpoints)
