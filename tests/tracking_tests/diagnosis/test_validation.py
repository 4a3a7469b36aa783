"""What validation shows is judged where it can be judged, and advice suits the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import CNN, layer, losses, validations
from tracking.diagnosis.engine import Diagnosis
from tracking.diagnosis.evidence import RunContext, Stretch
from tracking.records import Finding

__all__: list[str] = []

DECAYING = [2.3 * 0.97**n + 0.01 for n in range(200)]
WORSE = (1.0, 0.5, 0.9, 1.4)


def found(rule: str, whole: Stretch, run: RunContext = CNN, *, ended: bool = True) -> list[Finding]:
    diagnosis = Diagnosis(run)
    diagnosis.observe(whole)
    if ended:
        diagnosis.end()
    return [finding for finding in diagnosis.findings if finding.rule == rule]


@pytest.mark.parametrize(
    ("lr", "shown"),
    [
        (0.1, True),
        (np.linspace(0.1, 0.05, 200), False),
        (np.linspace(0.1, 0.001, 200), True),
        (np.linspace(0.004, 0.1, 200), False),
    ],
)
def test_overfitting_is_not_judged_while_a_falling_rate_is_high(
    lr: float | np.ndarray, shown: bool
) -> None:
    whole = Stretch(steps=losses(DECAYING, lr), epochs=validations(*WORSE))
    assert bool(found("overfitting", whole, ended=False)) == shown
    [finding] = found("overfitting", whole)
    patience = isinstance(lr, float)
    assert finding.remedies[0].option == ("patience" if patience else "epochs")


def test_it_is_no_overfitting_while_the_accuracy_still_grows() -> None:
    epochs = validations(*WORSE)
    for accuracy, shown in ((0.9, True), (0.92, True), (0.95, False)):
        epochs[-1] = replace(epochs[-1], accuracy=accuracy)
        assert bool(found("overfitting", Stretch(steps=losses(DECAYING), epochs=epochs))) == shown
    unknown = [replace(one, accuracy=float("nan")) for one in epochs]
    assert found("overfitting", Stretch(steps=losses(DECAYING), epochs=unknown))


def test_a_loss_that_is_as_good_as_nothing_may_double() -> None:
    epochs = validations(1.0, 0.02, 0.03, 0.05)
    steps = losses([2.3 * 0.9**n for n in range(200)])
    assert not found("overfitting", Stretch(steps=steps, epochs=epochs))


def test_a_flat_loss_is_no_finding_where_validation_says_otherwise() -> None:
    flat = losses([2.3] * 200)
    assert found("loss_not_decreasing", Stretch(steps=flat))
    assert not found(
        "loss_not_decreasing", Stretch(steps=flat, epochs=validations(2.3, 2.3, accuracy=0.26))
    )


@pytest.mark.parametrize(("lr", "first"), [(1e-5, "lr_max"), (0.005, "dataset")])
def test_the_labels_are_suspected_where_the_learning_rate_is_usual(lr: float, first: str) -> None:
    run = replace(CNN, options={**CNN.options, "optimizer": "adamw", "lr_max": str(lr)})
    [finding] = found("loss_not_decreasing", Stretch(steps=losses([2.3] * 200, lr)), run)
    assert finding.remedies[0].option == first


def test_no_initialisation_is_advised_for_sigmoids() -> None:
    vanishing = {
        name: layer(30, mean=size, std=0.0)
        for name, size in zip(
            ("conv1.act", "conv2.act", "conv3.act", "conv4.act", "conv5.act", "head"),
            (1.0, 0.01, 0.01, 0.001, 0.001, 0.001),
            strict=True,
        )
    }
    for kind, advised in (("ReLU", True), ("Sigmoid", False)):
        run = replace(CNN, kinds=dict.fromkeys(vanishing, kind))
        [finding] = found("vanishing_start", Stretch(layers=vanishing), run)
        assert ("init" in [one.option for one in finding.remedies]) == advised


@pytest.mark.parametrize(
    ("kinds", "name"), [({"3": "ReLU"}, "layer 3 (ReLU)"), ({}, "layer 3"), (None, "act.3")]
)
def test_layers_with_numbers_for_names_are_called_layers(
    kinds: dict[str, str] | None, name: str
) -> None:
    layers = {name if kinds is None else "3": layer(30, nonfinite=3)}
    [finding] = found("non_finite", Stretch(layers=layers), replace(CNN, kinds=kinds or {}))
    assert f"first in {name} at step 0" in finding.summary


def test_a_finding_is_a_line_of_text() -> None:
    [finding] = found(
        "overfitting", Stretch(steps=losses(DECAYING, 0.1), epochs=validations(*WORSE))
    )
    assert str(finding) == (
        "warning at step 199: validation loss is 1.4, its best was 0.5 after step 99; training "
        "loss is 0.017 (overfitting); try: stop when validation gets no better (--patience 2)"
    )
