"""Reviews of .jsonl, .json, .csv, .tsv, .xlsx, .parquet and .txt files; every bad row is named by file and line.

    rows = read_labelled_file(Path("reviews.csv"), "text", "label")

Nothing is skipped in silence: a row without text or with an unknown label ends the reading with a
message that lists the first ten of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.dataset import LABEL_NAMES, RawReview, Rows
from data.labels import labelled_rows, sound_reviews, text_problem
from data.sources.label_map import mapped_reviews
from data.sources.record_reader import NUL, BadRow, read_records, require_file, text_lines
from runtime.errors import UserError


def read_labelled_file(
    path: Path,
    text_column: str,
    label_column: str,
    names: Sequence[str] | None = LABEL_NAMES,
    encoding: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Rows:
    """All rows of a file; `UserError` that lists the bad ones, if there are any.

    Label ids are positions in `names`, and another label makes a row a bad one; with None the file's own labels
    are the names (`find_labels`). `label_map` (`read_label_map`) renames them before.
    """
    reviews = read_reviews(path, text_column, label_column, encoding)
    if label_map is not None:
        reviews = mapped_reviews(reviews, label_map, label_column)
    return labelled_rows(reviews, str(path), names, text_column, label_column)


def read_texts(path: Path, text_column: str, encoding: str | None = None) -> Iterator[str]:
    """Only the texts of a file, a few in memory at a time; a .txt file has one review a line.

    Bad rows are told at the end, when the sound ones have been handed out: go through it once before using any.
    """
    reviews = read_input(path, text_column, encoding)
    for review in sound_reviews(reviews, str(path), lambda review: text_problem(review.text, text_column)):
        yield review.text


def read_input(path: Path, text_column: str, encoding: str | None = None) -> Iterator[RawReview]:
    """Every row of a file to predict, with its `others`, a few in memory; a .txt file has one review a line."""
    if path.suffix.lower() == ".txt":
        return _txt(path, encoding)
    return read_reviews(path, text_column, None, encoding, others=True)


def read_reviews(
    path: Path,
    text_column: str,
    label_column: str | None = None,
    encoding: str | None = None,
    *,
    others: bool = False,
) -> Iterator[RawReview]:
    """Every row of a file as it stands, the unusable ones with their problem; without `label_column` no labels."""
    columns = {"--text_column": text_column}
    if label_column is not None:
        columns["--label_column"] = label_column
    advice = f"用 {' 和 '.join(columns)} 指定列名"
    for where, record in read_records(path, set(columns.values()), encoding, every=others, advice=advice):
        if isinstance(record, BadRow):
            yield RawReview(where, problem=str(record), to_end=record.to_end)
            continue
        # A .jsonl row need not have the columns that another has.
        missing = [(flag, column) for flag, column in columns.items() if column not in record]
        rest = {name: value for name, value in record.items() if name not in columns.values()} if others else {}
        if missing:
            flag, column = missing[0]
            there = "、".join(map(str, record)) or "无"
            problem = f"没有 {column} 列（有 {there}）；用 {flag} 指定"
            yield RawReview(where, problem=problem, others=rest)
        else:
            label = None if label_column is None else record[label_column]
            yield RawReview(where, record[text_column], label, others=rest)


def prediction_problem(review: RawReview, text_column: str) -> str | None:
    """The reason why a row cannot be predicted."""
    return review.problem or text_problem(review.text, text_column)


def refuse_swallowed_rows(path: Path, review: RawReview) -> None:
    """A `UserError` for a bad row that may hold the rows behind it, which would be lost with it if it were skipped."""
    if review.to_end:
        raise UserError(f"{path} {review.where}：{review.problem}；后面的行都混在里面，不能只跳过这一行，请改正")


def _txt(path: Path, encoding: str | None) -> Iterator[RawReview]:
    require_file(path)
    for number, line in enumerate(text_lines(path, encoding), start=1):
        if line.strip():
            yield RawReview(f"第 {number} 行", line.rstrip("\r\n"), problem=NUL if "\0" in line else None)
