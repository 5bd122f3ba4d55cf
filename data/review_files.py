"""Read reviews from .jsonl, .json, .csv, .tsv, .parquet and .txt files, and name every bad row by file and line.

    rows = read_labelled_file(Path("reviews.csv"), "text", "label")

Nothing is skipped in silence: a row without text or with an unknown label ends the reading with a
message that lists the first ten of them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from data.labels import find_labels, label_id, label_key, shown_labels
from data.preprocessing import clean_text
from data.rows import LABEL_NAMES, Rows

SHOWN_PROBLEMS = 10
Record = tuple[str, dict[str, Any]]  # (where it stands, e.g. "第 3 行", column -> value)


class BadRow(ValueError):
    """Why one row cannot be used."""


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


def read_texts(path: Path, text_column: str) -> list[str]:
    """Only the texts of a file; a .txt file has one review a line, blank lines are passed over."""
    if path.suffix.lower() == ".txt":
        lines = [line for line in _read_utf8(path).split("\n") if line.strip()]
        if not lines:
            raise UserError(f"{path} 里没有评论（每行一条）")
        return lines
    return _parse_all(path, lambda record: _text_of(record, text_column), {text_column})


def _parse_all(path: Path, parse: Callable[[dict[str, Any]], Any], columns: set[str]) -> list[Any]:
    found, problems = [], []
    for where, record in _records(path, columns):
        try:
            found.append(parse(record))
        except BadRow as error:
            problems.append(f"{where}：{error}")
    if problems:
        more = f"\n  ……共 {len(problems)} 行有问题" if len(problems) > SHOWN_PROBLEMS else ""
        raise UserError(f"{path} 有不能用的行，请改正后再运行：\n  " + "\n  ".join(problems[:SHOWN_PROBLEMS]) + more)
    if not found:
        raise UserError(f"{path} 里没有数据行")
    return found


def _text_of(record: dict[str, Any], column: str) -> str:
    if "" in record:  # how a reader hands over a row that it could not take apart
        raise BadRow(record[""])
    if column not in record:
        raise BadRow(f"没有 {column} 列（有 {'、'.join(map(str, record)) or '无'}）；用 --text_column 指定")
    text = record[column]
    if not isinstance(text, str):
        raise BadRow(f"{column} 应为文本，得到 {text!r}")
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


def _records(path: Path, columns: set[str]) -> Iterator[Record]:
    if not path.exists():
        raise UserError(f"没有这个文件：{path}")
    if not path.is_file():
        raise UserError(f"{path} 不是文件，请给出文件的路径")
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}：不认识的文件类型 {path.suffix!r}，应为 {' '.join(readers)} 之一")
    return reader(path, columns)


def _read_utf8(path: Path) -> str:
    """The file as text; a byte-order mark is dropped, another encoding is named with its line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"不能读 {path}：{error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} 第 {line} 行不是 UTF-8 编码。若是 GBK 文件，请先转换：\n"
            f"  iconv -f GB18030 -t UTF-8 {path.name} > 新文件"
        ) from None


def _jsonl(path: Path, columns: set[str]) -> Iterator[Record]:
    for number, line in enumerate(_read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"第 {number} 行"
        try:
            yield where, _as_record(json.loads(line))
        except json.JSONDecodeError as error:
            yield where, {"": f"不是合法的 JSON（{error.msg}，第 {error.colno} 列）"}


def _json(path: Path, columns: set[str]) -> Iterator[Record]:
    try:
        items = json.loads(_read_utf8(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} 第 {error.lineno} 行不是合法的 JSON（{error.msg}）；一行一个对象的文件请用 .jsonl"
        ) from None
    if not isinstance(items, list):
        raise UserError(f'{path} 应为对象的列表：[{{"text": …, "label": …}}, …]')
    for number, item in enumerate(items, start=1):
        yield f"第 {number} 项", _as_record(item)


def _as_record(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else {"": f"应为一个 JSON 对象，得到 {item!r:.40}"}


def _csv(path: Path, columns: set[str]) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    text = _read_utf8(path)
    # newline="": the csv module itself tells a line's end from a line break inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header = [name.strip() for name in next(reader, [])]
    _check_header(path, header, columns)
    line = reader.line_num + 1
    for row in reader:
        where, line = f"第 {line} 行", reader.line_num + 1
        if not row:
            continue
        if len(row) != len(header):
            yield where, {"": f"有 {len(row)} 格，表头有 {len(header)} 格（文本里有逗号时要加引号）"}
        else:
            yield where, dict(zip(header, row, strict=True))


def _parquet(path: Path, columns: set[str]) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"不能读 {path}：不是完整的 parquet 文件（{str(error).splitlines()[0]}）") from None
    _check_header(path, table.column_names, columns)
    for number, record in enumerate(table.select(sorted(columns)).to_pylist(), start=1):
        yield f"第 {number} 行", record


def _check_header(path: Path, header: list[str], columns: set[str]) -> None:
    if missing := sorted(columns - set(header)):
        raise UserError(
            f"{path} 没有 {'、'.join(missing)} 列（有 {'、'.join(header) or '无'}）；"
            "用 --text_column 和 --label_column 指定列名"
        )
    if repeated := sorted(name for name in columns if header.count(name) > 1):
        raise UserError(f"{path} 的表头里 {'、'.join(repeated)} 出现了不止一次")
