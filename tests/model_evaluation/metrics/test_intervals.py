"""Intervals and tests against hand-computed values and scipy; the bootstrap against theory.

python -m pytest tests/model_evaluation/metrics/test_intervals.py
"""

import sys
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from model_evaluation.metrics import intervals
from model_evaluation.metrics.intervals import (
    bootstrap_interval,
    clopper_pearson_interval,
    clopper_pearson_lower,
    effective_size,
    mcnemar_exact,
    share_interval,
    wilson_interval,
)


def share_of_first(drawn):
    return drawn[:, 0] / drawn.sum(axis=1)


def test_wilson_by_hand():
    z, p, n = 1.959963984540054, 0.8, 10
    centre, half = (p + z * z / (2 * n)), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson_interval(8, 10) == pytest.approx(expected)
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (1, 1)])
def test_wilson_stays_inside_and_is_never_a_point(successes, n):
    low, high = wilson_interval(successes, n)
    assert 0 <= low < high <= 1
    assert low <= successes / n <= high


def test_clopper_pearson_by_hand():
    assert clopper_pearson_lower(59, 59) == pytest.approx(0.05 ** (1 / 59))  # n of n: p^n = 5%
    assert clopper_pearson_lower(0, 7) == 0
    low = clopper_pearson_lower(8, 10)  # the p at which 8 or more of 10 have a chance of 5%
    assert sum(comb(10, k) * low**k * (1 - low) ** (10 - k) for k in (8, 9, 10)) == pytest.approx(0.05)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (1, 7), (40, 60), (60, 60)])
def test_two_sided_clopper_pearson_equals_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson_interval(right, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval, clopper_pearson_lower])
@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_proportions_are_refused(interval, successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        interval(successes, n)


def test_mcnemar_by_hand():
    only_a, only_b = [True] * 8 + [False] * 2, [False] * 8 + [True] * 2
    both = [True] * 30 + [False] * 5  # rows on which they agree do not count
    # two-sided: 2 * P(Bin(10, 1/2) <= 2) = 2 * (1 + 10 + 45) / 1024
    each = np.arange(45)
    assert mcnemar_exact(only_a + both, only_b + both, each) == {"b": 8, "c": 2, "p_value": pytest.approx(112 / 1024)}
    assert mcnemar_exact(only_b + both, only_a + both, each) == {"b": 2, "c": 8, "p_value": pytest.approx(112 / 1024)}


def test_mcnemar_of_equals_and_of_unequal_lengths():
    assert mcnemar_exact([True, False], [True, False], [0, 1]) == {"b": 0, "c": 0, "p_value": 1.0}
    with pytest.raises(ValueError, match="same rows"):
        mcnemar_exact([True, False], [True], [0, 1])


def test_mcnemar_gives_each_text_one_vote():
    """Text 0 stands five times, A alone has it right; of text 1, with both labels, each has one row; text 2 is B's."""
    a, b = [1, 1, 1, 1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert mcnemar_exact(a, b, [0, 0, 0, 0, 0, 1, 1, 2, 3]) == {"b": 1, "c": 1, "p_value": 1.0}


def test_effective_size_by_hand():
    assert effective_size(np.arange(7)) == effective_size(np.repeat(np.arange(7), 4)) == 7
    assert effective_size(np.array([0, 0, 0, 1])) == 16 / 10


def test_share_interval_covers_at_its_level_however_texts_are_repeated():
    rng = np.random.default_rng(5)
    covered = rows_covered = 0
    for _ in range(2000):
        text_ids = np.repeat(np.arange(150), rng.integers(1, 8, size=150))
        hits = (rng.random(150) < 0.85)[text_ids]
        low, high = share_interval(hits, text_ids)
        covered += low <= 0.85 <= high
        rows_low, rows_high = wilson_interval(int(hits.sum()), len(hits))
        rows_covered += rows_low <= 0.85 <= rows_high
    assert 0.935 <= covered / 2000 <= 0.97  # standard error 0.5%
    assert rows_covered / 2000 < 0.75  # what counting rows would cover


def test_bootstrap_draws_whole_texts():
    """Text 0 has four rows of cell 0, texts 1 and 2 one row each of cell 1: of three draws, the share of cell 0."""
    seen = []
    bootstrap_interval(
        lambda rows: seen.append(rows) or rows[:, 0] / rows.sum(axis=1),
        np.array([1, 2]), contents=np.array([[4.0, 0.0], [0.0, 1.0]]), resamples=400,
    )  # fmt: skip
    drawn = np.concatenate(seen)
    assert {tuple(rows) for rows in drawn.tolist()} == {(0, 3), (4, 2), (8, 1), (12, 0)}
    assert (drawn[:, 0] / 4).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("counts", [np.array([70, 30]), np.r_[np.full(70, 1), np.full(30, 1)]])
def test_bootstrap_of_a_share_has_the_width_of_theory(counts):
    statistic = share_of_first if len(counts) == 2 else lambda drawn: drawn[:, :70].sum(axis=1) / drawn.sum(axis=1)
    low, high = bootstrap_interval(statistic, counts)
    spread = 1.96 * sqrt(0.7 * 0.3 / 100)
    assert (low, high) == pytest.approx((0.7 - spread, 0.7 + spread), abs=0.011)  # a grid of 1/100


def test_bootstrap_covers_at_its_level():
    rng = np.random.default_rng(3)
    covered = 0
    for right in rng.binomial(400, 0.8, size=300):
        low, high = bootstrap_interval(share_of_first, np.array([right, 400 - right]), resamples=999)
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_bootstrap_depends_on_the_seed_alone():
    counts = np.array([40, 60])
    same = [bootstrap_interval(share_of_first, counts, resamples=99, seed=5).tolist() for _ in range(2)]
    other = [bootstrap_interval(share_of_first, counts, resamples=99, seed=s).tolist() for s in range(6)]
    assert same[0] == same[1]
    assert len({tuple(interval) for interval in other}) > 1


def test_bootstrap_in_chunks_draws_all_resamples_of_all_rows(monkeypatch):
    monkeypatch.setattr(intervals, "CELLS_PER_CHUNK", 40)
    seen = []
    bootstrap_interval(lambda drawn: seen.append(drawn) or drawn[:, 0], np.ones(12, dtype=int), resamples=50)
    drawn = np.concatenate(seen)
    assert len(seen) == 17
    assert drawn.shape == (50, 12)
    assert (drawn.sum(axis=1) == 12).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.6)  # each row once on average, the last one too


def test_bootstrap_leaves_undefined_resamples_out():
    def precision(drawn):  # undefined where no row was drawn of either kind
        return np.divide(drawn[:, 0], drawn[:, :2].sum(axis=1), where=drawn[:, :2].sum(axis=1) > 0, out=empty.copy())

    empty = np.full(999, np.nan)
    low, high = bootstrap_interval(precision, np.array([1, 1, 8]), resamples=999)
    assert (low, high) == (0, 1)


def test_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        bootstrap_interval(share_of_first, np.zeros(2, dtype=int))


def test_no_file_beside_a_script_hides_the_standard_library():
    """`python model_evaluation/x.py` puts that folder first on the search path, `python x.py` the root."""
    folder = Path(intervals.__file__).parent
    names = {path.stem for path in [*folder.glob("*.py"), *folder.parent.glob("*.py")]}
    assert not names & set(sys.stdlib_module_names)
