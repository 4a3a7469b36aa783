"""Learning rates in the long run: what has learned already, rates of 0."""

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
from tracking.diagnosis.rules.loss import LossNotDecreasing
from tracking.diagnosis.rules.lr_course import LrTooLow
from tracking.diagnosis.rules.updates import SmallUpdates

__all__: list[str] = []

WHOLE = replace(CNN, total_steps=None)
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
