"""A part of the rows in which the labels keep their shares."""

import random
from collections import defaultdict

from data.rows import Rows


def stratified_sample(rows: Rows, size: int, seed: int, each: int = 0) -> Rows:
    """At most `size` rows with the labels' shares kept as nearly as whole rows allow, in the original order.

    `each` (0 or 1) rows of every label come first and the shares are those of the others; `size` must hold them.
    """
    if size >= len(rows):
        return rows
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(rows.labels):
        by_label[label].append(index)
    rng, chosen, seen = random.Random(seed), [], 0
    others, asked = len(rows) - each * len(by_label), size - each * len(by_label)
    for label in sorted(by_label):
        # Cumulative rounding: the quotas add up to `size` exactly.
        before, seen = round(asked * seen / others), seen + len(by_label[label]) - each
        chosen += rng.sample(by_label[label], each + round(asked * seen / others) - before)
    return rows.select(sorted(chosen))
