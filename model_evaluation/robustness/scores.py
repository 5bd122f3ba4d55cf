"""Accuracy before and after changes of the wording that keep the meaning, from texts and logits alone.

    plan = plan_robustness(texts, labels, load_suite(), seed=42)
    cache.predict_missing(plan.requested_texts())
    result = score_robustness(plan, cache.logits)

Planning and scoring are apart so that a caller can add the plan's texts to others and run the model once over all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.dataset import LABEL_NAMES
from data.polarity import Polarity, polarity_of, skipped_reason
from model_evaluation.metrics.intervals import share_interval
from model_evaluation.robustness.behaviour_suite import Ability, score_suite, suite_texts, with_label_ids
from model_evaluation.robustness.perturbations import PERTURBATIONS, perturb
from prediction.prediction_set import Predictions
from runtime.terminal import ProgressBar

EXAMPLES = 5
LogitsOf = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class RobustnessPlan:
    """N rows, what each becomes under every perturbation and strength (None: does not apply), and the suite.

    `variants`: name -> strength -> N texts. `skipped` says why a perturbation, or the suite ("behaviour"), has no
    place with these labels.
    """

    texts: list[str]
    labels: list[int]
    variants: dict[str, dict[float, list[str | None]]]
    suite: list[Ability]
    skipped: dict[str, str] = field(default_factory=dict)

    def requested_texts(self) -> list[str]:
        """Every text whose answer is needed, repeats included."""
        requested = list(self.texts)
        for strengths in self.variants.values():
            for changed in strengths.values():
                requested += [text for text in changed if text is not None]
        return requested + suite_texts(self.suite)[0]


def plan_robustness(
    texts: Sequence[str],
    labels: Sequence[int],
    suite: Sequence[Ability],
    *,
    seed: int,
    label_names: Sequence[str] = LABEL_NAMES,
    polarity: Polarity | None = None,
    progress: bool = False,
) -> RobustnessPlan:
    """Perturb every text; `progress` shows a bar over the perturbations.

    The suite, and the perturbations that follow the label, are about the two sentiments: `polarity` are their label
    ids, by default as the words of `label_names` tell. Where neither does, they are skipped, and the plan says why.
    Rows of other labels are not changed by perturbations that follow the label.
    """
    texts, labels, suite = list(texts), list(labels), list(suite)
    skipped = {}
    polarity = polarity or polarity_of(label_names)
    if polarity is None:
        suite = []
        names = ["behaviour", *(kind.name for kind in PERTURBATIONS.values() if kind.needs_label)]
        skipped = dict.fromkeys(names, skipped_reason(label_names))
    else:
        suite = with_label_ids(suite, polarity)
    meaning = {label_id: sentiment for sentiment, label_id in enumerate(polarity or ())}  # 0 = negative, 1 = positive
    sentiments = [meaning.get(label) for label in labels]

    variants: dict[str, dict[float, list[str | None]]] = {}
    with ProgressBar(len(PERTURBATIONS), "改写评论" if progress else None, "种") as bar:
        for kind in PERTURBATIONS.values():
            variants[kind.name] = {}
            for strength in kind.strengths:
                if kind.name in skipped:
                    variants[kind.name][strength] = [None] * len(texts)
                else:
                    variants[kind.name][strength] = perturb(texts, sentiments, kind.name, strength, seed)
            bar.update(1)
    return RobustnessPlan(texts, labels, variants, suite, skipped)


def score_robustness(plan: RobustnessPlan, logits_of: LogitsOf) -> dict:
    """n, n_texts (different ones), original_accuracy, perturbed_accuracy, robustness_score, perturbation_tests and
    behaviour, JSON-ready.

    `logits_of` looks up the logits (M, C) of M of the plan's texts; it is called for each perturbation and strength.
    The figures of a test are those of its middle strength; `strengths` has them all. Overall, each row counts once:
    `perturbed_accuracy` is the mean over rows of the share of a row's changed versions (of all tests at middle
    strength) that are answered rightly; a row that nothing applies to counts as it stands. So it is compared
    with `original_accuracy` on the same rows, whatever the number of versions of each. A score is perturbed
    accuracy / original accuracy, None where nothing was right before. What was skipped has a `reason`, the suite
    `behaviour_reason`.
    """
    original = Predictions(plan.texts, logits_of(plan.texts), np.array(plan.labels))
    # (N,) each: changed versions of each row at middle strength, and those answered rightly.
    versions, right_versions = np.zeros((2, len(original)))

    tests = {}
    for name, strengths in plan.variants.items():
        compared = {s: _before_and_after(original, changed, logits_of) for s, changed in strengths.items()}
        rows, before, after = compared[sorted(strengths)[len(strengths) // 2]]
        versions[rows] += 1
        right_versions[rows] += after.pred == after.labels
        tests[name] = {
            "title": PERTURBATIONS[name].title,
            "description": PERTURBATIONS[name].description,
            "n": len(original),
            **_compare(before, after),
            "strengths": {str(strength): _compare(*pair) for strength, (_, *pair) in compared.items()},
            "examples": _worst(before, after),
        }
        if name in plan.skipped:
            tests[name]["reason"] = plan.skipped[name]

    behaviour = None
    if plan.suite:
        behaviour = score_suite(plan.suite, logits_of(suite_texts(plan.suite)[0]).argmax(axis=1))

    right = (original.pred == original.labels).astype(float)
    original_accuracy = float(right.mean())
    perturbed_accuracy = float(np.divide(right_versions, versions, out=right, where=versions > 0).mean())
    return {
        "n": len(original),
        "n_texts": len(original.first_rows),
        "original_accuracy": original_accuracy,
        "perturbed_accuracy": perturbed_accuracy,
        "robustness_score": perturbed_accuracy / original_accuracy if original_accuracy else None,
        "perturbation_tests": tests,
        "behaviour": behaviour,
        "behaviour_reason": plan.skipped.get("behaviour"),
    }


def _before_and_after(
    original: Predictions, changed: list[str | None], logits_of: LogitsOf
) -> tuple[list[int], Predictions, Predictions]:
    """The indices of the M rows that a perturbation applies to, and their predictions before and after it."""
    rows = [i for i, text in enumerate(changed) if text is not None]
    before = original.select(np.array(rows, dtype=np.int64))
    if not rows:
        return rows, before, before
    texts = [text for text in changed if text is not None]
    return rows, before, Predictions(texts, logits_of(texts), before.labels)


def _compare(before: Predictions, after: Predictions) -> dict:
    """Accuracy before and after and the share of changed answers, each with its interval; None where nothing applied.

    The intervals are 95% and count original texts: the changed versions of copies are no further evidence.
    """
    applied = len(before)
    if not applied:
        names = ("original_accuracy", "perturbed_accuracy", "original_interval", "perturbed_interval")
        return {"applied": 0, **dict.fromkeys([*names, "flip_rate", "flip_interval", "robustness_score"])}
    texts = before.text_ids
    right_before = before.pred == before.labels
    right_after = after.pred == after.labels
    flips = before.pred != after.pred
    return {
        "applied": applied,
        "original_accuracy": float(right_before.mean()),
        "perturbed_accuracy": float(right_after.mean()),
        "original_interval": share_interval(right_before, texts),
        "perturbed_interval": share_interval(right_after, texts),
        "flip_rate": float(flips.mean()),
        "flip_interval": share_interval(flips, texts),
        "robustness_score": float(right_after.sum() / right_before.sum()) if right_before.any() else None,
    }


def _worst(before: Predictions, after: Predictions) -> list[dict]:
    """Rows that were right and are now wrong, the most confident first."""
    lost = np.flatnonzero((before.pred == before.labels) & (after.pred != after.labels))
    confidence_before, confidence_after = before.confidence, after.confidence
    worst = sorted(lost.tolist(), key=lambda i: (-confidence_after[i], before.texts[i]))[:EXAMPLES]
    return [
        {
            "text": before.texts[i],
            "perturbed": after.texts[i],
            "label": int(before.labels[i]),
            "pred_before": int(before.pred[i]),
            "pred_after": int(after.pred[i]),
            "confidence_before": float(confidence_before[i]),
            "confidence_after": float(confidence_after[i]),
        }
        for i in worst
    ]
