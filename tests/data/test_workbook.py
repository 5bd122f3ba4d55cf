"""Workbooks as people have them, and hostile ones.

python -m pytest tests/data/test_workbook.py
"""

import datetime
import re
import zipfile
from io import BytesIO

import pytest
from workbooks import as_excel_writes_it, rewrite, write_workbook

from data.sources import workbook
from data.sources.record_reader import BadRow, read_records
from data.sources.review_files import read_labelled_file
from runtime.errors import UserError

HEADER = ["评论", "标签"]
ENTITY = b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'


def records(path):
    return list(read_records(path, {"评论"}))


def test_cells_are_text_as_excel_shows_them(tmp_path):
    row = [
        "很好", 5.0, 0.1, 1e15, -3, True, datetime.datetime(2026, 1, 31), datetime.datetime(2026, 1, 31, 8, 30),
        datetime.time(9, 5), None, " 留着 ", "第一行\n第二行",
    ]  # fmt: skip
    path = write_workbook(tmp_path / "a.xlsx", [["评论", *"abcdefghijk"], row])
    assert records(path) == [
        ("第 2 行", dict(zip(["评论", *"abcdefghijk"], [
            "很好", "5", "0.1", "1000000000000000", "-3", "TRUE", "2026-01-31", "2026-01-31 08:30:00",
            "09:05:00", "", " 留着 ", "第一行\n第二行",
        ], strict=True))),
    ]  # fmt: skip


def test_a_review_that_is_a_number_and_labels_with_a_decimal_are_read(tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", [HEADER, [666, 1.0], ["太差", 0.0]])
    rows = read_labelled_file(path, "评论", "标签")
    assert (rows.texts, rows.labels) == (["666", "太差"], [1, 0])


def test_the_first_visible_sheet_with_content_is_read_and_named(tmp_path, capsys):
    path = write_workbook(
        tmp_path / "a.xlsx", [], [["秘密"], ["x"]], [[], [None, None], HEADER, ["好", 1]], 二="hidden"
    )
    assert records(path) == [("第 4 行", {"评论": "好", "标签": "1"})]
    assert records(path) and capsys.readouterr().err.count("2 张工作表，读的是第一张有内容的“三”") == 1


def test_empty_rows_are_passed_over_and_missing_cells_are_empty(tmp_path):
    path = write_workbook(
        tmp_path / "a.xlsx", [["评论", None, "备注", "备注"], ["好"], [None, None, ""], ["差", "x", 1, 2]]
    )
    assert records(path) == [
        ("第 2 行", {"评论": "好", "第 2 列": "", "备注": "", "备注_2": ""}),
        ("第 4 行", {"评论": "差", "第 2 列": "x", "备注": "1", "备注_2": "2"}),
    ]
    (where, row), *_ = records(write_workbook(tmp_path / "b.xlsx", [["评论"], ["好", "多出来"]]))
    assert where == "第 2 行" and isinstance(row, BadRow) and "第 2 列" in str(row)


def test_a_formula_has_its_last_value_and_one_never_computed_is_named(tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", [HEADER, ['="很"&"好"', 1], ['="太"&"差"', 0], ["#N/A", 0]])

    def compute(name, content):
        """Excel's own: a value, and t="str" for a text."""
        return re.sub(rb'<c r="A2"><f>(.*?)</f><v\s*/?>(</v>)?', rb'<c r="A2" t="str"><f>\1</f><v>OK</v>', content)

    assert b"<v>OK</v>" in zipfile.ZipFile(rewrite(path, compute)).read("xl/worksheets/sheet1.xml")
    assert records(path)[0] == ("第 2 行", {"评论": "OK", "标签": "1"})
    with pytest.raises(UserError, match=r"(?s)第 3 行：评论 应为文本，得到 没有存下结果的公式.*第 4 行.*错误值 #N/A"):
        read_labelled_file(path, "评论", "标签")


def test_dates_of_the_old_mac_and_rich_text_and_phonetics(tmp_path):
    path = as_excel_writes_it(
        write_workbook(tmp_path / "a.xlsx", [["评论", "日期"], ["好", datetime.date(2026, 1, 31)]])
    )
    rich = '<si><r><rPr><b/></rPr><t>粗</t></r><r><t>体_x000D_</t></r><rPh sb="0" eb="1"><t>cu</t></rPh></si>'

    def change(name, content):
        if name == "xl/workbook.xml":
            return content.replace(b"<workbookPr ", b'<workbookPr date1904="1" ')
        return content.replace("<si><t>好</t></si>".encode(), rich.encode())

    assert records(rewrite(path, change)) == [("第 2 行", {"评论": "粗体\r", "日期": "2030-02-01"})]


def not_a_workbook(tmp_path, content: bytes, name: str = "a.xlsx"):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        records(path)
    return str(error.value)


def test_what_is_no_workbook_gets_one_message(tmp_path):
    assert "密码" in not_a_workbook(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "扩展名改为 .csv" in not_a_workbook(tmp_path, "评论,标签\n好,1\n".encode())
    assert "扩展名改为 .csv" in not_a_workbook(tmp_path, b"")
    assert "不是完整的 xlsx" in not_a_workbook(tmp_path, b"PK\x03\x04")
    other = BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "不是完整的 xlsx" in not_a_workbook(tmp_path, other.getvalue())
    empty = write_workbook(tmp_path / "b.xlsx", [[]])
    with pytest.raises(UserError, match="是空的"):
        records(empty)


def test_a_damaged_workbook_gets_one_message_wherever_it_is_damaged(tmp_path):
    rows = [[f"第{i}条，房间很干净", i % 2] for i in range(300)]
    whole = write_workbook(tmp_path / "a.xlsx", [HEADER, *rows]).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:place], whole[:place] + b"\xff" * 8 + whole[place + 8 :]):
            (tmp_path / "b.xlsx").write_bytes(damaged)
            try:
                found = records(tmp_path / "b.xlsx")
            except UserError as error:
                assert "b.xlsx" in str(error)
            else:  # a place of no consequence, such as a time of writing
                assert len(found) == 300


def test_shared_strings_are_those_of_the_cells(tmp_path):
    """With more strings than any buffer holds, in another order than the cells ask for them."""
    texts = [f"第{i}条，" + "很好😀" * (i % 90) for i in range(3000)]
    path = write_workbook(
        tmp_path / "a.xlsx", [["评论", "同上"], *([text, texts[-1 - i]] for i, text in enumerate(texts))]
    )
    inline = records(path)
    assert b"<is>" not in zipfile.ZipFile(as_excel_writes_it(path)).read("xl/worksheets/sheet1.xml")
    assert records(path) == inline and [row["评论"] for _, row in inline] == texts


@pytest.mark.parametrize(
    "part", ["xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml"]
)
def test_parts_that_are_missing_or_no_xml_get_one_message(tmp_path, part):
    for content in (None, b"", b"<a", b"<a/>", b"\0\0", ENTITY):
        path = as_excel_writes_it(write_workbook(tmp_path / "a.xlsx", [HEADER, ["好", 1]]))
        rewrite(path, lambda name, old, new=content: new if name == part else old)
        if part == "xl/styles.xml" and content in (None, b"<a/>", ENTITY):
            continue  # openpyxl does without styles
        with pytest.raises(UserError, match=r"a\.xlsx"):
            records(path)


# ---- out of proportion


def inflate(path, part: str, content: bytes):
    return rewrite(path, lambda name, old: content if name == part else old)


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", [HEADER, ["好", 1]])
    for part in ("xl/styles.xml", "xl/worksheets/sheet1.xml"):  # the second after the first in the archive
        inflate(path, part, b" " * (65 << 20))
        with pytest.raises(UserError, match=rf"{part} 解压后有 65 MB"):
            records(path)


def test_a_zip_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    path = as_excel_writes_it(write_workbook(tmp_path / "a.xlsx", [HEADER, ["好", 1]]))
    inflate(path, "xl/sharedStrings.xml", b" " * (65 << 20))
    content = path.read_bytes()
    size = (65 << 20).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(UserError, match="不是完整的 xlsx"):
        records(path)


def test_a_cell_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook, "LONGEST_ROW_BYTES", 1 << 20)
    texts = ["好" * 32_000] * 8
    with pytest.raises(UserError, match="一行（或一格）超过 1 MB"):  # 32,000 characters are 96 kB; here is one of 2 MB
        path = write_workbook(tmp_path / "a.xlsx", [HEADER, ["好", 1]])
        rewrite(path, lambda name, old: old.replace("<t>好</t>".encode(), b"<t>" + b"x" * (2 << 20) + b"</t>"))
        records(path)
    path = write_workbook(tmp_path / "b.xlsx", [HEADER, *([text + str(i), 1] for i, text in enumerate(texts * 5))])
    assert len(records(path)) == 40  # long cells one after the other, 4 MB in all


def test_an_exploding_entity_is_not_expanded(tmp_path):
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "ha">{laughs}]><s>&l9;</s>'.encode()
    for part in ("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml"):
        path = as_excel_writes_it(write_workbook(tmp_path / "a.xlsx", [HEADER, ["好", 1]]))
        with pytest.raises(UserError, match=r"a\.xlsx"):
            records(inflate(path, part, bomb))
