"""What goes into a model: looked at seldom, in training only, by the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.tracking_tests.models import Elsewhere
from tracking.diagnosis.evidence import InputFigures
from tracking.diagnosis.inputs import InputStats

__all__: list[str] = []


def seen(steps: int, x: torch.Tensor | None = None) -> list[InputFigures]:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(steps):
        stats.look(torch.randn(4, 1, 8, 8) if x is None else x)
        stats.step()
    stats.close()
    return found


def test_figures_are_those_of_numpy() -> None:
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 2
    x[0], x[1] = 5.0, 0.0
    [one, *_] = seen(1, x)
    flat = x.double().numpy()
    assert one.samples == 6
    assert one.mean == pytest.approx(flat.mean(), rel=1e-5)
    assert one.std == pytest.approx(flat.std(), rel=1e-5)
    assert (one.min, one.max) == (flat.min(), flat.max())
    assert one.constant == pytest.approx(2 / 6)
    assert (one.nonfinite, one.classes) == (0, 0)


def test_it_looks_ever_more_seldom() -> None:
    assert [one.step for one in seen(70)] == [*range(9), 16, 32, 64]


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    x = torch.ones(2, 1, 8, 8)
    x[0, 0, 0, 0], x[1, 0, 0, :2] = torch.nan, torch.inf
    [one] = seen(1, x)
    assert (one.nonfinite, one.mean, one.max, one.constant) == (3, 1.0, 1.0, 0.0)
    [nothing] = seen(1, torch.full((2, 1, 8, 8), torch.nan))
    assert nothing.nonfinite == 128
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize("ended", [False, True])
def test_the_step_in_which_a_run_fails_is_looked_at_whole(ended: bool) -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(30):
        stats.look(torch.ones(100, 1, 8, 8))
        stats.step()
    x = torch.ones(100, 1, 8, 8)
    x[99, 0, 2, 2] = torch.inf
    stats.look(x)  # its loss is not finite, and whoever guards the run ends it
    if ended:
        stats.step()
    stats.close()
    stats.close()
    assert [(one.step, one.nonfinite) for one in found if one.nonfinite] == [(30, 1)]
    assert [one.step for one in found if not one.nonfinite] == [*range(9), 16]


def test_a_sound_step_that_fails_for_another_reason_leaves_nothing() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(9):
        stats.look(torch.ones(4, 2))
        stats.step()
    stats.look(torch.ones(4, 2))
    stats.close()
    stats.close()
    assert [one.step for one in found] == [*range(9)]


def test_on_an_accelerator_sums_tell_of_it_without_the_loss() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for at in range(40):
        x = torch.ones(3, 4)
        x[2, 2] = torch.nan if at in (10, 37) else 1.0
        if at == 32:  # which is looked at whole
            x[2, 2] = torch.inf
        stats.look(x.as_subclass(Elsewhere))
        stats.step()
    stats.close()
    assert [one.step for one in found if one.nonfinite] == [10, 32, 37]
    assert found[-1].samples == 3


def test_labels_belong_to_the_step_under_way() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    stats.note(labels=torch.tensor([1, 2]))  # of a step without an input
    stats.step()
    stats.look(torch.randn(4, 1, 8, 8))
    stats.note(labels=torch.tensor([3, 3, -100, 7, 3]))  # one of them without a label
    stats.step()
    stats.look(torch.randn(4, 1, 8, 8))
    stats.note(labels=torch.randn(4))  # no class numbers
    stats.step()
    assert [(one.classes, one.lowest_label, one.highest_label) for one in found] == [
        (2, 3, 7),
        (0, 0, 0),
    ]


def test_the_first_of_accumulated_batches_and_64_of_its_samples_are_looked_at() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    x = torch.zeros(100, 5)
    x[64:] = 9.0
    stats.look(x)
    stats.look(torch.ones(7, 5))
    stats.step()
    assert [(one.step, one.samples, one.max) for one in found] == [(0, 64, 0.0)]


def test_random_numbers_stay_as_they_were() -> None:
    before = torch.get_rng_state()
    seen(3, torch.ones(2, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_may_be_told_before_the_input() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append, first_step=7)
    stats.note(torch.tensor([5, 5]))
    stats.look(torch.randn(2, 3))
    stats.close()  # the loss could not be computed
    assert [(one.step, one.classes, one.highest_label) for one in found] == [(7, 1, 5)]


def test_half_precision_has_room_for_the_sum() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(40):
        x = torch.full((2, 60_000), 2.0, dtype=torch.float16)
        stats.look(x.as_subclass(Elsewhere))
        stats.step()
    stats.close()
    assert [one.nonfinite for one in found] == [0] * 11


def test_no_end_of_bad_inputs_is_told_of() -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for step in range(400):
        x = torch.full((2, 3), 1.0 if step < 200 else torch.nan)
        stats.look(x.as_subclass(Elsewhere))
        stats.step()
    stats.close()
    told = [one.step for one in found if one.nonfinite]
    assert sorted(told) == [*range(200, 216), 256]  # that one is looked at anyway


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(2, 3),),
        ({"ids": torch.ones(2, 3, dtype=torch.int64), "images": torch.ones(2, 3)}, 1),
        ([torch.ones(2, 3), torch.zeros(9)],),
    ],
    ids=["tensor", "mapping", "list"],
)
def test_inputs_are_looked_at_wherever_they_are(inputs: tuple[Any, ...]) -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(9):
        stats.look(inputs)
        stats.step()
    assert {(one.samples, one.mean) for one in found} == {(2, 1.0)}
    bad = torch.full((2, 3), torch.inf)
    stats.look((bad, *inputs))  # in a step that nobody looks at, unless it fails
    stats.close()
    assert (found[-1].step, found[-1].nonfinite) == (9, 6)


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (None,),
        ("text",),
        (torch.ones(3),),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3)),
        (torch.ones(2, 3, device="meta"),),
    ],
    ids=["none", "nothing", "text", "one dimension", "token ids", "no memory"],
)
def test_inputs_that_are_no_batch_of_numbers_are_left_alone(inputs: tuple[Any, ...]) -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(20):
        stats.look(inputs)
        stats.step()
    stats.look(inputs)
    stats.close()
    assert found == []


def kept(x: torch.Tensor, change: Callable[[torch.Tensor], object]) -> list[InputFigures]:
    """What is told of the last input of a run, which is changed before the run closes."""
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    for _ in range(12):
        stats.look((torch.ones(2, 3),))
        stats.step()
    found.clear()
    stats.look((x,))
    change(x)
    stats.close()
    return found


def test_an_input_that_the_model_changes_is_not_blamed() -> None:
    assert kept(torch.ones(2, 3), lambda x: x.mul_(torch.nan)) == []
    [bad] = kept(torch.full((2, 3), torch.nan), lambda x: x + 1)
    assert (bad.step, bad.nonfinite) == (12, 6)
    with torch.inference_mode():
        uncounted = torch.full((2, 3), torch.nan)
    [bad] = kept(uncounted, lambda x: None)
    assert bad.nonfinite == 6


def test_memory_that_has_been_given_back_is_not_read() -> None:
    assert kept(torch.full((2, 3), torch.nan), lambda x: x.untyped_storage().resize_(0)) == []


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([3, 156, 7], dtype=torch.uint8),
        torch.tensor([3, 156, 7], dtype=torch.uint16),
        np.array([3, 156, 7]),
        [3, 156, 7],
    ],
    ids=["bytes", "uint16", "numpy", "list"],
)
def test_labels_may_be_of_any_whole_kind(labels: Any) -> None:
    found: list[InputFigures] = []
    stats = InputStats(found.append)
    stats.look(torch.ones(3, 2))
    stats.note(labels)
    stats.step()
    assert [(one.classes, one.lowest_label, one.highest_label) for one in found] == [(3, 3, 156)]
