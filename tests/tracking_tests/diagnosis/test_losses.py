"""The training loss in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import losses, validations
from tracking.diagnosis.evidence import DataFacts, RunContext
from tracking.diagnosis.losses import BINS, LossCurve, Validations, completed, guessed

__all__: list[str] = []


def curve(values: np.ndarray, rates: np.ndarray, size: int) -> LossCurve:
    found = LossCurve()
    for first in range(0, len(values), size):
        here = slice(first, first + size)
        found.add(losses(values[here], rates[here], first=first))
    return found


@pytest.mark.parametrize("steps", [1, 7, BINS, BINS + 1, 5000])
@pytest.mark.parametrize("size", [1, 16, 10_000])
def test_levels_are_means_whatever_the_portions(steps: int, size: int) -> None:
    rng = np.random.default_rng(steps)
    values, rates = 2 + rng.normal(size=steps), np.linspace(0.1, 0.01, steps)
    found = curve(values, rates, size)
    assert (found.steps, found.last_step) == (steps, steps - 1)
    assert (found.first, found.first_lr, found.peak_lr) == (values[0], rates[0], rates.max())
    whole = found.level(0, 1)
    assert whole.steps == steps
    assert whole.mean == pytest.approx(values.mean())
    assert whole.lr == pytest.approx(rates.mean())
    last = found.level(0.75, 1)
    share = values[-last.steps :]
    assert last.mean == pytest.approx(share.mean())
    assert abs(last.steps - steps / 4) <= max(1, steps / 30)


def test_noise_is_that_around_the_trend() -> None:
    rng = np.random.default_rng(0)
    trend = np.linspace(3, 1, 4000)
    found = curve(trend + 0.2 * rng.normal(size=4000), np.ones(4000), 16)
    assert found.level(0.5, 1).noise == pytest.approx(0.2, rel=0.1)


def test_losses_that_are_not_known_are_left_out() -> None:
    found = LossCurve()
    found.add(losses([math.nan, math.inf]))
    assert (found.steps, found.last_step) == (0, 1)
    assert math.isnan(found.level(0, 1).mean)
    found.add(losses([2.0, math.nan, 1.0], first=2))
    assert (found.first, found.steps, found.last_step) == (2.0, 2, 4)


def test_memory_does_not_grow_with_the_steps() -> None:
    found = curve(np.ones(100_000), np.ones(100_000), 1000)
    assert len(found._sums) <= BINS
    assert found.steps == 100_000


def test_a_run_is_complete_when_it_had_all_its_steps() -> None:
    found = curve(np.ones(20), np.ones(20), 16)
    assert completed(RunContext(), found)
    assert completed(RunContext(total_steps=20), found)
    assert not completed(RunContext(total_steps=21), found)


def test_validations_are_compared_with_the_best() -> None:
    seen = Validations()
    assert math.isnan(seen.accuracy)
    assert math.isnan(seen.rise)
    for figures in validations(math.nan, 0.8, 0.5, accuracy=0.7):
        seen.add(figures)
    assert (seen.count, seen.accuracy, seen.rise) == (3, 0.7, 0.0)
    assert seen.gain == pytest.approx(1 - 0.5 / 0.8)
    seen.add(validations(0.6)[0])
    assert (seen.rise, seen.gain) == (pytest.approx(0.2), pytest.approx(-0.2))
    assert seen.best is not None
    assert seen.best.loss == 0.5


def test_the_accuracy_of_guessing() -> None:
    assert guessed(RunContext()) == 0.5
    assert guessed(RunContext(classes=10)) == 0.1
    assert guessed(RunContext(classes=10, data=DataFacts(100, 10, (80, 20)))) == 0.8
