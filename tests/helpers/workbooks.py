"""Workbooks for tests: written, and changed part by part as Excel or an attacker would."""

import re
import zipfile

import openpyxl
from openpyxl.xml.constants import SHEET_MAIN_NS


def write_workbook(path, *sheets, **states):
    """`sheets` are lists of rows; `states` a sheet's state by its title (一, 二, …)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in zip("一二三四", sheets, strict=False):
        sheet = book.create_sheet(title)
        sheet.sheet_state = states.get(title, "visible")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def as_excel_writes_it(path):
    """Every text of the first sheet in the list of shared strings; openpyxl puts them into the cells."""
    texts = []

    def share(match):
        texts.append(match[2])
        return b'<c r="%s" t="s"><v>%d</v></c>' % (match[1], len(texts) - 1)

    def change(name, content):
        if name == "xl/worksheets/sheet1.xml":
            return re.sub(rb'<c r="(\w+)" t="inlineStr"><is>(.*?)</is></c>', share, content, flags=re.DOTALL)
        kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
        part = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/></Types>' % kind
        return content.replace(b"</Types>", part)

    rewrite(path, change)
    strings = b"".join(b"<si>%s</si>" % text for text in texts)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b'<sst xmlns="%s">%s</sst>' % (SHEET_MAIN_NS.encode(), strings))
    return path


def rewrite(path, change):
    """Give every part of the archive (name, bytes) to `change`, which returns the bytes to write, or None."""
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in parts.items():
            if (content := change(name, content)) is not None:
                new.writestr(name, content)
    return path
