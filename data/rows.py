"""The one shape of labelled text, and the names of the labels."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

LABEL_NAMES = ["负面", "正面"]  # label id -> name


@dataclass
class Rows:
    """`texts[i]` has the label id `labels[i]`."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        chosen = list(indices)
        return Rows([self.texts[i] for i in chosen], [self.labels[i] for i in chosen])

    def fingerprint(self) -> str:
        """16 hex digits that change when any text, label or the order does."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{label}\t{len(text)}\t{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]
