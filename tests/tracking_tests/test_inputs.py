"""What goes into a model: looked at seldom, in training only, by the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.tracking_tests.models import cnn, hooks_on, sgd
from tracking.diagnosis.evidence import InputFigures
from tracking.inputs import InputStats

__all__: list[str] = []


def seen(model: nn.Module, steps: int, x: torch.Tensor | None = None) -> list[InputFigures]:
    found: list[InputFigures] = []
    with InputStats(model, found.append) as stats:
        for _ in range(steps):
            model(torch.randn(4, 1, 8, 8) if x is None else x)
            stats.step()
    return found


def test_figures_are_those_of_numpy() -> None:
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 2
    x[0], x[1] = 5.0, 0.0
    [one, *_] = seen(cnn(), 1, x)
    flat = x.double().numpy()
    assert one.samples == 6
    assert one.mean == pytest.approx(flat.mean(), rel=1e-5)
    assert one.std == pytest.approx(flat.std(), rel=1e-5)
    assert (one.min, one.max) == (flat.min(), flat.max())
    assert one.constant == pytest.approx(2 / 6)
    assert (one.nonfinite, one.classes) == (0, 0)


def test_it_looks_ever_more_seldom() -> None:
    assert [one.step for one in seen(cnn(), 70)] == [*range(9), 16, 32, 64]


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    x = torch.ones(2, 1, 8, 8)
    x[0, 0, 0, 0], x[1, 0, 0, :2] = torch.nan, torch.inf
    [one] = seen(cnn(), 1, x)
    assert (one.nonfinite, one.mean, one.max, one.constant) == (3, 1.0, 1.0, 0.0)
    [nothing] = seen(cnn(), 1, torch.full((2, 1, 8, 8), torch.nan))
    assert nothing.nonfinite == 128
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize("step", [10, 25, 30])
def test_a_step_between_looks_with_values_that_are_not_finite_is_told_of(step: int) -> None:
    found: list[InputFigures] = []
    model = cnn()
    with InputStats(model, found.append) as stats:
        for at in range(31):
            x = torch.ones(2, 1, 8, 8)
            x[1, 0, 2, 2] = torch.inf if at == step else 1.0
            model(x)
            stats.step()
    assert [one.step for one in found if one.nonfinite] == [step]


def test_labels_belong_to_the_step_under_way() -> None:
    found: list[InputFigures] = []
    model = cnn()
    with InputStats(model, found.append) as stats:
        stats.note(torch.tensor([1, 2]))  # of a step that nobody looks at: no input yet
        model(torch.randn(4, 1, 8, 8))
        stats.note(torch.tensor([3, 3, 7, 3]))
        stats.step()
        model(torch.randn(4, 1, 8, 8))
        stats.note(torch.randn(4))  # no class numbers
        stats.step()
    assert [(one.classes, one.lowest_label, one.highest_label) for one in found] == [
        (2, 3, 7),
        (0, 0, 0),
    ]


def test_validation_and_empty_batches_are_left_alone() -> None:
    model = cnn()
    found: list[InputFigures] = []
    with InputStats(model, found.append) as stats:
        model.eval()(torch.randn(4, 1, 8, 8))
        model.train()(torch.zeros(0, 1, 8, 8))
        stats.step()
        model(torch.randn(4, 1, 8, 8))
        model(torch.randn(2, 1, 8, 8))  # a second batch of the step: the first one counts
        stats.step()
    assert [(one.step, one.samples) for one in found] == [(1, 4)]


def test_no_hook_is_left_and_random_numbers_stay_as_they_were() -> None:
    model = cnn()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    x = torch.ones(2, 1, 8, 8)
    seen(model, 3, x)
    assert hooks_on(model, sgd(model)) == 0
    assert torch.equal(torch.get_rng_state(), before)
