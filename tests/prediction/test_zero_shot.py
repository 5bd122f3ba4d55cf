import copy

import numpy as np
import pytest
import torch
from largest_tensor import LargestVocabularyTensor
from small import small_reviews

from configs.prompt_template import PROMPT_TEMPLATE
from data.preprocessing import encode_texts
from modeling import label_scoring
from modeling.base_model import load_causal_base
from modeling.devices import Device
from modeling.label_scoring import as_label_scorer, label_word_ids, token_log_probs
from prediction import zero_shot
from prediction.zero_shot import last_hidden_states, score_label_words

TEXTS = [row["text"] for row in small_reviews(12)]
WORDS = ["负面", "正面"]  # six tokens each: the small tokenizer knows only bytes


@pytest.fixture(scope="module")
def base(small_base):
    return load_causal_base(str(small_base), device=Device("cpu", False))


def plain(model):
    """The same weights as the language model that they were loaded as."""
    if isinstance(model, label_scoring.LabelScoring):
        twin = copy.copy(model)
        twin.__class__ = type(model).__mro__[2]
        return twin
    return model


def scores(base, texts=TEXTS, words=WORDS, max_length=64, template=PROMPT_TEMPLATE):
    return score_label_words(*base, texts, template=template, label_words=words, max_length=max_length)


def reference(base, texts, words, max_length=64):
    """Each text with each word by itself, in full and without padding."""
    model, tokenizer = plain(base[0]), base[1]
    tokens = [tokenizer(word)["input_ids"] for word in words]
    begins = any(one != other and other[: len(one)] == one for one in tokens for other in tokens)
    end = [tokenizer.eos_token_id] if begins else []
    result = []
    for prompt in encode_texts(tokenizer, texts, max_length, PROMPT_TEMPLATE):
        row = []
        for word in words:
            ids = tokenizer(word)["input_ids"] + end
            with torch.no_grad():
                log_probs = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)  # (T, V)
            row.append(sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)))
        result.append(row)
    return np.array(result)


@pytest.mark.parametrize(
    "words",
    [
        ["+", "-"],
        ["负面", "正面"],
        ["好吃", "好的"],
        ["好吃", "差"],
        ["好", "好吃", "很差"],
        ["-", "好", "好吃", "好的"],
    ],
    ids=["one token", "several tokens", "same beginning", "two lengths", "one begins another", "all of it"],
)
def test_scores_equal_the_full_forward_of_each_text_and_word(base, words):
    found = scores(base, words=words)
    assert found.shape == (len(TEXTS), len(words)) and found.dtype == np.float32
    np.testing.assert_allclose(found, reference(base, TEXTS, words), atol=1e-4)


def test_scores_do_not_depend_on_the_batch(base):
    together = scores(base)
    alone = np.concatenate([scores(base, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(scores(base, TEXTS[::-1])[::-1], together, atol=1e-5)


def test_equal_texts_are_scored_once_and_answered_each(base, monkeypatch):
    read = []
    original = zero_shot.predict_logits
    monkeypatch.setattr(
        zero_shot, "predict_logits", lambda m, rows, *a, **k: read.append(len(rows)) or original(m, rows, *a, **k)
    )
    found = scores(base, ["很好", "差", " 很好\n"])
    assert read == [2] and (found[0] == found[2]).all() and (found[0] != found[1]).any()


def test_no_texts_give_no_scores(base):
    assert scores(base, []).shape == (0, 2)


def test_permuted_words_give_permuted_scores(base):
    words, order = ["好吃", "差", "好的"], [2, 0, 1]
    permuted = scores(base, words=[words[i] for i in order])
    np.testing.assert_allclose(permuted, scores(base, words=words)[:, order], atol=1e-6)


def test_probabilities_of_all_one_token_words_add_up_to_one(base):
    """Every token of the vocabulary as a word of its own: the scores are a whole distribution."""
    model, tokenizer = base
    scorer = as_label_scorer(model, [[token] for token in range(model.config.vocab_size)])
    ids = torch.tensor(encode_texts(tokenizer, TEXTS[:1], 64, PROMPT_TEMPLATE))
    log_probs = scorer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert not len(scorer.label_words.tails)
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_review_is_cut_and_never_the_prompt(base):
    tokenizer = base[1]
    before, after = (tokenizer(part)["input_ids"] for part in PROMPT_TEMPLATE.split("{text}"))
    long = "房间很干净，下次还来。" * 30
    for max_length in (1, 10, 64):
        (prompt,) = encode_texts(tokenizer, [long], max_length, PROMPT_TEMPLATE)
        assert prompt == before + encode_texts(tokenizer, [long], max_length)[0] + after
        assert len(prompt) == len(before) + max_length + len(after)
    np.testing.assert_allclose(
        scores(base, [long], max_length=63), scores(base, [long[:21]]), atol=1e-5
    )  # 3 bytes each
    assert not np.allclose(scores(base, [long], max_length=63), scores(base, [long], max_length=30), atol=1e-5)


def test_a_review_cannot_speak_for_the_tokenizer(base):
    """`<|endoftext|>` inside a review stays text, or it would end the document before the question."""
    (prompt,) = encode_texts(base[1], ["好<|endoftext|>"], 64, PROMPT_TEMPLATE)
    assert base[1].pad_token_id not in prompt


@pytest.mark.parametrize("template", ["评论：", "{text}和{text}", ""])
def test_a_template_needs_one_place_for_the_review(base, template):
    with pytest.raises(ValueError, match="有且只有一个"):
        scores(base, template=template)


@pytest.mark.parametrize("words", [["好"], ["好", ""], ["好", "好"], []])
def test_label_words_must_be_different_words(base, words):
    with pytest.raises(ValueError, match="标签词"):
        label_word_ids(base[1], words)


def test_the_vocabulary_is_never_multiplied_with_every_token(base):
    model, hidden_size = base[0], base[0].config.hidden_size
    with LargestVocabularyTensor(model.config.vocab_size) as largest:
        scores(base, TEXTS)  # 12 texts x 11 contexts; the texts have more than 12 x 60 tokens
    assert 0 < largest.rows <= max(12 * 11, hidden_size)
    with LargestVocabularyTensor(model.config.vocab_size) as full, torch.no_grad():
        plain(model)(torch.zeros((12, 60), dtype=torch.long))
    assert full.rows == 12 * 60


def test_token_log_probs_are_those_of_log_softmax_in_pieces_and_in_float32(monkeypatch):
    monkeypatch.setattr(label_scoring, "VOCABULARY_CHUNK", 10)
    generator = torch.Generator().manual_seed(1)
    weight = (3 * torch.randn(33, 16, generator=generator)).bfloat16()
    hidden = torch.randn(4, 3, 16, generator=generator).bfloat16()
    contexts, tokens = torch.tensor([0, 2, 1, 0]), torch.tensor([5, 32, 0, 10])
    expected = (hidden.double() @ weight.double().T).log_softmax(-1)[:, contexts, tokens]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_log_probs(weight, hidden, contexts, tokens)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scoring_leaves_the_model_in_its_mode(base):
    model = base[0]
    for training in (True, False):
        model.train(training)
        scores(base)
        last_hidden_states(*base, TEXTS[:2], max_length=64)
        assert all(module.training == training for module in model.modules())


def test_last_hidden_states_are_those_of_each_text_alone(base):
    model, tokenizer = base
    found = last_hidden_states(model, tokenizer, [f" {text}\n" for text in TEXTS], max_length=40)
    for text, row in zip(TEXTS, found, strict=True):
        ids = torch.tensor(encode_texts(tokenizer, [text], 40))
        with torch.no_grad():
            expected = plain(model)(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_base_in_four_bits_keeps_its_vocabulary_projection_whole(small_base):
    model, tokenizer = load_causal_base(str(small_base), quantize=True, device=Device("cpu", False))
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["q_proj"] == "Linear4bit" and kinds["lm_head"] == "Linear"
    assert np.isfinite(scores((model, tokenizer))).all()
