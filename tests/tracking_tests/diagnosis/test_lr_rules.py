"""Rules of learning rates and losses: what they say, advise, and leave alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import (
    BY_NAME,
    CNN,
    decaying,
    found,
    layer,
    losses,
    validations,
)
from tracking.diagnosis.evidence import Stretch

__all__: list[str] = []


def test_the_rate_advised_is_one_at_which_the_loss_fell() -> None:
    rates = np.geomspace(1e-4, 1.0, 80)
    fallen = [*np.linspace(2.3, 1.0, 40), *(1.0 * 1.25 ** np.arange(40))]
    [finding] = found(BY_NAME["lr_too_high"], Stretch(steps=losses(fallen, rates)))
    [advice, *_] = finding.remedies
    assert advice.option == "lr_max"
    assert 5e-4 < float(advice.value) <= 0.02


def test_a_rise_is_told_where_it_was_highest() -> None:
    rates = [0.1 * n for n in range(1, 17)]
    rises = [2.3, 2.3, 2.2, *(2.3 * 10.0**n for n in range(13))]
    [finding] = found(BY_NAME["lr_too_high"], Stretch(steps=losses(rises, rates)))
    assert finding.summary == (
        "the smoothed loss exploded, to 3.2e+11 times its start (2.3) by step 15, "
        "at a learning rate of 1.6"
    )
    assert finding.first_step < 15
    assert finding.evidence["lr"] == pytest.approx(1.6)


def test_a_relapse_is_told_with_where_it_began() -> None:
    [finding] = found(BY_NAME["lr_too_high"], Stretch(steps=losses([*decaying[:60], *[2.3] * 40])))
    assert finding.summary == (
        "the smoothed loss fell to 0.73 and went back to where it began (2.3), "
        "at a learning rate of 0.1"
    )


def test_a_rate_that_recovers_is_a_warning_and_one_that_does_not_is_critical() -> None:
    rule = BY_NAME["lr_too_high"]
    [lasting] = found(rule, Stretch(steps=losses([2.3, *[9.0] * 40])))
    [mended] = found(rule, Stretch(steps=losses([2.3, *[9.0] * 20, *decaying[30:150]])))
    assert (lasting.severity, mended.severity) == ("critical", "warning")


def test_values_of_options_are_compared_as_numbers() -> None:
    whole = Stretch(steps=losses([2.3, 8.0, 5.0, 3.0, *decaying[:60]]))
    begun = replace(CNN, options={**CNN.options, "div": "25.0"})
    [finding] = found(BY_NAME["short_warm_up"], whole, begun)
    assert [remedy.option for remedy in finding.remedies] == ["schedule"]


@pytest.mark.parametrize(
    "name", ["lr_too_high", "short_warm_up", "high_final_lr", "stopped_too_early", "overfitting"]
)
def test_losses_below_zero_are_not_compared(name: str) -> None:
    rng = np.random.default_rng(0)
    likelihoods = -1 + 0.3 * rng.normal(size=200)
    for values in (likelihoods, [-1.0, *[9.0] * 60], [0.0] * 100):
        whole = Stretch(steps=losses(values), epochs=validations(-1, -2, -0.5, -0.1))
        assert found(BY_NAME[name], whole, replace(CNN, total_steps=None)) == []


@pytest.mark.parametrize("name", ["loss_not_decreasing", "lr_too_low", "short_warm_up"])
def test_a_run_that_goes_on_is_not_judged_by_how_it_began(name: str) -> None:
    flat = losses([0.4, 3.0, *[0.4] * 98], first=5000)
    whole = Stretch(steps=flat, layers={"conv1.relu": layer(100, 5000)})
    run = replace(CNN, total_steps=None, classes=None)
    assert found(BY_NAME[name], whole, run) == []


def test_a_run_cut_short_is_not_judged_by_its_end() -> None:
    whole = Stretch(steps=losses([2.3 * 0.99**n for n in range(100)], 0.01))
    assert len(found(BY_NAME["stopped_too_early"], whole, replace(CNN, total_steps=100))) == 1
    assert found(BY_NAME["stopped_too_early"], whole, replace(CNN, total_steps=500)) == []
