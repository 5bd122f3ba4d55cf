"""Reviews as a language model is asked about them: prompts, label words, and how sure a label is."""

import random
from dataclasses import dataclass

import numpy as np
from corpora import Corpus

from configs.prompt_template import ANY_LABELS_TEMPLATE, PROMPT_TEMPLATE, template_parts
from data.audit.label_issues import REGULARISATION, out_of_fold_probabilities

# (template, word for negative, word for positive, how often). The first is what the scripts ask by default.
PROMPTS = [
    (PROMPT_TEMPLATE, "负面", "正面", 12),
    (PROMPT_TEMPLATE, "差评", "好评", 1),
    (PROMPT_TEMPLATE, "消极", "积极", 1),
    (PROMPT_TEMPLATE, "差", "好", 1),
    (ANY_LABELS_TEMPLATE, "负面", "正面", 1),
    (ANY_LABELS_TEMPLATE, "差评", "好评", 1),
    ("{text}\n这条评论是：", "差评", "好评", 1),
    ("{text}\n用户是否满意：", "不满意", "满意", 1),
    ("评价：{text}\n是否推荐：", "不推荐", "推荐", 1),
]
LABEL_WORDS = sorted({word for _, negative, positive, _ in PROMPTS for word in (negative, positive)})


@dataclass(frozen=True)
class Example:
    """Token ids of a text or prompt; for a prompt the ids of its two label words and how probable the second is."""

    ids: list[int]
    words: tuple[int, int] | None = None  # negative, positive
    positive: float = 0.0


@dataclass(frozen=True)
class Labelled:
    """A text and how probably it is positive."""

    text: str
    positive: float


def token_ids(tokenizer, texts: list[str], most: int, dropout: float | None) -> list[list[int]]:
    """Ids of each text, at most `most`; with `dropout`, that share of merges is left out."""
    tokenizer.backend_tokenizer.model.dropout = dropout
    rows = tokenizer(texts, truncation=True, max_length=most, split_special_tokens=True)["input_ids"]
    tokenizer.backend_tokenizer.model.dropout = None
    return rows


def varied_ids(tokenizer, texts: list[str], args, rng: random.Random) -> list[list[int]]:
    """Ids of each text; half of the texts are cut into other, shorter tokens."""
    rows = token_ids(tokenizer, texts, args.max_tokens, None)
    if not args.bpe_dropout:
        return rows
    other = token_ids(tokenizer, texts, args.max_tokens, args.bpe_dropout)
    return [a if rng.random() < 0.5 else b for a, b in zip(rows, other, strict=True)]


def plain_examples(tokenizer, texts: list[str], args, rng: random.Random) -> list[Example]:
    """Each text alone, ended by the end-of-text token."""
    return [Example([*ids, tokenizer.eos_token_id]) for ids in varied_ids(tokenizer, texts, args, rng)]


def prompt_examples(tokenizer, rows: list[Labelled], args, rng: random.Random) -> list[Example]:
    """Each text in a prompt that is drawn from `PROMPTS` by its weight."""
    prompts = []
    for template, negative, positive, weight in PROMPTS:
        before, after = (tokenizer(part)["input_ids"] for part in template_parts(template))
        words = tuple(tokenizer(word)["input_ids"][0] for word in (negative, positive))
        prompts += [(before, after, words)] * weight
    examples = []
    texts = [row.text for row in rows]
    for ids, row in zip(varied_ids(tokenizer, texts, args, rng), rows, strict=True):
        before, after, words = rng.choice(prompts)
        examples.append(Example(before + ids + after, words, row.positive))
    return examples


def out_of_fold(corpora: list[Corpus], seed: int) -> list[float]:
    """How probably each row of the corpora, one after the other, is positive, by a TF-IDF model of the other rows."""
    texts = [text for corpus in corpora for text in corpus.texts]
    labels = np.array([label for corpus in corpora for label in corpus.labels])
    return out_of_fold_probabilities(texts, labels, np.arange(len(texts)), seed)[:, 1].tolist()


def soft_labels(corpora: list[Corpus], others: list[float], trust: float) -> list[Labelled]:
    """Each given label weighed `trust`, the rest by `others`, which have not seen it.

    One label in twenty of such corpora is wrong, and many a review is neither good nor bad.
    """
    texts = [text for corpus in corpora if corpus.labels for text in corpus.texts]
    labels = [label for corpus in corpora if corpus.labels for label in corpus.labels]
    rows = zip(texts, labels, others, strict=True)
    return [Labelled(text, trust * label + (1 - trust) * other) for text, label, other in rows]


def by_tfidf(corpora: list[Corpus], texts: list[str]) -> np.ndarray:
    """(N,) how probably the texts are positive, by character 1-3-grams of the labelled corpora."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True, dtype=np.float32)
    model = make_pipeline(vectorizer, LogisticRegression(C=REGULARISATION, solver="liblinear"))
    model.fit([text for corpus in corpora for text in corpus.texts], [y for corpus in corpora for y in corpus.labels])
    return model.predict_proba(texts)[:, 1]
