"""The behaviour suite: tests of what a sentiment classifier can and cannot do, one ability at a time.

In the manner of CheckList (Ribeiro et al. 2020, "Beyond Accuracy"): one accuracy over a test split hides what a model
fails at, so hand-written reviews test one ability each. The reviews are invented, and so are the shops and brands in
them. Pure functions; the model is asked elsewhere:

    suite = load_suite()
    texts, labels = suite_texts(suite)
    scores = score_suite(suite, pred)  # pred (N,) label ids, in the order of `texts`

The suite is `resources/behaviour_suite.json`, a list of abilities; its tests hold what a case and an ability must be.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from data.polarity import Polarity
from model_evaluation.metrics.intervals import wilson_interval
from model_evaluation.robustness.word_lists import RESOURCES


@dataclass(frozen=True)
class Case:
    """One review, its label id (0 = negative, 1 = positive), and why the label holds."""

    text: str
    label: int
    reason: str


@dataclass(frozen=True)
class Ability:
    """Cases that test one thing; `name` is an English id, `title` and `description` are for readers."""

    name: str
    title: str
    description: str
    cases: tuple[Case, ...]


def load_suite() -> list[Ability]:
    """The abilities of the suite, in the order of the file."""
    entries = json.loads((RESOURCES / "behaviour_suite.json").read_text(encoding="utf-8"))
    suite = []
    for entry in entries:
        cases = tuple(Case(**case) for case in entry.pop("cases"))
        suite.append(Ability(**entry, cases=cases))
    return suite


def with_label_ids(suite: Sequence[Ability], polarity: Polarity) -> list[Ability]:
    """The suite with the label ids of an adapter in place of 0 = negative, 1 = positive."""
    return [
        replace(ability, cases=tuple(replace(case, label=polarity[case.label]) for case in ability.cases))
        for ability in suite
    ]


def suite_texts(suite: Sequence[Ability]) -> tuple[list[str], list[int]]:
    """(texts, labels) of all N cases, ability after ability."""
    cases = [case for ability in suite for case in ability.cases]
    return [case.text for case in cases], [case.label for case in cases]


def score_suite(suite: Sequence[Ability], pred: np.ndarray) -> dict:
    """Scores of each ability and of all cases together, ready for JSON; `pred` (N,) in the order of `suite_texts`.

    Returns `{"overall": {n, accuracy, interval}, "abilities": {name: {title, description, n, accuracy, interval,
    wrong_by_label, failures}}}`: `interval` is the Wilson 95% interval [low, high] of the accuracy, `wrong_by_label`
    counts the failures by true label id.
    """
    remaining = pred.tolist()
    abilities = {}
    label_ids = sorted(set(suite_texts(suite)[1]))
    for ability in suite:
        n = len(ability.cases)
        answers, remaining = remaining[:n], remaining[n:]
        failures = []
        wrong_by_label = {str(label): 0 for label in label_ids}
        for case, answer in zip(ability.cases, answers, strict=True):
            if answer != case.label:
                failures.append({**asdict(case), "pred": answer})
                wrong_by_label[str(case.label)] += 1
        abilities[ability.name] = {
            "title": ability.title,
            "description": ability.description,
            **_accuracy(n - len(failures), n),
            "wrong_by_label": wrong_by_label,
            "failures": failures,
        }
    total = len(pred)
    wrong = sum(len(scores["failures"]) for scores in abilities.values())
    return {"overall": _accuracy(total - wrong, total), "abilities": abilities}


def _accuracy(right: int, n: int) -> dict:
    return {"n": n, "accuracy": right / n, "interval": list(wilson_interval(right, n))}
