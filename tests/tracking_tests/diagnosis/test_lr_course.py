"""The course of a run: what has learned already, rates of 0, ends that tell nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import (
    CNN,
    found,
    layer,
    losses,
    updates,
    validations,
)
from tracking.diagnosis.evidence import DataFacts, RunContext, Stretch
from tracking.diagnosis.rules.loss import LossNotDecreasing, StoppedTooEarly
from tracking.diagnosis.rules.lr_course import HighFinalLr, LrTooLow
from tracking.diagnosis.rules.short_warm_up import ShortWarmUp
from tracking.diagnosis.rules.updates import SmallUpdates

__all__: list[str] = []

WHOLE = replace(CNN, total_steps=None)
FALLING = [2.3 * 0.99**n for n in range(100)]
LAYERS = {"conv1.relu": layer(60)}


def flat(loss: float, accuracy: float = math.nan, lr: float = 1e-4) -> Stretch:
    """A loss and layers that stay where they are."""
    return Stretch(
        steps=losses([loss] * 60, lr),
        layers=LAYERS,
        epochs=validations(loss, loss, accuracy=accuracy, every=20),
    )


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        (flat(2.3, 0.1), True),
        (flat(2.0, 0.45), True),  # a network that learns slowly
        (flat(0.45, 0.85), False),  # one that had learned before
        (flat(2.0, 0.6), False),  # and one whose answers are mostly right
    ],
)
def test_what_has_learned_already_may_move_little(whole: Stretch, shown: bool) -> None:
    assert bool(found(LrTooLow, whole, WHOLE)) == shown


def test_a_loss_as_low_as_that_of_a_network_that_knows_may_stay() -> None:
    for loss, shown in ((2.3, True), (0.4, False)):
        whole = Stretch(steps=losses([loss] * 200))
        assert bool(found(LossNotDecreasing, whole, WHOLE)) == shown


@pytest.mark.parametrize(("accuracy", "shown"), [(0.6, True), (0.9, False)])
def test_where_classes_are_not_known_there_may_be_two(accuracy: float, shown: bool) -> None:
    assert bool(found(LrTooLow, flat(0.3, accuracy), RunContext())) == shown


def test_one_answer_for_all_images_is_nothing_learned() -> None:
    skewed = replace(WHOLE, data=DataFacts(100, 100, (90, 10)), classes=2)
    assert found(LrTooLow, flat(0.6, 0.9), skewed)


@pytest.mark.parametrize(
    ("end", "text"),
    [(2.0, "the loss fell by 12% in the whole run"), (2.302, "the loss did not fall in the")],
)
def test_how_far_the_loss_fell(end: float, text: str) -> None:
    whole = Stretch(steps=losses(np.linspace(2.3, end, 600)), layers=LAYERS)
    [finding] = found(LrTooLow, whole, WHOLE)
    assert text in finding.summary


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"lr_max": "0", "optimizer": "sgd"}, "0.05"),
        ({"lr_max": "0"}, ""),
        ({"lr_max": "0.1", "optimizer": "sgd"}, ""),  # a schedule that makes it 0
    ],
)
def test_a_rate_of_0_is_said(options: dict[str, str], value: str) -> None:
    run = replace(WHOLE, options=options)
    [course] = found(LrTooLow, flat(2.3, lr=0.0), run)
    assert course.summary == "the learning rate was 0 in every step"
    whole = Stretch(steps=losses([2.3] * 50, 0.0), updates={"w": updates(50, 0.0)})
    [small] = found(SmallUpdates, whole, run)
    assert small.summary == "no step changes the weights: the learning rate is 0"
    for finding in (course, small):
        [remedy] = finding.remedies
        assert (remedy.text, remedy.value) == ("take a learning rate that is not 0", value)


def test_a_rate_of_0_is_found_in_the_noise_of_single_images() -> None:
    noise = np.random.default_rng(0).exponential(size=800)
    noise[0] = 9.0
    layers = {"conv1.relu": layer(800, std=np.random.default_rng(1).uniform(0.2, 2, 800))}
    assert found(LrTooLow, Stretch(steps=losses(noise, 0.0, 1), layers=layers), WHOLE)


def test_a_first_group_that_is_frozen_is_no_finding_where_the_others_learn() -> None:
    assert not found(LrTooLow, Stretch(steps=losses(np.linspace(2.3, 0.5, 200), 0.0)), WHOLE)


def noisy(start: float, end: float, lr: float = 0.1) -> Stretch:
    """A loss that falls little, and jumps about."""
    jumps = 0.3 * (-1.0) ** np.arange(400)
    return Stretch(steps=losses([2.3, *np.linspace(start, end, 400) * (1 + jumps)], lr))


@pytest.mark.parametrize(
    ("end", "valid", "shown"),
    [
        (0.8, (), True),
        (0.8, (0.8, 0.75, 0.76), True),
        (0.8, (0.8, 0.75, 0.7), False),
        (1.0, (0.8, 0.75, 0.7), True),  # no thanks to the training loss
    ],
)
def test_a_rate_that_may_be_low_is_no_finding_while_both_losses_get_better(
    end: float, valid: tuple[float, ...], shown: bool
) -> None:
    whole = replace(noisy(1.0, end), epochs=validations(*valid))
    assert bool(found(HighFinalLr, whole, replace(WHOLE, options={}))) == shown
    assert found(HighFinalLr, whole, WHOLE)  # twice the usual one


@pytest.mark.parametrize(
    ("end", "text"), [(0.8, "and falls by only 6%"), (1.0, "and falls no more")]
)
def test_what_still_falls_is_not_said_to_stand(end: float, text: str) -> None:
    [finding] = found(HighFinalLr, noisy(1.0, end), WHOLE)
    assert finding.summary.endswith(text)


@pytest.mark.parametrize(
    ("valid", "shown"),
    [((), True), ((0.9, 0.84), True), ((0.84, 0.86), True), ((0.84, 1.19), False)],
)
def test_more_steps_are_not_advised_where_validation_gets_worse(
    valid: tuple[float, ...], shown: bool
) -> None:
    whole = Stretch(steps=losses(FALLING, 0.01), epochs=validations(*valid, every=20))
    assert bool(found(StoppedTooEarly, whole, WHOLE)) == shown


def test_an_end_without_a_loss_is_not_judged() -> None:
    for rule, whole in (
        (StoppedTooEarly, losses([*FALLING, *[math.nan] * 50], 0.01)),
        (HighFinalLr, losses([2.3, *[0.8, 1.4] * 100, *[math.nan] * 50])),
    ):
        known = replace(whole, **{name: getattr(whole, name)[:-50] for name in vars(whole)})
        assert found(rule, Stretch(steps=known), WHOLE)
        assert found(rule, Stretch(steps=whole), WHOLE) == []


def test_nothing_about_the_end_is_said_of_a_rate_of_0() -> None:
    for rule, whole in ((StoppedTooEarly, losses(FALLING, 0.0)), (HighFinalLr, noisy(1, 1, 0.0))):
        steps = whole.steps if isinstance(whole, Stretch) else whole
        assert found(rule, Stretch(steps=steps), WHOLE) == []


@pytest.mark.parametrize(("batch_size", "shown"), [(2, False), (64, True), (math.nan, True)])
def test_the_loss_of_two_images_may_jump(batch_size: float, shown: bool) -> None:
    jump = losses([2.3, 2.0, 9.0, *[2.0] * 40], batch_size=batch_size)
    assert bool(found(ShortWarmUp, Stretch(steps=jump), WHOLE)) == shown
    lasting = losses([2.3, 2.0, *[90.0] * 40], batch_size=batch_size)
    assert found(ShortWarmUp, Stretch(steps=lasting), WHOLE)


def test_channels_that_are_not_finite_have_not_fallen_silent() -> None:
    damaged = layer(60, dead_channels=[0.0] * 5 + [1.0] * 55, nonfinite=[0] * 5 + [90] * 55)
    whole = Stretch(steps=losses([2.3] * 60), layers={"conv1.relu": damaged})
    assert found(ShortWarmUp, whole, WHOLE) == []
    silent = replace(whole, layers={"conv1.relu": replace(damaged, nonfinite=0 * damaged.step)})
    assert found(ShortWarmUp, silent, WHOLE)
