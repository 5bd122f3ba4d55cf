"""Predictions when memory runs out: fewer rows at once, the same answers; anywhere else one message."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from small import assert_one_message, run_main, small_reviews
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

import inference
import train
from model_evaluation import run_full_eval
from prediction.predictor import SentimentPredictor

TEXTS = [row["text"] for row in small_reviews(24)]
SAYS_SMALLER = r"内存不足：从现在起每次最多算 [\d,]+ 个 token（这一批每次 (\d+) 条）"
# Of a GPU, of torch on a CPU, of oneDNN, of Python.
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.fixture
def scarce():
    """`scarce(rows)`: from now on a pass without gradients of more rows than that runs out of memory."""
    handles, passes = [], []

    def begin(most: int, error: Exception = ERRORS[0]) -> list[int]:
        def refuse(module, inputs):
            if isinstance(module, Qwen2DecoderLayer) and not torch.is_grad_enabled():
                passes.append(len(inputs[0]))
                if len(inputs[0]) > most:
                    raise error

        handles.append(register_module_forward_pre_hook(refuse))
        return passes

    yield begin
    for handle in handles:
        handle.remove()


def predict(folder, *flags):
    return run_main(inference.main, "--model_path", folder, *flags)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_predictor_halves_to_one_row_says_so_and_remembers(plain_adapter, scarce, capsys, error):
    predictor = SentimentPredictor(lora_path=plain_adapter)
    expected = predictor.predictions(TEXTS).logits
    passes = scarce(1, error)
    np.testing.assert_allclose(predictor.predictions(TEXTS).logits, expected, atol=1e-5)
    sizes = [int(size) for size in re.findall(SAYS_SMALLER, capsys.readouterr().err)]
    assert sizes[-1] == 1 and all(later == -(-first // 2) for first, later in pairwise(sizes))
    passes.clear()
    predictor.predictions(TEXTS)
    assert set(passes) == {1} and capsys.readouterr().err == ""


def test_one_row_that_does_not_fit_is_one_message(plain_adapter, scarce):
    scarce(0)
    assert_one_message(predict(plain_adapter, "--text", "很好"), "内存", "关掉", "Tried to allocate 20.00 MiB")


def test_other_errors_are_not_taken_for_a_lack_of_memory(plain_adapter, scarce):
    scarce(0, RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        predict(plain_adapter, "--text", "很好")


@pytest.mark.parametrize("head", ["classifier", "label_scoring"])
def test_evaluations_during_training_go_on(small_base, review_files, tmp_path, scarce, head):
    flags = ["--model_name", small_base, *review_files, "--max_length", "64", "--head", head, "--num_epochs", "2"]
    assert run_main(train.main, *flags, "--output_dir", tmp_path / "whole").returncode == 0
    scarce(2)
    result = run_main(train.main, *flags, "--output_dir", tmp_path / "scarce")
    assert result.returncode == 0, result.stderr
    sizes = re.findall(SAYS_SMALLER, result.stderr)
    assert sizes[-1] == "2" and sizes == sorted(set(sizes), reverse=True)  # once for all evaluations
    whole, scarce_run = (
        json.loads((tmp_path / name / "lora_adapter" / "run_info.json").read_text(encoding="utf-8"))["metrics"]
        for name in ("whole", "scarce")
    )
    assert [whole[name]["accuracy"] for name in whole] == [scarce_run[name]["accuracy"] for name in whole]


def test_the_evaluation_scripts_go_on(adapter, tmp_path, scarce):
    flags = ["--model_path", adapter, "--steps", "metrics"]
    assert run_main(run_full_eval.main, *flags, "--output_dir", tmp_path / "whole").returncode == 0
    scarce(2)
    result = run_main(run_full_eval.main, *flags, "--output_dir", tmp_path / "scarce")
    assert result.returncode == 0 and re.search(SAYS_SMALLER, result.stderr)
    whole, found = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "scarce"))
    assert whole["confusion_matrix"] == found["confusion_matrix"] and found["auc"] == pytest.approx(whole["auc"])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["transformers.AutoModelForSequenceClassification.from_pretrained", "merge_lora"])
def test_loading_a_model_that_does_not_fit_is_one_message(plain_adapter, monkeypatch, error, where):
    """Not a damaged base, nor a damaged adapter."""

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where if "." in where else f"modeling.lora.{where}", fail)
    result = predict(plain_adapter, "--text", "很好")
    assert_one_message(result, "内存", "关掉")
    assert "损坏" not in result.stderr and "读不出来" not in result.stderr


def test_a_step_of_the_evaluation_without_memory_is_noted_without_a_traceback(adapter, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ERRORS[0]

    monkeypatch.setattr("model_evaluation.metrics.classification.classification_metrics", fail)
    result = run_main(
        run_full_eval.main, "--model_path", adapter, "--steps", "metrics,confidence", "--output_dir", tmp_path
    )
    assert "失败：内存" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "confidence_analysis.json").is_file()
