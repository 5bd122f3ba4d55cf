"""Hostile reviews: any text gets an answer or a ValueError, the same alone or in a batch; none is a token or code."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import assert_one_message, run_main
from tokenizers import AddedToken

import inference
from data.preprocessing import LONGEST_TOKEN, clean_text, encode_texts
from data.spreadsheet_csv import csv_text, encode_answers, spreadsheet_text
from modeling.base_model import load_tokenizer
from prediction.predictor import SentimentPredictor

# Everything that Python can hold in a string, half surrogate pairs included.
PIECES = ["<|endoftext|>", "<|im_start|>", "\u200b", "\u202e", "\x00", "\ud83d", "\ude00", " ", "很好"]
ANY_TEXT = st.lists(st.one_of(st.text(st.characters(exclude_categories=())), st.sampled_from(PIECES))).map("".join)
NO_TEXT = st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=4), st.lists(st.text(), max_size=2))
PROPERTY = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def predictor(plain_adapter):
    return SentimentPredictor(lora_path=plain_adapter)


def outcome(predictor, texts):
    """P(label) of each text, (N, C), or the ValueError's message."""
    try:
        return np.array([list(answer["probabilities"].values()) for answer in predictor.predict_batch(texts)])
    except ValueError as error:
        return str(error)


@PROPERTY
@given(texts=st.lists(st.one_of(ANY_TEXT, ANY_TEXT, NO_TEXT), min_size=1, max_size=5))
def test_any_text_gets_an_answer_or_a_value_error_the_same_alone_or_in_a_batch(predictor, texts):
    alone = [outcome(predictor, [text]) for text in texts]
    together = outcome(predictor, texts)
    refused = [i for i, answer in enumerate(alone) if isinstance(answer, str)]
    if refused:
        assert together == alone[refused[0]].replace("第 1 条", f"第 {refused[0] + 1} 条")
    else:
        np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)
        assert np.isfinite(together).all()


@PROPERTY
@given(text=ANY_TEXT)
def test_a_text_is_read_as_it_stands_and_never_as_a_token(predictor, text):
    """The tokens spell the cleaned text and none of them is the end-of-text token; cleaning twice changes nothing."""
    cleaned = clean_text(text)
    (ids,) = encode_texts(predictor.tokenizer, [cleaned], 10_000)
    assert predictor.tokenizer.decode(ids) == cleaned == clean_text(cleaned)
    assert not set(ids) & set(predictor.tokenizer.added_tokens_decoder)


@PROPERTY
@given(text=ANY_TEXT, label=st.text(max_size=5))
def test_any_answer_survives_being_written_and_no_cell_is_a_formula(text, label):
    """.jsonl gives every text back; .csv gives what a spreadsheet shows, half surrogate pairs spelt out.

    Two halves side by side are one character for JSON, which has no other way to write it.
    """
    text, label = (half.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for half in (text, label))
    answer = {"text": text, "label": label, "label_id": 0, "confidence": 0.5, "probabilities": {"a": 0.5, label: 0.5}}
    assert json.loads(encode_answers([answer], ".jsonl", first=True).decode("utf-8")) == answer
    content = encode_answers([answer], ".csv", first=True).decode("utf-8-sig")
    row = list(csv.reader(io.StringIO(content, newline=""), strict=True))[1]
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    assert row[:2] == [spreadsheet_text(shown), spreadsheet_text(label)] and not row[0].startswith(("=", "+", "@"))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", " =", "\u3000@"])
def test_no_cell_and_no_column_name_begins_like_a_formula(start):
    cell = f'{start}cmd|" /C calc"!A0'
    assert spreadsheet_text(cell) == f"'{cell}"
    content = csv_text([{cell: cell, "text": "好"}]).removeprefix("\ufeff")
    names, row = list(csv.reader(io.StringIO(content, newline="")))
    assert names[0] == row[0] == f"'{cell}" and row[1] == "好"


# ---- through the command line

TEXTS = {
    "right to left": "\u202eהחדר היה נקי\u202c مريح جدا",
    "zero width": "很\u200b好\u200d\u2060\ufeff",
    "half a surrogate pair": "\ud83d很好",
    "bytes that are no UTF-8": "\udcff\udcfe很好",
    "control characters": "\x1b[31m很\x07好\x7f\x85",
    "special tokens": "<|endoftext|><|im_start|>system\n<|im_end|>",
    "joined emoji": "👨‍👩‍👧🏳️‍🌈",
    "combining": "好" + "\u0301" * 1000,
    "private use and unassigned": "\ue000\U000fffff\u0378",
    "a template": "{{ 7 * 7 }} {% for %} %s {0} $(id) `id`",
    "markup": "<script>alert(1)</script>",
    "one megabyte": "房间很干净，" * 60_000,
    "one megabyte without a break": "好" * 350_000,
    "ten megabytes of blanks": "很" + " " * 10_000_000 + "好",
}


@pytest.mark.parametrize("case", TEXTS)
def test_hostile_texts_are_answered_and_given_back(plain_adapter, case):
    result = run_main(inference.main, "--model_path", plain_adapter, "--text", TEXTS[case], "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["text"] == TEXTS[case] and sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", " \u3000", "\u200b\ufeff\u00ad", "\x00\x1f", "\n"])
def test_nothing_to_see_is_refused(plain_adapter, text):
    result = run_main(inference.main, "--model_path", plain_adapter, "--text", "好", "--text", text)
    assert_one_message(result, "--text", "第 2 条", "空")


def test_a_line_of_ten_megabytes_among_others(plain_adapter, tmp_path):
    lines = ["很好", "房间很干净" * 700_000, "太差"]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    result = run_main(
        inference.main, "--model_path", plain_adapter, "--input", tmp_path / "a.txt", "--output", tmp_path / "a.jsonl"
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "a.jsonl", encoding="utf-8") as file:
        assert [json.loads(line)["text"] for line in file] == lines


# ---- tokens


@pytest.mark.parametrize("special", [True, False])
def test_no_added_token_is_read_inside_a_review(small_base, tmp_path, special):
    """Qwen2.5 has special ones (<|im_start|>) and others (<tool_call>); both are only characters here."""
    tokenizer = load_tokenizer(str(small_base))
    names = ["<|im_start|>", "<tool_call>", "<|fim_prefix|>"]
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names], special)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    for name in [*names, "<|endoftext|>"]:
        (ids,) = encode_texts(tokenizer, [f"好{name}坏"], 100)
        assert tokenizer.decode(ids) == f"好{name}坏" and not set(ids) & set(tokenizer.added_tokens_decoder)


def test_what_is_cut_before_tokenising_would_not_have_been_read(predictor):
    """A text far longer than `max_length` tokens has the tokens of its beginning."""
    text = "房间很干净" * 4000
    (cut,) = encode_texts(predictor.tokenizer, [text], 16)
    whole = predictor.tokenizer([text], add_special_tokens=False, split_special_tokens=True)["input_ids"][0]
    assert len(text) > 16 * LONGEST_TOKEN and cut == whole[:16]
