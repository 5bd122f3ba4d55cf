import json

import numpy as np
import pytest
import torch
from small import change_json, small_reviews

from inference import SentimentPredictor
from modeling.base_model import nf4_config
from modeling.batching import batches_by_length, pad, predict_logits
from modeling.devices import Device, best_device
from modeling.lora import load_adapter
from prediction.prediction_set import Predictions
from runtime.errors import UserError


@pytest.fixture(scope="module")
def predictor(adapter):
    return SentimentPredictor(lora_path=adapter)


class LikeAGpu(Device):
    """The CPU, with weights in bf16 where nothing else is asked for."""

    @property
    def weights_dtype(self):
        return self.dtype or torch.bfloat16


TEXTS = [row["text"] for row in small_reviews(40)]


def test_the_answer_has_the_contracts_keys(predictor):
    answer = predictor.predict(small_reviews(40)[1]["text"])
    assert list(answer) == ["text", "label", "label_id", "confidence", "probabilities"]
    assert (answer["label"], answer["label_id"]) == ("正面", 1)
    assert answer["confidence"] == max(answer["probabilities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    json.dumps(answer)


def test_answers_do_not_depend_on_batch_order_or_size(predictor):
    together = predictor.predictions(TEXTS).logits
    alone = np.concatenate([predictor.predictions([text]).logits for text in TEXTS])
    backwards = predictor.predictions(TEXTS[::-1]).logits[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(backwards, together, atol=1e-5)


def test_in_bf16_too_answers_do_not_depend_on_the_batch_and_are_nearly_those_of_float32(adapter, predictor):
    if not best_device().bf16:
        pytest.skip("this processor does not multiply bfloat16")
    half = SentimentPredictor(lora_path=adapter, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16 and half.model.score.weight.dtype == torch.float32
    texts = [*TEXTS, "好", "房间很干净" * 100]
    together, exact = half.predictions(texts).logits, predictor.predictions(texts).logits
    alone = np.concatenate([half.predictions([text]).logits for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert 0 < np.abs(together - exact).max() < 0.02 * np.abs(exact).max()
    assert (together.argmax(1) == exact.argmax(1)).all()


def test_the_precision_that_is_asked_for_wins(adapter):
    """Over a CPU that keeps a small base in float32, and over a GPU that holds any in bf16."""
    for device in (Device("cpu", True), LikeAGpu("cpu", True)):
        for name in ("float32", "bfloat16"):
            for merge in (True, False):
                found = SentimentPredictor(lora_path=adapter, dtype=name, merge=merge, device=device)
                assert found.model.dtype == getattr(torch, name)
                assert np.isfinite(found.predictions(TEXTS[:3]).logits).all()
    assert nf4_config(Device("cpu", True).asked_for("float32"), "score").bnb_4bit_compute_dtype == torch.float32


def test_token_budget_does_not_change_logits(predictor):
    rows = predictor.tokenizer(TEXTS)["input_ids"]
    expected = predict_logits(predictor.model, rows, predictor.tokenizer.pad_token_id)
    for budget in (1, 100, 100_000):
        found = predict_logits(predictor.model, rows, predictor.tokenizer.pad_token_id, max_tokens=budget)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equal_texts_are_computed_once_and_answered_each(predictor, monkeypatch):
    import prediction.predictor as prediction

    seen = []
    original = prediction.predict_logits
    monkeypatch.setattr(
        prediction,
        "predict_logits",
        lambda model, rows, *a, **k: seen.append(len(rows)) or original(model, rows, *a, **k),
    )
    answers = predictor.predict_batch(["很好", "很差", " 很好 "])
    assert seen == [2] and answers[0]["probabilities"] == answers[2]["probabilities"]
    assert [answer["text"] for answer in answers] == ["很好", "很差", " 很好 "]


def test_no_texts_no_answers(predictor):
    assert predictor.predict_batch([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "😀👍",
        "\x01好\x02",
        "abc 中文 кириллица العربية",
        "好" * 100_000,
        "\ud83d坏",
        "<|endoftext|>",
        "\u202e反\u202c",
        "。",
    ],
    ids=["emoji", "control", "scripts", "long", "surrogate", "special", "rtl", "dot"],
)
def test_unusual_texts_get_an_answer_that_does_not_depend_on_the_batch(predictor, text):
    alone = predictor.predict(text)["probabilities"]["正面"]
    assert 0 <= alone <= 1
    assert predictor.predict_batch(["很好", text, "很差"])[1]["probabilities"]["正面"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b", None, 5, 1.5, b"x", ["x"]])
def test_what_is_not_a_review_is_a_value_error_that_names_its_place(predictor, text):
    with pytest.raises(ValueError, match="第 2 条"):
        predictor.predict_batch(["很好", text])


def test_what_lies_beyond_max_length_is_not_read(predictor):
    head = "房间很干净" * 20
    assert len(predictor.tokenizer(head)["input_ids"]) > predictor.config.max_length
    assert predictor.predict(head)["probabilities"] == predictor.predict(head + "但是很差")["probabilities"]


def test_merging_changes_logits_by_rounding_only(adapter, predictor):
    apart = SentimentPredictor(lora_path=adapter, merge=False)
    assert any("lora" in name for name, _ in apart.model.named_modules())
    assert not any("lora" in name for name, _ in predictor.model.named_modules())
    np.testing.assert_allclose(apart.predictions(TEXTS).logits, predictor.predictions(TEXTS).logits, atol=1e-5)


def test_merged_weight_is_w_plus_scaled_b_a(adapter, small_base):
    apart, _, _ = load_adapter(adapter, merge=False)
    merged, _, _ = load_adapter(adapter)
    layer = apart.base_model.model.model.layers[1].self_attn.q_proj
    low_rank = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = layer.base_layer.weight + layer.scaling["default"] * low_rank
    assert low_rank.abs().max() > 1e-4
    torch.testing.assert_close(merged.model.layers[1].self_attn.q_proj.weight, expected)


def test_pooling_equals_a_hand_made_forward(predictor):
    """logits = score(hidden state of the last real token)."""
    (ids,) = predictor.tokenizer(["很好"])["input_ids"]
    inputs = torch.tensor([ids])
    with torch.no_grad():
        hidden = predictor.model.model(inputs).last_hidden_state[0, -1]  # (D,)
    expected = predictor.model.score.weight @ hidden
    np.testing.assert_allclose(predictor.predictions(["很好"]).logits[0], expected.numpy(), atol=1e-5)


def test_base_model_name_overrides(adapter, tmp_path):
    with pytest.raises(UserError, match="没有模型文件夹"):
        SentimentPredictor(str(tmp_path / "nowhere"), adapter)


def test_temperature_and_threshold_come_from_the_adapter_folder(adapter, tmp_path):
    import shutil

    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    config = json.loads((copy / "sentiment_config.json").read_text())
    (copy / "sentiment_config.json").write_text(json.dumps(config | {"temperature": 2.0, "thresholds": {"0.97": 0.9}}))
    plain, warm = SentimentPredictor(lora_path=adapter), SentimentPredictor(lora_path=copy, min_precision=0.97)
    logits = plain.predictions(TEXTS[:1]).logits[0]
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    answer = warm.predict(TEXTS[0])
    assert answer["probabilities"]["正面"] == pytest.approx(expected[1], abs=1e-5)
    assert answer["accepted"] == (answer["confidence"] >= 0.9)
    with pytest.raises(UserError, match=r"没有为 0\.95 选阈值（有阈值的是 0\.97）"):
        SentimentPredictor(lora_path=copy, min_precision=0.95)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"thresholds": {}}, "没有评估过.*confidence_analysis"),
        ({"thresholds": {}, "without_threshold": ["0.95", "0.97", "0.99"]}, "担保不了 0.97 .*其余的目标也没有阈值"),
        ({"thresholds": {"0.95": 0.8}, "without_threshold": ["0.97", "0.99"]}, "担保不了 0.97 .*有阈值的是 0.95"),
        ({"thresholds": {"0.95": 0.8}, "without_threshold": ["0.99"]}, "没有为 0.97 选阈值"),
    ],
)
def test_never_evaluated_is_told_from_evaluated_in_vain(adapter_copy, settings, words):
    change_json(adapter_copy / "sentiment_config.json", **settings)
    with pytest.raises(UserError, match=words):
        SentimentPredictor(lora_path=adapter_copy, min_precision=0.97)


def test_batches_hold_every_index_once_within_the_budget():
    lengths = list(np.random.default_rng(0).integers(1, 250, 333))
    batches = list(batches_by_length(lengths, 512))
    assert sorted(i for batch in batches for i in batch) == list(range(333))
    assert all(len(b) * (-(-max(lengths[i] for i in b) // 8) * 8) <= 512 for b in batches)
    assert list(batches_by_length([900], 512)) == [[0]]


def test_padding_goes_right_to_a_multiple_of_eight():
    batch = pad([[1, 2, 3], [4] * 9], pad_id=0)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(1).tolist() == [3, 9] and batch["input_ids"][0].tolist() == [1, 2, 3] + [0] * 13


def test_predictions_round_trip_bit_for_bit(tmp_path):
    logits = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    for labels in (np.array([0, 1, 1, 0, 1]), None):
        saved = Predictions(["a", "换\n行", '"', "😀", "\u2028"], logits, labels)
        saved.save(tmp_path / "p.jsonl")
        loaded = Predictions.load(tmp_path / "p.jsonl")
        assert loaded.texts == saved.texts and (loaded.logits == logits).all()
        assert loaded.labels is None if labels is None else (loaded.labels == labels).all()


def test_no_predictions_round_trip(tmp_path):
    Predictions([], np.zeros((0, 2))).save(tmp_path / "p.jsonl")
    assert len(Predictions.load(tmp_path / "p.jsonl")) == 0


def test_confidence_is_not_p_positive():
    predictions = Predictions(["a"], np.array([[2.0, 0.0]]))
    assert predictions.confidence[0] == pytest.approx(1 - predictions.p_positive[0])
    with pytest.raises(ValueError):
        Predictions(["a", "b"], np.zeros((1, 2)))
    with pytest.raises(ValueError):
        _ = Predictions(["a"], np.zeros((1, 3))).p_positive
