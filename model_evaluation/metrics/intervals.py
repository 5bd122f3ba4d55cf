"""How sure a measured figure is: intervals for proportions, a bootstrap for everything else, a paired test.

    >>> wilson_interval(1460, 1626)  # 1,460 of 1,626 right
    (0.8822423203495512, 0.9116999327431522)

Not named `statistics`: `python model_evaluation/run_full_eval.py` puts this folder first on the search path, and
`import torch._dynamo` (peft does it) would then find our file where it wants the standard library's.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 9_999  # with (RESAMPLES + 1) * 2.5% whole, the percentiles are order statistics (Davison & Hinkley 1997)
CELLS_PER_CHUNK = 2**18  # resampled counts held at once: 2 MiB, stays in the cache


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of a proportion; keeps its level near 0 and 1, where the normal one fails.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001. ValueError if n < 1 or successes are not in 0..n.
    """
    from scipy.stats import binomtest

    _check_proportion(successes, n)
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a proportion: wrong in at most 1 - confidence of all samples. For 0 or n of n too.

    Source and ValueError as for `clopper_pearson_lower`.
    """
    from scipy.stats import binomtest

    _check_proportion(successes, n)
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def clopper_pearson_lower(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a proportion: too high in at most 1 - confidence of all samples.

    Source: Clopper & Pearson 1934. ValueError as for `wilson_interval`.
    """
    from scipy.stats import binomtest

    _check_proportion(successes, n)
    return float(binomtest(int(successes), int(n), alternative="greater").proportion_ci(confidence, method="exact").low)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> dict:
    """Do two classifiers differ on the same rows? Exact two-sided test on the rows where one alone is right.

    `b` counts rows that only A has right, `c` those that only B has right; under the null each of them is a fair
    coin. Source: McNemar 1947. ValueError if the two (N,) arrays differ in length.
    """
    from scipy.stats import binomtest

    correct_a, correct_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1:
        raise ValueError(f"McNemar needs two arrays over the same rows, got {correct_a.shape} and {correct_b.shape}")
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"b": only_a, "c": only_b, "p_value": p_value}


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Percentile bootstrap over rows of K kinds, `counts[k]` rows of kind k; returns [low, high], (2,) or (2, M).

    `statistic` maps resampled counts (B, K) to values (B,) or (B, M). It never sees rows, only how many of each kind
    were drawn, so that thousands of resamples are one array operation: the kinds of accuracy and F1 are the cells of
    the confusion matrix; those of AUC are the rows themselves (`counts` all 1). NaN marks a resample in which a value
    is undefined; it is left out. Source: Efron & Tibshirani 1993, ch. 13. ValueError if there are no rows.

    >>> bootstrap_interval(lambda drawn: drawn[:, 1] / drawn.sum(axis=1), np.array([20, 80])).round(2)  # 80% right
    array([0.72, 0.88])
    """
    counts = np.asarray(counts, dtype=np.int64).ravel()
    if counts.sum() < 1:
        raise ValueError("bootstrap needs at least one row")
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS_PER_CHUNK // len(counts))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    values = np.concatenate([statistic(_resample(counts, size, rng)) for size in sizes])
    return np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def _resample(counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` draws, with replacement, of as many rows as there are; (size, K) counts of each kind."""
    rows, kinds = counts.sum(), len(counts)
    if kinds < rows:
        return rng.multinomial(rows, counts / rows, size=size)
    # As many kinds as rows: a multinomial costs one binomial for each kind, drawing the rows is ten times as fast.
    drawn = np.repeat(np.arange(kinds), counts)[rng.integers(rows, size=(size, rows))]
    drawn += np.arange(size)[:, None] * kinds
    return np.bincount(drawn.ravel(), minlength=size * kinds).reshape(size, kinds)


def _check_proportion(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion: it needs n >= 1 and 0 <= successes <= n")
