"""The audit's table filled in by a person: rows found by file and line, put right or taken out, in every split.

python -m pytest tests/data/test_corrections.py
"""

import csv
import io
import json
import shlex

import pytest
from small import assert_one_message, run_main, small_reviews, write_jsonl

import train
from configs.evaluation_config import StepConfig
from configs.training_config import DataConfig
from data.audit import __main__ as audit
from data.audit.corrections import corrected
from data.data_loader import load_splits
from data.dataset import Rows
from data.preprocessing import text_hash
from model_evaluation.evaluation import Evaluation
from prediction.training_data import training_splits
from runtime.errors import UserError

HEADER = "split,file,where,text,label,suggested_label,action,new_label,score,copies\n"
SPLITS = {
    "train": Rows(["很好", "太差", "很好！", "一般", "=1 好"], [1, 0, 1, 0, 1]),
    "validation": Rows(["太差。", "不错", "很好"], [0, 0, 0]),
}


def apply(tmp_path, table: str, encoding="utf-8", **settings):
    (tmp_path / "t.csv").write_text(table, encoding=encoding)
    return corrected(SPLITS, tmp_path / "t.csv", **settings)


def test_lines_put_labels_right_or_take_rows_out_wherever_they_stand(tmp_path):
    table = (
        "text,label,action,new_label\n很好,正面,,负面\n太差,0,drop,\n一般,负面,,\n一般,负面,keep,\n'=1 好,正面,改标,0\n"
    )
    for encoding in ("utf-8-sig", "gbk"):
        splits, note = apply(tmp_path, table, encoding)
        assert (splits["train"].texts, splits["train"].labels) == (["很好", "很好！", "一般", "=1 好"], [0, 0, 0, 0])
        assert (splits["validation"].texts, splits["validation"].labels) == (["不错", "很好"], [0, 0])
        assert "改标 3 行，删去 2 行" in note and "train、validation" in note
    assert SPLITS["train"].labels == [1, 0, 1, 0, 1]


def test_a_new_label_that_is_the_number_0_counts(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "很好", "label": 1, "new_label": 0}])
    assert corrected(SPLITS, path)[0]["train"].labels == [0, 0, 0, 0, 1]


def test_a_table_that_nobody_has_filled_in_changes_nothing(tmp_path):
    splits, note = apply(tmp_path, HEADER + "train,a,第 2 行,没有这条,正面,负面,,,0.1,1\n")
    assert splits == SPLITS and "改标 0 行，删去 0 行" in note


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("很好,正面,drop,负面", ["第 2 行", "action 是 drop，又填了 new_label"]),
        ("很好,正面,relabel,", ["第 2 行", "new_label 却空着"]),
        ("很好,正面,delete,", ["第 2 行", "drop、keep、relabel", "delete"]),
        ("很好,正面,,中性", ["第 2 行", "new_label 应为", "中性"]),
        ("很好,好的,,负面", ["第 2 行", "label 应为", "好的"]),
        ("别处的,正面,drop,", ["第 2 行（正面）「别处的」", "没有这个标签的这条文本"]),
        ("不错,正面,drop,", ["「不错」"]),
        ("很好,正面,drop,\n很好。,正面,,负面", ["第 3 行", "另有说法"]),
        (" ,正面,drop,", ["text 是空的"]),
        ("很好,正面,drop,,", ["第 2 行", "5 格"]),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_changed(tmp_path, lines, words):
    with pytest.raises(UserError) as error:
        apply(tmp_path, f"text,label,action,new_label\n{lines}\n")
    for word in ["--apply_corrections", "t.csv", "没有改动", *words]:
        assert word in str(error.value), str(error.value)
    with pytest.raises(UserError, match=r"没有 new_label 列.*text、label、new_label"):
        apply(tmp_path, "text,label\n很好,正面\n")


# ---- the whole way: a GBK table with a wrong label in each part, the audit, the table filled in, training, evaluation


def where_of(table: bytes) -> dict[str, str]:
    """Text -> the line on which its row begins, told by the csv module."""
    reader = csv.reader(io.StringIO(table.decode("gbk"), newline=""))
    places, before = {}, 0
    for row in reader:
        places[row[0]] = f"第 {before + 1} 行"
        before = reader.line_num
    return places


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """(folder with `评论.csv` in GBK and 测试.csv, texts of each part whose label is wrong)."""
    folder = tmp_path_factory.mktemp("noisy")
    reviews = [(f"{row['text']}\n第二行", row["label"]) for row in small_reviews(400)]
    # As `split_off` does: a text's hash decides whether it is held out.
    parts = {"validation": [], "train": []}
    for text, label in reviews[:340]:
        parts["validation" if int(text_hash(text), 16) < 2**64 // 10 else "train"].append((text, label))
    parts["test"] = reviews[340:]
    wrong = {name: {pairs[i][0] for i in (3, 10)} for name, pairs in parts.items()}
    everywhere = set().union(*wrong.values())
    for name, rows in (("评论.csv", reviews[:340]), ("测试.csv", reviews[340:])):
        lines = [["店评", "褒贬"], *((text, ("差评", "好评")[label ^ (text in everywhere)]) for text, label in rows)]
        with open(folder / name, "w", encoding="gbk", newline="") as file:
            csv.writer(file).writerows(lines)
    return folder, wrong


@pytest.fixture(scope="module")
def audited(noisy):
    folder, _ = noisy
    flags = ["--train_file", folder / "评论.csv", "--test_file", folder / "测试.csv", "--text_column", "店评"]
    flags += ["--label_column", "褒贬", "--encoding", "gb18030", "--labels", "差评,好评"]
    result = run_main(audit.main, *flags, "--output_dir", folder / "out")
    assert result.returncode == 0, result.stderr
    with open(folder / "out" / "suspicious_labels.csv", encoding="utf-8-sig", newline="") as file:
        return result, list(csv.DictReader(file)), flags


def test_wrong_labels_are_found_in_every_part_by_the_users_own_file_and_line(audited, noisy):
    result, table, _ = audited
    folder, wrong = noisy
    for split, texts in wrong.items():
        source = folder / ("测试.csv" if split == "test" else "评论.csv")
        listed = {line["text"]: line for line in table if line["split"] == split}
        places = where_of(source.read_bytes())
        for text in texts:
            line = listed[text.replace("\n", " ")]
            assert (line["file"], line["where"]) == (str(source), places[text])
            assert line["action"] == line["new_label"] == "" and line["label"] != line["suggested_label"]
        assert f"{split} 的可疑标注" in result.stdout
    assert f"{folder / '评论.csv'} 第 " in result.stdout
    found = json.loads((folder / "out" / "data_audit.json").read_text(encoding="utf-8"))["suspicious_labels"]
    assert set(found["held_out"]) == {"validation", "test"} and found["held_out"]["test"]["checked"] == 60
    assert {record["split"] for record in found["top"]} == {"train"} and all(record["row"] for record in found["top"])


def test_the_command_works_as_it_is_pasted_and_does_what_was_filled_in(audited, noisy, small_base, tmp_path):
    result, table, _ = audited
    folder, wrong = noisy
    command = shlex.split(result.stdout.strip().splitlines()[-1])
    assert command[:2] == ["python", "train.py"]
    filled = folder / "out" / "suspicious_labels.csv"
    relabelled, dropped = 0, 0
    for line in table:
        if line["text"] in {text.replace("\n", " ") for texts in wrong.values() for text in texts}:
            if line["split"] == "train" and not dropped:
                line["action"], dropped = "drop", 1
            else:
                line["new_label"], relabelled = line["suggested_label"], relabelled + 1
    with open(filled, "w", encoding="gbk", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)

    short = ["--model_name", small_base, "--max_steps", 1, "--max_length", 16, "--output_dir", tmp_path]
    result = run_main(train.main, *command[2:], *short)
    assert result.returncode == 0, result.stderr
    assert f"改标 {relabelled} 行，删去 {dropped} 行" in result.stdout and (relabelled, dropped) == (5, 1)
    splits = training_splits(str(tmp_path / "lora_adapter"))
    right = {f"{row['text']}\n第二行": row["label"] for row in small_reviews(400)}
    assert all(
        right[text] == label for rows in splits.values() for text, label in zip(rows.texts, rows.labels, strict=True)
    )

    # The same file as a test file of its own, and the audit does not write over what was filled in.
    columns = {"text_column": "店评", "label_column": "褒贬", "test_file": str(folder / "测试.csv")}
    model_path = str(tmp_path / "lora_adapter")
    rows = Evaluation(StepConfig(model_path=model_path, **columns, apply_corrections=str(filled))).rows
    assert all(right[text] == label for text, label in zip(rows.texts, rows.labels, strict=True)) and len(rows) == 60
    again = run_main(audit.main, *audited[2], "--output_dir", folder / "out")
    assert_one_message(again, "suspicious_labels.csv", "填过", "--output_dir")
    itself = run_main(audit.main, *audited[2], "--apply_corrections", filled, "--output_dir", folder / "out")
    assert_one_message(itself, "--apply_corrections", "覆盖")
    drop = run_main(train.main, *command[2:-2], "--drop_rows", filled, *short)
    assert_one_message(drop, "--drop_rows", "请改用 --apply_corrections")


def test_drop_rows_passes_over_the_lines_of_other_parts(tmp_path):
    rows = small_reviews(60)
    files = {
        name: str(write_jsonl(tmp_path / f"{name}.jsonl", part)) for name, part in (("a", rows[:40]), ("b", rows[40:]))
    }
    config = {"train_file": files["a"], "validation_file": files["b"]}
    lines = [
        f"train,a,第 1 行,{rows[0]['text']},负面,正面,,,0.1,1",
        f"validation,b,第 1 行,{rows[40]['text']},负面,正面,,,0.1,1",
    ]
    (tmp_path / "t.csv").write_text(HEADER + "\n".join(lines), encoding="utf-8")
    splits = load_splits(DataConfig(**config, drop_rows=str(tmp_path / "t.csv")))
    assert [len(part) for part in splits.values()] == [39, 20]


def test_corrections_that_leave_one_label_are_refused(tmp_path):
    rows = small_reviews(6)
    lines = [f"{row['text']},负面,drop," for row in rows if not row["label"]]
    (tmp_path / "t.csv").write_text("text,label,action,new_label\n" + "\n".join(lines), encoding="utf-8")
    files = {"train_file": str(write_jsonl(tmp_path / "a.jsonl", rows))}
    files["validation_file"] = str(write_jsonl(tmp_path / "b.jsonl", small_reviews(40)[20:]))
    with pytest.raises(UserError, match="不再有标签为 负面"):
        load_splits(DataConfig(**files, apply_corrections=str(tmp_path / "t.csv")))
