"""The encoding of a text file: taken from the whole file, never from its beginning or from the machine's language.

    encoding = encoding_of(Path("reviews.csv"))           # "utf-8-sig", "utf-16" or "gb18030"
    encoding = encoding_of(Path("reviews.csv"), "big5")   # forced: checked all the same

Excel on a Chinese Windows saves a .csv file in GBK, of which GB18030 is the superset. A mark at the beginning says
UTF-8, UTF-16 or GB18030. Without one a file that is valid UTF-8 from end to end is that; and else GB18030 if it is that
from end to end, with no line that can only be UTF-8. Files are read line by line and may be larger than memory.
"""

import codecs
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from runtime.errors import UserError
from runtime.processes import is_main

UTF_8, UTF_16, GB18030 = "utf-8-sig", "utf-16", "gb18030"
MARKS = {codecs.BOM_UTF8: UTF_8, codecs.BOM_UTF16_LE: UTF_16, codecs.BOM_UTF16_BE: UTF_16, b"\x84\x31\x95\x33": GB18030}
SHOWN_NAMES = {UTF_16: "UTF-16", GB18030: "GB18030（GBK）"}
BLOCK_BYTES = 1 << 16
FORCE = "用 --encoding 指定编码（如 gb18030、big5、utf-16），或在原来的软件里另存为 UTF-8"


def encoding_of(path: Path, forced: str | None = None) -> str:
    """Python's name of the encoding to open `path` with; says on stderr, once, if it is not UTF-8.

    `UserError` with the line where a file is in no encoding that is known here, in two at once, or not in the
    `forced` one. OSError as `open` raises it.
    """
    found = path.stat()
    return _encoding_of(path, forced, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _encoding_of(path: Path, forced: str | None, size: int, modified_ns: int) -> str:
    with open(path, "rb") as file:
        start = file.read(4)
    marked = next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), None)
    if forced is not None:
        encoding = UTF_8 if codecs.lookup(forced).name == "utf-8" else forced
        if line := _first_undecodable(path, encoding):
            raise UserError(f"{path} 第 {line} 行不是 --encoding {forced} 编码；去掉 --encoding 就自动判断")
        return encoding
    if marked is not None:
        if line := _first_undecodable(path, marked):
            name = SHOWN_NAMES.get(marked, "UTF-8")
            raise UserError(f"{path} 开头标明是 {name}，第 {line} 行却不是；{FORCE}")
        encoding = marked
    else:
        encoding = _encoding_without_mark(path)
    if encoding != UTF_8 and is_main():
        print(f"{path}：按 {SHOWN_NAMES[encoding]} 编码读入（若显示为乱码，用 --encoding 指定）", file=sys.stderr)
    return encoding


def _encoding_without_mark(path: Path) -> str:
    not_utf_8 = _first_undecodable(path, UTF_8)
    if not not_utf_8:
        return UTF_8
    not_gb18030 = _first_undecodable(path, GB18030)
    if not_gb18030:
        raise UserError(
            f"{path} 的编码不能判断：第 {not_utf_8} 行不是 UTF-8，第 {not_gb18030} 行不是 GB18030（GBK）；"
            f"多半是几种编码的内容拼在了一起，或者有损坏。{FORCE}"
        )
    # Two UTF-8 letters read as GB18030 are three strange ones, so that a mixture can be valid GB18030 as a whole.
    if only_utf_8 := next((number for number, line in _lines(path) if _is_chinese_utf_8(line)), 0):
        raise UserError(
            f"{path} 里混着两种编码：第 {only_utf_8} 行是 UTF-8，第 {not_utf_8} 行却不是（多半是 GBK）；"
            "请把两部分分别存成文件，再合成一个 UTF-8 的文件"
        )
    return GB18030


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1. A line feed is never a part of another character in UTF-8 or GB18030."""
    with open(path, "rb") as file:
        yield from enumerate(file, start=1)


def _is_chinese_utf_8(line: bytes) -> bool:
    """True for valid UTF-8 with at least two Chinese characters; as GBK it would be a row of characters never used."""
    if line.isascii():
        return False
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return sum("\u4e00" <= character <= "\u9fff" for character in text) >= 2


def _first_undecodable(path: Path, encoding: str) -> int:
    """Number of the line of the first byte that is not in this encoding, from 1; 0 where all are.

    A block that fails is decoded again byte by byte: also in UTF-16, where no byte by itself ends a line.
    """
    decoder, number = codecs.getincrementaldecoder(encoding)(), 1
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            state = decoder.getstate()
            try:
                number += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError:
                break
            if not block:
                return 0
    decoder.setstate(state)
    for i in range(len(block)):
        try:
            number += decoder.decode(block[i : i + 1]).count("\n")
        except UnicodeDecodeError:
            break
    return number
