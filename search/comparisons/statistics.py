"""What repeated trainings say of the values of an option: means, paired differences, intervals.

Runs of the same seed are a pair: they have the same split of the data, the same order and, where
the networks are alike, the same first weights, so that their difference is free of what these do to
both. Seeds are drawn at random as far as the result goes, and an interval speaks of what other
seeds would give *on this data set*: its images are the same in all of them (Bouthillier et al.
2021, arXiv:2103.03098). For a claim about fresh images of the same kind it is too narrow, since the
training sets overlap (Nadeau and Bengio 2003, Machine Learning 52).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from statistics import fmean, stdev

from scipy.stats import t as student

__all__ = [
    "EXACT_UP_TO",
    "Difference",
    "Summary",
    "difference",
    "holm",
    "seeds_to_halve",
    "sign_flip",
    "summary",
]

CONFIDENCE = 0.95
EXACT_UP_TO = 16
"""Pairs whose signs are flipped in every way; of more, a sample of the ways is taken."""
SAMPLED = 100_000
ROUNDING = 1e-9
"""Of the size of differences: what lies closer together is the same. Shares such as 138/144 and
137/144 differ in their last digits from others that are one image apart."""


@dataclass(frozen=True)
class Summary:
    """Some runs' results; nan where there are too few."""

    n: int
    mean: float
    std: float
    """n - 1 in the denominator."""
    least: float
    most: float


@dataclass(frozen=True)
class Difference:
    """Results of one value less those of another, seed by seed."""

    values: tuple[float, ...]
    mean: float
    std: float
    low: float
    """Of the interval for the mean; nan, as ``high``, where there are fewer than two pairs or all
    differences are the same: nothing is known then of how they would vary."""
    high: float
    p: float
    """Of the sign-flip test."""

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.values)

    @property
    def half_width(self) -> float:
        """Of the interval: smaller differences could hardly have been seen."""
        return (self.high - self.low) / 2

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def above(self) -> int:
        """Pairs in which it is above 0."""
        return sum(value > 0 for value in self.values)

    @property
    def below(self) -> int:
        """Pairs in which it is below 0."""
        return sum(value < 0 for value in self.values)


def summary(values: Sequence[float]) -> Summary:
    """What a sample comes to."""
    if not values:
        return Summary(0, math.nan, math.nan, math.nan, math.nan)
    std = stdev(values) if len(values) > 1 else math.nan
    return Summary(len(values), fmean(values), std, min(values), max(values))


def difference(
    baseline: Sequence[float], other: Sequence[float], comparisons: int = 1
) -> Difference:
    """``other`` less ``baseline``, which has the results of the same seeds in the same order.

    The interval is that of the paired t-test, mean ± t(n - 1) std / sqrt(n) (Student 1908), at 95 %
    for all of so many ``comparisons`` together (Bonferroni: each at 1 - 0.05 / comparisons). It
    takes the differences for normally distributed, as the means of thousands of images nearly are.
    """
    values = tuple(b - a for a, b in zip(baseline, other, strict=True))
    found = summary(values)
    low = high = math.nan
    if found.n > 1 and found.std > ROUNDING * max(map(abs, values)):
        reach = _reach(found.n, comparisons) * found.std
        low, high = found.mean - reach, found.mean + reach
    return Difference(values, found.mean, found.std, low, high, sign_flip(values))


def seeds_to_halve(n: int, comparisons: int = 1) -> int:
    """How many pairs would give an interval half as wide as ``n`` of them, if they vary alike."""
    wanted, more = _reach(n, comparisons) / 2, n
    while _reach(more, comparisons) > wanted:
        more += 1
    return more


def _reach(n: int, comparisons: int) -> float:
    """Half the interval's width in standard deviations."""
    share = 1 - (1 - CONFIDENCE) / comparisons
    return float(student.ppf((1 + share) / 2, n - 1)) / math.sqrt(n)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p value of the sign-flip test for pairs (Fisher 1935, The Design of Experiments).

    If the value made no difference, each pair's difference would as well have had the other sign;
    p is the share of all ways to sign them whose mean is at least as far from 0. It assumes nothing
    of how they are distributed, but with n pairs it cannot be below 2 / 2^n. Beyond EXACT_UP_TO
    pairs it is estimated from 100,000 ways, drawn by a fixed seed. nan without pairs.
    """
    if not differences:
        return math.nan
    # Sums of other signs differ in their last digits, and an equal one must count; one that is
    # nearly 0 is so by the size of what it sums.
    least = abs(math.fsum(differences)) - ROUNDING * math.fsum(map(abs, differences))
    n = len(differences)
    if n <= EXACT_UP_TO:
        ways = product((-1, 1), repeat=n)
        sums = (abs(math.fsum(map(operator.mul, signs, differences))) for signs in ways)
        return sum(total >= least for total in sums) / float(2**n)
    rng = Random(0)
    hits = sum(
        abs(math.fsum(value if rng.random() < 0.5 else -value for value in differences)) >= least
        for _ in range(SAMPLED)
    )
    return (hits + 1) / (SAMPLED + 1)  # the way that was found is one of them


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979), in the order given; nan stays nan."""
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    adjusted = list(ps)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = highest
    return adjusted
