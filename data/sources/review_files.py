"""Read reviews from .jsonl, .json, .csv, .tsv, .parquet and .txt files, and name every bad row by file and line.

    rows = read_labelled_file(Path("reviews.csv"), "text", "label")

Nothing is skipped in silence: a row without text or with an unknown label ends the reading with a
message that lists the first ten of them.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.dataset import LABEL_NAMES, Rows
from data.labels import find_labels, label_id, label_key, shown_labels
from data.preprocessing import clean_text
from data.sources.record_reader import BadRow, Record, read_records, require_file, text_lines
from runtime.errors import UserError

SHOWN_PROBLEMS = 10


def read_labelled_file(
    path: Path, text_column: str, label_column: str, names: Sequence[str] | None = LABEL_NAMES
) -> Rows:
    """All rows of a file; `UserError` that lists the bad ones, if there are any.

    Label ids are positions in `names`, and another label makes a row a bad one; with None the file's own labels
    are the names (`find_labels`).
    """

    def parse(record: dict[str, Any]) -> tuple[str, Any]:
        return _text_of(record, text_column), _label_of(record, label_column, names)

    pairs = _parse_all(path, parse, {text_column, label_column})
    names = find_labels([value for _, value in pairs], str(path)) if names is None else list(names)
    return Rows([text for text, _ in pairs], [label_id(value, names) for _, value in pairs], names)


def read_texts(path: Path, text_column: str) -> Iterator[str]:
    """Only the texts of a file, a few in memory at a time; a .txt file has one review a line.

    Bad rows are told at the end, when the sound ones have been handed out: go through it once before using any.
    """
    records = _txt(path, text_column) if path.suffix.lower() == ".txt" else read_records(path, {text_column})
    return _parsed_rows(path, records, lambda record: _text_of(record, text_column))


def _txt(path: Path, column: str) -> Iterator[Record]:
    require_file(path)
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield f"第 {number} 行", {column: line.rstrip("\r\n")}


def _parse_all(path: Path, parse: Callable[[dict[str, Any]], Any], columns: set[str]) -> list[Any]:
    return list(_parsed_rows(path, read_records(path, columns), parse))


def _parsed_rows(path: Path, records: Iterator[Record], parse: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    """What `parse` makes of each row; the bad ones of the whole file are told together, at its end."""
    found, bad, shown = 0, 0, []
    for where, record in records:
        try:
            if isinstance(record, BadRow):
                raise record
            parsed = parse(record)
        except BadRow as error:
            bad += 1
            shown += [f"{where}：{error}"] if bad <= SHOWN_PROBLEMS else []
        else:
            found += 1
            yield parsed
    if bad:
        more = f"\n  ……共 {bad} 行有问题" if bad > SHOWN_PROBLEMS else ""
        raise UserError(f"{path} 有不能用的行，请改正后再运行：\n  " + "\n  ".join(shown) + more)
    if not found:
        raise UserError(f"{path} 里没有数据行")


def _text_of(record: dict[str, Any], column: str) -> str:
    if column not in record:
        raise BadRow(f"没有 {column} 列（有 {'、'.join(map(str, record)) or '无'}）；用 --text_column 指定")
    text = record[column]
    if not isinstance(text, str):
        raise BadRow(f"{column} 应为文本，得到 {text!r:.60}")
    if not clean_text(text):
        raise BadRow(f"{column} 是空的")
    return text


def _label_of(record: dict[str, Any], column: str, names: Sequence[str] | None) -> Any:
    """The value in the label column, once it is sure that it spells a label."""
    if column not in record:
        raise BadRow(f"没有 {column} 列（有 {'、'.join(map(str, record))}）；用 --label_column 指定")
    value = record[column]
    if names is None and label_key(value) is None:
        raise BadRow(f"{column} 应为文字或数，得到 {value!r:.60}")
    if names is not None and label_id(value, names) is None:
        known = "0（负面）或 1（正面）" if names == LABEL_NAMES else f"{shown_labels(names)} 之一"
        raise BadRow(f"{column} 应为 {known}，得到 {value!r:.60}")
    return value
