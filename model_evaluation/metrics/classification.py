"""Figures of classification: accuracy, macro precision, recall and F1, AUC, each with a 95% bootstrap interval.

    >>> p = Predictions(["好", "差", "行"], np.array([[-2.0, 2.0], [1.0, -1.0], [0.5, 0.0]]), np.array([1, 0, 1]))
    >>> metrics = classification_metrics(p, ["负面", "正面"], intervals=False)
    >>> metrics["confusion_matrix"], metrics["per_class"]["正面"]["recall"], metrics["auc"]
    ([[1, 0], [1, 1]], 0.5, 1.0)

Conventions are sklearn's: a ratio with nothing below the line counts as 0, and a macro average runs over the classes
that occur among the labels or the predictions. AUC takes P(label 1), with more than two classes each label's
probability against the rest (Provost & Domingos 2000, but unweighted); confidence has no place here. Figures are
those of all rows; intervals resample texts, with all their rows: see `uncertainty`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from model_evaluation.metrics.intervals import (
    bootstrap_interval,
    clopper_pearson_interval,
    effective_size,
    share_interval,
)
from prediction.prediction_set import Predictions

MACRO_NAMES = ("accuracy", "precision", "recall", "f1")


def classification_metrics(
    predictions: Predictions, label_names: Sequence[str], intervals: bool = True, seed: int = 0
) -> dict:
    """JSON-ready: n, n_texts, accuracy, macro precision/recall/f1, auc, auc_per_class, confusion_matrix, per_class,
    intervals.

    `n_texts` counts different texts. `confusion_matrix[i][j]` counts rows of label i predicted as j. `auc_per_class`
    maps each label name to its AUC against the rest, None where no text has the label or all have; `auc` is the mean
    of the others, None where there is none, and `auc_reason` says what is left out (None where nothing is).
    `intervals` maps each of the five to [low, high] and is left out with `intervals=False`. Where all resamples agree,
    as when all rows are right, there is None; the accuracy then has the exact interval (Clopper-Pearson). None also
    where the AUC is undefined.
    ValueError for no rows, no labels, labels out of range, logits that are no numbers, or names that do not fit.
    """
    labels = checked_labels(predictions)
    confusion = confusion_matrix(labels, predictions.pred, predictions.logits.shape[1])
    result = {
        "n": len(labels),
        "n_texts": len(predictions.first_rows),
        **dict(zip(MACRO_NAMES, macro_scores(confusion).tolist(), strict=True)),
        "confusion_matrix": confusion.tolist(),
        "per_class": _per_class(confusion, label_names),
        **_auc_figures(predictions, label_names),
    }
    if intervals:
        auc_scores = None if result["auc"] is None else _auc_scores(predictions)
        result["intervals"] = _intervals(predictions, confusion, auc_scores, seed)
    return result


def seen_unseen_metrics(
    predictions: Predictions, seen: np.ndarray, label_names: Sequence[str], intervals: bool = True, seed: int = 0
) -> dict:
    """The metrics of all rows and of the unseen ones; of rows that also occur in training, accuracy alone.

    `seen` (N,) bool. Returns {"all": metrics, "unseen": metrics or None, "seen": {"n", "accuracy", "interval"} or
    None}; None where there is no such row. The interval is Wilson's, over texts.
    """
    seen = np.asarray(seen)
    if seen.shape != (len(predictions),) or seen.dtype != bool:
        raise ValueError(f"seen must be {len(predictions)} booleans, got {seen.dtype} of shape {seen.shape}")
    labels = checked_labels(predictions)
    right, total = (predictions.pred == labels)[seen], int(seen.sum())
    unseen = None if seen.all() else classification_metrics(predictions.select(~seen), label_names, intervals, seed)
    return {
        "all": classification_metrics(predictions, label_names, intervals, seed),
        "unseen": unseen,
        "seen": {
            "n": total,
            "accuracy": float(right.mean()),
            "interval": share_interval(right, predictions.text_ids[seen]),
        }
        if total
        else None,
    }


def checked_labels(predictions: Predictions) -> np.ndarray:
    """The labels (N,), once it is sure that every figure can be computed from these predictions; else ValueError."""
    labels, classes = predictions.labels, predictions.logits.shape[1]
    if len(predictions) == 0:
        raise ValueError("没有可评估的数据：预测结果为空，请检查输入文件")
    if labels is None:
        raise ValueError("预测结果没有标签，无法评估：请提供带标签的数据")
    if classes < 2:
        raise ValueError(f"评估至少需要 2 个类别，预测结果只有 {classes} 个")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"标签应在 0 到 {classes - 1} 之间，实际为 {labels.min()} 到 {labels.max()}")
    if not np.isfinite(predictions.logits).all():
        raise ValueError("模型输出（logits）中有 NaN 或无穷大，无法评估：请检查模型或训练过程")
    return labels


def confusion_matrix(labels: np.ndarray, pred: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts, rows = true, columns = predicted."""
    return np.bincount(labels * classes + pred, minlength=classes**2).reshape(classes, classes)


def macro_scores(confusions: np.ndarray) -> np.ndarray:
    """Accuracy and macro precision, recall, F1 of any number of confusion matrices: (..., C, C) -> (..., 4)."""
    precision, recall, f1, occurs = _class_scores(confusions)
    accuracy = np.trace(confusions, axis1=-2, axis2=-1) / confusions.sum(axis=(-2, -1))
    macro = [(score * occurs).sum(axis=-1) / occurs.sum(axis=-1) for score in (precision, recall, f1)]
    return np.stack([accuracy, *macro], axis=-1)


def resampled_auc(scores: np.ndarray, labels: np.ndarray, text_ids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The AUCs under any weighting of the T texts, as a function: weights (B, T) of 0 or more -> (B, C).

    `scores` (N,) ranks label 1 (C = 1); (N, C) ranks each label against the rest. NaN where a side weighs nothing.
    A row weighs what its text weighs. Rows are ranked here, once; a weighting then costs sums alone. Source of the
    rank form: Hanley & McNeil 1982.
    """
    columns = [(scores, 1)] if scores.ndim == 1 else [(scores[:, c], c) for c in range(scores.shape[1])]
    ranked = [_ranked(column, labels == label, text_ids) for column, label in columns]

    rows_of_text = np.bincount(text_ids).astype(np.float64)

    def aucs(weights: np.ndarray) -> np.ndarray:
        weights = np.ascontiguousarray(weights.T, dtype=np.float64)  # (T, B): a text's weights lie side by side
        total = rows_of_text @ weights
        values = []
        for positives, beaten in ranked:
            below = np.cumsum(beaten @ weights, axis=0)  # (P, B): negatives that each positive beats, by weight
            own = weights[positives]
            own_total = own.sum(axis=0)
            wins = np.einsum("pb,pb->b", own, below)
            values.append(_ratio(wins, own_total * (total - own_total), empty=np.nan))
        return np.stack(values, axis=1)

    return aucs


def macro_auc(aucs: np.ndarray) -> np.ndarray:
    """Mean over the classes that have an AUC: (B, C) with NaN for the others -> (B,); NaN where none has."""
    defined = ~np.isnan(aucs)
    return _ratio(np.where(defined, aucs, 0).sum(axis=1), defined.sum(axis=1), empty=np.nan)


def _ranked(scores: np.ndarray, positive: np.ndarray, text_ids: np.ndarray):
    """Texts of the P positive rows by ascending score, and (P, T) sparse: what each beats beyond those before it.

    A negative counts from the first positive above it on; half of it already from the first that equals it.
    """
    from scipy.sparse import csr_array

    positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    positives = positives[np.argsort(scores[positives], kind="stable")]
    halves = [np.searchsorted(scores[positives], scores[negatives], side=side) for side in ("left", "right")]
    where = (np.concatenate(halves), np.tile(text_ids[negatives], 2))
    shape = (len(positives) + 1, text_ids.max() + 1)
    beaten = csr_array((np.full(2 * len(negatives), 0.5), where), shape=shape)
    return text_ids[positives], beaten[:-1]  # the last row: negatives above all positives


def _auc_figures(predictions: Predictions, label_names: Sequence[str]) -> dict:
    """`auc`, `auc_reason` and `auc_per_class`."""
    once = np.ones((1, len(predictions.first_rows)))
    aucs = resampled_auc(_auc_scores(predictions), predictions.labels, predictions.text_ids)(once)[0].tolist()
    if len(aucs) == 1:  # of two classes, each is the other's rest
        aucs = aucs * 2
    per_class = {name: None if np.isnan(auc) else auc for name, auc in zip(label_names, aucs, strict=True)}
    known = [auc for auc in per_class.values() if auc is not None]
    missing = [name for name, auc in per_class.items() if auc is None]
    reason = None
    if not known:
        reason = "标签中只有一个类别，无法计算 AUC"
    elif missing:
        reason = f"标签中没有 {'、'.join(missing)}，AUC 是其余 {len(known)} 类的平均"
    return {"auc": float(np.mean(known)) if known else None, "auc_reason": reason, "auc_per_class": per_class}


def _auc_scores(predictions: Predictions) -> np.ndarray:
    return predictions.p_positive if predictions.logits.shape[1] == 2 else predictions.probs


def _class_scores(confusions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Precision, recall, F1 and whether the class occurs at all: four arrays (..., C)."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    true, predicted = confusions.sum(axis=-1), confusions.sum(axis=-2)
    f1 = _ratio(2 * right, true + predicted)
    return _ratio(right, predicted), _ratio(right, true), f1, true + predicted > 0


def _per_class(confusion: np.ndarray, label_names: Sequence[str]) -> dict:
    """Label name -> precision, recall, f1, support; a class that is neither true nor predicted anywhere has None."""
    if len(set(label_names)) != len(confusion):
        raise ValueError(f"标签名应为 {len(confusion)} 个且互不相同，实际为 {list(label_names)}")
    scores, support = np.stack(_class_scores(confusion), axis=-1), confusion.sum(axis=-1)
    result = {}
    for name, (*values, occurs), count in zip(label_names, scores.tolist(), support.tolist(), strict=True):
        result[name] = dict(zip(MACRO_NAMES[1:], values if occurs else [None] * 3, strict=True)) | {"support": count}
        if not occurs:
            result[name]["reason"] = "标签和预测中都没有这个类别"
    return result


def _intervals(predictions: Predictions, confusion: np.ndarray, auc_scores: np.ndarray | None, seed: int) -> dict:
    """Figure -> [low, high]: texts are resampled as cells of the confusion matrix, for AUC one by one."""
    labels, texts = predictions.labels, predictions.text_ids
    counts, contents = kinds_of_texts(labels * len(confusion) + predictions.pred, texts, confusion.size)
    bounds = bootstrap_interval(
        lambda cells: macro_scores(cells.reshape(-1, *confusion.shape)), counts, contents=contents, seed=seed
    )
    result = dict(zip(MACRO_NAMES, bounds.T.tolist(), strict=True))
    if auc_scores is None:
        result["auc"] = None
    else:
        one_each, aucs = np.ones(texts.max() + 1, dtype=np.int64), resampled_auc(auc_scores, labels, texts)
        bounds = bootstrap_interval(lambda weights: macro_auc(aucs(weights)), one_each, seed=seed)
        result["auc"] = bounds.tolist()

    # Where every resample gives the same value, the bootstrap has nothing to vary and would claim certainty:
    # resampling rows that are all right knows of no wrong one.
    for name, interval in result.items():
        if interval is not None and interval[0] == interval[1]:
            result[name] = None
    share_right = float(np.trace(confusion) / confusion.sum())
    if share_right in (0, 1):
        n = effective_size(texts)
        result["accuracy"] = list(clopper_pearson_interval(share_right * n, n))
    return result


def kinds_of_texts(cells: np.ndarray, text_ids: np.ndarray, size: int):
    """Texts whose rows fall into the same of `size` cells are of one kind: (texts of each (K,), rows (K, size)).

    The second is sparse: of a hundred classes' 10,000 cells, a kind has rows in one.
    """
    from scipy.sparse import csr_array

    of_text: dict[int, list[int]] = defaultdict(list)
    for text, cell in zip(text_ids.tolist(), cells.tolist(), strict=True):
        of_text[text].append(cell)
    counts = Counter(tuple(sorted(found)) for found in of_text.values())
    kinds = sorted(counts)
    where = (np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds]), np.concatenate(kinds))
    contents = csr_array((np.ones(len(where[0])), where), shape=(len(kinds), size))
    return np.array([counts[kind] for kind in kinds]), contents


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """above / below, and `empty` where there is nothing below the line."""
    return np.divide(above, below, out=np.full(np.shape(above), empty), where=np.asarray(below) > 0)
