"""The one shape of labelled text, and the names of the labels."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

LABEL_NAMES = ["负面", "正面"]  # label id -> name, where nothing else is said


@dataclass
class Rows:
    """`texts[i]` has the label id `labels[i]`, whose name is `label_names[labels[i]]`."""

    texts: list[str]
    labels: list[int]
    label_names: list[str] = field(default_factory=lambda: list(LABEL_NAMES))

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        chosen = list(indices)
        return Rows([self.texts[i] for i in chosen], [self.labels[i] for i in chosen], self.label_names)

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
