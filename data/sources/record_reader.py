"""The rows of .jsonl, .json, .csv, .tsv, .xlsx, .parquet and .txt files as they stand, a few at a time.

    for where, record in read_records(Path("reviews.csv"), {"text", "label"}):
        ...  # ("第 2 行", {"text": …, "label": …}), or ("第 3 行", BadRow("有 3 格，表头有 2 格"))

Only a .json file is read whole: its list cannot be taken apart before its end is seen. A file that cannot be
read at all (no known encoding, no permission, compressed) is a `UserError` that says what to do.
"""

import csv
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.sources.text_encoding import encoding_of
from data.sources.workbook import sheet_rows
from runtime.errors import UserError, first_line

# A cell this long (in characters) is a quotation mark without its partner; without a limit the rest of the file is one.
LONGEST_CELL = 1 << 25
PARQUET_ROWS = 1024
FOREIGN_FILES = {
    b"\x1f\x8b": "是 gzip 压缩文件，请先解压（gzip -d）",
    b"PK\x03\x04": "是 zip 文件；若是 Excel 工作簿，请把扩展名改为 .xlsx",
    b"\xd0\xcf\x11\xe0": "是旧版 Excel 工作簿，请用 Excel 打开，另存为 .xlsx",
    b"PAR1": "是 parquet 文件，请把扩展名改为 .parquet",
}
COLUMN_FLAGS = "用 --text_column 和 --label_column 指定列名"
FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet")
NUL = "有 NUL 字节：这不是文本，或者是不带标记的 UTF-16 编码（用 --encoding utf-16-le）"


class BadRow(ValueError):
    """The reason why one row cannot be used; with `to_end` the rows that follow may be lost in it."""

    def __init__(self, reason: str, to_end: bool = False):
        super().__init__(reason)
        self.to_end = to_end


Record = tuple[str, dict[str, Any] | BadRow]  # (where it stands, e.g. "第 3 行", column -> value)


def read_records(
    path: Path, columns: set[str], encoding: str | None = None, *, every: bool = False, advice: str = COLUMN_FLAGS
) -> Iterator[Record]:
    """Every row, in order; blank lines are passed over. `columns` must stand in the header where there is one.

    `encoding` forces that of a text file (`encoding_of`). A .parquet file's other columns are read with `every` alone.
    `advice` ends the message about a column that is not there.
    """
    require_file(path)
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _jsonl(path, encoding)
    if kind == ".json":
        return _json(path, encoding)
    if kind in (".csv", ".tsv"):
        return _table(path, columns, _csv_rows(path, encoding), advice)
    if kind == ".xlsx":
        return _table(path, columns, ((f"第 {number} 行", cells) for number, cells in sheet_rows(path)), advice)
    if kind == ".parquet":
        return _parquet(path, columns, every, advice)
    if kind == ".xls":
        raise UserError(f"{path} 是旧版 Excel 工作簿，请用 Excel 打开，另存为 .xlsx")
    raise UserError(f"{path}：不认识的文件类型 {path.suffix!r}，应为 {' '.join(FILE_TYPES)} 之一")


def require_file(path: Path) -> None:
    """A `UserError` unless `path` is a file that can be opened. Pipes are not: files are read more than once."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"没有这个文件：{path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"不能读 {path}：{_reason(error)}") from None
    if not is_file:
        raise UserError(f"{path} 不是文件，请给出文件的路径")


def text_lines(path: Path, encoding: str | None = None, newline: str = "\n") -> Iterator[str]:
    """Lines with their ends, as `open(newline=…)` finds them; a byte-order mark at the beginning is dropped."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        for magic, advice in FOREIGN_FILES.items():
            if start.startswith(magic):
                raise UserError(f"{path} {advice}")
        with open(path, encoding=encoding_of(path, encoding), newline=newline) as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"不能读 {path}：{_reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} 在读取过程中被改动了；请重新运行") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _jsonl(path: Path, encoding: str | None) -> Iterator[Record]:
    for number, line in enumerate(text_lines(path, encoding), start=1):
        if line.strip():
            yield f"第 {number} 行", BadRow(NUL) if "\0" in line else _parsed(line)


def _parsed(line: str) -> dict[str, Any] | BadRow:
    try:
        return _as_record(json.loads(line))
    except json.JSONDecodeError as error:
        return BadRow(f"不是合法的 JSON（{error.msg}，第 {error.colno} 列）")
    except (ValueError, RecursionError) as error:
        return BadRow(_unreadable(error))


def _unreadable(error: Exception) -> str:
    return "JSON 嵌套太深" if isinstance(error, RecursionError) else "JSON 里有一个太长的整数"


def _json(path: Path, encoding: str | None) -> Iterator[Record]:
    try:
        items = json.loads("".join(text_lines(path, encoding)))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} 第 {error.lineno} 行不是合法的 JSON（{error.msg}）；一行一个对象的文件请用 .jsonl"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}：{_unreadable(error)}") from None
    if not isinstance(items, list):
        raise UserError(f'{path} 应为对象的列表：[{{"text": …, "label": …}}, …]')
    for number, item in enumerate(items, start=1):
        yield f"第 {number} 项", _as_record(item)


def _as_record(item: Any) -> dict[str, Any] | BadRow:
    return item if isinstance(item, dict) else BadRow(f"应为一个 JSON 对象，得到 {item!r:.40}")


def _csv_rows(path: Path, encoding: str | None) -> Iterator[tuple[str, list[str] | BadRow]]:
    """Each row, or why it is none, with the line on which it begins; no blank lines."""
    csv.field_size_limit(LONGEST_CELL)
    # newline="": the csv module itself tells a line's end from a line break inside quotes. strict: a quotation
    # mark without its partner would make one review of all the rows that follow.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(text_lines(path, encoding, newline=""), delimiter=delimiter, strict=True)
    while True:
        where = f"第 {reader.line_num + 1} 行"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            swallowed = "field limit" in str(error) or "unexpected end" in str(error)
            yield where, BadRow(_csv_fault(str(error)), to_end=swallowed)
            continue
        if any("\0" in cell for cell in row):
            yield where, BadRow(NUL)
        elif row:
            yield where, row


def _table(
    path: Path, columns: set[str], rows: Iterator[tuple[str, list[Any] | BadRow]], advice: str
) -> Iterator[Record]:
    """Rows below a header as records. A sheet's rows end at their last cell, those of a text file at the line's end."""
    header: list[str] | None = None
    is_sheet = path.suffix.lower() == ".xlsx"
    for where, row in rows:
        if header is None:
            if isinstance(row, BadRow):
                raise UserError(f"{path} 的表头（{where}）：{row}")
            names = [str(name).strip() for name in row]
            _check_header(path, names, columns, advice)
            header = _distinct(names)
            continue
        if is_sheet and not isinstance(row, BadRow):
            row = row + [""] * (len(header) - len(row))
        if isinstance(row, BadRow):
            yield where, row
        elif len(row) == len(header):
            yield where, dict(zip(header, row, strict=True))
        elif is_sheet:
            yield where, BadRow(f"第 {len(row)} 列有内容，表头却只有 {len(header)} 列")
        else:
            yield where, BadRow(f"有 {len(row)} 格，表头有 {len(header)} 格（文本里有逗号时要加引号）")
    if header is None:
        _check_header(path, [], columns, advice)


def _distinct(names: list[str]) -> list[str]:
    """Column names that differ: one that has none is 第 3 列, one that stands a second time 备注_2."""
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        new = name = name or f"第 {number} 列"
        repeat = 1
        while new in found or (repeat > 1 and new in names):
            repeat += 1
            new = f"{name}_{repeat}"
        found.append(new)
    return found


def _csv_fault(message: str) -> str:
    if "field limit" in message:
        return f"从这里起的一格超过 {LONGEST_CELL:,} 个字符，多半是引号没有配对"
    if "NUL" in message:  # Python 3.10 says so; later ones read it
        return NUL
    if "unexpected end" in message:
        return "从这里起引号没有配对，直到文件结束"
    return '引号没有配对：引号里的引号要写两个（""），结束的引号后面只能是分隔符'


def _parquet(path: Path, columns: set[str], every: bool, advice: str) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names, columns, advice)
            number = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=None if every else sorted(columns)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"第 {number} 行", record
    except UnicodeDecodeError:
        raise UserError(f"{path} 第 {number + 1} 行附近有不是 UTF-8 编码的文本") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"不能读 {path}：不是完整的 parquet 文件（{first_line(error)}）") from None


def _check_header(path: Path, header: list[str], columns: set[str], advice: str) -> None:
    if not header:
        raise UserError(f"{path} 是空的：没有表头，也没有数据行")
    if missing := sorted(columns - set(header)):
        raise UserError(f"{path} 没有 {'、'.join(missing)} 列（有 {'、'.join(header)}）；{advice}")
    if repeated := sorted(name for name in columns if header.count(name) > 1):
        raise UserError(f"{path} 的表头里 {'、'.join(repeated)} 出现了不止一次")
