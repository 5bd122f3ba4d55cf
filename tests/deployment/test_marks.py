"""Marks of wrong answers: nothing is lost, and training and audit read the file as it is."""

import os
import threading

import pytest

from data.data_loader import load_local_dataset
from deployment.page import marks
from deployment.page.marks import add_mark
from runtime.errors import UserError


def test_training_reads_the_marks_as_they_are(tmp_path):
    path = tmp_path / "new" / "marks.jsonl"
    texts = [f'第{i}条，"引号"\n换行，<b>=1+1\u2028' for i in range(40)]
    for i, text in enumerate(texts):
        add_mark(path, text, ("负面", "正面")[i % 2])
    splits = load_local_dataset(path)
    found = {text: rows.labels[i] for rows in splits.values() for i, text in enumerate(rows.texts)}
    assert found == {text: i % 2 for i, text in enumerate(texts)}
    assert splits["train"].label_names == ["负面", "正面"]


def test_many_at_once_lose_nothing(tmp_path):
    path = tmp_path / "marks.jsonl"
    threads = [
        threading.Thread(target=lambda k=k: [add_mark(path, f"{k} {i}", "正面") for i in range(5)]) for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_text(encoding="utf-8").splitlines())) == 40


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "marks.jsonl"
    path.write_text('{"text": "用手改过，末尾没有换行", "label": "正面"}')
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        add_mark(path, "新的", "负面")
    assert path.read_bytes() == before
    monkeypatch.undo()
    add_mark(path, "新的", "负面")
    assert [line[:10] for line in path.read_text(encoding="utf-8").splitlines()] == ['{"text": "'] * 2


def test_a_file_that_cannot_be_written_or_is_full_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="不能写"):
        add_mark(tmp_path / "file" / "marks.jsonl", "好", "正面")
    monkeypatch.setattr(marks, "MOST_BYTES", 10)
    add_mark(tmp_path / "marks.jsonl", "好", "正面")
    with pytest.raises(UserError, match="移走"):
        add_mark(tmp_path / "marks.jsonl", "好", "正面")
