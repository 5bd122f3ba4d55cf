"""The data audit: each check by hand, flipped labels found, and its table acted on by `--drop_rows`."""

import csv
import json
import random
import shutil

import numpy as np
import pytest
from small import assert_one_message, run_script, small_reviews, write_jsonl

from configs.training_config import DataConfig
from data.audit.duplicates import both_labels, length_figures, overlaps, rows_by_text, split_figures
from data.audit.label_issues import (
    distinct_rows,
    find_suspicious,
    out_of_fold_probabilities,
    suspicious_records,
    write_suspicious,
)
from data.dataset import Rows
from data.training_filters import dedup, drop_listed, filter_training_rows
from runtime.errors import UserError

TRAIN = Rows(["很好", "差！", "很，好！", "差", "一般", "！！", "Ｇood", "good"], [1, 0, 0, 0, 0, 0, 1, 1])


def test_figures_of_a_split_by_hand():
    figures = split_figures(TRAIN)
    assert (figures["n"], figures["labels"], figures["distinct_texts"]) == (8, {"负面": 5, "正面": 3}, 5)
    assert figures["repeated_rows"] == 3
    assert figures["both_labels"] == {
        "texts": 1, "rows": 2, "examples": [{"text": "很好", "rows": [1, 3], "labels": ["正面", "负面"]}],
    }  # fmt: skip
    assert figures["without_letters_or_digits"] == {"n": 1, "rows": [6]}


def test_rows_by_text_and_both_labels():
    assert list(rows_by_text(TRAIN).values()) == [[0, 2], [1, 3], [4], [5], [6, 7]]
    assert list(both_labels(TRAIN).values()) == [[0, 2]]


def test_overlaps_count_rows_of_each_side_and_their_other_labels():
    found = overlaps({"train": TRAIN, "validation": Rows(["差", "新的", "很好。"], [1, 1, 1])})
    assert found == [
        {"split": "train", "also_in": "validation", "rows": 4, "share": 0.5, "other_label": 3},
        {"split": "validation", "also_in": "train", "rows": 2, "share": 2 / 3, "other_label": 2},
    ]
    assert len(overlaps(dict.fromkeys(("train", "validation", "test"), TRAIN))) == 6


def test_lengths_are_of_the_cleaned_text():
    assert length_figures([" 好 \n", *("好" * n for n in range(2, 101))]) == {
        "min": 1, "median": 50, "mean": 50.5, "p95": 95, "p99": 99, "max": 100,
    }  # fmt: skip


def flipped_reviews(count: int = 300, flips: int = 12, seed: int = 0) -> tuple[Rows, set[int]]:
    """(reviews of which `flips` have the wrong label, their positions)."""
    reviews = small_reviews(count)
    wrong = set(random.Random(seed).sample(range(count), flips))
    labels = [1 - row["label"] if i in wrong else row["label"] for i, row in enumerate(reviews)]
    return Rows([row["text"] for row in reviews], labels), wrong


def ranked(rows: Rows) -> list[dict]:
    sets, groups = distinct_rows(rows)
    texts = [rows.texts[positions[0]] for positions in sets]
    labels = np.array([rows.labels[positions[0]] for positions in sets])
    probs = out_of_fold_probabilities(texts, labels, groups, seed=42)
    return suspicious_records(rows, sets, probs, find_suspicious(labels, probs))


def test_flipped_labels_stand_at_the_top():
    rows, wrong = flipped_reviews()
    records = ranked(rows)
    assert {record["row"] - 1 for record in records[: len(wrong)]} == wrong
    assert all(record["label"] != record["suggested_label"] for record in records)
    scores = [record["score"] for record in records]
    assert scores == sorted(scores) and records == ranked(rows)


def test_copies_are_one_finding_that_counts_them():
    rows, wrong = flipped_reviews()
    position = min(wrong)
    copy = rows.texts[position].replace("，", "！")
    records = ranked(Rows([*rows.texts, copy], [*rows.labels, rows.labels[position]]))
    (record,) = [record for record in records if record["row"] == position + 1]
    assert record["copies"] == 2 and all(record["row"] != len(rows) + 1 for record in records)


def test_distinct_rows_keep_a_text_with_two_labels_in_one_group():
    sets, groups = distinct_rows(TRAIN)
    assert sets == [[0], [2], [1, 3], [4], [5], [6, 7]]
    assert groups[0] == groups[1] and len(set(groups)) == 5


def test_without_groups_a_repeated_wrong_label_would_confirm_itself():
    rows, _ = flipped_reviews(count=100, flips=0)
    texts, labels = rows.texts + [rows.texts[0]] * 8, np.array(rows.labels + [1 - rows.labels[0]] * 8)
    groups = np.array([*range(100), *[0] * 8])
    grouped = out_of_fold_probabilities(texts, labels, groups, seed=0)[-8:, labels[-1]]
    leaking = out_of_fold_probabilities(texts, labels, np.arange(108), seed=0)[-8:, labels[-1]]
    assert grouped.max() < 0.5 < leaking.min()


def test_dedup_keeps_first_rows_and_leaves_contradictions_out():
    kept, note = dedup(TRAIN)
    assert (kept.texts, kept.labels) == (["差！", "一般", "！！", "Ｇood"], [0, 0, 0, 1])
    assert "2 行重复" in note and "1 个文本" in note and "剩 4 行" in note


def table(path, *pairs):
    """A table of (text, label) as the audit writes it."""
    rows = Rows([text for text, _ in pairs], [label for _, label in pairs])
    sets = [[i] for i in range(len(rows))]
    probs = np.array([[0.9, 0.1] if label else [0.1, 0.9] for label in rows.labels])
    write_suspicious(path, suspicious_records(rows, sets, probs, [(i, 0.1) for i in range(len(rows))]))
    return path


AWKWARD = [
    "=1+1 好",
    "+好",
    "-_-",
    "@某人 好",
    "'=_=",
    '他说"好", 贵',
    "第一行\r\n第二行",
    "\t好的",
    "前\u2028后",
    "坏\ud83d字",
    "😀\n😀",
]


def test_awkward_texts_survive_the_table(tmp_path):
    texts = [*AWKWARD, "留下的", "也留下"]
    rows = Rows(texts, [1] * len(AWKWARD) + [1, 0])
    path = table(tmp_path / "t.csv", *((text, 1) for text in AWKWARD))
    with open(path, encoding="utf-8-sig", newline="") as file:
        cells = [row["text"] for row in csv.DictReader(file)]
    assert len(cells) == len(AWKWARD) and not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert drop_listed(rows, path).texts == ["留下的", "也留下"]


def test_a_listed_row_goes_with_its_copies_but_not_the_other_label(tmp_path):
    kept = drop_listed(TRAIN, table(tmp_path / "t.csv", ("很好", 0), ("Good", 1)))
    assert kept.texts == ["很好", "差！", "差", "一般", "！！"] and kept.labels == [1, 0, 0, 0, 0]


def test_lines_that_a_person_deletes_stay(tmp_path):
    path = table(tmp_path / "t.csv", ("差", 0), ("一般", 0))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[2]]), encoding="utf-8")
    assert drop_listed(TRAIN, path).texts == [text for text in TRAIN.texts if text != "一般"]


def test_a_table_of_other_data_is_one_error_that_names_its_first_lines(tmp_path):
    path = table(tmp_path / "t.csv", ("差", 0), ("别处的", 0), ("差", 1), *((f"别的{i}", 1) for i in range(9)))
    with pytest.raises(UserError) as error:
        drop_listed(TRAIN, path)
    message = str(error.value)
    assert all(word in message for word in ("11 条", "第 2 条", "没有这条文本", "第 3 条", "标签是负面", "没有删去"))
    assert "第 1 条" not in message and "第 12 条" not in message


def test_rows_are_struck_out_before_contradictions_are_looked_for(tmp_path):
    config = DataConfig(dedup_train=True, drop_rows=str(table(tmp_path / "t.csv", ("很好", 0))))
    kept, notes = filter_training_rows(TRAIN, config)
    assert "很好" in kept.texts and len(notes) == 2
    assert filter_training_rows(TRAIN, DataConfig()) == (TRAIN, [])


def test_filters_that_leave_one_label_are_refused(tmp_path):
    rows = Rows(["好", "差"], [1, 0])
    with pytest.raises(UserError, match="不再有标签为 负面"):
        filter_training_rows(rows, DataConfig(drop_rows=str(table(tmp_path / "t.csv", ("差", 0)))))


def test_nothing_suspicious_is_a_table_with_a_header(tmp_path):
    path = tmp_path / "t.csv"
    write_suspicious(path, [])
    assert path.read_text(encoding="utf-8-sig").split() == [
        "split,file,where,text,label,suggested_label,action,new_label,score,copies"
    ]


@pytest.fixture(scope="module")
def noisy_files(tmp_path_factory):
    """(flags of files with flipped labels, a repeated row and a leak; positions of the flipped)."""
    folder, (rows, wrong) = tmp_path_factory.mktemp("noisy"), flipped_reviews()
    lines = [{"text": text, "label": label} for text, label in zip(rows.texts, rows.labels, strict=True)]
    position = min(set(range(300)) - wrong)
    held = [{"text": f"第{i}天，{row['text']}", "label": row["label"]} for i, row in enumerate(small_reviews(20))]
    train = write_jsonl(folder / "train.jsonl", [*lines, lines[position]])
    validation = write_jsonl(folder / "validation.jsonl", [*held, lines[position]])
    return ["--train_file", train, "--validation_file", validation], wrong


@pytest.fixture(scope="module")
def audited(tmp_path_factory, noisy_files):
    output = tmp_path_factory.mktemp("audit")
    result = run_script("-m", "data.audit", *noisy_files[0], "--output_dir", output)
    assert result.returncode == 0, result.stdout + result.stderr
    return result, output


def test_the_command_writes_both_files_and_a_summary(audited, noisy_files):
    result, output = audited
    audit = json.loads((output / "data_audit.json").read_text(encoding="utf-8"))
    assert set(audit) == {"data", "splits", "overlaps", "suspicious_labels", "environment"}
    assert audit["splits"]["train"]["repeated_rows"] == 1 and audit["overlaps"][1]["rows"] == 1
    found = audit["suspicious_labels"]
    assert found["out_of_fold"] and found["checked"] == 300 and found["found"] >= len(noisy_files[1])
    assert {record["row"] - 1 for record in found["top"][: len(noisy_files[1])]} == noisy_files[1]
    assert "重复 1 行" in result.stdout and "cleanlab" in str(audit["environment"])


def test_train_acts_on_the_table_and_evaluation_finds_the_same_rows(audited, noisy_files, small_base, tmp_path):
    drops = shutil.copy(audited[1] / "suspicious_labels.csv", tmp_path / "my_drops.csv")
    flags = [*noisy_files[0], "--dedup_train", "--drop_rows", drops]
    result = run_script(
        "train.py",
        "--model_name",
        small_base,
        *flags,
        "--max_steps",
        "2",
        "--output_dir",
        tmp_path,
        "--batch_size",
        "4",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 行重复" in result.stdout and "--drop_rows：" in result.stdout

    from model_evaluation.evaluation import training_splits

    left = training_splits(str(tmp_path / "lora_adapter"))["train"]
    found = json.loads((audited[1] / "data_audit.json").read_text(encoding="utf-8"))["suspicious_labels"]["found"]
    assert len(left) == 300 - found


def test_too_few_rows_are_not_judged(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", small_reviews(40))
    result = run_script("-m", "data.audit", "--train_file", train, "--output_dir", tmp_path)
    assert result.returncode == 0 and "没有检查可疑标注" in result.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--drop_rows", "none.csv"], ["none.csv"]),
        (["--drop_rows", "out/suspicious_labels.csv", "--output_dir", "out"], ["覆盖"]),
        (["--model_path", "x"], ["--model_path"]),
    ],
)
def test_mistakes_are_one_message(flags, words, noisy_files):
    assert_one_message(run_script("-m", "data.audit", *noisy_files[0], *flags), *words)


def test_files_without_a_training_file_are_refused():
    assert_one_message(run_script("-m", "data.audit", "--test_file", "x.csv"), "--train_file")


def test_help_answers_without_heavy_imports():
    result = run_script("-X", "importtime", "-m", "data.audit", "--help")
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0 and "--drop_rows" in result.stdout
    assert not imported & {"torch", "transformers", "datasets", "sklearn", "cleanlab", "pandas"}
