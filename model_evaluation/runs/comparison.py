"""What several evaluations have in common and where they differ, from their files alone.

runs = {name: read_run(Path(name)) for name in ("results_a", "results_b")}
comparison = compare(runs)  # JSON-ready; no text of a review is in it
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data.preprocessing import text_hash
from model_evaluation.metrics.intervals import mcnemar_exact
from model_evaluation.report.results import FOREIGN_FILE_ERRORS, SECTIONS, Results, read_results, unexpected
from prediction.prediction_set import Predictions
from runtime.errors import UserError
from runtime.run_info import environment

FIGURES = ("n", "n_texts", "accuracy", "precision", "recall", "f1", "auc", "intervals")
# Settings that say where and how often something is written, and nothing about the model.
NO_MATTER = {"output_dir", "overwrite", "resume_from_checkpoint", "save_steps", "save_total_limit", "report_to"}


def read_run(folder: Path) -> Results:
    """The files of an evaluation; a `UserError` where it is not finished, or where they do not belong together."""
    results = read_results(folder)
    metrics, predictions = results.data.get("metrics"), results.predictions
    for name, content in (("metrics.json", metrics), ("predictions.jsonl", predictions)):
        if name in results.problems:
            raise UserError(f"{folder}：{results.problems[name]}")
        if content is None:
            raise UserError(f"{folder} 这次评估没有做完，缺 {name}；先运行 {results.command(SECTIONS[0])}")
    if predictions.labels is None:
        raise UserError(f"{folder}/predictions.jsonl 没有标签，不知道哪些判对了")
    try:
        _figures(metrics)
    except FOREIGN_FILE_ERRORS as error:
        raise UserError(f"{folder}：{unexpected('metrics.json', error)}") from None
    if results.predictions_are_of_another_run():
        raise UserError(f"{folder} 里的 metrics.json 与 predictions.jsonl 不是同一次预测，不能比较；请重新评估")
    return results


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of all rows, and of the unseen ones (None where there are none or nobody has looked)."""
    unseen = metrics.get("unseen")
    return {
        **{name: metrics[name] for name in FIGURES if name != "n_texts"},
        "n_texts": metrics.get("n_texts"),
        "unseen": unseen and {name: unseen[name] for name in ("n", "accuracy", "f1", "intervals")},
        "ordinal": metrics.get("ordinal"),
    }


def compare(runs: Mapping[str, Results]) -> dict[str, Any]:
    """`runs`, `settings` that differ (name -> a value for each run), `pairs` and `environment`, JSON-ready.

    A pair: `runs` (two positions), `rows` that both have answered, how many different `texts` those are, and on them
    the two values of `accuracy`, and McNemar's `b` (texts that the first alone has right), `c` and `p_value`; None
    where they have no row in common. `other_label` counts rows of the first whose text the second has under another
    label. `UserError` where the labels differ, or where no pair has a row in common.
    """
    for name, results in runs.items():
        first, labels = next(iter(runs.items()))
        if set(results.labels) != set(labels.labels):
            both = f"{first}：{'、'.join(labels.labels)}；{name}：{'、'.join(results.labels)}"
            raise UserError(f"标签不同的评估不能比较（{both}）")
    everyone = list(runs.values())
    pairs = [_pair(i, j, everyone[i], everyone[j]) for i, j in combinations(range(len(everyone)), 2)]
    if not any(pair["rows"] for pair in pairs):
        raise UserError(
            f"这些评估没有共同的行（文本和标签都相同的），不能比较：{'、'.join(runs)}；"
            "请用同样的 --dataset 或 --test_file 和 --split 评估"
        )
    return {
        "runs": [_described(name, results) for name, results in runs.items()],
        "same_rows": all(pair["rows"] == len(run.predictions) for pair in pairs for run in everyone),
        "settings": differing_settings(everyone),
        "pairs": pairs,
        "environment": environment(),
    }


def _described(name: str, results: Results) -> dict[str, Any]:
    metrics = results.data["metrics"]
    keys = ("model_path", "model_fingerprint", "data")
    about = {key: metrics.get(key) for key in keys}
    time = (metrics.get("environment") or {}).get("time")
    return {"name": name, **about, "time": time, "has_settings": bool(results.run), **_figures(metrics)}


def differing_settings(everyone: Sequence[Results]) -> dict[str, list[Any]]:
    """Flags of the training and of the evaluation whose values are not all the same, the training's first."""
    found = {}
    for part, prefix in (("training", ""), ("flags", "评估的 ")):
        settings = [(results.run.get(part) or {}) if results.run else None for results in everyone]
        known = [values for values in settings if values is not None]
        for name in sorted({name for values in known for name in values} - NO_MATTER):
            if len({json.dumps(values.get(name) or None) for values in known}) > 1:
                found[prefix + name] = [None if values is None else values.get(name) for values in settings]
    return found


def _pair(i: int, j: int, one: Results, other: Results) -> dict[str, Any]:
    ours, theirs = common_rows(one.predictions, other.predictions, one.labels, other.labels)
    hashes = set(map(text_hash, other.predictions.texts))
    shared = sum(text_hash(text) in hashes for text in one.predictions.texts)
    pair: dict[str, Any] = {"runs": [i, j], "rows": len(ours), "other_label": shared - len(ours)}
    if not len(ours):
        return pair | {"texts": 0, "accuracy": None, "b": None, "c": None, "p_value": None}
    answers = [one.predictions.select(ours), other.predictions.select(theirs)]
    right = [found.pred == found.labels for found in answers]
    return pair | {
        "texts": len(answers[0].first_rows),
        "accuracy": [float(hits.mean()) for hits in right],
        **mcnemar_exact(right[0], right[1], answers[0].text_ids),
    }


def common_rows(
    one: Predictions, other: Predictions, names: Sequence[str], other_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (K,) in each of the rows of the same text (by its hash) and label (by its name), in the first's order.

    Of rows that stand several times, the k-th belongs to the other's k-th.
    """
    ours, theirs = _row_keys(one, names), _row_keys(other, other_names)
    positions = {key: i for i, key in enumerate(theirs)}
    pairs = [(i, positions[key]) for i, key in enumerate(ours) if key in positions]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second


def _row_keys(predictions: Predictions, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """(hash of the text, name of the label, how many such rows stand before) of each row."""
    before: Counter = Counter()
    keys = []
    for text, label in zip(predictions.texts, predictions.labels.tolist(), strict=True):
        row = (text_hash(text), names[label])
        keys.append((*row, before[row]))
        before[row] += 1
    return keys
