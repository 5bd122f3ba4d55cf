"""An adapter folder that travels: plain PEFT loads it from any folder, by itself or by the lines on its card."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForSequenceClassification
from small import REPOSITORY, change_json, make_small_adapter, small_reviews
from transformers import AutoTokenizer

from modeling.adapter_folder import SentimentConfig
from modeling.devices import Device
from modeling.model_card import adapter_card, card
from prediction.predictor import SentimentPredictor

TEXT = "酒店很干净"  # on every card


def run_card(folder: Path, monkeypatch, capsys) -> list[float]:
    """The probabilities that the card's lines print for TEXT, run in the folder."""
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    exec(code, {})
    shown = capsys.readouterr().out.strip().splitlines()[-1]
    probabilities = ast.literal_eval(shown[: shown.rindex("]") + 1].split(" {")[0].split(" ['")[0])
    return np.ravel(probabilities).tolist()


def ours(folder: Path) -> list[float]:
    predictor = SentimentPredictor(lora_path=folder, device=Device("cpu", False))
    return list(predictor.predict(TEXT)["probabilities"].values())


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (("负面", "正面"), {}),
        (("差", "中", "好"), {}),
        (("负面", "正面"), {"head": "label_scoring", "label_words": ["-", "+"]}),
    ],
    ids=["two labels", "three labels", "label words"],
)
def test_the_cards_lines_answer_as_we_do_wherever_the_folder_lies(
    labels, settings, small_base, tmp_path, monkeypatch, capsys
):
    made = make_small_adapter(tmp_path / "made", small_base, labels=labels, **settings)
    moved = Path(shutil.move(made, tmp_path / "elsewhere"))
    assert run_card(moved, monkeypatch, capsys) == pytest.approx(ours(moved), abs=1e-5)


def test_a_trained_adapter_and_its_temperature(adapter, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    change_json(folder / "sentiment_config.json", temperature=2.5)
    (folder / "README.md").write_text(adapter_card(SentimentConfig.load(folder), {}, pad_id=0), encoding="utf-8")
    found = run_card(folder, monkeypatch, capsys)
    assert found == pytest.approx(ours(folder), abs=1e-5) and found != pytest.approx(ours(adapter), abs=1e-3)


def test_peft_finds_the_embedded_base_by_itself(tmp_path, monkeypatch):
    """From another folder, with no hub, in batches."""
    folder = make_small_adapter(tmp_path / "tiny", Path("tiny_base"))
    assert SentimentConfig.load(folder).base_model == "tiny_base"  # ours finds it wherever this repository lies
    monkeypatch.chdir(tmp_path)
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [row["text"] for row in small_reviews(6)]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits.numpy()
    predictor = SentimentPredictor(lora_path=folder, device=Device("cpu", False))
    np.testing.assert_allclose(logits, predictor.predictions(texts).logits, atol=1e-4)
    assert model.peft_config["default"].base_model_name_or_path == str(REPOSITORY / "tiny_base")


def test_adapters_that_name_their_base_as_before_keep_loading(adapter_copy):
    change_json(adapter_copy / "adapter_config.json", base_model_name_or_path="tiny_base", revision=None)
    (adapter_copy / "README.md").unlink()
    assert sum(ours(adapter_copy)) == pytest.approx(1)


def test_the_head_of_a_card_is_what_the_hubs_read(adapter):
    text = (adapter / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "peft" and head["language"] == "zh"
    assert head["pipeline_tag"] == "text-classification" and "base_model" not in head  # it is a folder of this machine
    results = head["model-index"][0]["results"]
    metrics = json.loads((adapter / "run_info.json").read_text(encoding="utf-8"))["metrics"]
    accuracy = results[0]["metrics"][0]
    assert accuracy["type"] == "accuracy" and accuracy["value"] == round(metrics["validation"]["accuracy"], 4)
    assert "95% 区间" in accuracy["name"] and {r["dataset"]["name"] for r in results} == {
        "自己的文件 验证集", "自己的文件 测试集"
    }  # fmt: skip
    assert "/tmp" not in text and str(Path.home()) not in text


def test_a_base_and_data_of_the_hub_are_linked_and_unseen_rows_stand_apart():
    sentiment = SentimentConfig("Qwen/Qwen2.5-1.5B", "0" * 40, ["负面", "正面"], 256)
    figures = {"n": 10, "accuracy": 0.9, "f1": 0.89, "intervals": {"accuracy": [0.8, 0.95], "f1": None}}
    measured = {"测试集": figures, "测试集里训练中没见过的": figures | {"n": 7, "accuracy": 0.8}}
    text = card(sentiment, {}, library="transformers", code="pass", notes=[], measured=measured)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["base_model"] == "Qwen/Qwen2.5-1.5B" and head["datasets"] == ["lansinuote/ChnSentiCorp"]
    assert "测试集里训练中没见过的（7 条）：准确率 80.0%" in text
    names = {result["dataset"]["name"] for result in head["model-index"][0]["results"]}
    assert names == {"ChnSentiCorp 测试集", "ChnSentiCorp 测试集里训练中没见过的"}
