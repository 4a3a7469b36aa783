"""Rules of layers' outputs: from which step on, in which layers, and with which advice."""

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
    found,
    inputs,
    layer,
    losses,
    since,
    sizes,
)
from tracking.diagnosis.evidence import Stretch

__all__: list[str] = []


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


def test_damaged_data_is_looked_at_before_anything_is_clipped() -> None:
    layers = {"conv1.relu": layer(9, nonfinite=since(5, 9, 3))}
    [finding] = found(BY_NAME["non_finite"], Stretch(layers=layers))
    assert [remedy.option for remedy in finding.remedies] == ["", "clip_norm", "lr_max"]


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
