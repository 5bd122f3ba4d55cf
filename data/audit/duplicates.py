"""Repeats, contradictions and leaks of a data set, counted: pure functions on rows, no model.

    >>> rows = Rows(["很好", "很好！", "很好", "差"], [1, 1, 0, 0])
    >>> figures = split_figures(rows)
    >>> figures["repeated_rows"], figures["both_labels"]["texts"]
    (2, 1)

Two texts are the same when their `text_hash` is: punctuation, width and case do not count.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from data.dataset import Rows
from data.preprocessing import clean_text, normalize_for_matching, text_hash

SHOWN_EXAMPLES = 10


def rows_by_text(rows: Rows) -> dict[str, list[int]]:
    """Hash -> positions of the rows with this text, in the order of first appearance."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, text in enumerate(rows.texts):
        found[text_hash(text)].append(position)
    return dict(found)


def both_labels(rows: Rows) -> dict[str, list[int]]:
    """The part of `rows_by_text` whose rows do not all have the same label."""
    return {
        digest: positions
        for digest, positions in rows_by_text(rows).items()
        if len({rows.labels[i] for i in positions}) > 1
    }


def split_figures(rows: Rows) -> dict[str, Any]:
    """Figures of one split. `repeated_rows` is rows minus distinct texts; row numbers count from 1."""
    by_text, contradictory = rows_by_text(rows), both_labels(rows)
    bare = [i + 1 for i, text in enumerate(rows.texts) if not normalize_for_matching(text)]
    return {
        "n": len(rows),
        "labels": rows.label_counts(),
        "distinct_texts": len(by_text),
        "repeated_rows": len(rows) - len(by_text),
        "both_labels": {
            "texts": len(contradictory),
            "rows": sum(map(len, contradictory.values())),
            "examples": [_example(rows, positions) for positions in list(contradictory.values())[:SHOWN_EXAMPLES]],
        },
        "without_letters_or_digits": {"n": len(bare), "rows": bare[:SHOWN_EXAMPLES]},
        "characters": length_figures(rows.texts),
    }


def _example(rows: Rows, positions: list[int]) -> dict[str, Any]:
    example = {
        "text": clean_text(rows.texts[positions[0]]),
        "rows": [i + 1 for i in positions],
        "labels": [rows.label_names[rows.labels[i]] for i in positions],
    }
    if rows.where is not None:
        example |= {"file": rows.source, "where": [rows.where[i] for i in positions]}
    return example


def overlaps(splits: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """For each ordered pair of splits, how many rows of `split` have a text that also stands in `also_in`.

    `other_label` of those rows meet a label there that is not their own.
    """
    labels_of = {name: _labels_by_text(rows) for name, rows in splits.items()}
    found = []
    for name, other in permutations(splits, 2):
        pairs = zip(map(text_hash, splits[name].texts), splits[name].labels, strict=True)
        shared = [(labels_of[other][digest], label) for digest, label in pairs if digest in labels_of[other]]
        found.append(
            {
                "split": name,
                "also_in": other,
                "rows": len(shared),
                "share": len(shared) / len(splits[name]),
                "other_label": sum(labels != {label} for labels, label in shared),
            }
        )
    return found


def _labels_by_text(rows: Rows) -> dict[str, set[int]]:
    return {digest: {rows.labels[i] for i in positions} for digest, positions in rows_by_text(rows).items()}


def length_figures(texts: list[str]) -> dict[str, float]:
    """Characters of the cleaned texts: mean, quantiles (the smallest length that covers the share), maximum."""
    lengths = np.array([len(clean_text(text)) for text in texts])
    median, p95, p99 = np.percentile(lengths, [50, 95, 99], method="inverted_cdf")
    return {
        "min": int(lengths.min()),
        "median": int(median),
        "mean": round(float(lengths.mean()), 1),
        "p95": int(p95),
        "p99": int(p99),
        "max": int(lengths.max()),
    }
