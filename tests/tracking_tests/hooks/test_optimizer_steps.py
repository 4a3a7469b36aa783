"""What counts as a step of an optimizer, for every recorder alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd, train
from tracking import ActivationStats, GradientStats, Recorder, UpdateStats
from tracking.errors import BadOption
from tracking.hooks.optimizer_steps import on_each_step

__all__: list[str] = []


class Boom(Exception):
    """What a failing step raises."""


class CallsItsParent(torch.optim.SGD):
    """Torch hooks the steps of both classes."""

    broken = False

    def step(self, closure: Any = None) -> Any:
        if self.broken:
            raise Boom
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.5)
        return loss


@pytest.fixture
def calls() -> list[str]:
    return []


def hooked(optimizer: torch.optim.Optimizer, calls: list[str]) -> None:
    on_each_step(optimizer, lambda: calls.append("before"), lambda: calls.append("after"))


@contextmanager
def recorders(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    """One of each kind; that of the parameters comes last."""
    with (
        Recorder(optimizer) as of_steps,
        ActivationStats(model, optimizer=optimizer) as of_outputs,
        GradientStats(model, optimizer=optimizer) as of_layers,
        UpdateStats(model, optimizer) as of_parameters,
    ):
        yield of_steps, of_outputs, of_layers, of_parameters


def nesting() -> CallsItsParent:
    sgd(cnn())  # which makes torch hook the parent's step
    return CallsItsParent([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_a_step_inside_a_step_counts_once() -> None:
    model = cnn()
    sgd(model)  # which makes torch hook the parent's step
    optimizer = CallsItsParent(model.parameters(), lr=0.0)
    with recorders(model, optimizer) as (of_steps, *others, of_parameters):
        train(model, optimizer, 3)
    assert [row["step"] for row in rows(of_steps.read())] == [0, 1, 2]
    for stats in (*others, of_parameters):
        assert stats.current_step == 3
        assert {row["step"] for row in rows(stats.read())} == {0, 1, 2}
    # The parent's step, whose learning rate is 0, is not all that the step did.
    assert all(row["ratio"] == pytest.approx(0.5) for row in rows(of_parameters.read()))


def test_a_step_that_raises_is_none_and_hides_no_later_one() -> None:
    model = cnn()
    optimizer = CallsItsParent(model.parameters(), lr=0.1)
    with recorders(model, optimizer) as (of_steps, *others, of_parameters):
        train(model, optimizer, 1)
        optimizer.broken = True
        with pytest.raises(Boom):
            train(model, optimizer, 1)
        optimizer.broken = False
        train(model, optimizer, 1)
    for stats in (of_steps, *others, of_parameters):
        assert stats.current_step == 2
        assert {row["step"] for row in rows(stats.read())} == {0, 1}
    assert of_parameters._before == {}


def test_an_inner_step_that_raises_ends_no_outer_one(calls: list[str]) -> None:
    class GoesOn(CallsItsParent):
        def step(self, closure: Any = None) -> Any:
            try:
                return super().step(closure)
            except Boom:
                return None

    nesting()
    optimizer = GoesOn([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    hooked(optimizer, calls)
    optimizer.broken = True
    optimizer.step()
    assert calls == ["before", "after"]
    optimizer.broken = False
    optimizer.step()
    assert calls == ["before", "after"] * 2


def test_another_optimizer_s_step_inside_counts_for_itself(calls: list[str]) -> None:
    inner, outer = nesting(), nesting()
    hooked(inner, calls)
    outer.step(lambda: inner.step() or 0.0)
    assert calls == ["before", "after"]
    hooked(outer, calls)
    outer.step(lambda: inner.step() or 0.0)
    assert calls[2:] == ["before", "before", "after", "after"]


def test_a_step_that_a_scaler_has_change_nothing_is_none(calls: list[str]) -> None:
    class Fused(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            """It would look at found_inf itself."""

    optimizer = Fused([torch.nn.Parameter(torch.ones(1))])
    hooked(optimizer, calls)
    optimizer.found_inf = torch.ones(())  # as GradScaler tells it
    optimizer.step()
    assert calls == []
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert calls == ["before", "after"]


def test_removed_handles_end_it(calls: list[str]) -> None:
    optimizer = nesting()
    for handle in on_each_step(optimizer, None, lambda: calls.append("after")):
        handle.remove()
    optimizer.step()
    assert calls == []


def test_a_closure_may_note_the_loss_that_it_computes() -> None:
    model = cnn()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    (x,) = batches(1)
    losses: list[float] = []
    firsts = [0]
    with Recorder(optimizer) as recorder:

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            recorder.note(loss=loss, batch_size=len(x))
            losses.append(loss.item())
            return loss

        for _ in range(2):
            optimizer.step(closure)
            firsts.append(len(losses))
    found = rows(recorder.read())
    assert len(losses) > 4
    assert [row["loss"] for row in found] == [losses[first] for first in firsts[:2]]
    assert [row["batch_size"] for row in found] == [len(x)] * 2


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, without hooks of its own, as Accelerate has."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def test_an_optimizer_may_be_wrapped() -> None:
    model = cnn()
    inner = sgd(model)
    optimizer = Wrapper(inner)
    with (
        Recorder(optimizer) as recorder,
        ActivationStats(model, optimizer=optimizer) as stats,
        UpdateStats(model, optimizer) as updates,
    ):
        for x in batches(2):
            model(x).square().mean().backward()
            optimizer.step()
    for one in (recorder, stats, updates):
        assert {row["step"] for row in rows(one.read())} == {0, 1}
    assert hooks_on(model, inner) == 0


@pytest.mark.parametrize("given", [None, nn.ReLU(), [nn.Parameter(torch.ones(2))]])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(BadOption, match=f"^optimizer={type(given).__name__}: allowed: a torch"):
        Recorder(given)


def test_a_recorder_that_cannot_begin_leaves_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn()
    optimizer = sgd(model)

    def refuse(*_: Any) -> Any:
        raise Boom

    monkeypatch.setattr(optimizer, "register_step_post_hook", refuse)
    for recorder in (ActivationStats(model, optimizer=optimizer), UpdateStats(model, optimizer)):
        with pytest.raises(Boom), recorder:
            pass
    assert hooks_on(model) == 0
