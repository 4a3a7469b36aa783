"""Every rule: a recording that shows its fault, and one that comes close and does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import (
    BY_NAME,
    CNN,
    crashes,
    dead,
    decaying,
    found,
    gradients,
    inputs,
    layer,
    losses,
    since,
    sizes,
    updates,
    validations,
)
from tracking.diagnosis.evidence import DataFacts, NormFigures, Stretch

__all__: list[str] = []

rising = np.linspace(0.02, 0.1, 60)
noisy = [0.8 + 0.3 * (-1) ** n for n in range(200)]


def spiked(at: int, height: float, length: int, steps: int = 200) -> list[float]:
    return [height if at <= n < at + length else x for n, x in enumerate(decaying[:steps])]


SHOWN: list[tuple[str, str, Stretch]] = [
    (
        "constant_inputs",
        "blank images",
        Stretch(inputs=[inputs(n, constant=0.9) for n in range(3)]),
    ),
    (
        "inputs_not_normalised",
        "raw pixels",
        Stretch(inputs=[inputs(n, mean=70, std=80) for n in range(3)]),
    ),
    (
        "inputs_not_normalised",
        "tiny scale",
        Stretch(inputs=[inputs(n, std=0.01) for n in range(3)]),
    ),
    ("labels_out_of_range", "beyond the outputs", Stretch(inputs=[inputs(highest_label=10)])),
    ("labels_out_of_range", "below zero", Stretch(inputs=[inputs(lowest_label=-1)])),
    ("one_class_batches", "sorted", Stretch(inputs=[inputs(n, classes=1) for n in range(4)])),
    ("poor_initialisation", "a jump", Stretch(layers=sizes(0.5, 0.5, 6.0, 6.0))),
    ("poor_initialisation", "huge", Stretch(layers=sizes(5, 20, 60, 90))),
    (
        "vanishing_start",
        "smaller with depth",
        Stretch(layers=sizes(0.5, 0.05, 0.01, 0.004, 0.001, 1)),
    ),
    (
        "lr_too_high",
        "upwards",
        Stretch(steps=losses([2.3 * 1.1**n for n in range(40)], rising[:40])),
    ),
    ("lr_too_high", "a relapse", Stretch(steps=losses([*decaying[:60], *[2.4] * 40]))),
    ("lr_too_high", "at once", Stretch(steps=losses([2.3, 90.0, 1e6, math.nan]))),
    ("short_warm_up", "a jump", Stretch(steps=losses([2.3, 8.0, 5.0, 3.0, *decaying[:60]]))),
    (
        "short_warm_up",
        "dying",
        Stretch(
            steps=losses(decaying),
            layers={"conv1.relu": layer(200, dead_channels=since(3, 200, 0.7))},
        ),
    ),
    (
        "lr_too_low",
        "nothing moves",
        Stretch(steps=losses([2.3] * 60, 1e-6), layers={"conv1.relu": layer(60)}),
    ),
    ("high_final_lr", "noise to the end", Stretch(steps=losses([2.3, *noisy]))),
    (
        "non_finite",
        "in a layer",
        Stretch(
            layers={"conv1.relu": layer(20), "conv2.relu": layer(20, nonfinite=since(7, 20, 3))}
        ),
    ),
    ("non_finite", "in the loss", Stretch(steps=losses([2.3, 2.2, math.inf]))),
    (
        "non_finite",
        "in a gradient",
        Stretch(gradients={"conv1.relu": gradients(9, 1.0, nonfinite=since(5, 9, 1))}),
    ),
    ("non_finite", "in the input", Stretch(inputs=[inputs(2, nonfinite=4)])),
    (
        "exploding_activations",
        "growth",
        Stretch(layers={"conv1.relu": layer(40, std=[0.5 * 1.3**n for n in range(40)])}),
    ),
    (
        "collapse_cycles",
        "three times",
        Stretch(layers={"conv1.relu": layer(120, std=crashes(), near_zero=0.0)}),
    ),
    (
        "dead_layer",
        "from step 20",
        Stretch(layers={"conv1.relu": layer(40), "conv2.relu": dead(40, 20)}),
    ),
    (
        "dead_units",
        "half of them",
        Stretch(layers={"conv2.relu": layer(60, dead_lasting=since(30, 60, 0.5))}),
    ),
    ("saturated", "tanh", Stretch(layers={"act": layer(30, mean=0.0, std=0.97)})),
    ("saturated", "tanh, at one bound", Stretch(layers={"act": layer(30, mean=0.99, std=0.01)})),
    (
        "exploding_gradients",
        "on the way back",
        Stretch(gradients={"a": gradients(20, 90.0), "b": gradients(20, 1.0)}),
    ),
    (
        "exploding_gradients",
        "large",
        Stretch(gradients={"a": gradients(20, 2e3), "b": gradients(20, 1e3)}),
    ),
    (
        "vanishing_gradients",
        "on the way back",
        Stretch(gradients={"a": gradients(20, 1e-7), "b": gradients(20, 1.0)}),
    ),
    (
        "vanishing_gradients",
        "everywhere",
        Stretch(gradients={"a": gradients(20, 1e-12), "b": gradients(20, 1e-12)}),
    ),
    (
        "large_updates",
        "as large as the weights",
        Stretch(updates={"w": updates(20, 0.8), "v": updates(20, 0.9)}),
    ),
    (
        "small_updates",
        "next to nothing",
        Stretch(updates={"w": updates(50, 1e-8), "v": updates(50, 1e-7)}),
    ),
    (
        "small_batch_norm",
        "two samples",
        Stretch(norms=[NormFigures(50, "head.norm", 0.1, 0.1, 2, 2)]),
    ),
    ("small_batch_norm", "astray", Stretch(norms=[NormFigures(50, "norm", 0.9, 0.1, 4, 100)])),
    (
        "constant_predictions",
        "one answer",
        Stretch(epochs=validations(2.3, 2.3, 2.3, accuracy=0.1, top_class=1.0)),
    ),
    ("worse_than_chance", "as by guessing", Stretch(epochs=validations(2.3, 2.4, accuracy=0.1))),
    (
        "loss_not_decreasing",
        "flat",
        Stretch(steps=losses([2.3 + 0.01 * (-1) ** n for n in range(200)])),
    ),
    (
        "overfitting",
        "validation rises",
        Stretch(steps=losses(decaying), epochs=validations(1.0, 0.5, 0.9, 1.4)),
    ),
    (
        "stopped_too_early",
        "still falling",
        Stretch(steps=losses([2.3 * 0.99**n for n in range(100)], 0.01)),
    ),
]

NOT_SHOWN: list[tuple[str, str, Stretch]] = [
    (
        "constant_inputs",
        "some dark images",
        Stretch(inputs=[inputs(n, constant=0.2) for n in range(9)]),
    ),
    (
        "inputs_not_normalised",
        "blank images",
        Stretch(inputs=[inputs(n, std=0.0, constant=1.0) for n in range(3)]),
    ),
    (
        "inputs_not_normalised",
        "shares of 255",
        Stretch(inputs=[inputs(n, mean=0.3, std=0.35) for n in range(9)]),
    ),
    ("inputs_not_normalised", "one odd batch", Stretch(inputs=[inputs(0, mean=9.0), inputs(1)])),
    ("labels_out_of_range", "no labels", Stretch(inputs=[inputs(classes=0, highest_label=99)])),
    (
        "one_class_batches",
        "batches of two",
        Stretch(inputs=[inputs(n, classes=1, samples=2) for n in range(9)]),
    ),
    (
        "poor_initialisation",
        "a resumed run",
        Stretch(layers={"a": layer(9, 50, std=90.0), "b": layer(9, 50)}),
    ),
    ("poor_initialisation", "small scores", Stretch(layers=sizes(0.5, 0.4, 0.3, 0.3, 0.3, 0.001))),
    ("vanishing_start", "small throughout", Stretch(layers=sizes(0.05, 0.04, 0.03, 0.03, 0.03, 1))),
    ("lr_too_high", "one spike", Stretch(steps=losses(spiked(30, 5.0, 1)))),
    ("lr_too_high", "noise of small batches", Stretch(steps=losses([2.3, *noisy], batch_size=4))),
    ("lr_too_high", "a bad start that mends", Stretch(steps=losses([12.0, 9.0, 5.0, *decaying]))),
    ("lr_too_high", "not a number at once", Stretch(steps=losses([2.3, 2.2, 2.1, math.nan]))),
    (
        "short_warm_up",
        "a jump after a rise",
        Stretch(steps=losses([2.3, 8.0, *decaying[:58]], rising)),
    ),
    (
        "lr_too_low",
        "it falls",
        Stretch(steps=losses(decaying, 1e-6), layers={"conv1.relu": layer(200)}),
    ),
    (
        "lr_too_low",
        "layers move",
        Stretch(
            steps=losses([2.3] * 60), layers={"conv1.relu": layer(60, std=np.linspace(0.5, 2, 60))}
        ),
    ),
    ("high_final_lr", "annealed", Stretch(steps=losses([2.3, *noisy], np.linspace(0.1, 0, 201)))),
    ("high_final_lr", "low throughout", Stretch(steps=losses([2.3, *noisy], 0.001))),
    ("high_final_lr", "still falling", Stretch(steps=losses(decaying))),
    ("non_finite", "a loss that nobody told", Stretch(steps=losses([math.nan] * 30))),
    (
        "exploding_activations",
        "large from the start",
        Stretch(layers={"conv1.relu": layer(40, std=300.0)}),
    ),
    (
        "exploding_activations",
        "one outlier",
        Stretch(
            layers={"conv1.relu": layer(40, std=[900.0 if n == 5 else 0.5 for n in range(40)])}
        ),
    ),
    (
        "collapse_cycles",
        "one fall",
        Stretch(layers={"conv1.relu": layer(120, std=crashes(times=1), near_zero=0.0)}),
    ),
    (
        "collapse_cycles",
        "gentle waves",
        Stretch(layers={"conv1.relu": layer(120, std=crashes(factor=3.0), near_zero=0.0)}),
    ),
    (
        "collapse_cycles",
        "of next to nothing",
        Stretch(layers={"conv1.relu": layer(120, std=np.array(crashes()) / 1e3, near_zero=0.0)}),
    ),
    ("dead_layer", "scores below zero", Stretch(layers={"head": dead(40, 20)})),
    (
        "dead_layer",
        "three steps",
        Stretch(
            layers={
                "conv2.relu": layer(
                    40,
                    dead_channels=[1.0 if n in (9, 10, 11) else 0 for n in range(40)],
                    near_zero=1.0,
                )
            }
        ),
    ),
    ("dead_units", "a few", Stretch(layers={"conv2.relu": layer(60, dead_lasting=0.2)})),
    (
        "dead_units",
        "of a layer without rectifier",
        Stretch(layers={"act": layer(60, dead_lasting=0.9)}),
    ),
    (
        "saturated",
        "by learning",
        Stretch(layers={"act": layer(90, mean=0.0, std=np.linspace(0.2, 0.95, 90))}),
    ),
    ("saturated", "not a bounded one", Stretch(layers={"conv1.relu": layer(30, std=1.0)})),
    (
        "exploding_gradients",
        "alike",
        Stretch(gradients={"a": gradients(20, 5.0), "b": gradients(20, 1.0)}),
    ),
    (
        "vanishing_gradients",
        "alike",
        Stretch(gradients={"a": gradients(20, 0.01), "b": gradients(20, 1.0)}),
    ),
    ("large_updates", "usual", Stretch(updates={"w": updates(50, 1e-3)})),
    (
        "small_updates",
        "while annealing",
        Stretch(updates={"w": updates(200, np.geomspace(1e-2, 1e-9, 200))}),
    ),
    ("small_batch_norm", "eight samples", Stretch(norms=[NormFigures(50, "norm", 0.9, 0.9, 8, 8)])),
    (
        "small_batch_norm",
        "large images",
        Stretch(norms=[NormFigures(50, "norm", 0.1, 0.1, 2, 9000)]),
    ),
    (
        "constant_predictions",
        "two answers",
        Stretch(epochs=validations(2.3, 2.3, accuracy=0.1, top_class=0.6)),
    ),
    ("worse_than_chance", "it learns", Stretch(epochs=validations(2.0, 1.9, accuracy=0.2))),
    ("loss_not_decreasing", "it falls", Stretch(steps=losses(decaying))),
    ("loss_not_decreasing", "too short to say", Stretch(steps=losses([2.3] * 20))),
    (
        "overfitting",
        "both fall",
        Stretch(steps=losses(decaying), epochs=validations(1.0, 0.5, 0.4, 0.42)),
    ),
    (
        "overfitting",
        "training is no better",
        Stretch(steps=losses([2.3] * 200), epochs=validations(1.0, 0.5, 0.9, 1.4)),
    ),
    (
        "stopped_too_early",
        "annealed",
        Stretch(steps=losses([2.3 * 0.99**n for n in range(100)], np.linspace(0.01, 0, 100))),
    ),
    (
        "stopped_too_early",
        "learned",
        Stretch(steps=losses([2.3 * 0.96**n for n in range(100)], 0.01)),
    ),
]


@pytest.mark.parametrize(("name", "what", "whole"), SHOWN, ids=[f"{n}: {w}" for n, w, _ in SHOWN])
def test_a_fault_is_found(name: str, what: str, whole: Stretch) -> None:
    run = replace(CNN, total_steps=None, kinds={**CNN.kinds, "conv3.relu": "ReLU"})
    [finding] = found(BY_NAME[name], whole, run)
    assert finding.rule == name
    assert finding.summary
    assert "\n" not in finding.summary
    assert finding.remedies
    assert all(
        math.isfinite(x) or name in {"lr_too_high", "exploding_activations"}
        for x in finding.evidence.values()
    )
    assert finding.first_step <= finding.last_step


@pytest.mark.parametrize(
    ("name", "what", "whole"), NOT_SHOWN, ids=[f"{n}: {w}" for n, w, _ in NOT_SHOWN]
)
def test_what_only_comes_close_is_not_found(name: str, what: str, whole: Stretch) -> None:
    assert found(BY_NAME[name], whole, replace(CNN, total_steps=None)) == []


def test_every_rule_is_tried_both_ways() -> None:
    known_beforehand = {"train_valid_overlap"}
    assert {name for name, *_ in SHOWN} == set(BY_NAME) - known_beforehand
    assert {name for name, *_ in NOT_SHOWN} == set(BY_NAME) - known_beforehand


def test_validation_images_among_the_training_images() -> None:
    rule = BY_NAME["train_valid_overlap"]
    for overlap, shown in ((0, 0), (1, 0), (5, 1)):
        run = replace(CNN, data=DataFacts(900, 100, (500, 500), overlap))
        assert len(found(rule, Stretch(), run, ended=False)) == shown


def test_one_class_in_most_of_the_data_is_a_fair_answer() -> None:
    whole = Stretch(epochs=validations(0.2, 0.2, 0.2, accuracy=0.97, top_class=0.98))
    skewed = replace(CNN, data=DataFacts(100, 100, (97, 3)))
    assert found(BY_NAME["constant_predictions"], whole, skewed) == []
    even = replace(CNN, data=DataFacts(100, 100, (50, 50)))
    assert len(found(BY_NAME["constant_predictions"], whole, even)) == 1
