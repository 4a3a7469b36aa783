"""Every rule: a recording that shows its fault, and one that comes close and does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tracking_tests.diagnosis.recorded import (
    CNN,
    found,
    gradients,
    inputs,
    layer,
    losses,
    updates,
    validations,
)
from tracking.diagnosis.evidence import DataFacts, NormFigures, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES

__all__: list[str] = []

BY_NAME: dict[str, type[Rule]] = {rule.name: rule for rule in RULES}
DEEP = ("conv1.relu", "conv2.relu", "conv3.relu", "conv4.relu", "conv5.relu", "head")

rising = np.linspace(0.02, 0.1, 60)
decaying = [2.3 * 0.98**n for n in range(200)]
noisy = [0.8 + 0.3 * (-1) ** n for n in range(200)]


def since(step: int, steps: int, value: float, usual: float = 0.0) -> list[float]:
    return [value if n >= step else usual for n in range(steps)]


def dead(steps: int, at: int) -> Any:
    return layer(
        steps,
        dead_channels=since(at, steps, 1.0),
        near_zero=since(at, steps, 1.0, 0.5),
        mean=since(at, steps, 0.0, 0.4),
        std=since(at, steps, 0.0, 0.6),
    )


def sizes(*values: float, steps: int = 20) -> dict[str, Any]:
    """Layers whose activations begin with these sizes."""
    return {name: layer(steps, mean=0.0, std=x) for name, x in zip(DEEP, values, strict=False)}


def crashes(*, factor: float = 10.0, times: int = 3, steps: int = 120) -> list[float]:
    """A scale that grows by a factor over ten steps and falls back, again and again."""
    period = steps // times
    return [0.1 * factor ** min(1.0, (n % period) / 10) for n in range(steps)]


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


def test_where_values_are_not_finite_is_said() -> None:
    layers = {
        "conv1.relu": layer(20, nonfinite=since(7, 20, 3)),
        "conv2.relu": layer(20, nonfinite=since(7, 20, 500)),
    }
    whole = Stretch(layers=layers, steps=losses([2.3] * 7 + [math.nan] * 13))
    [finding] = found(BY_NAME["non_finite"], whole)
    assert (finding.layers, finding.first_step) == (("conv1.relu",), 7)
    assert finding.evidence["share"] == 0.003


@pytest.mark.parametrize("loss_first", [True, False])
def test_an_overflow_is_one_whatever_is_known_first(loss_first: bool) -> None:
    grown = [0.6] * 5 + [1e9] * 3
    last = {"nonfinite": since(7, 8, 3), "std": grown}
    layers = {"conv1.relu": layer(8, std=grown), "conv2.relu": layer(8, **last)}
    steps = losses([2.3] * 7 + [math.nan])
    rule = BY_NAME["non_finite"](CNN)
    parts = [Stretch(steps=steps), Stretch(layers=layers)]
    for part in parts if loss_first else parts[::-1]:
        rule.observe(part)
    [finding] = rule.findings(True)
    assert finding.layers == ("conv2.relu",)
    assert finding.evidence["largest_before"] >= 1e9
    assert finding.remedies[0].option == "lr_max"


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


def test_dead_units_count_from_where_they_fell_silent() -> None:
    whole = Stretch(layers={"conv2.relu": layer(90, dead_lasting=since(49, 90, 0.5))})
    [finding] = found(BY_NAME["dead_units"], whole)
    assert finding.first_step == 30  # 19 steps before they had been silent for 20


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"model": "simple_cnn"}, [("init", "kaiming"), ("norm", "batch")]),
        ({"model": "simple_cnn", "init": "kaiming"}, [("norm", "batch")]),
        ({"model": "simple_cnn", "norm": "batch"}, [("init", "kaiming")]),
        ({"model": "my.own:factory"}, [("init", "kaiming"), ("", "")]),
    ],
)
def test_remedies_are_those_that_the_run_can_use_and_does_not_use_yet(
    options: dict[str, str], advice: list[tuple[str, str]]
) -> None:
    whole = Stretch(layers=sizes(5, 20, 60, 90))
    [finding] = found(BY_NAME["poor_initialisation"], whole, replace(CNN, options=options))
    assert [(remedy.option, remedy.value) for remedy in finding.remedies] == advice


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


def test_gradients_that_a_scaler_overflows_are_no_finding() -> None:
    whole = Stretch(
        gradients={
            "a": gradients(20, 1.0, nonfinite=[1, 1, 1, 1] + [0] * 16),
            "b": gradients(20, 1.0),
        }
    )
    scaled = replace(CNN, options={**CNN.options, "precision": "fp16"})
    assert len(found(BY_NAME["non_finite"], whole)) == 1
    assert found(BY_NAME["non_finite"], whole, scaled) == []


def growing(sizes: list[float], nonfinite: list[int]) -> Stretch:
    """Gradients of one layer beside those of a last layer that stay as they are."""
    steps = len(sizes)
    first = gradients(steps, sizes, nonfinite=nonfinite)
    return Stretch(gradients={"a": first, "b": gradients(steps, 1.0, nonfinite=nonfinite)})


def test_gradients_that_are_suddenly_not_finite_have_not_exploded() -> None:
    damaged = growing([1.0] * 6 + [math.nan] * 14, [0] * 6 + [1] * 14)
    assert found(BY_NAME["exploding_gradients"], damaged) == []
    assert len(found(BY_NAME["non_finite"], damaged)) == 1
    transient = growing([2e3, 1.0, 1.0] + [math.nan] * 5, [0, 0, 0] + [1] * 5)
    assert found(BY_NAME["exploding_gradients"], transient) == []


def test_gradients_that_grow_until_they_are_not_finite_have_exploded() -> None:
    overflow = growing([1.0, 4e3, 9e9] + [math.nan] * 5, [0, 0, 0] + [1] * 5)
    [finding] = found(BY_NAME["exploding_gradients"], overflow)
    assert (finding.first_step, finding.last_step) == (1, 7)
    assert finding.evidence["norm"] == 9e9


def test_gradients_say_of_what_they_are() -> None:
    rule = BY_NAME["exploding_gradients"]
    [large] = found(rule, growing([2e3] * 9, [0] * 9))
    [grown] = found(rule, growing([45.0] * 9, [0] * 9))
    [small] = found(BY_NAME["vanishing_gradients"], growing([1e-7] * 20, [0] * 20))
    assert large.summary == "the L2 norm of the gradient at a reaches 2e+03"
    assert grown.summary == (
        "the root mean square of the gradient at a reaches 45 times that at the last layer"
    )
    assert small.summary == (
        "the root mean square of the gradient at a is 1e-08, at the last layer 0.1"
    )


def test_damaged_data_is_looked_at_before_anything_is_clipped() -> None:
    layers = {"conv1.relu": layer(9, nonfinite=since(5, 9, 3))}
    [finding] = found(BY_NAME["non_finite"], Stretch(layers=layers))
    assert [remedy.option for remedy in finding.remedies] == ["", "clip_norm", "lr_max"]


def test_numbers_are_those_of_the_steps_that_show_it() -> None:
    ratios = [0.9] * 20 + [1e-6] * 80
    [finding] = found(BY_NAME["large_updates"], Stretch(updates={"w": updates(100, ratios)}))
    assert finding.evidence["ratio"] == 0.9


def test_layers_that_are_not_used_in_every_step_are_compared_where_both_are() -> None:
    first, last = gradients(40, 1e-7), gradients(40, 1.0)
    some = replace(last, **{n: getattr(last, n)[::2] for n in last.__dataclass_fields__})
    [finding] = found(BY_NAME["vanishing_gradients"], Stretch(gradients={"a": first, "b": some}))
    assert finding.last_step == 38


@pytest.mark.parametrize(
    ("rule", "since_step", "first", "others"),
    [
        ("dead_layer", 0, "init", ["activation"]),
        ("dead_layer", 3, "lr_max", ["activation", "init"]),
        ("dead_units", 0, "init", ["activation", "norm"]),
        ("dead_units", 3, "lr_max", ["activation", "norm"]),
    ],
)
def test_no_update_has_killed_what_was_dead_before_the_first(
    rule: str, since_step: int, first: str, others: list[str]
) -> None:
    layers = {
        "dead_layer": dead(60, since_step),
        "dead_units": layer(60, dead_lasting=since(since_step + 19, 60, 0.5)),
    }
    simple = replace(CNN, options={**CNN.options, "model": "simple_cnn"})
    [finding] = found(BY_NAME[rule], Stretch(layers={"conv2.relu": layers[rule]}), simple)
    assert finding.first_step == since_step
    assert [remedy.option for remedy in finding.remedies] == [first, *others]


def test_units_that_come_back_are_no_longer_dead() -> None:
    gone = [0.6 if 20 <= n < 50 else 0.0 for n in range(90)]
    assert (
        found(BY_NAME["dead_units"], Stretch(layers={"conv2.relu": layer(90, dead_lasting=gone)}))
        == []
    )


def test_crashes_are_counted_with_their_steps() -> None:
    whole = Stretch(layers={"conv1.relu": layer(120, std=crashes(), near_zero=0.0)})
    [finding] = found(BY_NAME["collapse_cycles"], whole)
    assert finding.evidence["crashes"] == 2
    assert (finding.evidence["crash_1"], finding.evidence["crash_2"]) == (40, 80)
    assert (finding.first_step, finding.last_step) == (40, 80)


def single_images(steps: int, images: int) -> list[float]:
    """Scales of a layer that does not change, as they come from batches of so few images."""
    each = np.random.default_rng(1).lognormal(sigma=0.9, size=(steps, images))
    return [float(np.sqrt((row**2).mean())) for row in each]


@pytest.mark.parametrize("images", [1, 2, 4])
def test_what_single_images_show_is_no_collapse(images: int) -> None:
    steady = {"conv1.relu": layer(800, std=single_images(800, images), mean=0.0, near_zero=0.0)}
    rule = BY_NAME["collapse_cycles"]
    assert found(rule, Stretch(layers=steady))  # where batch sizes are not known
    assert not found(rule, Stretch(layers=steady, inputs=[inputs(samples=images)]))
    assert not found(rule, Stretch(layers=steady, steps=losses([2.3] * 800, batch_size=images)))


def test_collapses_are_found_in_batches_of_single_images_too() -> None:
    noisy = np.array(single_images(960, 1)) * crashes(times=3, steps=960, factor=30)
    layers = {"conv1.relu": layer(960, std=noisy, mean=0.0, near_zero=0.0)}
    [finding] = found(
        BY_NAME["collapse_cycles"], Stretch(layers=layers, inputs=[inputs(samples=1)])
    )
    assert finding.evidence["crashes"] == 2


def test_a_run_cut_short_is_not_judged_by_its_end() -> None:
    whole = Stretch(steps=losses([2.3 * 0.99**n for n in range(100)], 0.01))
    assert len(found(BY_NAME["stopped_too_early"], whole, replace(CNN, total_steps=100))) == 1
    assert found(BY_NAME["stopped_too_early"], whole, replace(CNN, total_steps=500)) == []


def test_one_class_in_most_of_the_data_is_a_fair_answer() -> None:
    whole = Stretch(epochs=validations(0.2, 0.2, 0.2, accuracy=0.97, top_class=0.98))
    skewed = replace(CNN, data=DataFacts(100, 100, (97, 3)))
    assert found(BY_NAME["constant_predictions"], whole, skewed) == []
    even = replace(CNN, data=DataFacts(100, 100, (50, 50)))
    assert len(found(BY_NAME["constant_predictions"], whole, even)) == 1
