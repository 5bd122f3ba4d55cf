"""The rows of .jsonl, .json, .csv, .tsv, .parquet and .txt files as they stand, a few at a time.

    for where, record in read_records(Path("reviews.csv"), {"text", "label"}):
        ...  # ("第 2 行", {"text": …, "label": …}), or ("第 3 行", BadRow("有 3 格，表头有 2 格"))

Only a .json file is read whole: its list cannot be taken apart before its end is seen. A file that cannot be
read at all (another encoding, no permission, compressed) is a `UserError` that says what to do.
"""

import csv
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import UserError, first_line

# A cell this long (in characters) is a quotation mark without its partner; without a limit the rest of the file is one.
LONGEST_CELL = 1 << 25
PARQUET_ROWS = 1024
FOREIGN_FILES = {
    b"\x1f\x8b": "是 gzip 压缩文件，请先解压（gzip -d）",
    b"PK\x03\x04": "是 Excel 工作簿或 zip 文件，请用表格软件另存为“CSV UTF-8”",
    b"\xd0\xcf\x11\xe0": "是旧版 Excel 工作簿，请用表格软件另存为“CSV UTF-8”",
    b"\xff\xfe": "是 UTF-16 编码，请先转换：iconv -f UTF-16 -t UTF-8 {name} > 新文件",
    b"\xfe\xff": "是 UTF-16 编码，请先转换：iconv -f UTF-16 -t UTF-8 {name} > 新文件",
    b"PAR1": "是 parquet 文件，请把扩展名改为 .parquet",
}


class BadRow(ValueError):
    """Why one row cannot be used."""


Record = tuple[str, dict[str, Any] | BadRow]  # (where it stands, e.g. "第 3 行", column -> value)


def read_records(path: Path, columns: set[str]) -> Iterator[Record]:
    """Every row, in order; blank lines are passed over. `columns` must stand in the header where there is one."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    require_file(path)
    if reader is None:
        raise UserError(f"{path}：不认识的文件类型 {path.suffix!r}，应为 {' '.join(readers)} 之一")
    return reader(path, columns)


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


def text_lines(path: Path, newline: str = "\n") -> Iterator[str]:
    """Lines with their ends, as `open(newline=…)` finds them; a byte-order mark at the beginning is dropped."""
    try:
        _refuse_foreign(path)
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise UserError(f"{path} 第 {number} 行有 NUL 字节：它不是文本文件，或者是不带标记的 UTF-16 编码")
                yield line
    except OSError as error:
        raise UserError(f"不能读 {path}：{_reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} 第 {_first_undecodable(path)} 行不是 UTF-8 编码。若是 GBK 文件，请先转换：\n"
            f"  iconv -f GB18030 -t UTF-8 {path.name} > 新文件"
        ) from None


def _refuse_foreign(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(4)
    for magic, advice in FOREIGN_FILES.items():
        if start.startswith(magic):
            raise UserError(f"{path} " + advice.format(name=path.name))


def _first_undecodable(path: Path) -> int:
    """Number of the line; a line feed is never a part of another character in UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _jsonl(path: Path, columns: set[str]) -> Iterator[Record]:
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield f"第 {number} 行", _parsed(line)


def _parsed(line: str) -> dict[str, Any] | BadRow:
    try:
        return _as_record(json.loads(line))
    except json.JSONDecodeError as error:
        return BadRow(f"不是合法的 JSON（{error.msg}，第 {error.colno} 列）")
    except (ValueError, RecursionError) as error:
        return BadRow(_unreadable(error))


def _unreadable(error: Exception) -> str:
    return "JSON 嵌套太深" if isinstance(error, RecursionError) else "JSON 里有一个太长的整数"


def _json(path: Path, columns: set[str]) -> Iterator[Record]:
    try:
        items = json.loads("".join(text_lines(path)))
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


def _csv(path: Path, columns: set[str]) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_CELL)
    # newline="": the csv module itself tells a line's end from a line break inside quotes. strict: a quotation
    # mark without its partner would make one review of all the rows that follow.
    reader = csv.reader(
        text_lines(path, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    header = None
    for where, row in _csv_rows(reader):
        if header is None:
            if isinstance(row, BadRow):
                raise UserError(f"{path} 的表头：{row}")
            header = [name.strip() for name in row]
            _check_header(path, header, columns)
        elif isinstance(row, BadRow):
            yield where, row
        elif row and len(row) != len(header):
            yield where, BadRow(f"有 {len(row)} 格，表头有 {len(header)} 格（文本里有逗号时要加引号）")
        elif row:
            yield where, dict(zip(header, row, strict=True))
    if header is None:
        _check_header(path, [], columns)


def _csv_rows(reader) -> Iterator[tuple[str, list[str] | BadRow]]:
    """Each row, or why it is none, with the line on which it begins."""
    while True:
        where = f"第 {reader.line_num + 1} 行"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield where, BadRow(_csv_fault(str(error)))
        else:
            yield where, row


def _csv_fault(message: str) -> str:
    if "field limit" in message:
        return f"从这里起的一格超过 {LONGEST_CELL:,} 个字符，多半是引号没有配对"
    if "unexpected end" in message:
        return "从这里起引号没有配对，直到文件结束"
    return '引号没有配对：引号里的引号要写两个（""），结束的引号后面只能是分隔符'


def _parquet(path: Path, columns: set[str]) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=sorted(columns)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"第 {number} 行", record
    except UnicodeDecodeError:
        raise UserError(f"{path} 第 {number + 1} 行附近有不是 UTF-8 编码的文本") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"不能读 {path}：不是完整的 parquet 文件（{first_line(error)}）") from None


def _check_header(path: Path, header: list[str], columns: set[str]) -> None:
    if not header:
        raise UserError(f"{path} 是空的：没有表头，也没有数据行")
    if missing := sorted(columns - set(header)):
        flags = "--text_column 和 --label_column" if len(columns) > 1 else "--text_column"
        raise UserError(f"{path} 没有 {'、'.join(missing)} 列（有 {'、'.join(header)}）；用 {flags} 指定列名")
    if repeated := sorted(name for name in columns if header.count(name) > 1):
        raise UserError(f"{path} 的表头里 {'、'.join(repeated)} 出现了不止一次")
