"""The benchmarks run as scripts do, on a throwaway shape; their figures are for quiet machines."""

import argparse
import importlib.util
import json
import re
import shutil
import sys

import numpy as np
import pytest
from small import REPOSITORY

from configs.lora_config import LoraSettings
from modeling.devices import Device

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """name, arguments -> what its `main` wrote."""
    monkeypatch.syspath_prepend(str(FOLDER))  # as `python benchmarks/x.py` has it

    def run(name, *arguments, output):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--output", str(output)])
        module.main()
        return json.loads(output.read_text(encoding="utf-8"))

    return run


@pytest.fixture
def shape_only(small_base, tmp_path):
    """A folder with config and tokenizer and no weights."""
    folder = tmp_path / "shape"
    shutil.copytree(small_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_training_speed_compares_three_real_loops(benchmark, small_base, tmp_path, capsys):
    result = benchmark(
        "train_speed", "--model_name", small_base, "--batch_size", 2, "--steps", 8, output=tmp_path / "speed.json"
    )
    rows = {row["variant"]: row for row in result["variants"]}
    assert rows["a"]["padding"] > rows["b"]["padding"] > rows["c"]["padding"]
    assert all(row["review_tokens_per_second"] > 0 for row in rows.values())  # a loaded machine proves no more
    assert result["limit"] == pytest.approx(5.63, abs=0.01) and result["environment"]["versions"]["torch"]
    assert re.search(r"^\(c\) +ours: grouped by length", capsys.readouterr().out, re.MULTILINE)


def test_the_memory_account_scales_from_two_layers_to_the_whole_shape(benchmark, shape_only, tmp_path):
    config = json.loads((shape_only / "config.json").read_text())
    config |= {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}
    (shape_only / "config.json").write_text(json.dumps(config))
    result = benchmark(
        "memory", "--model_name", shape_only, "--max_length", 64, "--batch_size", 2, output=tmp_path / "memory.json"
    )
    accounts = {kind: result["estimated"][kind]["account"] for kind in ("LoRA", "QLoRA")}
    # bf16: embeddings, final norm; q, k, v with biases, o, the MLP and two norms of each layer. float32: adapter, head.
    layer = 64 * (64 + 32 + 32 + 64) + 128 + 3 * 64 * 128 + 2 * 64
    trained = 5 * 8 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64)) + 2 * 64
    assert accounts["LoRA"]["weights"] == 2 * (257 * 64 + 64 + 5 * layer) + 4 * (trained + 2 * 64)
    assert accounts["LoRA"]["training"] == 12 * trained
    assert accounts["QLoRA"]["weights"] < accounts["LoRA"]["weights"]
    assert accounts["LoRA"]["layers"] == 5
    assert result["estimated"]["LoRA"]["choices"]["4"]["max_tokens"] is None


def test_random_weights_have_the_shape_and_the_way_of_a_real_model(small_base, shape_only, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from random_weights import random_base

    from configs.training_config import TrainingConfig
    from modeling.lora import build_for_training

    folder = random_base(shape_only, tmp_path / "random")
    assert random_base(shape_only, folder) == folder  # made once
    shapes = [
        {name: p.shape for name, p in build_for_training(TrainingConfig(model_name=str(base)), LoraSettings())[0]
         .named_parameters()} for base in (small_base, folder)
    ]  # fmt: skip
    assert shapes[0] == shapes[1]


def test_prediction_speed_shows_bf16_beside_the_default(benchmark, small_base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("modeling.devices.best_device", lambda: Device("cpu", True))
    result = benchmark(
        "predict_speed", "--model_name", small_base, "--reviews", 6, "--repeats", 1, "--single", 2,
        output=tmp_path / "speed.json",
    )  # fmt: skip
    assert [row["variant"] for row in result["variants"]][:2] == ["ours", "ours bfloat16"]
    assert 0 < result["answers"]["ours bfloat16"]["max_probability_difference"] < 0.05
    assert "ours against the pipeline at its best" in capsys.readouterr().out


def test_a_graph_with_8_bit_weights_answers_nearly_as_torch_does(small_base, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.syspath_prepend(str(FOLDER))
    from weight_bits import TORCH, measure

    arguments = argparse.Namespace(model_name=str(small_base), reviews=6, repeats=1)
    exact, eight = (np.array(measure(name, arguments)["logits"]) for name in (TORCH, "openvino int8"))
    np.testing.assert_allclose(eight, exact, atol=0.1 * np.abs(exact).max())
    assert not np.array_equal(eight, exact)


def test_faithfulness_compares_marked_words_with_random_ones(benchmark, adapter, tmp_path, capsys):
    result = benchmark(
        "explanation_faithfulness", "--model_path", adapter, "--rows", 24, output=tmp_path / "faithfulness.json"
    )
    rows = result["faithfulness"]
    assert [row["share"] for row in rows] == [0.1, 0.2, 0.5] and 0 < result["reviews"] <= 24
    for row in rows:
        assert row["difference"] == pytest.approx(row["top_drop"] - row["random_drop"])
        assert row["difference_95"][0] <= row["difference"] <= row["difference_95"][1]
    assert f"{result['reviews']} held-out reviews" in capsys.readouterr().out


@pytest.mark.slow
def test_load_is_measured_on_a_real_server(benchmark, adapter, tmp_path):
    pytest.importorskip("fastapi_offline")
    result = benchmark(
        "serve_load", "--model_path", adapter, "--texts", 48, "--single", 4, "--requests", 80,
        output=tmp_path / "load.json",
    )  # fmt: skip
    assert [(row["texts_per_request"], row["clients"]) for row in result["load"]] == [
        (size, clients) for size in (1, 16) for clients in (1, 8, 32)
    ]
    assert all(row["ratio"] > 0 and row["p99_ms"] >= row["p50_ms"] for row in result["load"])
    assert sum(result["overload"]["answers"].values()) == 500 and result["overload"]["answers"].keys() <= {"200", "429"}
    assert result["memory"]["requests"] == 80
