"""Memory of a training step: the estimate, the plan of micro-batches, and what happens when it runs out."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import small_runs
import torch
from peft import get_peft_model_state_dict
from small_runs import rows

import train
from configs.lora_config import LoraSettings
from configs.training_config import CLASSIFIER, LABEL_SCORING, TrainingConfig
from modeling.batching import BATCH_TOKENS
from modeling.devices import Device
from modeling.lora import build_for_training
from runtime.errors import UserError, is_out_of_memory
from training.memory_plan import (
    GB,
    MemoryEstimate,
    MicroBatchPlan,
    cap_memory,
    estimate_memory,
    memory_limit,
    plan_micro_batches,
)
from training.run_summary import describe_micro_batches, describe_plan

pytestmark = pytest.mark.usefixtures("float32")
CPU, CUDA = Device("cpu", False), Device("cuda", True)
# Close to what is measured at the shape of Qwen2.5-1.5B in bf16, and in 4 bits.
LORA = MemoryEstimate(3_100_000_000, 26_000_000, 4_000_000, 2_750_000, 3072, 28, "cuda")
QLORA = dataclasses.replace(LORA, weights=1_140_000_000)
HEADS = [CLASSIFIER, LABEL_SCORING]


@pytest.fixture
def model(small_base):
    return build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings())[0]


def test_the_account_counts_weights_exactly_and_what_one_layer_more_keeps(model):
    estimate = estimate_memory(model, CPU, longest=64)
    assert estimate.weights == sum(p.numel() * 4 for p in model.parameters())
    assert estimate.training == sum(p.numel() * 12 for p in model.parameters() if p.requires_grad)
    assert estimate.hidden == 64 * 4 and estimate.layers == 2
    # Each layer keeps at least its MLP's gate, its SiLU and its up projection for every token.
    assert 2 * 3 * 128 * 4 < estimate.per_token < 2 * 60 * 64 * 4


def test_rows_as_short_as_can_be_are_measured_too(model):
    estimate = estimate_memory(model, CPU, longest=3)
    assert estimate.per_token > 0
    assert plan_micro_batches(estimate, 10 * GB, longest=3, rows=4).max_tokens is None


def test_measuring_leaves_the_random_state_and_the_mode(model):
    state = torch.get_rng_state()
    model.eval()
    first = estimate_memory(model, CPU, longest=40)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert estimate_memory(model, CPU, longest=40) == first
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_within_is_the_inverse_of_the_peak(checkpointing):
    for limit in (5 * GB, 8 * GB, 16 * GB):
        tokens = LORA.tokens_within(limit, checkpointing)
        assert LORA.peak_bytes(tokens, checkpointing) <= limit < LORA.peak_bytes(tokens + 1, checkpointing)


@pytest.mark.parametrize(
    ("estimate", "gb", "checkpointing", "rows"),
    [
        (LORA, 80, False, 8),  # a large card: whole batches
        (LORA, 8, False, 4),  # the README's 8 GB
        (LORA, 4.6, True, 4),  # not one row fits as it is, four do with activation checkpointing
        (QLORA, 4, False, 2),  # the README's 4 GB
        (QLORA, 2.3, True, 3),
    ],
)
def test_the_choice_fits_and_checkpoints_only_where_it_must(estimate, gb, checkpointing, rows):
    plan = plan_micro_batches(estimate, int(gb * GB), longest=250, rows=8)
    assert plan.activation_checkpointing == checkpointing and not plan.exceeds_limit
    assert (plan.max_tokens is None) == (rows == 8)
    assert plan.rows(8, 256) == rows
    assert estimate.peak_bytes(rows * 256, checkpointing) == plan.needed <= gb * GB


def test_activation_checkpointing_when_asked_for_and_exceeds_limit_when_nothing_fits():
    assert plan_micro_batches(LORA, 80 * GB, longest=256, rows=8, checkpointing=True).activation_checkpointing
    plan = plan_micro_batches(LORA, 3 * GB, longest=256, rows=8)
    assert plan.exceeds_limit and plan.activation_checkpointing and plan.rows(8, 256) == 1
    assert "多半不够" in describe_micro_batches(plan, Device("cuda", True))


def test_predictions_stay_within_the_limit_and_take_no_more_than_usual():
    assert plan_micro_batches(LORA, 80 * GB, longest=256, rows=8).prediction_tokens == BATCH_TOKENS["cuda"]
    on_cpu = dataclasses.replace(LORA, device="cpu")
    assert plan_micro_batches(on_cpu, 80 * GB, longest=256, rows=8).prediction_tokens == BATCH_TOKENS["cpu"]
    assert 256 <= plan_micro_batches(LORA, int(4.5 * GB), longest=256, rows=8).prediction_tokens < 4096


@pytest.mark.parametrize(
    ("max_tokens", "batch", "length", "rows"),
    [(None, 8, 999, 8), (100, 8, 200, 1), (1000, 8, 200, 4), (1600, 8, 200, 8), (1000, 7, 200, 4), (512, 1, 8, 1)],
)
def test_rows_are_shared_equally(max_tokens, batch, length, rows):
    assert MicroBatchPlan(max_tokens).rows(batch, length) == rows


def test_no_limit_on_a_cpu_unless_asked_for():
    assert memory_limit(CPU, None) is None and memory_limit(CPU, 1.5) == 1_500_000_000


@pytest.mark.parametrize(
    ("device", "gb", "share"),
    [(CUDA, 4.7, 0.5), (CUDA, 0.5, 0.0), (CUDA, 99, 1.0), (CUDA, None, None), (CPU, 4.7, None)],
)
def test_what_was_asked_for_is_the_most_that_torch_may_take(monkeypatch, device, gb, share):
    caps = []
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: SimpleNamespace(total_memory=8 * GB))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", caps.append)
    cap_memory(device, gb)
    assert caps == ([] if share is None else [pytest.approx(share)])


def test_what_counts_as_a_lack_of_memory():
    message = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    assert all(map(is_out_of_memory, [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError(message)]))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's words
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def make_trainer(small_base, folder, **settings):
    settings = {"num_epochs": 2, "learning_rate": 1e-3, "batch_size": 8} | settings
    return small_runs.make_trainer(small_base, folder, rows(36), **settings)  # four and a half batches of 8


@pytest.fixture(scope="module", params=HEADS)
def undisturbed(request, small_base, tmp_path_factory):
    """(head, adapter) of a run whose batches are computed whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.trainer.best_device", lambda: CPU)
        trainer = make_trainer(small_base, tmp_path_factory.mktemp("whole"), head=request.param)
        trainer.train()
    adapter = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(trainer.model).items()}
    return request.param, adapter


def assert_same_adapter(trainer, expected):
    for name, tensor in get_peft_model_state_dict(trainer.model).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(("max_tokens", "checkpointing"), [(200, False), (64, True)])
def test_micro_batches_give_the_same_adapter(small_base, tmp_path, undisturbed, max_tokens, checkpointing):
    head, expected = undisturbed
    trainer = make_trainer(small_base, tmp_path, head=head)
    trainer.use_plan(MicroBatchPlan(max_tokens, checkpointing))
    sizes = count_rows(trainer)
    trainer.train()
    assert max(sizes) < 8 and sum(sizes) == 2 * 36
    assert_same_adapter(trainer, expected)


def count_rows(trainer) -> list[int]:
    """Rows of each forward pass of the training, as they come."""
    sizes, compute_loss = [], trainer.compute_loss

    def counted(model, inputs, *args, **kwargs):
        sizes.append(len(inputs["labels"]))
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    return sizes


def run_out_above(trainer, rows: int) -> None:
    """The first layer's backward pass fails for more than `rows` rows, when later layers have their gradients."""

    def fail(gradient):
        if len(gradient) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def watch(module, inputs, output):
        if output.requires_grad:
            output.register_hook(fail)

    trainer.model.get_base_model().model.layers[0].register_forward_hook(watch)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_out_of_memory_halves_and_redoes_the_step_with_the_same_result(
    small_base, tmp_path, capsys, head, accumulation
):
    settings = {"head": head, "batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    undisturbed = make_trainer(small_base, tmp_path / "undisturbed", **settings)
    undisturbed.train()
    expected = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(undisturbed.model).items()}
    trainer = make_trainer(small_base, tmp_path / "short", **settings)
    run_out_above(trainer, 2)
    trainer.train()
    assert trainer.state.global_step == 10
    assert_same_adapter(trainer, expected)
    lines = [line for line in capsys.readouterr().out.splitlines() if "内存不足" in line]
    assert len(lines) == 3 - accumulation  # 8 -> 4 -> 2 rows, once for all later steps
    assert "第 1 步" in lines[0] and "这一步重新算" in lines[0] and "每次 2 条" in lines[-1]


def test_one_row_that_does_not_fit_is_checkpointed_and_then_given_up(small_base, tmp_path, capsys):
    trainer = make_trainer(small_base, tmp_path, batch_size=1)
    run_out_above(trainer, 0)
    with pytest.raises(UserError, match=r"第 1 步内存不足.*--use_qlora"):
        trainer.train()
    assert "重算激活" in capsys.readouterr().out
    assert trainer.plan.activation_checkpointing and trainer.model.get_base_model().is_gradient_checkpointing


def test_other_errors_are_not_taken_for_a_lack_of_memory(small_base, tmp_path):
    trainer = make_trainer(small_base, tmp_path)
    trainer.compute_loss = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train()


def run_train(monkeypatch, *arguments) -> int | None:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    return train.main()


def test_the_flag_picks_micro_batches_says_so_and_trains_to_the_same_adapter(
    small_base, review_files, tmp_path, monkeypatch, capsys
):
    flags = [
        "--model_name", small_base, *review_files, "--max_length", "64", "--max_steps", "3", "--lora_dropout", "0",
    ]  # fmt: skip
    run_train(monkeypatch, *flags, "--output_dir", tmp_path / "whole")
    assert "整批一次算完，不重算激活" in capsys.readouterr().out
    run_train(monkeypatch, *flags, "--output_dir", tmp_path / "plan", "--max_memory_gb", "0.806")
    plan = capsys.readouterr().out
    assert "每次最多算" in plan and "可用 0.8 GB" in plan
    from safetensors.torch import load_file

    whole, plan = (
        load_file(tmp_path / name / "lora_adapter" / "adapter_model.safetensors") for name in ("whole", "plan")
    )
    for name in whole:
        torch.testing.assert_close(plan[name], whole[name], atol=2e-5, rtol=1e-3)
    with pytest.raises(UserError, match=r"--max_memory_gb 0.5 太小.*估计要"):
        run_train(monkeypatch, *flags, "--output_dir", tmp_path / "none", "--max_memory_gb", "0.5")


@pytest.mark.parametrize(
    ("device", "use_qlora", "word"),
    [
        (Device("cuda", False), False, "Ampere 之前"),
        (Device("cuda", True), False, None),
        (Device("cpu", True), True, "4 比特在 CPU 上"),
        (Device("mps", False), True, "4 比特在 MPS 上"),
        (Device("mps", False), False, None),
        (Device("cpu", True), False, None),
    ],
)
def test_the_plan_says_what_will_be_slow(small_base, tmp_path, monkeypatch, device, use_qlora, word):
    trainer = make_trainer(small_base, tmp_path)
    monkeypatch.setattr("training.run_summary.best_device", lambda: device)
    monkeypatch.setattr("training.run_summary.data_warnings", lambda *args: [])  # of so few rows
    config = TrainingConfig(model_name=str(small_base), use_qlora=use_qlora)
    plan = describe_plan(config, trainer.model, {"train": trainer.train_dataset}, trainer)
    assert ("注意" in plan) == bool(word) and (word or "") in plan
