"""Texts cleaned, tokenised and hashed, the same for training and for serving.

`clean_text` is all the cleaning there is, on purpose: what a model is served must look like what it was trained on, so
every step here is one that both sides take.

Two reviews are the same text when their `text_hash` is the same: the first 8 bytes of SHA-256 over the UTF-8 bytes of a
normal form (NFKC, casefold, and only the characters that are letters or digits), so that a different punctuation mark
or a full-width digit does not hide a repeated review. With the 10^5 texts of this field, the chance of any collision is
below 10^-9.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from configs.prompt_template import template_parts

# Zero-width characters that are invisible and carry no meaning between Chinese characters. The
# zero-width joiner (U+200D) stays: it holds emoji such as 👨‍👩‍👧 together.
INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # the category Cc
# No token of Qwen2.5 is longer. Tokenising what lies far beyond `max_length` tokens would take minutes for a
# text of some megabytes: its time grows faster than the length.
LONGEST_TOKEN = 128


def clean_text(text: str) -> str:
    """NFC, control characters and runs of white space as one blank, stripped.

    Lone surrogates (half an emoji, from a broken decoder) become U+FFFD. May return "" for a text
    with nothing visible in it; raises `ValueError` for anything but a `str`.
    """
    if not isinstance(text, str):
        raise ValueError(f"评论应为字符串，得到 {type(text).__name__}：{text!r:.60}")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))
    return " ".join(CONTROL.sub(" ", text).split())


def encode_texts(tokenizer, texts: list[str], max_length: int, template: str | None = None) -> list[list[int]]:
    """Token ids of each cleaned text, cut to `max_length` tokens, inside the prompt `template` where there is one.

    `split_special_tokens` reads a review that contains "<|endoftext|>" as those characters and
    never as the end-of-text token, which is also the pad token that pooling looks for. The prompt is
    never cut and comes on top of `max_length`; a template may name special tokens. ValueError for a
    template without just one `{text}`.

    What stands before the text, the text and what stands after are turned into tokens apart, so that
    every prompt starts with the same tokens. A tokenizer that sees all at once may join a full stop and
    the line break after it.
    """
    if not texts:
        return []
    before, after = [], []
    if template is not None:
        before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in template_parts(template))
    texts = [text[: max_length * LONGEST_TOKEN] for text in texts]
    reviews = tokenizer(
        texts, truncation=True, max_length=max_length, add_special_tokens=False, split_special_tokens=True
    )["input_ids"]
    return [before + review + after for review in reviews]


def normalize_for_matching(text: str) -> str:
    """Normal form under which two texts count as equal; may be empty ("！！！")."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def text_hash(text: str) -> str:
    """16 hex digits that name the normal form of `text`.

    A text without any letter or digit (emoji only, say) has an empty normal form; it is hashed
    as it stands, stripped, so that two different ones are not taken for the same.
    """
    key = normalize_for_matching(text) or text.strip()
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_ids(texts: Sequence[str]) -> list[int]:
    """A number for each text, shared by the rows of the same text: 0, 1, … in the order of first appearance."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text_hash(text), len(numbers)) for text in texts]


def in_slice(text: str, percent: int) -> bool:
    """True for the texts of a slice that holds this many of a hundred texts; a text's hash alone decides."""
    return int(text_hash(text)[-8:], 16) % 100 < percent
