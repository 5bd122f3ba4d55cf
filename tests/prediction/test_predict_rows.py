"""inference.py --input: the other columns come along, bad rows are skipped if asked, in any encoding, with flat memory.

python -m pytest tests/prediction/test_predict_rows.py
"""

import csv
import json
import signal
import tracemalloc
from types import SimpleNamespace
from unittest import mock

import openpyxl
import pytest
import torch
from small import assert_one_message, run_main, small_reviews
from workbooks import as_excel_writes_it, write_workbook

import inference
from prediction import predict_file
from prediction.predictor import SentimentPredictor
from runtime.errors import UserError

HEADER = ["订单号", "评论", "店铺", "金额"]
BAD = {5: "", 11: "\u200b", 17: "  "}  # row of the output, from 0 -> its text


class StubPredictor:
    """Answers at once; everything else of the way is real."""

    labels, threshold, config = ["负面", "正面"], None, SimpleNamespace(temperature=1.0)

    def __init__(self):
        self.model = torch.nn.Linear(1, 1)

    def predict_batch(self, texts, progress=False):
        answer = {"label": "正面", "label_id": 1, "confidence": 0.75, "probabilities": {"负面": 0.25, "正面": 0.75}}
        return [{"text": text} | answer for text in texts]


def stub_predict(source, target, **settings):
    settings = {"model": "stub", "resume": False} | settings
    return predict_file.predict_file(StubPredictor(), source, target, settings.pop("text_column", "评论"), **settings)


def read_csv(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def order_rows(count=40, bad=True):
    reviews = small_reviews(count)
    texts = [BAD.get(i, row["text"]) if bad else row["text"] for i, row in enumerate(reviews)]
    return [[f"00{i}", text, "=HYPERLINK(1)", f"-{i}.50"] for i, text in enumerate(texts)]


def write_csv(path, rows, encoding="gb18030", header=HEADER):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_every_row_of_the_users_table_is_a_row_of_the_output(plain_adapter, tmp_path, kind):
    """A Chinese Excel's table, with bad rows, through the real command; equal to the answers for the texts alone."""
    source = tmp_path / f"订单.{kind}"
    if kind == "csv":
        write_csv(source, order_rows())
    else:
        book = openpyxl.Workbook()
        for row in [HEADER, *order_rows()]:
            book.active.append(row)
        book.active["C2"] = "'=HYPERLINK(1)"
        book.active["C2"].value, book.active["C2"].data_type = "=HYPERLINK(1)", "s"
        for row in range(2, 42):
            book.active.cell(row, 3).data_type = "s"
        book.save(source)
    flags = ["--model_path", plain_adapter, "--input", source, "--text_column", "评论", "--dtype", "float32"]
    refused = run_main(inference.main, *flags, "--output", tmp_path / "out.csv")
    assert_one_message(refused, source.name, "第 7 行：评论", "第 13 行", "第 19 行", "--on_bad_rows skip")
    assert not (tmp_path / "out.csv").exists()

    for target in (tmp_path / "out.csv", tmp_path / "out.jsonl"):
        result = run_main(inference.main, *flags, "--on_bad_rows", "skip", "--output", target)
        assert result.returncode == 0 and "40 行里有 3 行不能预测" in result.stderr, result.stderr
    rows, answers = read_csv(tmp_path / "out.csv"), read_jsonl(tmp_path / "out.jsonl")
    assert list(rows[0])[:5] == ["订单号", "店铺", "金额", "text", "label"]
    assert [row["订单号"] for row in rows] == [row[0] for row in order_rows()] == [row["订单号"] for row in answers]
    assert {row["店铺"] for row in rows} == {"'=HYPERLINK(1)"} and answers[0]["店铺"] == "=HYPERLINK(1)"
    assert [row["金额"] for row in rows] == [row[3] for row in order_rows()]  # a negative number is no formula

    predictor = SentimentPredictor(lora_path=plain_adapter)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if i in BAD:
            assert row["label"] == row["confidence"] == row["probability_正面"] == "" and "空" in row["reason"]
            assert answer["label"] is None and answer["probabilities"] == {"负面": None, "正面": None}
            assert answer["reason"] == row["reason"]
        else:
            expected = predictor.predict(order_rows()[i][1])
            assert row["reason"] == "" and answer["reason"] is None
            assert (
                (answer["text"], answer["label"])
                == (expected["text"], expected["label"])
                == (row["text"], row["label"])
            )
            assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)


def test_rows_that_no_table_can_have_are_skipped_with_the_reason(tmp_path):
    lines = ["评论,店铺", "很好,甲", "一,二,三", '半"个引号",乙', "有\0字节,丙", ",丁", "很差,戊"]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    assert stub_predict(tmp_path / "a.csv", tmp_path / "out.csv", on_bad_rows="skip") == 6
    rows = read_csv(tmp_path / "out.csv")
    assert [row["text"] for row in rows] == ["很好", "", '半"个引号"', "", "", "很差"]
    assert [row["店铺"] for row in rows] == ["甲", "", "乙", "", "丁", "戊"]
    reasons = [row["reason"] for row in rows]
    assert "3 格" in reasons[1] and "NUL" in reasons[3] and "空" in reasons[4]
    (tmp_path / "a.jsonl").write_text(
        '{"评论": 5, "店铺": [1]}\n[1]\n{"x"\n{"店铺": {}}\n{"评论": "好"}\n', encoding="utf-8"
    )
    stub_predict(tmp_path / "a.jsonl", tmp_path / "out.jsonl", on_bad_rows="skip")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == [5, None, None, None, "好"]
    assert [row["店铺"] for row in rows] == [[1], None, None, {}, None]
    stub_predict(tmp_path / "a.jsonl", tmp_path / "out.csv", on_bad_rows="skip")
    assert [row["店铺"] for row in read_csv(tmp_path / "out.csv")] == ["[1]", "", "", "{}", ""]


def test_a_quotation_mark_that_swallows_the_rest_is_no_row_to_skip(tmp_path):
    (tmp_path / "a.csv").write_text('评论\n很好\n"没有收尾\n很差\n一般\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"第 3 行：从这里起引号没有配对.*不能只跳过这一行"):
        stub_predict(tmp_path / "a.csv", tmp_path / "out.csv", on_bad_rows="skip")


def test_a_file_of_nothing_but_bad_rows_is_refused(plain_adapter, tmp_path):
    (tmp_path / "a.txt").write_text("\u200b\n\0\n", encoding="utf-8")
    flags = ["--model_path", plain_adapter, "--input", tmp_path / "a.txt", "--on_bad_rows", "skip"]
    assert_one_message(run_main(inference.main, *flags), "没有一行能预测", "2 行")


def test_a_column_with_the_name_of_an_answer_is_renamed_and_told(tmp_path, capsys):
    header = ["评论", "text", "label", "input_label", "probability_正面", "reason"]
    source = write_csv(tmp_path / "a.csv", [["很好", "甲", "1", "乙", "0.9", "丙"]], "utf-8", header)
    stub_predict(source, tmp_path / "out.csv")
    said = capsys.readouterr().err
    assert (
        "text 写作 input_text" in said and "label 写作 input_input_label" in said and "reason 写作 input_reason" in said
    )
    (row,) = read_csv(tmp_path / "out.csv")
    assert list(row.items()) == [
        ("input_text", "甲"), ("input_input_label", "1"), ("input_label", "乙"), ("input_probability_正面", "0.9"),
        ("input_reason", "丙"), ("text", "很好"), ("label", "正面"), ("label_id", "1"), ("confidence", "0.75"),
        ("probability_负面", "0.25"), ("probability_正面", "0.75"),
    ]  # fmt: skip


@pytest.mark.parametrize("cell", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "＝1", " =1", "\t=1", "-1 ", "+86-1", "-.5"])
def test_no_cell_of_the_input_can_run_in_the_output(tmp_path, cell):
    source = write_csv(tmp_path / "a.csv", [["很好", cell]], "utf-8", ["评论", cell])
    stub_predict(source, tmp_path / "out.csv")
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        header, row = csv.reader(file)
    assert header[0].startswith("'") and row[0] == f"'{cell}"


def test_values_of_a_parquet_file_come_along(tmp_path):
    import datetime
    from decimal import Decimal

    import pyarrow
    from pyarrow import parquet

    columns = {"评论": ["好"], "时间": [datetime.datetime(2026, 1, 31)], "价": [Decimal("1.50")], "空": [float("nan")]}
    parquet.write_table(
        pyarrow.table(columns | {"字节": [b"\xff"], "项": [[datetime.date(2026, 1, 1)]]}), tmp_path / "a.parquet"
    )
    stub_predict(tmp_path / "a.parquet", tmp_path / "out.jsonl")
    stub_predict(tmp_path / "a.parquet", tmp_path / "out.csv")
    (row,) = read_jsonl(tmp_path / "out.jsonl")
    assert (row["时间"], row["价"], row["空"], row["项"]) == ("2026-01-31 00:00:00", "1.50", None, ["2026-01-01"])
    assert read_csv(tmp_path / "out.csv")[0]["时间"] == "2026-01-31 00:00:00"


@pytest.mark.parametrize(("suffix", "stop_at"), [(".jsonl", 2), (".csv", 3)])
def test_wherever_it_is_stopped_the_resumed_output_with_skipped_rows_is_equal_to_the_byte(
    plain_adapter, tmp_path, monkeypatch, suffix, stop_at
):
    monkeypatch.setattr(predict_file, "CHUNK", 8)
    source, whole, target = (
        write_csv(tmp_path / "a.csv", order_rows()),
        tmp_path / f"w{suffix}",
        tmp_path / f"o{suffix}",
    )
    flags = ["--model_path", plain_adapter, "--input", source, "--text_column", "评论", "--on_bad_rows", "skip"]
    assert run_main(inference.main, *flags, "--output", whole).returncode == 0
    calls, original = [], SentimentPredictor.predict_batch

    def stopped(self, texts, **kwargs):
        calls.append(len(texts))
        if len(calls) == stop_at:
            signal.raise_signal(signal.SIGINT)
        return original(self, texts, **kwargs)

    with mock.patch.object(SentimentPredictor, "predict_batch", stopped):
        assert run_main(inference.main, *flags, "--output", target).returncode == 130
    other = run_main(inference.main, *flags[:-2], "--output", target, "--resume")
    assert_one_message(other, "--on_bad_rows skip")  # a bad row comes first
    forced = run_main(inference.main, *flags, "--encoding", "gb18030", "--output", target, "--resume")
    assert_one_message(forced, "--encoding：那时 None，现在 gb18030")
    assert run_main(inference.main, *flags, "--output", target, "--resume").returncode == 0
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input", "a.csv", "--encoding", "klingon"], ["--encoding", "klingon"]),
        (["--input", "a.csv", "--encoding", "latin-1"], ["--encoding", "汉字"]),
        (["--text", "好", "--encoding", "gbk"], ["--input"]),
        (["--text", "好", "--on_bad_rows", "skip"], ["--input"]),
        (["--input", "a.csv", "--on_bad_rows", "drop"], ["--on_bad_rows"]),
    ],
)
def test_mistakes_in_the_flags_are_one_message(flags, words):
    assert_one_message(run_main(inference.main, *flags), *words)


def test_a_forced_encoding_is_obeyed_and_checked(tmp_path):
    write_csv(tmp_path / "a.csv", [["服務很好", "店"]], "big5", ["評論", "店"])
    stub_predict(tmp_path / "a.csv", tmp_path / "out.csv", encoding="big5", text_column="評論")
    assert read_csv(tmp_path / "out.csv")[0]["text"] == "服務很好"
    with pytest.raises(UserError, match="第 1 行不是 --encoding utf-8"):
        stub_predict(tmp_path / "a.csv", tmp_path / "out.csv", encoding="utf-8")


def test_a_jsonl_file_whose_rows_all_bring_new_columns_is_refused(tmp_path):
    lines = [json.dumps({"评论": "好", f"列{i}": 1}) for i in range(1100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="1,000 列以上（第 1001 行）"):
        stub_predict(tmp_path / "a.jsonl", tmp_path / "out.csv")


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, kind):
    """Python's memory at its highest over 1,000 and over 4,000 rows, through reading and writing."""
    monkeypatch.setattr(predict_file, "CHUNK", 256)
    peaks = []
    for count in (1000, 4000):
        rows = [[str(i), f"第{i}条，房间很干净，服务热情" * 60, "店", "1"] for i in range(count)]
        source = tmp_path / f"{count}.{kind}"
        if kind == "csv":
            write_csv(source, rows)
        else:
            as_excel_writes_it(write_workbook(source, [HEADER, *rows]))
        tracemalloc.start()
        try:
            stub_predict(source, tmp_path / "out.csv", on_bad_rows="skip")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert len(read_csv(tmp_path / "out.csv")) == 4000
    assert peaks[1] < peaks[0] * 1.2 + 200_000, peaks
