"""Steps that a library tells of: when recorders hear of them, and with which loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tracking.integrations.steps import StepBatches, ToldSteps, samples_in
from tracking.recorders.hyperparameters import Recorder

__all__: list[str] = []


def test_recorder_takes_what_is_used_when_the_update_begins() -> None:
    group = {"params": [], "lr": 1.0, "momentum": 0.5}
    steps = ToldSteps(lambda: [group])
    with Recorder(steps) as recorder:  # type: ignore[arg-type]
        steps.before()
        group["lr"] = 2.0
        steps.before()  # the gradients are computed once more, as LBFGS does
        assert steps.after()
        assert not steps.after()
        steps.before()
        assert steps.after()
        steps.before()  # of a step that is never made
    assert recorder.read()["lr"].to_pylist() == [1.0, 2.0]


def test_removed_hooks_are_not_called() -> None:
    called: list[str] = []
    steps = ToldSteps(list)
    before = steps.register_step_pre_hook(lambda *args: called.append("before"))
    after = steps.register_step_post_hook(lambda *args: called.append("after"))
    steps.before()
    steps.after()
    assert called == ["before", "after"]
    before.remove()
    after.remove()
    steps.before()
    steps.after()
    assert called == ["before", "after"]


def taken(*batches: tuple[float, int | None], part: bool = False) -> dict[str, Any]:
    step = StepBatches()
    for loss, samples in batches:
        step.add(torch.tensor(loss), samples, part=part)
    found = step.take()
    assert step.take() == {}
    return {name: float(x) if isinstance(x, Tensor) else x for name, x in found.items()}


def test_loss_is_the_mean_over_all_samples() -> None:
    assert taken() == {}
    assert taken((0.3, 7)) == {"loss": pytest.approx(0.3), "batch_size": 7}
    assert taken((1.0, 3), (5.0, 1)) == {"loss": 2.0, "batch_size": 4}
    assert taken((1.0, 3), (5.0, None)) == {"loss": 3.0, "batch_size": None}
    assert taken((1.0, 3), (5.0, 1), part=True) == {"loss": 6.0, "batch_size": 4}


def test_loss_is_kept_as_it_was_and_without_its_graph() -> None:
    step = StepBatches()
    weight = torch.ones((), requires_grad=True)
    loss = weight * 2
    step.add(loss, 1)
    with torch.no_grad():
        loss *= 10
    found = step.take()["loss"]
    assert (float(found), found.requires_grad) == (2.0, False)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(3, 2), 3),
        ([torch.tensor(5), torch.zeros(4)], 4),
        ({"name": "x", "inner": ({}, [torch.zeros(6, 1)])}, 6),
        ({"text": ["no", "tensor"]}, None),
        (None, None),
    ],
)
def test_samples_in_a_batch(batch: Any, samples: int | None) -> None:
    assert samples_in(batch) == samples
