"""Schedules against torch's own, stepped for real, and against formulas written a second time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from pipelines.config import RunConfig
from pipelines.schedules import make_schedule

LENGTHS = (1, 2, 3, 4, 5, 7, 10, 11, 99, 100, 101, 1000)
MakeScheduler = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]

every_length = pytest.mark.parametrize("steps", LENGTHS)
momenta = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted)
rates = st.floats(1e-4, 10)
divisors = st.floats(1, 1e6)
lengths = st.integers(1, 150)


def ours(config: RunConfig, steps: int) -> np.ndarray:
    """Learning rate and momentum of every step, [steps, 2]."""
    schedule = make_schedule(config, steps)
    return np.array([schedule(step) for step in range(steps)], dtype=np.float64)


def stepped(make_scheduler: MakeScheduler, config: RunConfig, steps: int) -> np.ndarray:
    """What a torch scheduler writes into a real optimizer, [steps, 2]."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr_max, momentum=0)
    scheduler = make_scheduler(optimizer)
    rows = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rows.append((group["lr"], group["momentum"]))
        optimizer.step()
        scheduler.step()
    return np.array(rows, dtype=np.float64)


def one_cycle_lr(config: RunConfig, steps: int, **options: Any) -> MakeScheduler:
    """torch divides by final_div_factor a second time, after div_factor."""
    arguments = {
        "div_factor": config.div,
        "final_div_factor": config.final_div / options.get("div_factor", config.div),
    }
    return lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.lr_max,
        total_steps=steps,
        pct_start=config.resolved().pct_start or 0.0,
        base_momentum=config.momentum_min,
        max_momentum=config.momentum_max,
        **(arguments | options),
    )


def cyclic_lr(config: RunConfig, steps: int) -> MakeScheduler:
    options = config.resolved()
    period = steps / (options.cycles or 0)
    up = (options.pct_start or 0.0) * period
    return lambda optimizer: lr_scheduler.CyclicLR(
        optimizer,
        base_lr=config.lr_max / config.div,
        max_lr=config.lr_max,
        step_size_up=up,  # type: ignore[arg-type]  # torch takes fractions too
        step_size_down=period - up,  # type: ignore[arg-type]
        cycle_momentum=True,
        base_momentum=config.momentum_min,
        max_momentum=config.momentum_max,
    )


def assert_equal(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def has_rise(config: RunConfig, steps: int) -> bool:
    """torch divides by zero, or starts part-way down, where there is none."""
    return (config.resolved().pct_start or 0.0) * steps > 1


# -- against torch --

# The phases of OneCycleLR that each schedule has.
ONE_CYCLES: dict[str, dict[str, Any]] = {
    "one_cycle": {},
    "one_cycle_linear": {"three_phase": True, "anneal_strategy": "linear"},
    "linear": {"anneal_strategy": "linear"},
    "flat_cos": {"div_factor": 1.0},
}


def assert_is_one_cycle_lr(config: RunConfig, steps: int) -> None:
    expected = stepped(one_cycle_lr(config, steps, **ONE_CYCLES[config.schedule]), config, steps)
    actual = ours(config, steps)
    if config.schedule == "flat_cos":  # torch lets momentum fall during the flat part
        actual, expected = actual[:, 0], expected[:, 0]
    assert_equal(actual, expected)


@pytest.mark.parametrize("name", ONE_CYCLES)
@every_length
def test_one_cycles_equal_one_cycle_lr(name: str, steps: int) -> None:
    config = RunConfig(schedule=name)
    if has_rise(config, steps):
        assert_is_one_cycle_lr(config, steps)
    else:
        assert steps <= 10
        assert ours(config, steps)[0].tolist() == [0.01, 0.85]


@pytest.mark.parametrize("name", ONE_CYCLES)
@given(lr=rates, div=divisors, final=divisors, pct=st.floats(0.01, 0.99), m=momenta, steps=lengths)
def test_one_cycles_equal_one_cycle_lr_for_any_options(
    name: str, lr: float, div: float, final: float, pct: float, m: list[float], steps: int
) -> None:
    config = RunConfig(
        schedule=name,
        lr_max=lr,
        div=div,
        final_div=final,
        pct_start=pct / 2 if name == "one_cycle_linear" else pct,
        momentum_min=m[0],
        momentum_max=m[1],
    )
    assume(has_rise(config, steps))
    assert_is_one_cycle_lr(config, steps)


@pytest.mark.parametrize("cycles", [None, 1, 2, 7])
@every_length
def test_triangular_equals_cyclic_lr(cycles: int | None, steps: int) -> None:
    config = RunConfig(schedule="triangular", cycles=cycles)
    assert_equal(ours(config, steps), stepped(cyclic_lr(config, steps), config, steps))


@given(
    lr=rates,
    div=divisors,
    pct=st.floats(0.01, 0.99),
    cycles=st.integers(1, 30),
    m=momenta,
    steps=lengths,
)
def test_triangular_equals_cyclic_lr_for_any_options(
    lr: float, div: float, pct: float, cycles: int, m: list[float], steps: int
) -> None:
    config = RunConfig(
        schedule="triangular",
        lr_max=lr,
        div=div,
        pct_start=pct,
        cycles=cycles,
        momentum_min=m[0],
        momentum_max=m[1],
    )
    assert_equal(ours(config, steps), stepped(cyclic_lr(config, steps), config, steps))


@pytest.mark.parametrize("final_div", [1.0, 10.0, 1e5])
@every_length
def test_cosine_equals_cosine_annealing_lr(final_div: float, steps: int) -> None:
    config = RunConfig(schedule="cosine", final_div=final_div)
    if steps == 1:  # torch divides by zero
        assert ours(config, 1).tolist() == [[0.01, 0.85]]
        return
    expected = stepped(
        lambda optimizer: lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=steps - 1, eta_min=0.01 / final_div
        ),
        config,
        steps,
    )
    assert_equal(ours(config, steps)[:, 0], expected[:, 0])


@pytest.mark.parametrize("first", [1, 2, 7, 40])
@pytest.mark.parametrize("cycles", [1, 2, 3, 4])
@pytest.mark.parametrize("mult", [1, 2, 3])
def test_warm_restarts_equal_cosine_annealing_warm_restarts(
    first: int, cycles: int, mult: int
) -> None:
    steps = sum(first * mult**cycle for cycle in range(cycles))
    config = RunConfig(schedule="warm_restarts", cycles=cycles, cycle_mult=mult, final_div=50)
    expected = stepped(
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=first, T_mult=mult, eta_min=0.01 / 50
        ),
        config,
        steps,
    )
    assert_equal(ours(config, steps)[:, 0], expected[:, 0])


# -- against formulas --


def half_cosine(share: np.ndarray) -> np.ndarray:
    """1 at the start, 0 at the end."""
    return 0.5 * (1 + np.cos(np.pi * share))


def from_share(config: RunConfig, share: np.ndarray, bottom: np.ndarray | float) -> np.ndarray:
    """Both values for a share of the way from the bottom to the peak."""
    lr = bottom + share * (config.lr_max - bottom)
    momentum = config.momentum_max - share * (config.momentum_max - config.momentum_min)
    return np.stack([lr, momentum], axis=1)


@every_length
@pytest.mark.parametrize("pct", [0.01, 0.3, 0.75, 0.98])
def test_flat_cos_formula(pct: float, steps: int) -> None:
    config = RunConfig(schedule="flat_cos", pct_start=pct)
    turn = max(pct * steps - 1, 0.0)
    at = np.arange(steps)
    fall = (at - turn) / (steps - 1 - turn) if steps > 1 else np.zeros(1)
    share = np.where(at <= turn, 1.0, half_cosine(fall))
    assert_equal(ours(config, steps), from_share(config, share, 0.01 / 1e5))


@every_length
@pytest.mark.parametrize("pct", [0.001, 0.1, 0.6])
def test_linear_formula(pct: float, steps: int) -> None:
    config = RunConfig(schedule="linear", pct_start=pct)
    turn, last, at = pct * steps - 1, steps - 1, np.arange(steps)
    knots = [0.0, turn, last] if turn > 0 else [0.0, last]
    lr = np.interp(at, knots, [0.01 / 25, 0.01, 0.01 / 1e5][-len(knots) :])
    momentum = np.interp(at, knots, [0.95, 0.85, 0.95][-len(knots) :])
    if steps == 1:
        lr, momentum = np.array([0.01]), np.array([0.85])
    assert_equal(ours(config, steps), np.stack([lr, momentum], axis=1))


@pytest.mark.parametrize("steps", [2, 3, 4, 50, 99])
def test_one_cycle_without_a_rise_is_a_cosine_decay(steps: int) -> None:
    config = RunConfig(schedule="one_cycle", pct_start=0.01)
    share = half_cosine(np.arange(steps) / (steps - 1))
    assert_equal(ours(config, steps), from_share(config, share, 0.01 / 1e5))


@pytest.mark.parametrize("steps", [2, 3, 4, 50, 100])
def test_one_cycle_linear_without_a_rise_is_a_linear_decay(steps: int) -> None:
    config = RunConfig(schedule="one_cycle_linear", pct_start=0.01)
    share = 1 - np.arange(steps) / (steps - 1)
    assert_equal(ours(config, steps), from_share(config, share, 0.01 / 1e5))


@settings(max_examples=50)
@given(steps=st.integers(1, 300), cycles=st.integers(1, 20), mult=st.floats(1.01, 4))
def test_warm_restarts_formula(steps: int, cycles: int, mult: float) -> None:
    config = RunConfig(schedule="warm_restarts", cycles=cycles, cycle_mult=mult)
    cycles = min(cycles, steps)
    sizes = mult ** np.arange(cycles)
    exact = steps * np.concatenate([[0.0], np.cumsum(sizes)]) / sizes.sum()
    assume((np.abs(exact % 1 - 0.5) > 1e-9).all())  # either way is right for a tie
    bounds = np.round(exact).astype(int)
    expected = [half_cosine(np.arange(length) / length) for length in np.diff(bounds) if length > 0]
    assert_equal(ours(config, steps), from_share(config, np.concatenate(expected), 0.01 / 1e5))


@every_length
def test_constant_keeps_both_values(steps: int) -> None:
    config = RunConfig(schedule="constant", lr_max=0.3, momentum_max=0.9)
    assert (ours(config, steps) == [0.3, 0.9]).all()


# -- edges --


def test_every_cycle_of_warm_restarts_begins_at_the_peak() -> None:
    config = RunConfig(schedule="warm_restarts", cycles=3)
    table = ours(config, 100)
    assert table[[0, 33, 67]].tolist() == [[0.01, 0.85]] * 3


@pytest.mark.parametrize("cycles", [100, 10**6])
@pytest.mark.parametrize("mult", [1.0, 1 + 2**-52])
def test_more_restarts_than_steps_stay_at_the_peak(cycles: int, mult: float) -> None:
    config = RunConfig(schedule="warm_restarts", cycles=cycles, cycle_mult=mult)
    assert (ours(config, 50) == [0.01, 0.85]).all()
    assert len(make_schedule(config, 50).phases) == 50


@pytest.mark.parametrize("mult", [1 + 2**-40, 1.0005, 1.02, 1.5, 7.0])
@pytest.mark.parametrize("cycles", [1, 3, 20])
def test_lengths_of_warm_restarts_are_exact(mult: float, cycles: int) -> None:
    steps, exact = 10**7 + 1, Fraction(mult)
    config = RunConfig(schedule="warm_restarts", cycles=cycles, cycle_mult=mult)
    starts = [phase.start for phase in make_schedule(config, steps).phases]
    assert starts == [
        round(steps * (exact**cycle - 1) / (exact**cycles - 1)) for cycle in range(cycles)
    ]


def test_cycles_that_grow_beyond_any_number_leave_the_last_one() -> None:
    config = RunConfig(schedule="warm_restarts", cycles=1000, cycle_mult=1e300)
    assert (ours(config, 50) == ours(RunConfig(schedule="warm_restarts", cycles=1), 50)).all()


def test_very_many_cycles_of_triangular_cost_nothing() -> None:
    schedule = make_schedule(RunConfig(schedule="triangular", cycles=10**12), 10**6)
    assert len(schedule.phases) == 2
    assert 0.01 / 25 <= schedule(999_999).lr <= 0.01


@pytest.mark.parametrize("name", ["one_cycle", "one_cycle_linear", "linear", "flat_cos", "cosine"])
def test_final_value_is_not_rounded_away(name: str) -> None:
    config = RunConfig(schedule=name, lr_max=100.0, final_div=1e18)
    assert make_schedule(config, 1000)(999).lr == 1e-16
