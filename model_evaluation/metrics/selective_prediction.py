"""Answer only when sure: the price of answering more (risk-coverage curve), and a threshold that keeps a promise.

    >>> confidence = np.linspace(0.5, 1, 400)
    >>> chosen = choose_threshold(confidence, correct=confidence > 0.6, target_precision=0.95)
    >>> chosen["accepted"], round(chosen["threshold"], 3), round(chosen["precision"], 3)
    (329, 0.589, 0.973)

A threshold accepts the texts with confidence >= threshold; the others go to a person. What it promises, and on which
conditions, stands in `choose_threshold`.
"""

from collections.abc import Sequence

import numpy as np

from model_evaluation.metrics.classification import checked_labels
from model_evaluation.metrics.intervals import clopper_pearson_lower, share_interval
from prediction.prediction_set import Predictions, softmax

TARGETS = (0.95, 0.97, 0.99)
# The walk starts where so many errors still pass. Starting where none may occur ends it at the first unlucky row:
# simulated with 1,626 rows, 94% accuracy and target 0.95, it finds no threshold in 37% of all cases; with 3, in 4%.
FORGIVEN_ERRORS = 3


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> dict:
    """Error rate among the most confident texts, for every share of texts answered; arrays (N,).

    Returns {"threshold", "coverage", "risk"}: lists, a point for each distinct confidence, highest first;
    "aurc": the mean of the risk over coverages 1/N, 2/N, ..., 1 (Geifman & El-Yaniv 2017; Geifman et al. 2019);
    "aurc_best": what the same errors would cost with all of them ranked last; "error_rate": what a ranking by chance
    would cost. Texts of equal confidence enter together, inside such a group the risk is its mean over all orders of
    the group: the order of the rows never matters. ValueError if there are no rows.
    """
    threshold, accepted, errors = _walk(confidence, correct)
    n, wrong = int(accepted[-1]), int(errors[-1])
    # Mean over all orders: errors grow in a straight line from one group's end to the next.
    taken = np.arange(1, n + 1)
    expected_errors = np.interp(taken, np.r_[0, accepted], np.r_[0, errors])
    best_errors = np.maximum(0, taken - (n - wrong))
    return {
        "threshold": threshold.tolist(),
        "coverage": (accepted / n).tolist(),
        "risk": (errors / accepted).tolist(),
        "aurc": float((expected_errors / taken).mean()),
        "aurc_best": float((best_errors / taken).mean()),
        "error_rate": wrong / n,
    }


def choose_threshold(
    confidence: np.ndarray, correct: np.ndarray, target_precision: float, confidence_level: float = 0.95
) -> dict:
    """The smallest confidence of these texts, (N,), above which precision holds; {"threshold": None, "reason"} if none.

    One entry for each text: copies would be counted as evidence that they are not, and break the promise four times
    as often where each text stands five times. `threshold_table` takes the first row of each.
    Otherwise {"threshold", "accepted" (texts), "precision", "lower_bound" (Clopper-Pearson, one-sided), "coverage",
    "reason": None}.

    Trying all confidences and keeping the smallest that passes would try hundreds of times and break the promise.
    This is fixed-sequence testing (Maurer et al. 1995; for thresholds: Angelopoulos et al. 2021, "Learn then Test"):
    walk from the highest confidence down, demand that each threshold's lower bound reach the target, stop at the
    first that fails. A threshold that breaks the promise is accepted only if the first such one on the way passes its
    own test, so the 95% hold for the whole walk. Where the walk starts is settled by the number of texts and the
    confidences alone, never by who is right.

    What is promised: for 95% of all validation sets, texts with the confidences of the accepted ones are answered with
    at least the target precision on average. (The number right, given the confidences, is a sum of unequal coins;
    Hoeffding 1956 shows that the binomial test stays valid for it.) What is not: anything for texts of another
    origin, for a single text, for rows of which the often repeated are harder, or if these very texts also chose the
    model. The three targets are three promises of 95% each, not one of all three. ValueError if there are no texts
    or a rate is not inside 0..1.
    """
    if not (0 < target_precision < 1 and 0 < confidence_level < 1):
        raise ValueError(f"目标精确率和置信水平应在 0 与 1 之间，实际为 {target_precision} 和 {confidence_level}")
    threshold, accepted, errors = _walk(confidence, correct)
    n = int(accepted[-1])
    first = _first_look(n, target_precision, 1 - confidence_level)
    looks = np.flatnonzero(accepted >= first)
    if not len(looks):
        return _none(f"验证集只有 {n} 条不同的评论，要证明 {100 * target_precision:g}% 的精确率至少需要 {first} 条")
    passes = _passes(accepted[looks], errors[looks], target_precision, 1 - confidence_level)
    if not passes[0]:
        count, wrong = int(accepted[looks[0]]), int(errors[looks[0]])
        return _none(f"置信度最高的 {count} 条中已判错 {wrong} 条，不足以证明 {100 * target_precision:g}% 的精确率")
    last = looks[len(looks) - 1 if passes.all() else passes.argmin() - 1]
    count, right = int(accepted[last]), int(accepted[last] - errors[last])
    return {
        "threshold": float(threshold[last]),
        "accepted": count,
        "precision": right / count,
        "lower_bound": clopper_pearson_lower(right, count, confidence_level),
        "coverage": count / n,
        "reason": None,
    }


def threshold_table(
    validation_predictions: Predictions,
    test_predictions: Predictions,
    temperature: float,
    targets: Sequence[float] = TARGETS,
) -> list[dict]:
    """One row for each target: chosen on validation, then tried once on test.

    Row: {"target", "threshold", "reason", "validation": {"accepted", "accepted_texts", "precision", "lower_bound",
    "coverage"}, "test": {"accepted", "precision", "interval" (95%, Wilson, over texts), "coverage"}}; where there is no
    threshold, `threshold`, `validation` and `test` are None and `reason` says why; where no test row is accepted, so
    are the test's precision and interval. The choice and `lower_bound` count each text of the validation rows once, by
    its first row: where copies carry different labels, that row's label holds, which is as good as drawing one (the
    commonest label would flatter the model). `accepted`, `precision` and `coverage` are those of all rows.
    Confidences are those at `temperature`. With two classes it moves no row past another, so that it
    may be fitted on the same validation rows without touching the promise; with more it may, a little.
    """
    confidence, correct = _confidence_and_correct(validation_predictions, temperature)
    test = _confidence_and_correct(test_predictions, temperature)
    first = validation_predictions.first_rows
    table = []
    for target in targets:
        chosen = choose_threshold(confidence[first], correct[first], target)
        threshold, validation, tried = chosen["threshold"], None, None
        if threshold is not None:
            validation = apply_threshold(confidence, correct, threshold, validation_predictions.text_ids)
            del validation["interval"]  # of rows that the threshold was chosen on it would claim too much
            validation |= {"accepted_texts": chosen["accepted"], "lower_bound": chosen["lower_bound"]}
            tried = apply_threshold(*test, threshold, test_predictions.text_ids)
        row = {"target": target, "threshold": threshold, "reason": chosen["reason"]}
        table.append(row | {"validation": validation, "test": tried})
    return table


def apply_threshold(confidence: np.ndarray, correct: np.ndarray, threshold: float, text_ids: np.ndarray) -> dict:
    """Effect of a threshold on rows, (N,): accepted, precision and interval (None if none is accepted), coverage."""
    accepts = confidence >= threshold
    count, right = int(accepts.sum()), correct[accepts]
    return {
        "accepted": count,
        "precision": float(right.mean()) if count else None,
        "interval": share_interval(right, text_ids[accepts]) if count else None,
        "coverage": count / len(confidence),
    }


def _confidence_and_correct(predictions: Predictions, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    labels = checked_labels(predictions)
    return softmax(predictions.logits, temperature).max(axis=1), predictions.pred == labels


def _walk(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct confidences from the highest down, (K,), with how many rows each accepts and how many are wrong."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.shape != correct.shape or confidence.ndim != 1:
        raise ValueError(f"confidence {confidence.shape} and correct {correct.shape} must be (N,) both")
    if len(confidence) == 0:
        raise ValueError("没有可用于选择阈值的数据")
    distinct, group = np.unique(-confidence, return_inverse=True)
    accepted, errors = np.bincount(group).cumsum(), np.bincount(group[~correct], minlength=len(distinct)).cumsum()
    return -distinct, accepted, errors


def _first_look(rows: int, target: float, alpha: float) -> int:
    """Number of accepted rows from which the walk starts: room for up to 3 errors, in at most half of the rows.

    Where not even one error fits into half of them: the least number of rows that can pass, without any error.
    """
    from scipy.stats import binom

    least = int(np.ceil(np.log(alpha) / np.log(target)))  # smallest n with target^n <= alpha
    sizes = np.arange(least, max(least, rows // 2) + 1)
    passing = [np.flatnonzero(binom.cdf(errors, sizes, 1 - target) <= alpha) for errors in range(FORGIVEN_ERRORS + 1)]
    return max((int(sizes[found[0]]) for found in passing if len(found)), default=least)


def _passes(accepted: np.ndarray, errors: np.ndarray, target: float, alpha: float) -> np.ndarray:
    """Test whether the Clopper-Pearson lower bound is >= target, i.e. so few errors had a chance <= alpha there."""
    from scipy.stats import binom

    return binom.cdf(errors, accepted, 1 - target) <= alpha


def _none(reason: str) -> dict:
    return {"threshold": None, "reason": reason}
