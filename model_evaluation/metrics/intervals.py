"""Uncertainty of measured figures: intervals for proportions, a bootstrap for everything else, a paired test.

The unit is the text, not the row: ten copies of a review say no more than one. Whatever stands here takes `text_ids`
(N,), equal for rows of the same text, or counts of texts; figures themselves are those of all rows.

    >>> wilson_interval(1460, 1626)  # 1,460 of 1,626 right
    (0.8822423203495512, 0.9116999327431522)

Not named `statistics`: `python model_evaluation/run_full_eval.py` puts this folder first on the search path, and
`import torch._dynamo` (peft does it) would then find our file where it wants the standard library's.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 9_999  # with (RESAMPLES + 1) * 2.5% whole, the percentiles are order statistics (Davison & Hinkley 1997)
CELLS_PER_CHUNK = 2**18  # resampled counts held at once: 2 MiB, stays in the cache


def effective_size(text_ids: np.ndarray) -> float:
    """The number of different texts that rows are worth: (sum m)^2 / sum m^2 over texts with m rows each.

    The number of texts where all stand equally often, less where some do more. Source: Kish 1965, Survey Sampling;
    put into an interval for a proportion: Korn & Graubard 1998.
    """
    copies = np.unique(text_ids, return_counts=True)[1]
    return float(copies.sum() ** 2 / (copies**2).sum())


def share_interval(hits: np.ndarray, text_ids: np.ndarray) -> list[float]:
    """95% interval, [low, high], of the share of `hits` (N,) bool: Wilson's for as many texts as the rows are worth."""
    n = effective_size(text_ids)
    return list(wilson_interval(float(np.mean(hits)) * n, n))


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of a proportion; keeps its level near 0 and 1, where the normal one fails.

    Both may be fractions, as effective sizes are. Source: Wilson 1927; Brown, Cai & DasGupta 2001. ValueError if
    n < 1 or successes are not in 0..n.
    """
    from scipy.special import ndtri

    _check_proportion(successes, n)
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = (z2 * (successes * (n - successes) / n + z2 / 4)) ** 0.5 / (n + z2)
    # At the ends the bound is 0 or 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def clopper_pearson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a proportion: wrong in at most 1 - confidence of all samples. For 0 or n of n too.

    Both may be fractions, as effective sizes are. Source and ValueError as for `clopper_pearson_lower`.
    """
    from scipy.special import betaincinv

    _check_proportion(successes, n)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a proportion: too high in at most 1 - confidence of all samples.

    Source: Clopper & Pearson 1934. ValueError as for `wilson_interval`.
    """
    from scipy.stats import binomtest

    _check_proportion(successes, n)
    return float(binomtest(int(successes), int(n), alternative="greater").proportion_ci(confidence, method="exact").low)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray, text_ids: np.ndarray) -> dict:
    """Do two classifiers differ on the same rows? Exact two-sided test on the texts where one alone is right.

    A text has one vote, however many rows it has: for the classifier that has more of them right. `b` counts the
    votes for A, `c` those for B; under the null each is a fair coin. Where a text has the same number of rows right
    (its copies may carry different labels) it has none. Where no text is repeated this is McNemar's test (1947),
    else the sign test over texts. ValueError if the (N,) arrays differ in length.
    """
    from scipy.stats import binomtest

    correct_a, correct_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1:
        raise ValueError(f"McNemar needs two arrays over the same rows, got {correct_a.shape} and {correct_b.shape}")
    lead = np.bincount(text_ids, weights=correct_a.astype(int) - correct_b.astype(int))  # rows that A has more right
    only_a, only_b = int((lead > 0).sum()), int((lead < 0).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"b": only_a, "c": only_b, "p_value": p_value}


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    *,
    contents=None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Percentile bootstrap over texts of K kinds, `counts[k]` texts of kind k; returns [low, high], (2,) or (2, M).

    `statistic` maps resampled counts (B, K) to values (B,) or (B, M), or, where `contents` (K, D), dense or sparse,
    says how much a text of each kind holds, the drawn sums of it (B, D). It never sees texts, only how many of each
    kind were drawn, so that thousands of resamples are one array operation: the kinds of accuracy and F1 are the cells
    of the confusion matrix that a text's rows fall into; those of AUC are the texts themselves (`counts` all 1). A
    drawn text brings all its rows (cluster bootstrap). NaN marks a resample in which a value is undefined; it is left
    out. Source: Efron & Tibshirani 1993, ch. 13; Davison & Hinkley 1997, ch. 3.8. ValueError if there are no texts.

    >>> bootstrap_interval(lambda drawn: drawn[:, 1] / drawn.sum(axis=1), np.array([20, 80])).round(2)  # 80% right
    array([0.72, 0.88])
    """
    counts = np.asarray(counts, dtype=np.int64).ravel()
    if counts.sum() < 1:
        raise ValueError("bootstrap needs at least one text")
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS_PER_CHUNK // max(len(counts), 0 if contents is None else contents.shape[1]))
    values = []
    for start in range(0, resamples, chunk):
        drawn = _resample(counts, min(chunk, resamples - start), rng)
        values.append(statistic(drawn if contents is None else drawn @ contents))
    return np.nanquantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def _resample(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` draws, with replacement, of as many texts as there are; (size, K) counts of each kind."""
    texts, kinds = counts.sum(), len(counts)
    if kinds < texts:
        return rng.multinomial(texts, counts / texts, size=size)
    # As many kinds as texts: a multinomial costs one binomial for each kind, drawing the texts is ten times as fast.
    drawn = np.repeat(np.arange(kinds), counts)[rng.integers(texts, size=(size, texts))]
    drawn += np.arange(size)[:, None] * kinds
    return np.bincount(drawn.ravel(), minlength=size * kinds).reshape(size, kinds)


def with_interval(figures: dict, name: str) -> str:
    """A figure with its 95% interval, as a terminal shows it: "0.820 (0.786–0.854)"; "—" where it is undefined."""
    if figures[name] is None:
        return "—"
    bounds = (figures["intervals"] or {}).get(name)
    return f"{figures[name]:.3f}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")


def _check_proportion(successes: float, n: float) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion: it needs n >= 1 and 0 <= successes <= n")
