"""The perturbations of the robustness test: changes of a review that leave its label as it is.

    >>> perturb(["早餐的质量不错"], [1], "synonym_replace", 1.0, seed=42)
    ['早饭的品质不错']

Each is a pure function that gives the changed text, or None where it does not apply (no punctuation in the text,
say). A strength is the share of the applicable places that are changed, from 0.0 (one place) to
1.0 (all); a perturbation that changes the text as a whole has the single strength 1.0.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model_evaluation.robustness.formatting import punctuation_change, traditional, whitespace
from model_evaluation.robustness.wording import (
    character_noise,
    emoji_append,
    neutral_sentence,
    synonym_replace,
    typo_insertion,
)

# Where three strengths have a meaning. A word or a mark may change at every place; of the characters
# not more than a tenth, since with a third of them wrong a reader has to guess as well.
WORD_STRENGTHS = (0.0, 0.3, 1.0)
CHARACTER_STRENGTHS = (0.0, 0.05, 0.1)
WHOLE_TEXT = (1.0,)


@dataclass(frozen=True)
class Perturbation:
    """One kind of change. `function(text, rng, strength)`, or with `needs_label` (text, rng, strength, label)."""

    name: str
    title: str
    description: str
    strengths: tuple[float, ...]
    function: Callable[..., str | None]
    needs_label: bool = False


_ALL = (
    Perturbation("synonym_replace", "同义词替换", "把词换成意思和语气都相同的词", WORD_STRENGTHS, synonym_replace),
    Perturbation(
        "typo_insertion",
        "错别字",
        "把字写成同音字、前后鼻音相混的字或形近字，不动否定词和褒贬词",
        CHARACTER_STRENGTHS,
        typo_insertion,
    ),
    Perturbation(
        "punctuation_change", "标点变化", "漏写或重复标点，或换成半角、全角", WORD_STRENGTHS, punctuation_change
    ),
    Perturbation("traditional", "繁体字", "全文换成繁体字，用词不变", WHOLE_TEXT, traditional),
    Perturbation("whitespace", "多余空白", "在字词之间插入空格或换行", CHARACTER_STRENGTHS, whitespace),
    Perturbation(
        "character_noise", "重字漏字", "多打或漏打一个字，不动否定词和褒贬词", CHARACTER_STRENGTHS, character_noise
    ),
    Perturbation("neutral_sentence", "中性句", "在开头或结尾加一句不含褒贬的话", WHOLE_TEXT, neutral_sentence),
    Perturbation(
        "emoji_append", "附加表情", "在结尾加上与标签一致的表情符号", WHOLE_TEXT, emoji_append, needs_label=True
    ),
)
PERTURBATIONS: dict[str, Perturbation] = {perturbation.name: perturbation for perturbation in _ALL}


def perturb(
    texts: Sequence[str], sentiments: Sequence[int | None], name: str, strength: float, seed: int
) -> list[str | None]:
    """Change each of N texts by the perturbation `name`; None where it does not apply or would leave the text as it is.

    What a text becomes follows from (seed, name, strength, text) alone: not from its place, nor from the other texts.
    `sentiments`: N of 0 = negative, 1 = positive, None = neither. A changed text is never blank. KeyError for an
    unknown name.
    """
    perturbation = PERTURBATIONS[name]
    results: list[str | None] = []
    for text, sentiment in zip(texts, sentiments, strict=True):
        # Random hashes bytes with SHA-512, the same in every process, unlike hash().
        rng = random.Random(f"{seed}\n{name}\n{float(strength)}\n{text}".encode("utf-8", "surrogatepass"))
        if perturbation.needs_label:
            changed = None if sentiment is None else perturbation.function(text, rng, strength, sentiment)
        else:
            changed = perturbation.function(text, rng, strength)
        unchanged = changed is None or changed == text or not changed.strip()
        results.append(None if unchanged else changed)
    return results
