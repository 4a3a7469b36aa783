"""A model that changes, or is copied, while it is recorded."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.tracking_tests.models import batches, captured, cnn, hooks_on, rows, verify
from tests.tracking_tests.reference import assert_stats
from tracking import ActivationStats

__all__: list[str] = []


def add_module(model: nn.Sequential) -> None:
    model.append(nn.Sigmoid())


def replace_module(model: nn.Sequential) -> None:
    model[1] = nn.LeakyReLU()


def replace_by_attribute(model: nn.Sequential) -> None:
    setattr(model, "3", nn.Linear(144, 2))


@pytest.mark.parametrize("change", [add_module, replace_module, replace_by_attribute])
def test_modules_that_join_later_are_recorded(change: Callable[[nn.Sequential], None]) -> None:
    model = cnn()
    first, second = batches(2)
    with captured(dict(model.named_children())) as seen:
        with ActivationStats(model, layers="all") as stats:
            model(first)
            stats.step()
            seen.next_step()
            change(model)
            with captured(dict(model.named_children())) as late:
                model(second)
        after = {(name, 1): x for (name, _), x in late.items()}
    before = {key: x for key, x in seen.items() if key[1] == 0}
    verify(stats.read(), type(seen)({**before, **after}))
    assert hooks_on(model) == 0


def test_modules_that_leave_are_recorded_no_longer() -> None:
    model = cnn()
    relu = model[1]
    with ActivationStats(model, layers="all") as stats:
        model(batches(1)[0])
        stats.step()
        model[1] = nn.Identity()
        relu(torch.ones(3))
        model(batches(1)[0])
        assert hooks_on(relu) == 0
        relu(torch.ones(3))
    assert [row["layer"] for row in rows(stats.read()) if row["step"] == 1] == ["0", "1", "2", "3"]
    assert hooks_on(model) == hooks_on(relu) == 0


def test_a_module_that_moves_is_recorded_under_its_new_name_only() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(OrderedDict(a=relu, b=relu))
    with ActivationStats(model) as stats:
        model(torch.ones(2))
        stats.step()
        del model.a
        model(torch.ones(2))
    found = [(row["step"], row["layer"], row["count"]) for row in rows(stats.read())]
    assert found == [(0, "a", 4), (1, "b", 2)]
    assert stats.layers == ("a", "b")


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), AveragedModel],
    ids=["deepcopy", "pickle", "averaged"],
)
def test_copies_of_the_model_are_not_recorded(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = cnn()
    [x] = batches(1)
    with ActivationStats(model, flush_every=1, layers="^1$") as stats:
        model(x)
        double = copied(model)
        double(100 * x)
        stats.step()
        double(100 * x)
        stats.step()
    [row] = rows(stats.read())
    assert_stats(row, [model[:2](x)])


def test_the_names_of_a_pickled_model_s_weights_are_its_own() -> None:
    model = cnn()
    with ActivationStats(model):
        state = pickle.loads(pickle.dumps(model)).state_dict()
    assert list(state) == list(model.state_dict())
