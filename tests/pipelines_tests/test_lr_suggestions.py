"""The four suggestions are fastai's: once more here, in plain Python, and compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from pipelines.config import RunConfig
from pipelines.lr_range import lr_range_test, minimum, slide, steep, valley
from pipelines.lr_range_config import LrRangeConfig
from pipelines.run import prepare

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]


def reference_valley(lrs: list[float], losses: list[float]) -> float:
    lengths = []
    for i, loss in enumerate(losses):
        lengths.append(1 + max((lengths[j] for j in range(i) if losses[j] > loss), default=0))
    longest = max(lengths)
    end = lengths.index(longest)
    start = end - longest if longest > 1 else 0
    third = (end - start) / 3
    return lrs[start + int(third) + int(third / 2)]


def reference_slide(lrs: list[float], losses: list[float]) -> float:
    count = len(losses)
    slopes = [
        (losses[min(i + 1, count - 1)] - losses[max(i - 1, 0)])
        / (min(i + 1, count - 1) - max(i - 1, 0))
        for i in range(count)
    ]
    right, left = -1, -16
    found = lrs[left]
    while left >= -count and abs(slopes[right] - slopes[left]) > 0.005:
        found = lrs[left]
        right, left = right - 1, left - 1
    return found


def reference_minimum(lrs: list[float], losses: list[float]) -> float:
    return lrs[losses.index(min(losses))] / 10


def reference_steep(lrs: list[float], losses: list[float]) -> float:
    slopes = [
        (losses[i + 1] - losses[i]) / (math.log(lrs[i + 1]) - math.log(lrs[i]))
        for i in range(len(losses) - 1)
    ]
    return lrs[slopes.index(min(slopes))]


METHODS = [
    (valley, reference_valley),
    (slide, reference_slide),
    (minimum, reference_minimum),
    (steep, reference_steep),
]


def random_curve(seed: int) -> tuple[list[float], list[float]]:
    """Noise, a random walk, or something like a real curve, 16 to 120 steps long."""
    random = np.random.default_rng(seed)
    count = int(random.integers(16, 121))
    x = np.linspace(0, 1, count)
    real = 2.3 - 1.5 / (1 + np.exp(-12 * (x - 0.5))) + np.exp(20 * (x - 0.95))
    shapes = [
        random.random(count),
        2 + 0.05 * random.standard_normal(count).cumsum(),
        real + 0.02 * random.standard_normal(count),
        real + 0.001 * random.standard_normal(count),
        np.round(real + 0.1 * random.standard_normal(count), 1),  # many equal losses
    ]
    lrs = np.geomspace(10.0 ** -random.integers(2, 9), 10.0, count)
    return lrs.tolist(), shapes[seed % len(shapes)].tolist()


@pytest.mark.parametrize(("method", "reference"), METHODS, ids=lambda f: f.__name__)
def test_suggestions_on_random_curves_are_those_of_fastai(
    method: Callable[..., float], reference: Callable[..., float]
) -> None:
    for seed in range(300):
        lrs, losses = random_curve(seed)
        ours = method(np.array(lrs), np.array(losses))
        assert ours == pytest.approx(reference(lrs, losses), rel=1e-12), seed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_suggestions_on_real_curves_are_those_of_fastai(small: ConfigMaker, optimizer: str) -> None:
    setup = prepare(small(optimizer=optimizer, train_limit=300))
    result = lr_range_test(setup, LrRangeConfig(lr_start=1e-5))
    lrs, losses = list(result.lrs[10:-5]), list(result.losses[10:-5])
    expected = {method.__name__: reference(lrs, losses) for method, reference in METHODS}
    assert result.suggestions == pytest.approx(expected, rel=1e-12)
    assert all(1e-6 < lr < 10 for lr in result.suggestions.values())


def test_the_ruler_is_longer_than_the_curve() -> None:
    lrs = np.geomspace(1e-3, 1, 15)
    assert slide(lrs, np.linspace(2, 1, 15)) is None
    assert partial(slide, distance=14)(lrs, np.linspace(2, 1, 15)) == lrs[0]


@pytest.mark.parametrize("losses", [[3, 1, 2], [3, 1, 2, 2.5], [2, 1, 1, 1]])
def test_a_valley_at_the_very_start_is_its_first_rate(losses: list[float]) -> None:
    lrs = np.geomspace(1e-3, 1, len(losses))
    assert valley(lrs, np.array(losses, dtype=float)) == lrs[0]
