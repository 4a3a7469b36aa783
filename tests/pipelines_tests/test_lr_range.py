"""The range test: no trace, fastai's suggestions, and curves that suggest nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.config import RunConfig
from pipelines.lr_range import lr_range_test
from pipelines.lr_range_config import LrRangeConfig
from pipelines.run import Setup, prepare, train
from pipelines.snapshot import RandomState
from pipelines.step import TrainStep

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]


def everything(setup: Setup) -> list[Any]:
    """All that a range test might leave a trace in."""
    tensors = [*setup.model.named_parameters(), *setup.model.named_buffers()]
    optimizer = setup.optimizer.state_dict()
    random_states = RandomState()
    return [
        {name: t.detach().numpy().tobytes() for name, t in tensors},
        [p.grad for p in setup.model.parameters()],
        [module.training for module in setup.model.modules()],
        {
            (index, name): value.numpy().tobytes() if isinstance(value, Tensor) else value
            for index, values in optimizer["state"].items()
            for name, value in values.items()
        },
        optimizer["param_groups"],
        {name: t.numpy().tobytes() for name, t in setup.loaders.train.state_dict().items()},
        random_states._torch.numpy().tobytes(),
        str(random_states._numpy[1].tolist()) + str(random_states._numpy[2:]),
        random_states._python,
    ]


def fake_losses(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """The losses that the steps of a range test see; the weights stay as they are."""
    given = iter(losses)
    monkeypatch.setattr(TrainStep, "gradients", lambda self, group: torch.tensor(next(given)))
    monkeypatch.setattr(TrainStep, "update", lambda self: None)


# -- no trace --


class Interrupt:
    """Raises in the given step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step = step
        self.error = error

    def __call__(self, step: int, lr: float, loss: float) -> None:
        np.random.rand()  # noqa: NPY002 - what a callback does to the global state counts as well
        if step == self.step:
            raise self.error


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_everything_is_bit_identical_afterwards(small: ConfigMaker, optimizer: str) -> None:
    setup = prepare(small(optimizer=optimizer, augment="crop-flip", erase=0.5, accumulate=2))
    before = everything(setup)
    result = lr_range_test(setup, LrRangeConfig(lr_steps=20))
    assert everything(setup) == before
    assert len(set(result.losses)) > 10


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_everything_is_bit_identical_after_a_failure(
    small: ConfigMaker, error: BaseException
) -> None:
    setup = prepare(small(augment="flip"))
    before = everything(setup)
    with pytest.raises(type(error)):
        lr_range_test(setup, LrRangeConfig(), Interrupt(7, error))
    assert everything(setup) == before


def test_training_after_it_is_training_without_it(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(augment="crop-flip", erase=0.5)
    results = []
    for tested in (False, True):
        setup = prepare(config)
        if tested:
            lr_range_test(setup, LrRangeConfig(lr_steps=30))
        results.append(train(setup, tmp_path / str(tested)))
    without, after = results
    for name, value in without.model.state_dict().items():
        assert value.equal(after.model.state_dict()[name])
    assert without.activation_stats.read().equals(after.activation_stats.read())
    assert without.test == after.test


def test_in_mid_run_it_leaves_no_trace_either(small: ConfigMaker, tmp_path: Path) -> None:
    setup = prepare(small(record=False))
    train(setup, tmp_path)
    before = everything(setup)
    lr_range_test(setup, LrRangeConfig(lr_steps=10))
    assert everything(setup) == before


# -- the curve --


def test_rates_grow_evenly_and_losses_are_smoothed(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(small(momentum_max=0.7, momentum_min=0.6))
    values = [3.0 - 0.02 * step for step in range(50)]
    fake_losses(monkeypatch, values)
    seen: list[tuple[int, float, float]] = []
    used = []

    def report(step: int, lr: float, loss: float) -> None:
        seen.append((step, lr, loss))
        group = setup.optimizer.param_groups[0]
        used.append((group["lr"], group["betas"][0]))

    options = LrRangeConfig(lr_start=1e-6, lr_end=1.0, lr_steps=50)
    result = lr_range_test(setup, options, report)
    assert (result.lrs[0], result.lrs[-1]) == (1e-6, pytest.approx(1.0, rel=1e-12))
    ratios = [b / a for a, b in pairwise(result.lrs)]
    assert ratios == pytest.approx([10 ** (6 / 49)] * 49)
    for step, smooth in enumerate(result.losses):
        weights = [0.98 ** (step - i) for i in range(step + 1)]
        mean = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert smooth == pytest.approx(mean, rel=1e-6)
    assert seen == list(zip(range(50), result.lrs, result.losses, strict=True))
    assert used == [(lr, 0.7) for lr in result.lrs]
    assert not result.diverged


def test_it_ends_when_the_loss_is_four_times_its_lowest(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_losses(monkeypatch, [3.0] * 20 + [2.0] * 40 + [1000.0] * 40)
    result = lr_range_test(prepare(small()), LrRangeConfig())
    assert (len(result.losses), result.diverged) == (61, True)
    assert result.losses[-1] > 4 * min(result.losses)
    assert result.losses[-2] < 4 * min(result.losses)
    assert set(result.suggestions) == {"valley", "slide", "minimum", "steep"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    fake_losses(monkeypatch, [3.0] * 20 + [2.0] * 30 + [bad] * 50)
    result = lr_range_test(prepare(small()), LrRangeConfig())
    assert (len(result.losses), result.diverged) == (50, True)
    assert all(map(math.isfinite, result.losses))
    assert len(result.lrs) == len(result.losses)
    assert result.suggestions
    assert result.trouble == ""


def test_a_rate_that_breaks_the_weights_ends_it(small: ConfigMaker) -> None:
    config = small(optimizer="sgd", norm="none")
    result = lr_range_test(prepare(config), LrRangeConfig(lr_start=1e-4, lr_end=1e20))
    assert result.diverged
    assert all(map(math.isfinite, result.losses))
    assert result.suggestions


# -- curves that suggest nothing --


@pytest.mark.parametrize(
    ("losses", "trouble"),
    [
        ([math.nan] * 50, "the loss of the untrained network is nan; look at the data"),
        ([2.0, math.inf], "the loss diverged after 2 of 50 steps, too early for a suggestion"),
        ([1.0] * 10 + [1e6] * 40, "the loss diverged after 11 of 50 steps"),
        ([2.0] * 50, "the loss did not fall at any learning rate from 1e-07 to 10"),
        ([2.0 + 0.01 * step for step in range(50)], "the loss did not fall at any learning rate"),
    ],
    ids=["nan at once", "inf in the second step", "early", "flat", "rising"],
)
def test_no_suggestion_says_why(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch, losses: list[float], trouble: str
) -> None:
    fake_losses(monkeypatch, losses)
    result = lr_range_test(prepare(small()), LrRangeConfig(lr_steps=50))
    assert result.suggestions == {}
    assert result.trouble.startswith(trouble)
    assert "\n" not in result.trouble


def noisy(seed: int, steps: int, fall: float = 0.0) -> list[float]:
    """Losses of batches: 2.5 and noise of 0.1, less what the second half has learned."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(steps)
    learned = fall * np.clip(np.linspace(-1, 1, steps), 0, None)
    return (2.5 + noise - learned).tolist()


@pytest.mark.parametrize("steps", [10, 30, 100])
def test_noise_suggests_nothing(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    setup, options = prepare(small()), LrRangeConfig(lr_start=1e-9, lr_end=1e-7, lr_steps=steps)
    only_noise = "no learning rate from 1e-09 to 1e-07 changes the loss by more than its noise"
    found = 0
    for seed in range(50):
        fake_losses(monkeypatch, noisy(seed, steps))
        result = lr_range_test(setup, options)
        found += not result.trouble.startswith(only_noise)
        assert bool(result.trouble) is not bool(result.suggestions)
    assert found <= 5  # of 50; of ten losses little can be said


def test_a_fall_in_noise_is_seen(small: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(small())
    for seed in range(50):
        fake_losses(monkeypatch, noisy(seed, 100, fall=0.6))
        assert not lr_range_test(setup, LrRangeConfig()).trouble


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rates_that_are_far_too_low_suggest_nothing(small: ConfigMaker, optimizer: str) -> None:
    setup = prepare(small(optimizer=optimizer, train_limit=0))
    for seed in range(3):
        result = lr_range_test(setup, LrRangeConfig(lr_start=1e-9, lr_end=10 ** -(7 + seed / 2)))
        assert result.trouble.startswith("no learning rate from 1e-09 to ")
        assert not result.suggestions


def test_falling_all_the_way(small: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_losses(monkeypatch, [3.0 - 0.02 * step for step in range(100)])
    result = lr_range_test(prepare(small()), LrRangeConfig())
    kept = result.lrs[10:-5]
    assert result.suggestions["minimum"] == pytest.approx(kept[-1] / 10)
    assert result.suggestions["slide"] == pytest.approx(kept[-16])
    assert result.suggestions["valley"] == pytest.approx(kept[85 - 85 + 28 + 14 - 1])


def test_the_shortest_test_there_is(small: ConfigMaker) -> None:
    options = LrRangeConfig(lr_start=1e-3, lr_end=1e-2, lr_steps=10)
    result = lr_range_test(prepare(small(optimizer="sgd")), options)
    assert len(result.losses) == 10
    assert set(result.suggestions) == {"valley", "minimum", "steep"}  # too short for slide's ruler
