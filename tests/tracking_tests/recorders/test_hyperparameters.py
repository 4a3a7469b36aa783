from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tracking_tests.models import Elsewhere, rows
from tracking import Recorder

__all__: list[str] = []

Optimizer = torch.optim.Optimizer


PLACES: dict[str, type[Tensor]] = {"on the host": Tensor, "on an accelerator": Elsewhere}


@pytest.fixture(params=PLACES.values(), ids=list(PLACES))
def place(request: pytest.FixtureRequest) -> type[Tensor]:
    """Where losses are: what is recorded is the same."""
    return request.param  # type: ignore[no-any-return]


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 0.1)
    return p


def sgd(**options: Any) -> Optimizer:
    return torch.optim.SGD([parameter()], **{"lr": 0.1, **options})


def steps_of(optimizer: Optimizer, n: int = 1, **options: Any) -> list[dict[str, Any]]:
    with Recorder(optimizer, **options) as recorder:
        for _ in range(n):
            optimizer.step()
    return rows(recorder.read())


OPTIMIZERS: dict[str, tuple[Callable[[Any], Optimizer], dict[str, Any]]] = {
    "sgd": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": 1, "dampening": 0},
    ),
    "plain sgd": (lambda p: torch.optim.SGD(p, 0.1), {"momentum": 0, "weight_decay": 0}),
    "adam": (
        lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.99), eps=1e-7),
        {"lr": 0.01, "momentum": 0.8, "weight_decay": 0, "beta2": 0.99, "eps": 1e-7},
    ),
    "adamw": (
        lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.3, amsgrad=True),
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "beta2": 0.999, "amsgrad": 1},
    ),
    "rmsprop": (
        lambda p: torch.optim.RMSprop(p, 0.03, momentum=0.5, alpha=0.95, centered=True),
        {"lr": 0.03, "momentum": 0.5, "alpha": 0.95, "centered": 1, "eps": 1e-8},
    ),
    "adagrad": (
        lambda p: torch.optim.Adagrad(p, 0.04, lr_decay=0.1),
        {"lr": 0.04, "momentum": None, "lr_decay": 0.1},
    ),
    "adadelta": (lambda p: torch.optim.Adadelta(p, 1.0, rho=0.8), {"momentum": None, "rho": 0.8}),
    "adafactor": (lambda p: torch.optim.Adafactor(p, 0.1), {"lr": 0.1, "d": 1, "eps.1": 1e-3}),
    "rprop": (
        lambda p: torch.optim.Rprop(p, 0.1, etas=(0.4, 1.3)),
        {"etas.0": 0.4, "etas.1": 1.3, "step_sizes.0": 1e-6, "step_sizes.1": 50},
    ),
    "tensor lr": (
        lambda p: torch.optim.AdamW(
            p, torch.tensor(0.25), betas=(torch.tensor(0.5), torch.tensor(0.75))
        ),
        {"lr": 0.25, "momentum": 0.5, "beta2": 0.75},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_of_each_optimizer(name: str) -> None:
    make, expected = OPTIMIZERS[name]
    [row] = steps_of(make([parameter()]))
    assert {key: row[key] for key in expected} == expected
    assert not {"params", "foreach", "fused", "capturable", "differentiable", "betas"} & set(row)


def test_values_are_those_that_were_used() -> None:
    # After a step of plain SGD the weights themselves tell the learning rate.
    p = parameter()
    optimizer = torch.optim.SGD([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    used = []
    with Recorder(optimizer) as recorder:
        for step in range(6):
            before = p.detach().clone()
            if step == 4:
                optimizer.param_groups[0]["lr"] = 7.0
            optimizer.step()
            scheduler.step()
            assert p.grad is not None
            used.append(float((before - p.detach())[0] / p.grad[0]))
    assert [row["lr"] for row in rows(recorder.read())] == pytest.approx(used, rel=1e-5)
    assert used[4] == pytest.approx(7)


def test_betas_that_are_tensors_may_be_filled_anew() -> None:
    momentum, beta2 = torch.tensor(0.0), torch.tensor(0.5)
    optimizer = torch.optim.Adam([parameter()], lr=0.1, betas=(momentum, beta2))
    with Recorder(optimizer) as recorder:
        for value in (0.25, 0.75):
            momentum.fill_(value)
            optimizer.step()
    found = [(row["momentum"], row["beta2"]) for row in rows(recorder.read())]
    assert found == [(0.25, 0.5), (0.75, 0.5)]


def test_every_group_has_a_row_and_a_name() -> None:
    groups = [{"params": [parameter()], "lr": 0.5}, {"params": [parameter()], "name": "head"}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    with Recorder(optimizer) as recorder:
        optimizer.step()
        optimizer.param_groups[1]["momentum"] = 0.2
        optimizer.step()
        optimizer.add_param_group({"params": [parameter()], "weight_decay": 3.0})
        optimizer.step()
    found = [(r["step"], r["group"], r["lr"], r["momentum"]) for r in rows(recorder.read())]
    assert found == [
        *((0, "0", 0.5, 0.9), (0, "head", 0.1, 0.9)),
        *((1, "0", 0.5, 0.9), (1, "head", 0.1, 0.2)),
        *((2, "0", 0.5, 0.9), (2, "head", 0.1, 0.2), (2, "2", 0.1, 0.9)),
    ]


def test_numbers_that_appear_later_become_columns() -> None:
    optimizer = sgd()
    with Recorder(optimizer, flush_every=1) as recorder:
        optimizer.step()
        optimizer.param_groups[0].update(lr_scale=0.5, note="text", tensor=torch.ones(2))
        optimizer.step()
    table = recorder.read()
    assert table["lr_scale"].to_pylist() == [None, 0.5]
    assert not {"note", "tensor"} & set(table.column_names)


def test_a_group_s_own_step_does_not_hide_the_recorder_s() -> None:
    optimizer = sgd()
    optimizer.param_groups[0].update(step=41, loss=3.5)
    [row] = steps_of(optimizer)
    assert (row["step"], row["loss"]) == (0, None)
    assert (row["group_step"], row["group_loss"]) == (41, 3.5)


@pytest.mark.parametrize(
    "loss",
    [
        *(0.25, 1, torch.tensor(0.25), torch.tensor(0.25).double(), torch.tensor(0.5).bfloat16()),
        torch.tensor([[0.25]]),
        torch.tensor([0.25]).as_subclass(Elsewhere),
    ],
    ids=str,
)
def test_what_is_noted_stands_beside_the_step(loss: Tensor | float) -> None:
    optimizer = sgd()
    with Recorder(optimizer) as recorder:
        recorder.note(loss=loss, batch_size=32, epoch=3, step=11)
        optimizer.step()
        optimizer.step()
    first, second = rows(recorder.read())
    assert (first["step"], first["epoch"], first["batch_size"]) == (11, 3, 32)
    assert first["loss"] == float(loss)
    # A note is for one step.
    assert (second["step"], second["epoch"], second["batch_size"]) == (12, None, None)
    assert (second["loss"], second["loss_smooth"]) == (None, None)
    assert first["time"] <= second["time"]


def test_losses_of_several_precisions_keep_their_own(place: type[Tensor]) -> None:
    optimizer = sgd()
    values = [torch.tensor(1 / 3).bfloat16(), torch.tensor(1 / 3), torch.tensor(1 / 3).double()]
    with Recorder(optimizer) as recorder:
        for loss in values:
            recorder.note(loss=loss.as_subclass(place))
            optimizer.step()
    assert [row["loss"] for row in rows(recorder.read())] == [float(loss) for loss in values]


def test_loss_is_that_of_the_moment_of_the_note(place: type[Tensor]) -> None:
    optimizer = sgd()
    loss = torch.tensor(1.0).as_subclass(place)
    with Recorder(optimizer) as recorder:
        recorder.note(loss=loss)
        loss += 5  # must not change what has been recorded
        optimizer.step()
        loss += 5
    assert [row["loss"] for row in rows(recorder.read())] == [1.0]


def test_smoothed_loss_is_the_bias_corrected_average(place: type[Tensor]) -> None:
    losses = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    optimizer = sgd()
    with Recorder(optimizer, flush_every=4) as recorder:
        for index, loss in enumerate(losses):
            recorder.note(loss=torch.tensor(loss, dtype=torch.float64).as_subclass(place))
            optimizer.step()
            if index == 2:
                optimizer.step()  # without a loss: does not count
    weights = [0.98**k for k in range(len(losses))]
    expected = [
        sum(w * x for w, x in zip(weights, reversed(losses[: n + 1]), strict=False))
        / sum(weights[: n + 1])
        for n in range(len(losses))
    ]
    found = [row["loss_smooth"] for row in rows(recorder.read())]
    assert found.pop(3) is None
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_is_not_finite_does_not_end_the_smoothed_one() -> None:
    optimizer = sgd()
    with Recorder(optimizer) as recorder:
        for loss in (math.nan, 2.0, math.inf, 4.0):
            recorder.note(loss=loss)
            optimizer.step()
    found = [row["loss_smooth"] for row in rows(recorder.read())]
    assert found == pytest.approx([math.nan, 2.0, 2.0, (0.98 * 2 + 4) / 1.98], nan_ok=True)


class Steps(torch.optim.Optimizer):
    """Finds its own rate, as Adafactor does."""

    def __init__(self, **defaults: Any) -> None:
        super().__init__([parameter()], defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize("options", [{}, {"lr": None, "scale_parameter": True}], ids=str)
def test_an_optimizer_may_have_no_rate(options: dict[str, Any]) -> None:
    [row] = steps_of(Steps(**options))
    assert (row["lr"], row["momentum"], row["weight_decay"]) == (None, None, None)
    assert row.get("scale_parameter") == (1.0 if options else None)


def test_numbers_of_other_libraries_count() -> None:
    options = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(0.25), "d": "text", 5: 1.0}
    optimizer = sgd()
    optimizer.param_groups[0].update(options)
    [row] = steps_of(optimizer)
    assert (row["a"], row["b"], row["c"]) == (0.5, 3.0, 0.25)
    assert not {"d", "5", 5} & set(row)


def test_betas_in_a_list_may_be_changed() -> None:
    betas = [0.0, 0.5]
    optimizer = Steps(lr=0.1, betas=betas)
    with Recorder(optimizer) as recorder:
        for value in (0.25, 0.75):
            optimizer.param_groups[0]["betas"][0] = value
            optimizer.step()
    assert [row["momentum"] for row in rows(recorder.read())] == [0.25, 0.75]


@pytest.mark.parametrize(
    "loss", [np.array(0.25, np.float32), np.float16(0.25), np.float64(0.25)], ids=repr
)
def test_losses_of_numpy_are_numbers(loss: Any) -> None:
    optimizer = sgd()
    with Recorder(optimizer) as recorder:
        for _ in range(3):
            recorder.note(loss=loss)
            optimizer.step()
    assert [row["loss"] for row in rows(recorder.read())] == [0.25] * 3
    # In half precision an average would go astray.
    assert [row["loss_smooth"] for row in rows(recorder.read())] == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("loss", ["none", [0.5], torch.ones(2), np.ones(2)], ids=repr)
def test_what_is_no_loss_is_refused_where_it_is_given(loss: Any) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        Recorder(sgd()).note(loss=loss)


def test_a_step_s_number_is_copied() -> None:
    optimizer, number = sgd(), torch.tensor(3)
    with Recorder(optimizer) as recorder:
        for _ in range(3):
            recorder.note(step=number)  # type: ignore[arg-type]
            optimizer.step()
    assert number == 3
    assert [row["step"] for row in rows(recorder.read())] == [3, 3, 3]
