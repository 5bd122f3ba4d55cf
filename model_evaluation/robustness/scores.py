"""Does the answer stay when the wording changes and the meaning does not? Figures from texts and logits alone.

    plan = plan_robustness(texts, labels, load_suite(), seed=42)
    result = score_robustness(plan, logits_of)  # logits_of: list of N texts -> (N, C)

Planning and scoring are apart so that a caller can add the plan's texts to others and run the model once over all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.dataset import LABEL_NAMES
from model_evaluation.metrics.intervals import wilson_interval
from model_evaluation.robustness.behaviour_suite import Ability, score_suite, suite_texts
from model_evaluation.robustness.perturbations import PERTURBATIONS, perturb
from prediction.prediction_set import Predictions

EXAMPLES = 5
LogitsOf = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class RobustnessPlan:
    """The rows (N), what each becomes under every perturbation and strength (None: does not apply), and the suite.

    `skipped` says why a perturbation, or the suite ("behaviour"), has no place with these labels.
    """

    texts: list[str]
    labels: list[int]
    variants: dict[str, dict[float, list[str | None]]]
    suite: list[Ability]
    skipped: dict[str, str] = field(default_factory=dict)

    def requested_texts(self) -> list[str]:
        """Every text whose answer is needed, repeats included."""
        variants = [changed for strengths in self.variants.values() for changed in strengths.values()]
        changed = [text for texts in variants for text in texts if text is not None]
        return [*self.texts, *changed, *suite_texts(self.suite)[0]]


def plan_robustness(
    texts: Sequence[str],
    labels: Sequence[int],
    suite: Sequence[Ability],
    *,
    seed: int,
    label_names: Sequence[str] = LABEL_NAMES,
    progress: bool = False,
) -> RobustnessPlan:
    """Perturb every text; `progress` shows a bar over the perturbations.

    The suite, and the perturbations that follow the label, know 负面 and 正面 alone: with other `label_names` they
    are skipped, and the plan says why.
    """
    from tqdm import tqdm

    texts, labels, suite = list(texts), list(labels), list(suite)
    skipped = {}
    if list(label_names) != LABEL_NAMES:
        suite = []
        names = ["behaviour", *(kind.name for kind in PERTURBATIONS.values() if kind.needs_label)]
        reason = f"只适用于标签 {'、'.join(LABEL_NAMES)}，这个适配器的标签不是这两种"
        skipped = dict.fromkeys(names, reason)

    variants: dict[str, dict[float, list[str | None]]] = {}
    for kind in tqdm(PERTURBATIONS.values(), desc="改写评论", unit="种", leave=False, disable=not progress):
        variants[kind.name] = {}
        for strength in kind.strengths:
            if kind.name in skipped:
                variants[kind.name][strength] = [None] * len(texts)
            else:
                variants[kind.name][strength] = perturb(texts, labels, kind.name, strength, seed)
    return RobustnessPlan(texts, labels, variants, suite, skipped)


def robustness_result(
    texts: Sequence[str], labels: Sequence[int], logits_of: LogitsOf, *, suite: Sequence[Ability], seed: int
) -> dict:
    """`score_robustness` of rows: calls `logits_of` once, with all distinct texts, sorted."""
    return score_robustness(plan_robustness(texts, labels, suite, seed=seed), logits_of)


def score_robustness(plan: RobustnessPlan, logits_of: LogitsOf) -> dict:
    """n, original_accuracy, perturbed_accuracy, robustness_score, perturbation_tests and behaviour, JSON-ready.

    The figures of a test are those of its middle strength; `strengths` has them all. Overall, each row counts once:
    `perturbed_accuracy` is the mean over rows of the share of a row's changed versions (of all tests at middle
    strength) that are answered rightly; a row that nothing applies to counts as it stands. So it is compared
    with `original_accuracy` on the same rows, whatever the number of versions of each. A score is perturbed
    accuracy / original accuracy, None where nothing was right before. What was skipped has a `reason`, the suite
    `behaviour_reason`. ValueError if there are no rows.
    """
    if not plan.texts:
        raise ValueError("没有可评估的数据：一条评论也没有")
    lookup = _Lookup(plan.requested_texts(), logits_of)
    original = lookup.predictions(plan.texts, plan.labels)
    tests = {name: _score_test(name, strengths, original, lookup) for name, strengths in plan.variants.items()}
    for name in tests.keys() & plan.skipped.keys():
        tests[name]["reason"] = plan.skipped[name]
    before, after = _overall(plan, original, lookup)
    return {
        "n": len(original),
        "original_accuracy": before,
        "perturbed_accuracy": after,
        "robustness_score": after / before if before else None,
        "perturbation_tests": tests,
        "behaviour": score_suite(plan.suite, lookup.predictions(*suite_texts(plan.suite)).pred) if plan.suite else None,
        "behaviour_reason": plan.skipped.get("behaviour"),
    }


class _Lookup:
    """Answers by text, from one call of the model."""

    def __init__(self, texts: list[str], logits_of: LogitsOf):
        distinct = sorted(set(texts))
        self._logits = np.asarray(logits_of(distinct))
        self._row = {text: row for row, text in enumerate(distinct)}

    def predictions(self, texts: Sequence[str], labels: Sequence[int] | np.ndarray) -> Predictions:
        return Predictions(list(texts), self._logits[[self._row[text] for text in texts]], np.asarray(labels))


def _middle(strengths: dict[float, list[str | None]]) -> float:
    return sorted(strengths)[len(strengths) // 2]


def _score_test(name: str, strengths: dict[float, list[str | None]], original: Predictions, lookup: _Lookup) -> dict:
    pairs = {strength: _pair(original, changed, lookup) for strength, changed in strengths.items()}
    middle = pairs[_middle(strengths)]
    kind = PERTURBATIONS[name]
    return {
        "title": kind.title,
        "description": kind.description,
        "n": len(original),
        **_compare(*middle),
        "strengths": {str(strength): _compare(*pair) for strength, pair in pairs.items()},
        "examples": _worst(*middle),
    }


def _pair(original: Predictions, changed: list[str | None], lookup: _Lookup) -> tuple[Predictions, Predictions]:
    """The same rows before and after, those alone that the perturbation applies to."""
    applies = [i for i, text in enumerate(changed) if text is not None]
    before = original.select(np.array(applies, dtype=np.int64))
    if not applies:
        return before, before
    return before, lookup.predictions([changed[i] for i in applies], before.labels)


def _compare(before: Predictions, after: Predictions) -> dict:
    """Accuracy before and after and the share of changed answers; all None where nothing applied."""
    applied = len(before)
    right_before, right_after = (int((side.pred == side.labels).sum()) for side in (before, after))
    flips = int((before.pred != after.pred).sum())
    return {
        "applied": applied,
        "original_accuracy": right_before / applied if applied else None,
        "perturbed_accuracy": right_after / applied if applied else None,
        "original_interval": _interval(right_before, applied),
        "perturbed_interval": _interval(right_after, applied),
        "flip_rate": flips / applied if applied else None,
        "flip_interval": _interval(flips, applied),
        "robustness_score": right_after / right_before if right_before else None,
    }


def _interval(count: int, n: int) -> list[float] | None:
    return list(wilson_interval(count, n)) if n else None


def _worst(before: Predictions, after: Predictions) -> list[dict]:
    """Rows that were right and are now wrong, the surest first."""
    lost = np.flatnonzero((before.pred == before.labels) & (after.pred != after.labels))
    sure_before, sure_after = before.confidence, after.confidence
    worst = sorted(lost.tolist(), key=lambda i: (-sure_after[i], before.texts[i]))[:EXAMPLES]
    return [
        {
            "text": before.texts[i],
            "perturbed": after.texts[i],
            "label": int(before.labels[i]),
            "pred_before": int(before.pred[i]),
            "pred_after": int(after.pred[i]),
            "confidence_before": float(sure_before[i]),
            "confidence_after": float(sure_after[i]),
        }
        for i in worst
    ]


def _overall(plan: RobustnessPlan, original: Predictions, lookup: _Lookup) -> tuple[float, float]:
    """(accuracy, mean over rows of the share of right answers among a row's changed versions)."""
    right = original.pred == original.labels
    versions, right_versions = np.zeros(len(original)), np.zeros(len(original))
    for strengths in plan.variants.values():
        changed = strengths[_middle(strengths)]
        applies = np.array([text is not None for text in changed])
        _, after = _pair(original, changed, lookup)
        versions[applies] += 1
        right_versions[applies] += after.pred == after.labels
    shares = np.divide(right_versions, versions, out=right.astype(float), where=versions > 0)
    return float(right.mean()), float(shares.mean())
