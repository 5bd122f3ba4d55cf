"""The one shape of labelled text: two lists of equal length."""

from dataclasses import dataclass


@dataclass
class Rows:
    """`texts[i]` has the label id `labels[i]`."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices) -> "Rows":
        """The rows at `indices`, in that order."""
        return Rows([self.texts[i] for i in indices], [self.labels[i] for i in indices])
