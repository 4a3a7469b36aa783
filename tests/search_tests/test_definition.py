"""A study's definition: it comes back from the storage as it was, and says what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import Study

from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.config import MLFLOW_OPTIONS, RUNNING_OPTIONS, StudyConfig
from search.definition import DEFINITION, StudyDefinition
from search.space.search_space import Range, SearchSpace
from tests.search_tests.studies import new_study
from tracking.errors import BadOption, BadTracking

__all__: list[str] = []

Defined = Callable[..., StudyDefinition]


def stored(text: Any) -> Study:
    study = new_study(name="S")
    study.set_user_attr(DEFINITION, text)
    return study


def default() -> StudyDefinition:
    return StudyDefinition(RunConfig(), StudyConfig(name="S"), SearchSpace.read())


# -- grids --


GRID = ("batch_size=8,16", "schedule=one_cycle,linear,cosine")


def test_a_grid_has_a_trial_for_each_combination(defined: Defined) -> None:
    grid = defined(space=GRID, sampler="grid").whole_grid()
    assert grid.options.trials == grid.grid_size == 6
    grid.check()
    other = defined(space=GRID, trials=9)
    assert other.whole_grid() == other
    assert other.grid_size == 0


def test_a_grid_is_not_tried_twice(defined: Defined) -> None:
    with pytest.raises(BadOption, match=r"^trials=7: the grid has 6 combinations; "):
        defined(space=GRID, sampler="grid", trials=7).check()


@pytest.mark.parametrize("space", [("batch_size=8,16",), ("lr_max=0.01,0.1",), ("lr_max=0.1:1",)])
def test_a_prior_needs_something_to_centre(space: tuple[str, ...], defined: Defined) -> None:
    with pytest.raises(BadOption, match=r"^lr_prior=True: centres a log range of lr_max"):
        defined(space=space, lr_prior=True).check()


# -- what is stored --


def test_the_default_definition_comes_back() -> None:
    assert StudyDefinition.of(stored(default().to_json())) == default()


def test_an_odd_definition_comes_back() -> None:
    base = RunConfig(
        dataset="folder:/a b/é",
        widths=(3,),
        every="auto:0.05",
        schedule="triangular",
        cycles=2,
        momentum_min=0.0,
        eps=1e-12,
    )
    options = StudyConfig(
        name="'a' \"b\" {c} [red] \\ ☃",
        objective="accuracy,seconds",
        sampler_seed=2**32 - 1,
        rung="anneal:1e-05",
        rungs="1/18, 1/6",
        pruner="threshold:-1e-3",
        health="dead_layer, saturated",
    )
    space = SearchSpace.read(
        ["widths=8,16;8,16,32", "lr_max=log:1e-7:1e-06", "nesterov=true,false", "accumulate=1:4:3"],
        lr_scaling="sqrt",
    )
    odd = StudyDefinition(base, options, space, prior=1 / 3)
    assert StudyDefinition.of(stored(odd.to_json())) == odd


def test_the_storage_keeps_plain_json() -> None:
    value = json.loads(default().to_json())
    assert value["version"] == 1
    assert value["config"]["lr_max"] == 0.01
    assert value["study"]["rungs"] == "1/18"
    assert value["space"]["dimensions"]["lr_max"] == "log:0.0003:0.3"
    assert value["prior"] is None


MACHINE = {"data_dir": Path("../there"), "device": "cuda:1", "threads": 16}


def test_what_is_a_machines_own_is_not_stored(defined: Defined) -> None:
    """A worker elsewhere has its own data, devices and cores."""
    mine = defined(base=MACHINE)
    assert set(MACHINE) == set(LOCAL_OPTIONS)
    assert mine.local == MACHINE
    assert not json.loads(mine.to_json())["config"].keys() & MACHINE.keys()
    elsewhere = StudyDefinition.of(stored(mine.to_json()))
    assert elsewhere.local == StudyDefinition(RunConfig(), mine.options, mine.space).local
    assert elsewhere.on_this_machine(MACHINE) == mine


def test_what_earlier_versions_stored_of_a_machine_is_left_to_it() -> None:
    value = json.loads(default().to_json())
    value["config"] |= {"data_dir": "../there", "device": "cuda:1", "threads": 16}
    assert StudyDefinition.of(stored(json.dumps(value))) == default()


def test_a_study_of_another_program_is_refused() -> None:
    with pytest.raises(
        BadTracking, match=r"^study 'S' was not made by layerscope; choose another --name$"
    ):
        StudyDefinition.of(new_study(name="S"))


def changed(*path: str, to: Any) -> str:
    """The default's text with another value somewhere."""
    value = inner = json.loads(default().to_json())
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return json.dumps(value)


def without(*path: str) -> str:
    value = inner = json.loads(default().to_json())
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        7,
        {"version": 1},
        default().to_json()[:-20],
        changed("version", to=2),
        without("version"),
        without("prior"),
        without("study"),
        without("space", "lr_scaling"),
        changed("config", to=[]),
        changed("config", "lr_maximum", to=0.1),
        changed("config", "lr_max", to=-1.0),
        changed("study", "sampler", to="bayes"),
        changed("study", "later", to=True),
        changed("space", to=[]),
        changed("space", "dimensions", to=["lr_max"]),
        changed("space", "dimensions", to={"lr_maximum": "log:1e-3:1"}),
        changed("space", "dimensions", "lr_max", to="log:1:1e-3"),
        changed("space", "dimensions", "lr_max", to=7),
    ],
)
def test_what_this_version_cannot_read_is_refused_in_one_line(text: Any) -> None:
    with pytest.raises(
        BadTracking, match=r"^study 'S': its definition is that of another version of .*--name$"
    ):
        StudyDefinition.of(stored(text))


# -- the range test's rate --


def test_without_a_prior_the_space_is_searched_as_given() -> None:
    assert default().searched == default().space


def test_a_prior_is_the_middle_of_what_is_searched() -> None:
    given = default().space
    found = StudyDefinition(RunConfig(), StudyConfig(), given, prior=0.1)
    moved, before = found.searched.dimensions["lr_max"], given.dimensions["lr_max"]
    assert isinstance(moved, Range)
    assert isinstance(before, Range)
    assert (moved.low * moved.high) ** 0.5 == pytest.approx(0.1, rel=1e-3)
    assert moved.high / moved.low == pytest.approx(before.high / before.low, rel=2e-3)
    assert found.space == given


# -- what is checked before anything runs --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name is missing; give the study one: --name NAME"),
        ({"base": {"patience": 2}}, r"patience=2: .*; leave patience at 0"),
        ({"base": {"valid_fraction": 0}}, r"valid_fraction=0: a study needs validation data"),
        ({"space": ("cycles=2,3",)}, r"cycles has no meaning for schedule=one_cycle"),
    ],
)
def test_what_cannot_be_a_study(options: dict[str, Any], message: str, defined: Defined) -> None:
    with pytest.raises(BadOption, match=message):
        defined(**options).check()


def test_the_default_can_be_a_study() -> None:
    default().check()


# -- a trial's configuration --


def test_a_trial_leaves_no_report_no_checkpoint_and_no_model(defined: Defined) -> None:
    definition = defined(base={"run_name": "mine", "stop_on": "critical", "report": True})
    config = definition.with_options({"lr_max": 0.5, "widths": "4,8,16"})
    assert (config.lr_max, config.widths) == (0.5, (4, 8, 16))
    assert (config.report, config.checkpoint, config.log_model) == (False, False, False)
    assert (config.stop_on, config.run_name) == ("none", "")
    assert config.epochs == definition.base.epochs


def test_a_trials_configuration_is_the_base_with_what_was_drawn(defined: Defined) -> None:
    definition = defined(("lr_max=log:1e-3:0.1", "batch_size=16,32"))
    trial = optuna.trial.FixedTrial({"lr_max@16": 0.01, "batch_size": 32})
    config, own = definition.config(trial)
    assert own["batch_size"] == config.batch_size == 32
    assert own["lr_max"] == config.lr_max == pytest.approx(0.01 * 2**0.5)
    assert set(own) == {"batch_size", "lr_max"}


def test_a_machine_has_options_of_its_own(defined: Defined) -> None:
    definition = defined()
    given = {"data_dir": "elsewhere", "threads": "2", "epochs": 99}
    local = definition.on_this_machine(given)
    assert (local.base.data_dir, local.base.threads) == (Path("elsewhere"), 2)
    assert local.base.epochs == definition.base.epochs
    assert (local.options, local.space) == (definition.options, definition.space)
    with pytest.raises(BadOption, match=r"^threads=many: "):
        definition.on_this_machine({"threads": "many"})


# -- what differs --


def test_nothing_differs_from_itself() -> None:
    names = {*RunConfig.model_fields, *StudyConfig.model_fields, "space"}
    assert default().differences(default(), names) == []


def test_only_what_is_given_differs(defined: Defined) -> None:
    here = defined(("lr_max=log:1e-3:1",), {"epochs": 5}, sampler="random")
    there = defined()
    assert here.differences(there, ()) == []
    assert here.differences(there, {"epochs"}) == ["epochs: 5 here, 2 in the study"]
    assert here.differences(there, {"sampler", "objective"}) == [
        "sampler: random here, tpe in the study"
    ]
    assert here.differences(there, {"space"}) == [
        "lr_max: log:0.001:1 here, log:0.001:0.1 in the study"
    ]


def test_all_differences_are_named_at_once(defined: Defined) -> None:
    here = defined(("batch_size=8,16",), {"epochs": 5, "optimizer": "sgd"}, objective="loss")
    lines = here.differences(defined(), {"epochs", "optimizer", "objective", "space", "seed"})
    assert [line.split(":")[0] for line in lines] == [
        "objective",
        "epochs",
        "optimizer",
        "batch_size",
        "lr_max",
    ]


def test_options_of_a_machine_and_of_a_command_may_differ(defined: Defined) -> None:
    running = {"trials": 99, "workers": 2}
    local = {"data_dir": "x", "device": "cuda", "threads": 3, "experiment": "e", "run_name": "r"}
    assert set(local) == {*LOCAL_OPTIONS, *MLFLOW_OPTIONS}
    assert {"name", *running} == set(RUNNING_OPTIONS)
    here = defined(base=local, **running)
    assert here.differences(defined(), {*local, *running}) == []


def test_lr_scaling_is_an_option_and_named_once(defined: Defined) -> None:
    here, there = defined(lr_scaling="none"), defined(lr_scaling="linear")
    line = "lr_scaling: none here, linear in the study"
    assert here.differences(there, {"lr_scaling", "space"}) == [line]
    # A command that gives the same space again, and no lr_scaling, goes on with the study.
    assert defined().differences(there, {"space"}) == []
