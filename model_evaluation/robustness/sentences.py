"""Perturbations that add something to a review: a neutral sentence, or emoji that agree with its label.

    >>> emoji_append("房间很好", random.Random(0), 1.0, label=1)
    '房间很好🎉🎉'

Each function is pure; the strength plays no part, since a sentence is there or not.
"""

import random

from model_evaluation.robustness.word_lists import read_lines

# Only emoji of one meaning: 😭 also stands for tears of joy, and 🙂 for sarcasm.
EMOJI = {0: ("😡", "👎", "😞", "😠", "😤", "💔", "😒"), 1: ("😊", "👍", "😄", "😍", "🥰", "👏", "🎉")}
CLOSING_MARKS = "。！？!?…~～.；;，,"


def neutral_sentence(text: str, rng: random.Random, strength: float) -> str | None:
    """A sentence without any opinion before or after the text; None for a blank text."""
    if not text.strip():
        return None
    if rng.random() < 0.5:
        return rng.choice(read_lines("neutral_openings.txt")) + text
    closing = rng.choice(read_lines("neutral_closings.txt"))
    body = text.rstrip()
    return body + ("" if body[-1] in CLOSING_MARKS else "。") + closing


def emoji_append(text: str, rng: random.Random, strength: float, label: int) -> str | None:
    """One emoji of the label's polarity, up to three times; None for a blank text or a label but 0 and 1."""
    if not text.strip() or label not in EMOJI:
        return None
    return text.rstrip() + rng.choice(EMOJI[label]) * rng.randint(1, 3)
