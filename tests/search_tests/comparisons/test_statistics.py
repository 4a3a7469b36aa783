"""Statistics of paired runs, against figures worked out by hand or by SciPy."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from search.comparisons.statistics import (
    EXACT_UP_TO,
    difference,
    holm,
    seeds_to_halve,
    sign_flip,
    summary,
)

__all__: list[str] = []

SCORES = st.integers(0, 1000).map(lambda n: n / 1000)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=9)


def test_a_summary() -> None:
    found = summary([1.0, 2.0, 4.0])
    assert (found.n, found.least, found.most) == (3, 1.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(7 / 3))


def test_too_few_for_a_spread() -> None:
    assert math.isnan(summary([1.0]).std)
    nothing = summary([])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


def test_a_difference_by_hand() -> None:
    """1, 2, 3: mean 2, std 1, and t(2) at 97.5 % is 4.3027 (Student's table)."""
    found = difference([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.std == 1
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert not found.shown
    assert (found.above, found.below) == (3, 0)
    assert found.p == 2 / 8


@given(PAIRS, st.integers(1, 5))
def test_the_interval_is_that_of_the_paired_t_test(
    pairs: list[tuple[float, float]], comparisons: int
) -> None:
    a, b = map(np.array, zip(*pairs, strict=True))
    found = difference(a.tolist(), b.tolist(), comparisons)
    if found.std <= 1e-9:  # all the same but for rounding
        return
    level = 1 - 0.05 / comparisons
    low, high = stats.ttest_rel(b, a).confidence_interval(level)
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)
    assert found.low <= found.mean <= found.high
    assert found.half_width == pytest.approx((high - low) / 2, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_differences_that_do_not_vary_have_no_interval(value: float) -> None:
    """They would have one without width, as if all was known of any other seed."""
    found = difference([0.5] * 4, [0.5 + value] * 4)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.shown
    assert found.mean == value


@given(st.lists(st.integers(0, 134), min_size=2, max_size=9), st.integers(1, 10))
def test_so_many_images_with_each_seed_are_the_same_difference(right: list[int], more: int) -> None:
    """Shares of 144 images that are as far apart are not so in floating point."""
    found = difference([n / 144 for n in right], [(n + more) / 144 for n in right])
    assert math.isnan(found.low)
    assert not found.shown
    assert found.p == 2 / 2**found.n


def test_one_pair_has_no_interval() -> None:
    found = difference([0.5], [0.75])
    assert found.n == 1
    assert math.isnan(found.low)
    assert found.p == 1


def test_no_pair() -> None:
    found = difference([], [])
    assert found.n == 0
    assert math.isnan(found.p)
    assert not found.shown


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        difference([1.0], [1.0, 2.0])


@given(st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=8))
def test_sign_flips_as_scipy_counts_them(differences: list[float]) -> None:
    values = np.array(differences)
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert sign_flip(differences) == pytest.approx(found.pvalue)


def test_the_least_p_of_a_number_of_pairs() -> None:
    for n in range(1, 9):
        assert sign_flip([1.0] * n) == 2 / 2**n


def test_no_difference_is_no_evidence() -> None:
    assert sign_flip([0.0] * 5) == 1
    assert sign_flip([1.0, -1.0]) == 1


def test_the_order_of_sums_does_not_matter() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, and a way as far off as the one found counts."""
    values = (0.1, 0.2, 0.3, 0.7)
    assert len({sign_flip(order) for order in permutations(values)}) == 1


IMAGES = st.lists(st.tuples(st.integers(0, 144), st.integers(-3, 3)), min_size=1, max_size=7)


@given(IMAGES)
def test_shares_of_images_are_counted_as_the_images_are(pairs: list[tuple[int, int]]) -> None:
    """Differences that add up to no image at all must give 1, whatever their last digits are."""
    shares = [(right + more) / 144 - right / 144 for right, more in pairs]
    assert sign_flip(shares) == sign_flip([float(more) for _, more in pairs])


def test_many_pairs_are_estimated() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1.0, EXACT_UP_TO + 14).tolist()
    exact = float(stats.ttest_1samp(values, 0).pvalue)
    assert sign_flip(values) == pytest.approx(exact, abs=0.02)
    assert sign_flip(values) == sign_flip(values)
    assert 0 < sign_flip([1.0] * 30) < 1e-4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_as_defined(ps: list[float]) -> None:
    """Holm 1979: p adjusted of rank i is the largest of (m - j + 1) p(j), j up to i, at most 1."""
    m, order = len(ps), sorted(ps)
    adjusted = {
        p: max(min(1.0, (m - j) * order[j]) for j in range(order.index(p) + order.count(p)))
        for p in ps
    }
    for p, found in zip(ps, holm(ps), strict=True):
        assert p <= found <= 1
        assert found <= adjusted[p] or found == pytest.approx(adjusted[p])
    assert max(holm(ps)) == pytest.approx(max(adjusted.values()))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    left_out = holm([0.02, math.nan, 0.04])
    assert math.isnan(left_out[1])
    assert [left_out[0], left_out[2]] == pytest.approx([0.04, 0.04])


@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_how_many_seeds_halve_an_interval(n: int, comparisons: int) -> None:
    def width(pairs: int) -> float:
        share = 1 - 0.05 / comparisons / 2
        return float(stats.t.ppf(share, pairs - 1)) / math.sqrt(pairs)

    more = seeds_to_halve(n, comparisons)
    assert width(more) <= width(n) / 2 < width(more - 1)
    assert more > n
