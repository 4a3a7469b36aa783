"""What every schedule promises, whatever its shape."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.choices import CYCLES, PCT_START
from pipelines.config import RunConfig
from pipelines.schedules import ScheduleValues, make_schedule

SCHEDULES = get_args(RunConfig.model_fields["schedule"].annotation)
LENGTHS = (1, 2, 3, 5, 7, 100, 101, 1000)
RISING = ("one_cycle", "one_cycle_linear", "linear")
DECAYING = (*RISING, "flat_cos", "cosine")

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_length = pytest.mark.parametrize("steps", LENGTHS)


def values(config: RunConfig, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates and momenta of a whole run."""
    schedule = make_schedule(config, steps)
    table = np.array([schedule(step) for step in range(steps)], dtype=np.float64)
    return table[:, 0], table[:, 1]


def levels(config: RunConfig) -> tuple[ScheduleValues, ScheduleValues, ScheduleValues]:
    """Low, peak and end, as the documentation defines them."""
    return (
        ScheduleValues(config.lr_max / config.div, config.momentum_max),
        ScheduleValues(config.lr_max, config.momentum_min),
        ScheduleValues(config.lr_max / config.final_div, config.momentum_max),
    )


def expected_first(config: RunConfig, steps: int) -> ScheduleValues:
    low, peak, _ = levels(config)
    if config.schedule == "constant":
        return ScheduleValues(config.lr_max, config.momentum_max)
    if config.schedule == "triangular":
        return low
    has_rise = config.schedule in RISING and (config.resolved().pct_start or 0) * steps > 1
    return low if has_rise else peak


@st.composite
def configs(draw: st.DrawFn, /, **fixed: Any) -> RunConfig:
    name = draw(st.sampled_from(SCHEDULES))
    momenta = sorted(draw(st.tuples(*[st.floats(0, 0.999)] * 2)))
    options: dict[str, Any] = {
        "schedule": name,
        "lr_max": draw(st.floats(1e-6, 100)),
        "div": draw(st.floats(1, 1e4)),
        "final_div": draw(st.floats(1, 1e7)),
        "momentum_min": momenta[0],
        "momentum_max": momenta[1],
        "cycle_mult": draw(st.floats(1, 5)),
    }
    if name in PCT_START:
        options["pct_start"] = draw(st.floats(0.01, 0.5 if name == "one_cycle_linear" else 0.99))
    if name in CYCLES:
        options["cycles"] = draw(st.integers(1, 40))
    return RunConfig(**(options | fixed))


def assert_within_bounds(config: RunConfig, steps: int) -> None:
    lr, momentum = values(config, steps)
    lowest = min(level.lr for level in levels(config))
    assert lr.shape == momentum.shape == (steps,)
    assert np.isfinite(lr).all()
    assert np.isfinite(momentum).all()
    assert lr.min() >= lowest
    assert lr.max() <= config.lr_max
    assert momentum.min() >= config.momentum_min
    assert momentum.max() <= config.momentum_max


@every_schedule
@every_length
def test_values_are_finite_and_within_bounds(name: str, steps: int) -> None:
    assert_within_bounds(RunConfig(schedule=name), steps)


@given(configs(), st.integers(1, 200))
def test_values_are_within_bounds_for_any_options(config: RunConfig, steps: int) -> None:
    assert_within_bounds(config, steps)


@every_schedule
@every_length
def test_first_and_last_values_are_exact(name: str, steps: int) -> None:
    config = RunConfig(schedule=name)
    schedule = make_schedule(config, steps)
    assert schedule(0) == expected_first(config, steps)
    if name in DECAYING and steps > 1:
        assert schedule(steps - 1) == levels(config)[2]


@given(configs(), st.integers(1, 200))
def test_first_and_last_values_are_exact_for_any_options(config: RunConfig, steps: int) -> None:
    schedule = make_schedule(config, steps)
    assert schedule(0) == expected_first(config, steps)
    if config.schedule in DECAYING and steps > 1:
        assert schedule(steps - 1) == levels(config)[2]


@every_schedule
def test_same_step_gives_same_value_in_any_order(name: str) -> None:
    schedule = make_schedule(RunConfig(schedule=name), 101)
    in_order = [schedule(step) for step in range(101)]
    order = list(range(101)) * 2
    random.Random(0).shuffle(order)
    assert all(schedule(step) == in_order[step] for step in order)


@every_schedule
def test_is_frozen_and_survives_pickling(name: str) -> None:
    schedule = make_schedule(RunConfig(schedule=name), 101)
    copy = pickle.loads(pickle.dumps(schedule))
    assert [copy(step) for step in range(101)] == [schedule(step) for step in range(101)]
    assert make_schedule(RunConfig(schedule=name), 101) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.total_steps = 7  # type: ignore[misc]


@every_schedule
def test_values_are_plain_floats(name: str) -> None:
    value = make_schedule(RunConfig(schedule=name, lr_max=1), 7)(3)
    assert value._fields == ("lr", "momentum")
    assert [type(number) for number in value] == [float, float]


@every_schedule
@every_length
def test_momentum_and_learning_rate_move_oppositely(name: str, steps: int) -> None:
    lr, momentum = values(RunConfig(schedule=name, lr_max=1), steps)
    both = np.diff(lr) * np.diff(momentum)
    assert (both <= 1e-15).all()
    if name != "constant" and steps >= 100:
        assert (both < -1e-9).any()


@given(configs(div=20.0, final_div=20.0), st.integers(1, 200))
def test_momentum_mirrors_the_learning_rate(config: RunConfig, steps: int) -> None:
    # With one lowest learning rate, momentum is a falling straight line of the learning rate.
    lr, momentum = values(config, steps)
    share = (lr / config.lr_max - 1 / 20) / (1 - 1 / 20)
    if config.schedule == "constant":
        share = np.zeros(steps)
    expected = config.momentum_max - share * (config.momentum_max - config.momentum_min)
    np.testing.assert_allclose(momentum, expected, rtol=0, atol=1e-12)


def steepest(name: str, steps: int) -> float:
    """Largest possible change in one step, as a share of the whole range."""
    pct = PCT_START.get(name, 0.0)
    cosine, straight = math.pi / 2, 1.0
    return {
        "one_cycle": cosine / (pct * steps - 1),
        "one_cycle_linear": straight / (pct * steps - 1),
        "triangular": straight / (0.5 * steps / 3),
        "flat_cos": cosine / (steps - pct * steps),
        "cosine": cosine / (steps - 1),
        "warm_restarts": cosine / (steps // 3),
        "linear": straight / (pct * steps - 1),
        "constant": 0.0,
    }[name]


@every_schedule
@pytest.mark.parametrize("steps", [100, 101, 1000])
def test_jumps_only_at_restarts(name: str, steps: int) -> None:
    lr, momentum = values(RunConfig(schedule=name, lr_max=1), steps)
    jumps = np.flatnonzero(np.abs(np.diff(lr)) > steepest(name, steps) * (1 + 1e-9))
    momentum_range = 0.95 - 0.85
    momentum_jumps = np.flatnonzero(
        np.abs(np.diff(momentum)) > steepest(name, steps) * momentum_range * (1 + 1e-9)
    )
    restarts = [round(steps / 3), round(steps * 2 / 3)] if name == "warm_restarts" else []
    assert (jumps + 1).tolist() == restarts
    assert (momentum_jumps + 1).tolist() == restarts


@every_schedule
def test_reaches_the_peak(name: str) -> None:
    config = RunConfig(schedule=name)
    lr, momentum = values(config, 1000)
    top = int(lr.argmax())
    assert lr[top] == pytest.approx(config.lr_max, rel=0.01)
    lowest = config.momentum_max if name == "constant" else config.momentum_min
    assert momentum[top] == pytest.approx(lowest, abs=0.001)


@every_schedule
@pytest.mark.parametrize("step", [-1, 7, 10**9])
def test_step_outside_the_run_is_refused(name: str, step: int) -> None:
    schedule = make_schedule(RunConfig(schedule=name), 7)
    with pytest.raises(ValueError, match=rf"step={step} .* allowed: 0 to 6$"):
        schedule(step)


@every_schedule
@pytest.mark.parametrize("steps", [0, -3])
def test_run_without_steps_is_refused(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"total_steps={steps}; allowed: at least 1"):
        make_schedule(RunConfig(schedule=name), steps)


@every_schedule
def test_defaults_are_those_of_the_resolved_configuration(name: str) -> None:
    config = RunConfig(schedule=name)
    assert make_schedule(config, 101) == make_schedule(config.resolved(), 101)
