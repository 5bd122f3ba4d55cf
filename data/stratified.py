"""A part of the rows in which the labels keep their shares."""

import random
from collections import defaultdict

from data.dataset import Rows


def stratified_sample(rows: Rows, size: int, seed: int, each: int = 0) -> Rows:
    """At most `size` rows with the labels' shares kept as nearly as whole rows allow, in the original order.

    With `each` = 1 no label is left out, at the cost of the largest ones; `size` must be as many as there are labels.
    """
    if size >= len(rows):
        return rows
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(rows.labels):
        by_label[label].append(index)
    quotas, seen = {}, 0
    for label in sorted(by_label):
        # Cumulative rounding: the quotas add up to `size` exactly.
        before, seen = round(size * seen / len(rows)), seen + len(by_label[label])
        quotas[label] = round(size * seen / len(rows)) - before
    for label in [label for label, quota in quotas.items() if quota < each]:
        quotas[max(quotas, key=quotas.get)] -= 1
        quotas[label] += 1
    rng = random.Random(seed)
    return rows.select(sorted(i for label, quota in quotas.items() for i in rng.sample(by_label[label], quota)))
