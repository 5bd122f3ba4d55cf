"""The gradient of a step is that of the mean over its rows, however these are dealt out; Adam would hide a factor."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from small import run_main, small_reviews, write_jsonl
from small_runs import keep_first_gradients, make_trainer, run_in_processes

import train
from configs.training_config import CLASSIFIER, LABEL_SCORING
from training.memory_plan import MicroBatchPlan
from training.optimization import mean_cross_entropy
from training.tokenized_dataset import collate

pytestmark = pytest.mark.usefixtures("float32")
HEADS = [CLASSIFIER, LABEL_SCORING]
LOSSES = [(CLASSIFIER, "restricted"), (LABEL_SCORING, "restricted"), (LABEL_SCORING, "lm")]
WAYS = {
    "16x1": (16, 1, MicroBatchPlan()),
    "4x4": (4, 4, MicroBatchPlan()),
    "2x8": (2, 8, MicroBatchPlan()),
    "1x16": (1, 16, MicroBatchPlan()),
    "micro-batches": (16, 1, MicroBatchPlan(max_tokens=300)),
    "activation checkpointing": (16, 1, MicroBatchPlan(activation_checkpointing=True)),
}


def trainer_of(small_base, folder, head, label_loss, batch, accumulation):
    trainer = make_trainer(
        small_base, folder, head=head, label_loss=label_loss, max_steps=1,
        batch_size=batch, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    # A fresh B is zero, and A would have no gradient.
    generator = torch.Generator().manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return trainer


def by_hand(trainer, over_vocabulary):
    """Gradients of the mean loss over the 16 rows of the first step, with neither Trainer nor batches."""
    rows, model = trainer.train_dataset, trainer.model.train()
    order = trainer.sampler.order(0)[:16]
    losses = [
        mean_cross_entropy(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]),
            batch["labels"], over_vocabulary=over_vocabulary,
        )
        for batch in (collate([rows[int(i)]], trainer.pad_id) for i in order)
    ]  # fmt: skip
    torch.stack(losses).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("head", "label_loss"), LOSSES)
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_the_mean_over_the_rows(small_base, tmp_path, monkeypatch, head, label_loss, way):
    expected = by_hand(trainer_of(small_base, tmp_path / "hand", head, label_loss, 16, 1), label_loss == "lm")
    batch, accumulation, plan = WAYS[way]
    trainer = trainer_of(small_base, tmp_path / "way", head, label_loss, batch, accumulation)
    trainer.use_plan(plan)
    counted, loss_of = [], trainer.compute_loss_func

    def watched(outputs, labels, num_items_in_batch):
        counted.append(int(num_items_in_batch))
        return loss_of(outputs, labels, num_items_in_batch)

    trainer.compute_loss_func = watched
    keep_first_gradients(monkeypatch.setattr)
    trainer.train()
    found = load_file(tmp_path / "way" / "first_gradients.safetensors")
    assert set(counted) == {16} and (len(counted) > 1) == (way not in ("16x1", "activation checkpointing"))
    assert found.keys() == expected.keys() and all(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0, msg=name)


def test_two_processes_have_the_gradients_of_one(small_base, tmp_path):
    data = write_jsonl(tmp_path / "train.jsonl", small_reviews(40))
    flags = ["--model_name", str(small_base), "--train_file", str(data), "--max_length", "64", "--lora_dropout", "0"]
    flags += ["--max_steps", "1"]
    for count, batch, accumulation in ((1, 16, 1), (2, 4, 2)):
        work = [["first_gradients"]]
        for head, label_loss in LOSSES:
            more = ["--batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation)]
            more += ["--head", head, "--label_loss", label_loss]
            work.append(["train", *flags, *more, "--output_dir", str(tmp_path / f"{head}_{label_loss}_{count}")])
        result = run_in_processes(count, work)
        assert result.returncode == 0, result.stderr
    for head, label_loss in LOSSES:
        one, two = (
            load_file(tmp_path / f"{head}_{label_loss}_{count}" / "first_gradients.safetensors") for count in (1, 2)
        )
        assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("batch", "rows"), [(1, 6), (8, 17)], ids=["batches of one row", "a last batch of one row"])
def test_batches_of_a_single_row_train_to_the_end(small_base, tmp_path, head, batch, rows):
    data = write_jsonl(tmp_path / "train.jsonl", small_reviews(rows))
    others = write_jsonl(tmp_path / "validation.jsonl", small_reviews(60)[40:])
    result = run_main(
        train.main, "--model_name", small_base, "--train_file", data, "--validation_file", others,
        "--max_length", "64", "--head", head, "--batch_size", batch, "--num_epochs", "2", "--output_dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    weights = load_file(tmp_path / "lora_adapter" / "adapter_model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    (newest,) = tmp_path.glob("checkpoint-*")
    log = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    evaluated = [entry for entry in log if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [-(-rows // batch), 2 * -(-rows // batch)]
    assert all(math.isfinite(entry["eval_loss"]) for entry in evaluated)
    assert all(math.isfinite(entry["grad_norm"]) and entry["loss"] > 0 for entry in log if "grad_norm" in entry)
