"""The rows of an .xlsx workbook as text, a few in memory at a time; openpyxl reads the cells.

    rows = sheet_rows(Path("reviews.xlsx"))
    next(rows)  # (1, ["评论", "标签"]): the row's number in the sheet, and its cells

A cell is text as Excel shows it: 5 and not 5.0, 2026-01-31, TRUE. A formula has the value that was last computed. The
strings that cells share lie in a temporary file, since openpyxl's own list of them would be as long as the sheet. What
a hostile file could blow up is bounded: the size of its parts, their compression, and the length of a row.
"""

import re
import sys
import tempfile
import warnings
import zlib
from array import array
from collections.abc import Iterator
from datetime import datetime, time
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from runtime.errors import UserError, first_line
from runtime.processes import is_main

OLD_WORKBOOK = b"\xd0\xcf\x11\xe0"  # .xls, and an .xlsx with a password, which is wrapped in the same old format
ZIP = b"PK\x03\x04"
MB = 1 << 20
MOST_BYTES = 2048 * MB  # of a part that is read row by row; a full sheet of a million long reviews has less
MOST_WHOLE_BYTES = 64 * MB  # of a part that openpyxl reads whole: styles, relations
MOST_TIMES = 200  # that a large part may be compressed; reviews reach about 10, repeated values about 50
LONGEST_ROW_BYTES = 64 * MB  # Excel's own limit is 32,767 characters a cell
READ_BY_ROWS = re.compile(r"xl/(worksheets/[^/]+|sharedStrings)\.xml", re.IGNORECASE)
# All that zlib, zipfile, the XML parser and openpyxl's typed attributes make of bytes that are not as they should be.
DAMAGED = (
    BadZipFile, zlib.error, EOFError, SyntaxError, KeyError, ValueError, TypeError, IndexError, AttributeError,
    NotImplementedError, RuntimeError, OverflowError, OSError,
)  # fmt: skip


class NoValue:
    """A cell that is not empty and has no value all the same: an error, or a formula that was never computed."""

    def __init__(self, shown: str):
        self.shown = shown

    def __repr__(self) -> str:
        return self.shown


NOT_COMPUTED = NoValue("没有存下结果的公式（请用 Excel 打开、保存一次）")


def sheet_rows(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Number (from 1) and cells (str or `NoValue`) of every row that is not empty, of the first sheet that has any.

    Hidden sheets are passed over. `UserError` for what is no workbook, and one that is out of all proportion.
    """
    try:
        with open(path, "rb") as file:
            _require_zip(path, file.read(4))
            file.seek(0)
            with ZipFile(file) as archive:
                _require_proportion(path, archive)
                yield from _rows_of_archive(path, archive)
    except DAMAGED as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"不能读 {path}：不是完整的 xlsx 工作簿（{reason}）；请用 Excel 打开，另存一份") from None


def _rows_of_archive(path: Path, archive: ZipFile) -> Iterator[tuple[int, list[Any]]]:
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.styles.stylesheet import apply_stylesheet
    from openpyxl.xml.constants import SHARED_STRINGS

    # The steps of `load_workbook` without the list of all strings, and without its looking through every sheet.
    warnings.filterwarnings("ignore", module="openpyxl")  # about styles and extensions that play no part here
    reader = ExcelReader(archive.fp, read_only=True, data_only=True, keep_links=False)
    reader.read_manifest()
    reader.read_workbook()
    apply_stylesheet(archive, reader.wb)
    sheets = {}
    for sheet, relation in reader.parser.find_sheets():
        if sheet.state == "visible" and "chartsheet" not in relation.Type:
            sheets[sheet.name] = relation.target

    part = reader.package.find(SHARED_STRINGS)
    with tempfile.TemporaryFile() as file:
        strings: Any = _StringsOnDisk(path, archive, part.PartName.lstrip("/"), file) if part is not None else []
        for name, target in sheets.items():
            rows = _filled_rows(path, archive, target, strings, reader.wb)
            if (first := next(rows, None)) is not None:
                if len(sheets) > 1:
                    _say(f"{path} 有 {len(sheets)} 张工作表，读的是第一张有内容的“{name}”")
                yield first
                yield from rows
                return


@lru_cache(maxsize=64)
def _say(line: str) -> None:
    """Once: a file is read several times."""
    if is_main():
        print(line, file=sys.stderr)


def _require_zip(path: Path, start: bytes) -> None:
    if start == OLD_WORKBOOK:
        raise UserError(f"{path} 有密码，或者是旧版的 .xls：请用 Excel 打开，去掉密码，另存为 .xlsx")
    if start != ZIP:
        raise UserError(f"{path} 不是 xlsx 工作簿；若是文本文件，请把扩展名改为 .csv 或 .tsv")


def _require_proportion(path: Path, archive: ZipFile) -> None:
    """Refuse a zip bomb by the sizes that it declares; zipfile reads no byte more than those."""
    for part in archive.infolist():
        if not part.filename.lower().endswith((".xml", ".rels")):
            continue  # pictures and the like, which are not read
        by_rows = READ_BY_ROWS.fullmatch(part.filename)
        if part.file_size > (MOST_BYTES if by_rows else MOST_WHOLE_BYTES):
            problem = "太大"
        elif part.file_size > MOST_WHOLE_BYTES and part.file_size > MOST_TIMES * part.compress_size:
            problem = f"压缩了 {part.file_size // max(1, part.compress_size):,} 倍，不像是评论表"
        else:
            continue
        raise UserError(
            f"{path} 里的 {part.filename} 解压后有 {part.file_size // MB:,} MB，{problem}，没有读入；"
            "若确实是自己的表，请另存为 CSV"
        )


class _Measured:
    """A part of the archive that refuses to be read on and on without a row's end in sight."""

    def __init__(self, path: Path, part: IO[bytes]):
        self.path, self.part, self.left = path, part, LONGEST_ROW_BYTES

    def read(self, size: int = -1) -> bytes:
        block = self.part.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise UserError(f"{self.path} 里有一行（或一格）超过 {LONGEST_ROW_BYTES // MB} MB，没有读下去")
        return block

    def row_ended(self) -> None:
        self.left = LONGEST_ROW_BYTES


class _StringsOnDisk:
    """The strings that cells share, by number, in a temporary file: in memory are 8 bytes for each."""

    def __init__(self, path: Path, archive: ZipFile, part: str, file: IO[bytes]):
        from openpyxl.cell.text import Text
        from openpyxl.utils.escape import unescape
        from openpyxl.xml.constants import SHEET_MAIN_NS
        from openpyxl.xml.functions import iterparse

        self._file, self._ends = file, array("Q", [0])
        with archive.open(part) as source:
            measured = _Measured(path, source)
            table = None
            for event, element in iterparse(measured, ("start", "end")):
                if table is None:
                    table = element
                if event == "end" and element.tag == f"{{{SHEET_MAIN_NS}}}si":
                    text = unescape(Text.from_tree(element).content)  # _x000D_ is a carriage return
                    written = file.write(text.encode("utf-8", "surrogatepass"))
                    self._ends.append(self._ends[-1] + written)
                    table.clear()
                    measured.row_ended()

    def __getitem__(self, number: int) -> str:
        if number < 0:
            raise IndexError(number)
        start, end = self._ends[number], self._ends[number + 1]
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8", "surrogatepass")


def _filled_rows(path: Path, archive: ZipFile, part: str, strings: Any, book: Any) -> Iterator[tuple[int, list[Any]]]:
    from openpyxl.worksheet._reader import DATA_TAG, FORMULA_TAG, ROW_TAG, VALUE_TAG, WorkSheetParser
    from openpyxl.xml.functions import iterparse

    class Parser(WorkSheetParser):
        def parse_cell(self, element):
            cell = super().parse_cell(element)
            if cell["data_type"] == "e" and cell["value"] is not None:
                cell["value"] = NoValue(f"错误值 {cell['value']}")
            # A formula that gives an empty text has t="str"; one that a program wrote has neither type nor value.
            empty_text = element.get("t") == "str" and element.find(VALUE_TAG) is not None
            if cell["value"] is None and element.find(FORMULA_TAG) is not None and not empty_text:
                cell["value"] = NOT_COMPUTED
            return cell

    with archive.open(part) as source:
        measured = _Measured(path, source)
        parser = Parser(
            measured, strings, data_only=True, epoch=book.epoch,
            date_formats=book._date_formats, timedelta_formats=book._timedelta_formats,
        )  # fmt: skip
        table = None
        for event, element in iterparse(measured, ("start", "end")):
            if event == "start":
                table = element if element.tag == DATA_TAG else table
            elif element.tag == ROW_TAG and table is not None:
                number, cells = parser.parse_row(element)
                table.clear()  # of all the rows that are done, not only of their cells
                measured.row_ended()
                filled = {cell["column"]: _shown(cell["value"]) for cell in cells if cell["value"] is not None}
                if any(value != "" for value in filled.values()):
                    yield number, [filled.get(column, "") for column in range(1, max(filled) + 1)]
            elif element.tag == DATA_TAG:
                return


def _shown(value: Any) -> Any:
    """A cell as Excel shows it where it has no format of its own; a moment without seconds' fractions."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds").removesuffix(" 00:00:00")
    if isinstance(value, time):
        return value.isoformat("seconds")
    return value if isinstance(value, (str, NoValue)) else str(value)
