"""Metrics equal sklearn's on every kind of input; undefined figures are None with a reason, never NaN.

python -m pytest tests/model_evaluation/metrics/test_classification.py
"""

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from model_evaluation.metrics import intervals as uncertainty
from model_evaluation.metrics.classification import (
    classification_metrics,
    macro_auc,
    resampled_auc,
    seen_unseen_metrics,
)
from prediction.prediction_set import Predictions, softmax

NAMES = ["负面", "正面"]


def made_up(n=200, classes=2, seed=0, decimals=1):
    """Predictions somewhat better than chance; few decimals make many tied scores."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    return Predictions([f"第{i}条" for i in range(n)], logits.round(decimals), labels)


def names(classes):
    return [f"类别{c}" for c in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn(classes, seed):
    p = made_up(classes=classes, seed=seed)
    ours = classification_metrics(p, names(classes), intervals=False)
    macro = precision_recall_fscore_support(p.labels, p.pred, average="macro", zero_division=0)
    each = precision_recall_fscore_support(p.labels, p.pred, labels=range(classes), zero_division=0)
    assert [ours["precision"], ours["recall"], ours["f1"]] == pytest.approx(macro[:3])
    assert ours["accuracy"] == pytest.approx((p.labels == p.pred).mean())
    assert ours["confusion_matrix"] == sklearn_confusion(p.labels, p.pred, labels=range(classes)).tolist()
    assert [list(row.values()) for row in ours["per_class"].values()] == [
        pytest.approx(row) for row in zip(*each, strict=True)
    ]
    scores = p.p_positive if classes == 2 else p.probs
    assert ours["auc"] == pytest.approx(roc_auc_score(p.labels, scores, multi_class="ovr"))


def test_by_hand():
    """Labels 0 0 0 1 1, predictions 0 0 1 1 0."""
    p_positive = np.array([0.1, 0.2, 0.7, 0.9, 0.4])
    p = Predictions(list("甲乙丙丁戊"), np.log(np.stack([1 - p_positive, p_positive], axis=1)), [0, 0, 0, 1, 1])
    result = classification_metrics(p, NAMES, intervals=False)
    assert result["confusion_matrix"] == [[2, 1], [1, 1]]
    assert result["per_class"]["正面"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert result["precision"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["auc"] == pytest.approx(5 / 6)  # of six pairs, 0.4 against 0.7 alone is the wrong way round


def test_auc_takes_p_positive_not_confidence():
    """Always sure and always right: confidence says nothing about which class, P(positive) all."""
    p = Predictions(["好", "差"], [[-9.0, 9.0], [9.0, -9.0]], [1, 0])
    assert classification_metrics(p, NAMES, intervals=False)["auc"] == 1.0


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("classes", [2, 4])
def test_auc_of_resamples_equals_sklearns(classes, decimals):
    p = made_up(n=80, classes=classes, decimals=decimals)
    scores = p.p_positive if classes == 2 else p.probs
    counts = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), size=20)
    for row, auc in zip(counts, macro_auc(resampled_auc(scores, p.labels, np.arange(80))(counts)), strict=True):
        drawn = np.repeat(np.arange(80), row)
        expected = roc_auc_score(p.labels[drawn], scores[drawn], multi_class="ovr")
        assert auc == pytest.approx(expected, abs=1e-12)


def test_auc_without_one_of_the_sides_is_undefined():
    p = made_up(n=50, classes=3)
    only = np.stack([p.labels == 0, p.labels != 2, np.zeros(50, dtype=bool)]).astype(int)
    aucs = resampled_auc(p.probs, p.labels, np.arange(50))(only)
    assert np.isnan(aucs).tolist() == [[True] * 3, [False, False, True], [True] * 3]
    assert macro_auc(aucs)[1] == pytest.approx(aucs[1, :2].mean()) and np.isnan(macro_auc(aucs)[[0, 2]]).all()


def test_auc_bootstrap_sorts_the_rows_once(monkeypatch):
    """20,000 rows of 10 classes were sorted anew in each of 770 chunks: most of a minute for one call."""
    calls, sort = [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda *args, **kwargs: calls.append(1) or sort(*args, **kwargs))
    monkeypatch.setattr(uncertainty, "CELLS_PER_CHUNK", 100_000)
    classification_metrics(made_up(n=500, classes=3), names(3))
    assert len(calls) <= 2 * 3  # for the figure and for its interval


@pytest.mark.parametrize("classes", [2, 4])
def test_row_order_changes_nothing(classes):
    p = made_up(classes=classes)
    shuffled = p.select(np.random.default_rng(9).permutation(len(p)))
    assert classification_metrics(p, names(classes), intervals=False) == classification_metrics(
        shuffled, names(classes), intervals=False
    )


def test_intervals_hold_the_figure_and_depend_on_the_seed_alone():
    p = made_up(n=400)
    one, two, other = (classification_metrics(p, NAMES, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one["intervals"] != other["intervals"]
    for name, (low, high) in one["intervals"].items():
        assert low < one[name] < high
        assert 0.02 < high - low < 0.12


def test_auc_interval_is_that_of_resampled_rows():
    p = made_up(n=300, decimals=6)
    rng = np.random.default_rng(0)
    rows = rng.integers(300, size=(500, 300))
    expected = np.quantile([roc_auc_score(p.labels[r], p.p_positive[r]) for r in rows], [0.025, 0.975])
    assert classification_metrics(p, NAMES)["intervals"]["auc"] == pytest.approx(expected, abs=0.01)


def test_one_class_alone():
    p = Predictions(["好", "不错", "行"], [[-1.0, 1.0], [-2.0, 2.0], [1.0, 0.0]], [1, 1, 1])
    result = classification_metrics(p, NAMES)
    assert result["auc"] is None and "一个类别" in result["auc_reason"]
    assert result["intervals"]["auc"] is None
    assert result["per_class"]["负面"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    json.dumps(result, allow_nan=False)


def test_a_class_that_never_occurs_is_none_and_outside_the_macro_average():
    p = made_up(classes=2)
    wider = Predictions(p.texts, np.hstack([p.logits, np.full((len(p), 1), -50.0)]), p.labels)
    narrow, wide = (classification_metrics(x, names(x.logits.shape[1])) for x in (p, wider))
    assert {key: wide[key] for key in ("precision", "recall", "f1", "auc")} == pytest.approx(
        {key: narrow[key] for key in ("precision", "recall", "f1", "auc")}
    )
    assert wide["per_class"]["类别2"]["f1"] is None and wide["per_class"]["类别2"]["reason"]
    json.dumps(wide, allow_nan=False)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (Predictions([], np.zeros((0, 2)), []), "为空"),
        (Predictions(["好"], [[0.0, 1.0]]), "没有标签"),
        (Predictions(["好"], [[0.0, 1.0]], [2]), "0 到 1 之间"),
        (Predictions(["好"], [[0.0, 1.0]], [-1]), "0 到 1 之间"),
        (Predictions(["好"], [[0.0]], [0]), "2 个类别"),
        (Predictions(["好"], [[0.0, np.nan]], [1]), "NaN"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(predictions, NAMES)


@pytest.mark.parametrize("label_names", [["负面"], ["负面", "负面"], ["a", "b", "c"]])
def test_names_that_do_not_fit_are_refused(label_names):
    with pytest.raises(ValueError, match="标签名"):
        classification_metrics(made_up(), label_names, intervals=False)


def test_seen_and_unseen_rows():
    p = made_up()
    seen = np.arange(len(p)) % 4 == 0
    result = seen_unseen_metrics(p, seen, NAMES, intervals=False)
    assert result["all"] == classification_metrics(p, NAMES, intervals=False)
    assert result["unseen"] == classification_metrics(p.select(~seen), NAMES, intervals=False)
    assert result["seen"]["n"] == 50
    assert result["seen"]["accuracy"] == (p.pred == p.labels)[seen].mean()
    assert result["seen"]["interval"][0] < result["seen"]["accuracy"] < result["seen"]["interval"][1]


def test_all_seen_and_none_seen():
    p = made_up()
    whole = classification_metrics(p, NAMES, intervals=False)
    all_seen = seen_unseen_metrics(p, np.full(len(p), True), NAMES, intervals=False)
    none_seen = seen_unseen_metrics(p, np.full(len(p), False), NAMES, intervals=False)
    assert all_seen["unseen"] is None and all_seen["seen"]["n"] == len(p)
    assert none_seen["seen"] is None and none_seen["unseen"] == none_seen["all"] == whole


@pytest.mark.parametrize("seen", [np.array([True]), np.zeros(200, dtype=int)])
def test_seen_must_be_a_mask(seen):
    """Integers would select rows by position, silently."""
    with pytest.raises(ValueError, match="200 booleans"):
        seen_unseen_metrics(made_up(), seen, NAMES)


def test_logits_scale_does_not_change_metrics():
    p = made_up(decimals=3)
    doubled = Predictions(p.texts, 2 * p.logits, p.labels)
    assert not np.allclose(softmax(p.logits), softmax(doubled.logits))
    assert classification_metrics(p, NAMES, intervals=False) == classification_metrics(doubled, NAMES, intervals=False)


def sure(labels, pred):
    """Answers `pred`, all with the same confidence."""
    return Predictions([f"第{i}条" for i in range(len(pred))], 4 * np.eye(2)[pred], np.array(labels))


@pytest.mark.parametrize("right", [True, False])
def test_where_nothing_varies_only_the_accuracy_has_an_interval(right):
    """Resampling rows that are all right knows of no wrong one, and would claim certainty: [1, 1]."""
    labels = [0, 1] * 30
    metrics = classification_metrics(sure(labels, labels if right else [1, 0] * 30), NAMES)
    low, high = metrics["intervals"].pop("accuracy")
    bound = 0.025 ** (1 / 60)  # n of n right, two-sided: p^n = 2.5%
    assert (low, high) == pytest.approx((bound, 1) if right else (0, 1 - bound))
    assert metrics["auc"] == (1 if right else 0)
    assert metrics["intervals"] == {"precision": None, "recall": None, "f1": None, "auc": None}
    json.dumps(metrics, allow_nan=False)


def test_a_perfect_ranking_has_no_interval_of_auc_even_with_errors():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 3.0]] * 15)  # a quarter is called positive too early
    metrics = classification_metrics(Predictions([str(i) for i in range(60)], logits, [0, 0, 1, 1] * 15), NAMES)
    assert metrics["auc"] == 1 and metrics["intervals"]["auc"] is None
    assert all(low < high for low, high in (metrics["intervals"][name] for name in ("accuracy", "precision", "f1")))
