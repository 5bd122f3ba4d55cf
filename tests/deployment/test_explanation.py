"""Words for and against an answer: the scores are the gradient's, each token's counted once; the markup is safe."""

import pytest
import torch

from data.preprocessing import clean_text, encode_texts
from deployment.page.explanation import Explanation, can_explain, explain, token_scores
from prediction.predictor import SentimentPredictor
from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

TEXT = "房间很干净，\n就是 早餐<b>差</b> <|endoftext|>"


@pytest.fixture(scope="module", params=["classifier", "label_scoring"])
def predictor(request, adapter, small_base):
    if request.param == "classifier":
        return SentimentPredictor(lora_path=adapter)
    return ZeroShotPredictor(zero_shot_config(str(small_base)))


def log_odds(predictor, row, scale, position):
    """Log-odds of the answer if the embedding of one token is `scale` times as long."""

    def shrink(module, inputs, output):
        output = output.clone()
        output[:, position] *= scale
        return output

    hook = predictor.model.get_input_embeddings().register_forward_hook(shrink)
    with torch.no_grad():
        inputs = torch.tensor([row])
        logits = predictor.model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0]
    hook.remove()
    label = int(logits.argmax())
    return float(logits[label] - logits[1 - label]) / predictor.config.temperature


def test_scores_are_the_derivative_of_the_log_odds(predictor):
    config = predictor.config
    (row,) = encode_texts(predictor.tokenizer, [clean_text(TEXT)], config.max_length, config.prompt_template)
    scores = token_scores(predictor, row)
    assert len(scores) == len(row) and max(map(abs, scores)) > 1e-3
    for position in (0, len(row) // 2, len(row) - 1):
        step = 1e-2
        sides = [log_odds(predictor, row, 1 + sign * step, position) for sign in (1, -1)]
        assert scores[position] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=2e-3)


def test_each_token_counts_once_and_the_words_are_the_text(predictor):
    explanation = explain(predictor, TEXT)
    cleaned = clean_text(TEXT)
    assert "".join(word for word, _ in explanation.words) + explanation.unread == cleaned
    config = predictor.config
    (row,) = encode_texts(predictor.tokenizer, [cleaned], config.max_length, config.prompt_template)
    (empty,) = encode_texts(predictor.tokenizer, [""], config.max_length, config.prompt_template)
    tokens = len(row) - len(empty)
    before = 0 if config.prompt_template is None else row.index(next(a for a, b in zip(row, empty) if a != b))  # noqa: B905
    scores = token_scores(predictor, row)
    expected = sum(scores[before : before + tokens]) if config.prompt_template else sum(scores)
    assert sum(score for _, score in explanation.words) == pytest.approx(expected, abs=1e-4)


def test_what_lies_beyond_the_models_length_is_not_explained(adapter):
    explanation = explain(SentimentPredictor(lora_path=adapter), "好" * 30)  # 90 tokens of 64
    assert "".join(word for word, _ in explanation.words) == "好" * 22 and explanation.unread == "好" * 8


def test_an_exported_model_has_no_gradients(adapter):
    assert can_explain(SentimentPredictor(lora_path=adapter))
    assert not can_explain(object())


def test_markup_is_escaped():
    pytest.importorskip("fastapi_offline")
    from deployment.page.markup import coloured_words, fault, verdict

    bad = "<script>alert(1)</script>"
    html = coloured_words(Explanation([(bad, 2.0), ("好", -1.0), ("了", 0.0)], bad), bad)
    html += verdict({"label": bad, "confidence": 0.5, "accepted": False}) + fault(bad)
    assert "<script" not in html and html.count("&lt;script&gt;") == 5
    assert 'class="for"' in html and 'class="against"' in html and "请人工看" in html
