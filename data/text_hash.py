"""When are two reviews the same text? One normal form and one hash, used everywhere.

The normal form is NFKC + casefold + only the characters that are letters or digits
(`str.isalnum`), so that a different punctuation mark or a full-width digit does not hide a
repeated review. The hash is the first 8 bytes of SHA-256 over its UTF-8 bytes: with the
10^5 texts of this field, the chance of any collision is below 10^-9.
"""

import hashlib
import unicodedata
from collections.abc import Sequence


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
