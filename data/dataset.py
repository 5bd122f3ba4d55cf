"""Reviews as a source holds them, rows with label ids, and the names of labels and splits."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LABEL_NAMES = ["负面", "正面"]  # label id -> name, where nothing else is said


@dataclass(frozen=True)
class RawReview:
    """One row of a source, not yet checked: `where` it stands (第 3 行), or the `problem` that makes it no row."""

    where: str
    text: Any = None
    label: Any = None
    problem: str | None = None
    to_end: bool = False  # the problem may have swallowed the rows that follow
    others: Mapping[str, Any] = field(default_factory=dict)  # its other columns, where they are asked for


@dataclass
class Rows:
    """`texts[i]` has the label id `labels[i]`, whose name is `label_names[labels[i]]`, and stands at `where[i]`."""

    texts: list[str]
    labels: list[int]
    label_names: list[str] = field(default_factory=lambda: list(LABEL_NAMES))
    source: str = field(default="", compare=False)  # the file or data set
    where: list[str] | None = field(default=None, compare=False)  # in it, of each row: 第 3 行

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        chosen = list(indices)
        where = None if self.where is None else [self.where[i] for i in chosen]
        texts, labels = [self.texts[i] for i in chosen], [self.labels[i] for i in chosen]
        return Rows(texts, labels, self.label_names, self.source, where)

    def label_counts(self) -> dict[str, int]:
        """Label name -> number of its rows, in the order of the ids."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.label_names)}

    def fingerprint(self) -> str:
        """16 hex digits that change when any text, label, the order or the names of the labels do."""
        digest = hashlib.sha256()
        if self.label_names != LABEL_NAMES:  # so that adapters from before other names keep their fingerprints
            digest.update(json.dumps(self.label_names).encode())
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{label}\t{len(text)}\t{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


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
        quotas[max(quotas, key=lambda name: quotas[name])] -= 1
        quotas[label] += 1
    rng = random.Random(seed)
    return rows.select(sorted(i for label, quota in quotas.items() for i in rng.sample(by_label[label], quota)))
