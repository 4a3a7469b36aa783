"""Options are asked for where they have an effect, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.schedules import make_schedule
from search.space.conditions import ACTIVE_WHEN, check_combinations, is_active
from search.space.dimensions import Choice, Range
from search.space.searchable import SEARCHABLE
from tracking.errors import BadOption

__all__: list[str] = []

SCHEDULES = (
    "one_cycle",
    "one_cycle_linear",
    "triangular",
    "flat_cos",
    "cosine",
    "warm_restarts",
    "linear",
    "constant",
)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("div", 7.0),
        ("final_div", 33.0),
        ("pct_start", 0.37),
        ("cycles", 2),
        ("cycle_mult", 1.7),
        ("momentum_min", 0.4),
        ("momentum_max", 0.97),
    ],
)
def test_an_option_has_meaning_where_it_changes_the_schedule(
    schedule: str, name: str, value: Any
) -> None:
    base = RunConfig.model_validate({"schedule": schedule})
    changed = base.model_copy(update={name: value})
    before, after = (make_schedule(config, 100) for config in (base, changed))
    differs = any(before(step) != after(step) for step in range(100))
    assert is_active(name, {"schedule": schedule}) is differs


def test_a_drop_of_momentum_has_meaning_where_its_lowest_point_has() -> None:
    assert ACTIVE_WHEN["momentum_drop"] == ACTIVE_WHEN["momentum_min"]


@pytest.mark.parametrize(
    ("name", "optimizers"),
    [("nesterov", {"sgd"}), ("beta2", {"adam", "adamw"}), ("eps", {"adam", "adamw"})],
)
def test_options_of_optimizers(name: str, optimizers: set[str]) -> None:
    kinds = ("sgd", "adam", "adamw")
    assert {kind for kind in kinds if is_active(name, {"optimizer": kind})} == optimizers


@pytest.mark.parametrize("name", ["widths", "first_kernel", "norm", "downsample", "head"])
def test_options_of_the_simple_cnn(name: str) -> None:
    assert is_active(name, {"model": "simple_cnn"})
    assert not is_active(name, {"model": "resnet_small"})
    assert not is_active(name, {"model": "torchvision:resnet18"})


def test_options_of_several_models() -> None:
    assert is_active("activation", {"model": "resnet_small"})
    assert not is_active("activation", {"model": "torchvision:resnet18"})
    assert is_active("init", {"model": "torchvision:resnet18"})  # build_model applies it to all


def test_conditions_are_searchable_and_decided_first() -> None:
    conditions = {condition for condition, _ in ACTIVE_WHEN.values()}
    assert set(SEARCHABLE[: len(conditions)]) == conditions
    assert not conditions & set(ACTIVE_WHEN)  # no chains: one look is enough
    assert set(ACTIVE_WHEN) <= set(SEARCHABLE)


def test_what_is_not_known_rules_nothing_out() -> None:
    assert is_active("pct_start", {})
    assert is_active("lr_max", {"schedule": "constant"})


ANY_SCHEDULE = Choice(("one_cycle", "constant"))
LINEAR_TOO = Choice(("one_cycle_linear", "flat_cos"))


@pytest.mark.parametrize(
    ("dimensions", "base", "problem"),
    [
        (
            {"pct_start": Range(0.1, 0.5)},
            {"schedule": "cosine"},
            (
                "space pct_start=0.1:0.5: pct_start has no meaning for schedule=cosine; "
                "it has for: one_cycle, one_cycle_linear, triangular, flat_cos, linear"
            ),
        ),
        (
            {"cycles": Choice((1, 2)), "schedule": Choice(("linear", "cosine"))},
            {},
            (
                "space cycles=1,2: cycles has no meaning for schedule=linear,cosine; it has for: "
                "triangular, warm_restarts"
            ),
        ),
        (
            {"nesterov": Choice((True, False))},
            {},
            (
                "space nesterov=true,false: nesterov has no meaning for optimizer=adamw; "
                "it has for: sgd"
            ),
        ),
        (
            {"head": Choice(("gap", "conv"))},
            {"model": "torchvision:resnet18"},
            (
                "space head=gap,conv: head has no meaning for model=torchvision:resnet18; "
                "it has for: simple_cnn"
            ),
        ),
        (
            {"pct_start": Range(0.1, 0.6), "schedule": LINEAR_TOO},
            {},
            (
                "space pct_start=0.1:0.6: pct_start=0.6 leaves no room for the fall of "
                "schedule=one_cycle_linear; keep pct_start to 0.5, or leave that schedule out"
            ),
        ),
        (
            {"pct_start": Choice((0.7, 0.2))},
            {"schedule": "one_cycle_linear"},
            (
                "space pct_start=0.7,0.2: pct_start=0.7 leaves no room for the fall of "
                "schedule=one_cycle_linear; keep pct_start to 0.5, or leave that schedule out"
            ),
        ),
        (
            {"schedule": LINEAR_TOO},
            {"pct_start": 0.75},
            (
                "space schedule=one_cycle_linear,flat_cos: pct_start=0.75 leaves no room for "
                "the fall of schedule=one_cycle_linear; keep pct_start to 0.5, or leave that "
                "schedule out"
            ),
        ),
        (
            {"momentum_drop": Range(0, 0.2), "momentum_min": Range(0.5, 0.8)},
            {},
            "space momentum_drop=0:0.2: momentum_min is in the space too; search one of the two",
        ),
    ],
)
def test_what_does_not_go_together(
    dimensions: dict[str, Any], base: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadOption) as caught:
        check_combinations(dimensions, RunConfig.model_validate(base))
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("dimensions", "base", "beginning"),
    [
        (
            {"momentum_min": Range(0.7, 0.9), "momentum_max": Range(0.85, 0.98)},
            {},
            "space momentum_min=0.7:0.9: momentum_min=0.9 would be above momentum_max=0.85",
        ),
        (
            {"momentum_max": Range(0.8, 0.98)},
            {},
            "space momentum_max=0.8:0.98: momentum_min=0.85 would be above momentum_max=0.8",
        ),
        (
            {"momentum_min": Choice((0.8, 0.97))},
            {},
            "space momentum_min=0.8,0.97: momentum_min=0.97 would be above momentum_max=0.95",
        ),
        (
            {"schedule": ANY_SCHEDULE},
            {"schedule": "constant", "momentum_max": 0.5},
            "space schedule=one_cycle,constant: momentum_min=0.85 would be above momentum_max=0.5",
        ),
    ],
)
def test_momentums_that_can_cross(
    dimensions: dict[str, Any], base: dict[str, Any], beginning: str
) -> None:
    with pytest.raises(BadOption) as caught:
        check_combinations(dimensions, RunConfig.model_validate(base))
    assert str(caught.value).startswith(beginning)
    assert "momentum_drop instead" in str(caught.value)


@pytest.mark.parametrize(
    ("dimensions", "base"),
    [
        ({"pct_start": Range(0.1, 0.5), "schedule": Choice(("one_cycle", "cosine"))}, {}),
        ({"pct_start": Range(0.1, 0.5), "schedule": LINEAR_TOO}, {}),
        ({"momentum_min": Range(0.5, 0.85), "momentum_max": Range(0.85, 0.98)}, {}),
        ({"momentum_max": Range(0.3, 0.98), "momentum_drop": Range(0, 0.5)}, {}),
        ({"momentum_max": Range(0.3, 0.98)}, {"schedule": "constant"}),
        ({"schedule": ANY_SCHEDULE}, {"pct_start": 0.75}),
        ({"eps": Range(1e-8, 1e-3, log=True), "optimizer": Choice(("sgd", "adam"))}, {}),
    ],
)
def test_what_goes_together(dimensions: dict[str, Any], base: dict[str, Any]) -> None:
    config = RunConfig.model_validate(base)
    check_combinations(dimensions, config)
    with pytest.raises(BadOption):  # the same with one part that has no effect
        check_combinations({**dimensions, "cycle_mult": Range(1.0, 2.0)}, config)
