"""Uploaded files: what is refused in one line, and what becomes of the others."""

import concurrent.futures
import json
import zipfile

import pytest

pytest.importorskip("fastapi_offline")

from small import small_reviews

from deployment.page import uploads
from deployment.page.uploads import QueuedPredictor, check_upload, columns_of, likely_text_column, summarise
from deployment.server.inference_queue import InferenceQueue
from prediction.predict_file import predict_file
from prediction.predictor import SentimentPredictor
from runtime.errors import UserError

TEXTS = [row["text"] for row in small_reviews(60)]
MB = 2**20


def test_a_zip_bomb_is_refused_without_unpacking_it(tmp_path):
    bomb = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/worksheets/sheet1.xml", b"0" * (40 * MB))
    assert bomb.stat().st_size < MB
    with pytest.raises(UserError, match="解开后"):
        check_upload(bomb, 32 * MB)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.exe", b"MZ", "不认识"),
        ("a.csv.gz", b"x", "不认识"),
        ("a.xlsx", b"PK\x03\x04 and nothing more", "Excel"),
        ("a.csv", b"x" * 2000, "太大"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=word) as told:
        check_upload(path, 1000)
    assert str(tmp_path) not in str(told.value) and "\n" not in str(told.value)


def test_columns(tmp_path):
    (tmp_path / "a.csv").write_text("编号,评论内容,text2\n1,很好,x\n", encoding="utf-8")
    assert columns_of(tmp_path / "a.csv") == ["编号", "评论内容", "text2"]
    assert likely_text_column(["编号", "评论内容"]) == "评论内容" and likely_text_column(["a", "b"]) == "a"
    (tmp_path / "a.jsonl").write_text('{"Text": "很好", "n": 1}\n', encoding="utf-8")
    assert likely_text_column(columns_of(tmp_path / "a.jsonl")) == "Text"
    (tmp_path / "a.txt").write_text("很好\n", encoding="utf-8")
    assert columns_of(tmp_path / "a.txt") == [] and likely_text_column([]) is None
    (tmp_path / "b.csv").write_text("text\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.csv 是空的"):
        columns_of(tmp_path / "b.csv")


def test_a_file_goes_through_the_queue_and_gets_the_same_answers(plain_adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PIECE", 7)
    predictor = SentimentPredictor(lora_path=plain_adapter)
    source = tmp_path / "reviews.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    steps: list[int] = []
    queue = InferenceQueue(predictor, most_texts=8)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        through = QueuedPredictor(queue, steps.append)
        file = other.submit(predict_file, through, source, tmp_path / "a.csv", "text", model="m", resume=False)
        assert len(queue.submit(["同时的一条"], patient=True).result(60).answers) == 1
        assert file.result(60) == 60
    queue.close()
    assert steps == [*range(7, 60, 7), 60]
    summary, expected = summarise(tmp_path / "a.csv"), predictor.predict_batch(TEXTS)
    assert summary.count == 60 and summary.unsure is None and len(summary.rows) == 20
    assert [(row.text, row.label) for row in summary.rows] == [(a["text"], a["label"]) for a in expected[:20]]
    assert [row.confidence for row in summary.rows] == pytest.approx([a["confidence"] for a in expected[:20]], abs=1e-6)
    assert sum(summary.labels.values()) == 60
