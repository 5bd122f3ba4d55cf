"""Text cleaning and tokenising, the same for training and for serving.

`clean_text` is the whole of it, on purpose: what a model is served must look like what it was
trained on, so every step here is one that both sides take.
"""

import re
import unicodedata

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
