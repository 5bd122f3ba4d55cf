"""Hostile review files through the scripts' own `main`: the documented answer, or one message and exit code 2."""

import csv
import gzip
import io
import json
import os
import stat

import pytest
from small import assert_one_message, run_main, run_script, small_reviews, write_jsonl

import inference
import train
from data.audit import __main__ as audit

HEADER = "text,label\n"
GOOD = HEADER + "很好,1\n太差,0\n"


def table(**columns) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def not_utf8() -> bytes:
    import pyarrow

    texts = pyarrow.array([b"ok", b"\xff\xfe"]).view(pyarrow.string())
    return table(text=texts, label=[1, 0])


def put(path, content) -> None:
    """Write a case: text, bytes, or a function that makes something else of the path."""
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


PARQUET = table(text=["很好", "太差"] * 50, label=[1, 0] * 50)

# name of the file, content, words of the message
REFUSED = {
    "two encodings": (
        "a.csv",
        GOOD.encode() + "还行，就是贵,0\n".encode("gbk"),
        ["混着两种", "第 2 行是 UTF-8", "第 4 行却不是"],
    ),
    "no encoding": ("a.csv", HEADER.encode() + b"ok,1\n\xff\xff,0\n", ["第 3 行不是 UTF-8", "第 3 行不是 GB18030"]),
    "a damaged character": (
        "a.csv",
        GOOD.encode("gbk") + b"\xc4,1\n",
        ["不能判断", "第 4 行不是 GB18030", "--encoding"],
    ),
    "half a mark's encoding": ("a.csv", b"\xef\xbb\xbf" + GOOD.encode("gbk"), ["标明是 UTF-8", "第 2 行却不是"]),
    "cut UTF-16": ("a.csv", GOOD.encode("utf-16")[:-1], ["标明是 UTF-16", "第 3 行却不是"]),
    "UTF-16 without mark": ("a.csv", "text,label\nok,1\n".encode("utf-16-le"), ["第 1 行", "NUL"]),
    "NUL bytes": ("a.csv", HEADER + "很\0好,1\n", ["第 2 行", "NUL"]),
    "NUL bytes in GBK": ("a.csv", (HEADER + "很\0好,1\n").encode("gbk"), ["第 2 行", "NUL"]),
    "NUL bytes in jsonl": ("a.jsonl", '{"text": "好", "label": 1}\n\0\0\0\0', ["第 2 行", "NUL"]),
    "broken in the middle": ("a.jsonl", b'{"text": "ok", "label": 1}\n' * 9000 + b"\xe5", ["第 9001 行", "UTF-8"]),
    "quote without partner": ("a.csv", HEADER + '1,1\n"很好,1\n太差,0\n', ["第 3 行", "引号"]),
    "quote without partner in the last cell": ("a.csv", 'label,text\n1,"很好\n0,太差\n', ["第 2 行", "引号"]),
    "text behind a quote": ("a.csv", HEADER + '"很好"呀,1\n太差,0\n', ["第 2 行", "引号"]),
    "quote in the header": ("a.csv", '"text,label\n很好,1\n', ["表头", "引号"]),
    "a comma too many": ("a.csv", HEADER + "好,坏,0\n", ["第 2 行", "3 格"]),
    "tabs in .csv": ("a.csv", "text\tlabel\n好\t1\n", ["text", "--text_column"]),
    "duplicate column": ("a.csv", "text,label,text\n好,1,坏\n", ["text", "不止一次"]),
    "duplicate label column": ("a.tsv", "text\tlabel\tlabel\n好\t1\t0\n", ["label", "不止一次"]),
    "empty": ("a.csv", "", ["是空的"]),
    "empty jsonl": ("a.jsonl", "", ["没有数据行"]),
    "empty json": ("a.json", "", ["JSON"]),
    "empty list": ("a.json", "[]", ["没有数据行"]),
    "empty parquet": ("a.parquet", "", ["parquet"]),
    "only a mark": ("a.csv", "\ufeff", ["是空的"]),
    "only a header": ("a.csv", HEADER, ["没有数据行"]),
    "label true": ("a.jsonl", '{"text": "好", "label": true}', ["第 1 行", "True"]),
    "label NaN": ("a.jsonl", '{"text": "好", "label": NaN}', ["第 1 行", "nan"]),
    "label infinite": ("a.jsonl", '{"text": "好", "label": 1e999}', ["第 1 行", "inf"]),
    "label null": ("a.jsonl", '{"text": "好", "label": null}', ["第 1 行", "label"]),
    "label list": ("a.jsonl", '{"text": "好", "label": [1]}', ["第 1 行", "[1]"]),
    "label half": ("a.csv", HEADER + "好,0.5\n", ["第 2 行", "0.5"]),
    "label empty": ("a.csv", HEADER + "好,\n", ["第 2 行", "label"]),
    "label unknown": ("a.csv", HEADER + "好,1\n好,开心\n", ["第 3 行", "开心"]),
    "label huge": ("a.jsonl", '{"text": "好", "label": 1%s}' % ("0" * 400), ["第 1 行", "label"]),
    "label long": ("a.csv", HEADER + f"好,{'很' * 100_000}\n", ["第 2 行", "label"]),
    "label missing": ("a.jsonl", '{"text": "好", "label": 1}\n{"text": "好"}', ["第 2 行", "label"]),
    "text number": ("a.jsonl", '{"text": 5, "label": 1}', ["第 1 行", "5"]),
    "text null": ("a.jsonl", '{"text": null, "label": 1}', ["第 1 行", "None"]),
    "text NaN": ("a.jsonl", '{"text": NaN, "label": 1}', ["第 1 行", "nan"]),
    "text list": ("a.json", '[{"text": ["好"], "label": 1}]', ["第 1 项", "text"]),
    "text blank": ("a.csv", HEADER + "\u3000 ,1\n", ["第 2 行", "空"]),
    "text invisible": ("a.csv", HEADER + "\u200b\ufeff\u00ad,1\n", ["第 2 行", "空"]),
    "text control characters": ("a.jsonl", '{"text": "\\u0000\\u0001", "label": 1}', ["第 1 行", "空"]),
    "gzip by name": ("a.csv.gz", gzip.compress(GOOD.encode()), [".gz", ".csv"]),
    "gzip under another name": ("a.csv", gzip.compress(GOOD.encode()), ["gzip", "解压"]),
    "workbook under another name": ("a.csv", b"PK\x03\x04\x14\0", ["Excel", "改为 .xlsx"]),
    "old workbook": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", ["旧版 Excel", "另存为 .xlsx"]),
    "old workbook under another name": ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", ["旧版 Excel", "另存为 .xlsx"]),
    "parquet under another name": ("a.csv", PARQUET, [".parquet"]),
    "no type": ("reviews", GOOD, [".csv", ".jsonl"]),
    "nested too deep": ("a.jsonl", "[" * 200_000, ["第 1 行", "太深"]),
    "nested too deep in one list": ("a.json", '[{"text":' * 100_000, ["太深"]),
    "integer too long": ("a.jsonl", '{"text": "好", "label": %s}' % ("1" * 5000), ["第 1 行", "整数"]),
    "integer too long in one list": ("a.json", '[{"text": "好", "label": %s}]' % ("1" * 5000), ["整数"]),
    "half a JSON object": ("a.jsonl", '{"text": "好", "label": 1}\n{"text": "好"', ["第 2 行", "JSON"]),
    "single quotes": ("a.jsonl", "{'text': '好', 'label': 1}", ["第 1 行", "JSON"]),
    "one list in .jsonl": ("a.jsonl", '[{"text": "好", "label": 1}]', ["第 1 行", "对象"]),
    "no list": ("a.json", '{"text": "好", "label": 1}', ["列表"]),
    "lines in .json": ("a.json", '{"text": "好"}\n{"text": "好"}\n', ["第 2 行", ".jsonl"]),
    "no parquet": ("a.parquet", "PAR1 and nothing else PAR1", ["parquet"]),
    "cut parquet": ("a.parquet", PARQUET[: len(PARQUET) // 2], ["parquet"]),
    "changed parquet": ("a.parquet", PARQUET[:40] + b"\xff" * 60 + PARQUET[100:], ["a.parquet"]),
    "parquet without label": ("a.parquet", table(text=["好"]), ["label", "--label_column"]),
    "parquet of numbers": ("a.parquet", table(text=[1.5], label=[1]), ["第 1 行", "1.5"]),
    "parquet with null": ("a.parquet", table(text=["好", None], label=[1, 0]), ["第 2 行", "None"]),
    "parquet of bytes": ("a.parquet", table(text=[b"ok"], label=[1]), ["第 1 行", "text"]),
    "parquet of bytes that claim to be text": ("a.parquet", not_utf8(), ["a.parquet", "UTF-8"]),
    "directory": ("a.csv", lambda path: path.mkdir(), ["不是文件"]),
    "missing": ("a.csv", lambda path: None, ["没有这个文件"]),
    "link to itself": ("a.csv", lambda path: path.symlink_to(path), ["a.csv"]),
    "link to nothing": ("a.csv", lambda path: path.symlink_to("nowhere.csv"), ["没有这个文件"]),
    "pipe": ("a.csv", os.mkfifo, ["不是文件"]),
    "name too long": ("很" * 200 + ".csv", lambda path: None, ["不能读"]),
    "below a file": ("b.csv/a.csv", lambda path: path.parent.write_text("x"), ["a.csv"]),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("good") / "train.jsonl", small_reviews(40))


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_used_gets_one_message(case, good, tmp_path):
    name, content, words = REFUSED[case]
    path = tmp_path / name
    put(path, content)
    output = tmp_path / "out"
    result = run_main(train.main, "--train_file", good, "--validation_file", path, "--output_dir", output)
    assert_one_message(result, name, *words)
    assert len(result.stderr) < 2000 and not (output / "lora_adapter").exists()


# name of the file, content, (text, label) of its rows
ROWS = [("很好", 1), ("太差", 0)]
READ = {
    "mark": ("a.csv", "\ufeff" + GOOD, ROWS),
    "mark in jsonl": ("a.jsonl", '\ufeff{"text": "很好", "label": 1}\n{"text": "太差", "label": 0}', ROWS),
    "Windows line ends": ("a.csv", GOOD.replace("\n", "\r\n"), ROWS),
    "old Mac line ends": ("a.csv", GOOD.replace("\n", "\r"), ROWS),
    "Windows line ends in jsonl": ("a.jsonl", '{"text": "很好", "label": 1}\r\n{"text": "太差", "label": 0}\r\n', ROWS),
    "quotes, commas and line breaks": (
        "a.csv", HEADER + '"好，""很好""\n真的,好",1\n太差,0\n', [('好，"很好"\n真的,好', 1), ("太差", 0)],
    ),
    "spellings of labels": (
        "a.jsonl",
        '{"text": "第0条", "label": 0.0}\n{"text": "第1条", "label": "1"}\n'
        '{"text": "第2条", "label": "正面"}\n{"text": "第3条", "label": " 0 "}\n',
        [("第0条", 0), ("第1条", 1), ("第2条", 1), ("第3条", 0)],
    ),
    "a column without a name": ("a.csv", ",text,label\n0,很好,1\n1,太差,0\n", ROWS),
    "a key without a name": ("a.jsonl", '{"": 1, "text": "很好", "label": 1}\n{"text": "太差", "label": 0}', ROWS),
    "a repeated column that is not asked for": ("a.csv", "id,id,text,label\n1,2,很好,1\n3,4,太差,0\n", ROWS),
    "blank lines": ("a.csv", HEADER + "\n很好,1\n\n太差,0\n\n", ROWS),
    "blanks around the header": ("a.csv", " text , label \n很好,1\n太差,0\n", ROWS),
    "capital letters in the type": ("A.CSV", GOOD, ROWS),
    "path with blanks and Chinese": ("我的 评论 (1)'s.csv", GOOD, ROWS),
    "parquet": ("a.parquet", table(text=["很好", "太差"], label=["正面", "负面"]), ROWS),
    "line separators inside": (
        "a.jsonl", '{"text": "很\u2028好", "label": 1}\n{"text": "太差", "label": 0}', [("很\u2028好", 1), ROWS[1]],
    ),
    "half a surrogate pair": (
        "a.jsonl", '{"text": "\\ud83d好", "label": 1}\n{"text": "太差", "label": 0}', [("\ud83d好", 1), ROWS[1]],
    ),
    "a link": ("a.csv", lambda path: [path.with_name("b.csv").write_text(GOOD), path.symlink_to("b.csv")], ROWS),
}  # fmt: skip


ENCODED = {  # and the encoding that the message names
    "GBK": ("a.csv", GOOD.encode("gbk"), "GB18030"),
    "GBK in jsonl": (
        "a.jsonl",
        '{"text": "很好", "label": 1}\n{"text": "太差", "label": 0}\n'.encode("gbk"),
        "GB18030",
    ),
    "GB18030 with mark": ("a.csv", ("\ufeff" + GOOD).encode("gb18030"), "GB18030"),
    "UTF-16": ("a.csv", GOOD.encode("utf-16"), "UTF-16"),
    "UTF-16 big-endian": ("a.tsv", b"\xfe\xff" + GOOD.replace(",", "\t").encode("utf-16-be"), "UTF-16"),
}


@pytest.mark.parametrize("case", [*READ, *ENCODED])
def test_a_file_that_only_looks_odd_is_read_in_full(case, good, tmp_path):
    """Through the audit, which says how many rows of each label there are and hashes them all."""
    from data.dataset import Rows

    name, content, rows = READ[case] if case in READ else (*ENCODED[case][:2], ROWS)
    put(tmp_path / name, content)
    result = run_main(
        audit.main, "--train_file", good, "--validation_file", tmp_path / name, "--output_dir", tmp_path / "out"
    )
    assert result.returncode == 0, result.stderr
    if case in ENCODED:
        assert result.stderr.count(f"按 {ENCODED[case][2]}") == 1, result.stderr
    found = json.loads((tmp_path / "out" / "data_audit.json").read_text(encoding="utf-8"))
    expected = Rows([text for text, _ in rows], [label for _, label in rows])
    assert found["splits"]["validation"]["n"] == len(rows)
    assert found["data"]["fingerprints"]["validation"] == expected.fingerprint()


def test_a_cell_that_never_ends_is_not_read_into_memory(good, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.record_reader.LONGEST_CELL", 1000)
    (tmp_path / "a.csv").write_text(HEADER + '好,1\n"坏' + "好,1\n" * 1000, encoding="utf-8")
    result = run_main(train.main, "--train_file", good, "--validation_file", tmp_path / "a.csv")
    assert_one_message(result, "第 3 行", "1,000", "引号")


def test_one_class_only_is_refused(tmp_path):
    rows = [row for row in small_reviews(40) if row["label"]]
    assert_one_message(run_main(train.main, "--train_file", write_jsonl(tmp_path / "a.jsonl", rows)), "只有一类")


@pytest.mark.parametrize("place", ["file", "folder"])
def test_no_permission(good, tmp_path, place):
    """As root everything may be read: this process becomes nobody for the moment."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no permissions of this kind on this system")
    folder = tmp_path / "private"
    folder.mkdir()
    path = folder / "a.csv"
    path.write_text(GOOD, encoding="utf-8")
    (path if place == "file" else folder).chmod(0)
    opened = [folder for folder in tmp_path.parents if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in [tmp_path, *opened, good.parent]}
    user = os.geteuid()
    try:
        for allowed in modes:
            allowed.chmod(0o755)
        if user == 0:
            os.seteuid(65534)
        result = run_main(audit.main, "--train_file", path)
    finally:
        os.seteuid(user)
        for allowed, mode in modes.items():
            allowed.chmod(mode)
        folder.chmod(0o700)
    assert_one_message(result, "a.csv", "Permission denied")


# ---- files to predict

UNPREDICTABLE = {
    "two encodings": ("a.txt", "很好\n".encode() + "太差\n".encode("gbk"), ["混着两种", "第 1 行是 UTF-8", "第 2 行"]),
    "empty": ("a.txt", "\n \n", ["没有数据行"]),
    "NUL bytes": ("a.txt", "很好\n\0\n", ["第 2 行", "NUL"]),
    "invisible line": ("a.txt", "很好\n\u200b\n", ["第 2 行", "空"]),
    "gzip": ("a.txt", gzip.compress(b"ok"), ["gzip"]),
    "no such column": ("a.csv", "评论\n很好\n", ["评论", "--text_column"]),
    "bad rows": ("a.jsonl", '{"text": "好"}\n' + '{"text": ""}\n' * 12, ["第 11 行", "共 12 行"]),
    "directory": ("a.csv", lambda path: path.mkdir(), ["不是文件"]),
    "link to itself": ("a.csv", lambda path: path.symlink_to(path), ["a.csv"]),
}


@pytest.mark.parametrize("case", UNPREDICTABLE)
def test_an_input_that_cannot_be_read_leaves_the_old_output(case, plain_adapter, tmp_path):
    name, content, words = UNPREDICTABLE[case]
    put(tmp_path / name, content)
    (tmp_path / "out.csv").write_text("old")
    result = run_main(
        inference.main, "--model_path", plain_adapter, "--input", tmp_path / name, "--output", tmp_path / "out.csv"
    )
    assert_one_message(result, name, *words)
    assert (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob("*.partial*"))


# ---- real command lines


def test_real_command_lines_say_the_same(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD.encode("gbk") + b"\xff\n")
    assert_one_message(run_script("-m", "data.audit", "--train_file", tmp_path / "a.csv"), "GBK", "第 2 行")
    blind = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    assert run_script("inference.py", "--help", env=blind).returncode == 0
    result = run_script("-m", "data.audit", "--train_file", tmp_path / "a.csv", env=blind)
    assert result.returncode == 2 and "GBK" in result.stderr and "Traceback" not in result.stderr


def test_fewer_rows_than_a_batch_are_trained_on(small_base, tmp_path):
    """And the whole path works: spaces and Chinese in every path, quotes and line breaks in the file."""
    folder = tmp_path / "我的 评论"
    folder.mkdir()
    with open(folder / "训练 1.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["评论", "标签"], *([f'{row["text"]}\n"真的"', row["label"]] for row in small_reviews(6))]
        )
    result = run_main(
        train.main, "--model_name", small_base, "--train_file", folder / "训练 1.csv", "--text_column", "评论",
        "--label_column", "标签", "--batch_size", 64, "--max_steps", 1, "--max_length", 32,
        "--output_dir", folder / "输出",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (folder / "输出" / "lora_adapter" / "adapter_model.safetensors").is_file()
