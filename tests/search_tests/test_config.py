"""The options of a study: what they refuse, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import LOCAL_OPTIONS, RunConfig
from pipelines.options import config_from
from search.config import MLFLOW_OPTIONS, RUNNING_OPTIONS, StudyConfig
from search.rung_plan import RungPlan
from tracking.errors import BadOption

__all__: list[str] = []


def refusal(**options: Any) -> str:
    with pytest.raises(BadOption) as caught:
        config_from(StudyConfig, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("name", "n" * 201, "at most 200 characters"),
        ("trials", 0, "greater than or equal to 1"),
        ("trials", "many", "valid integer"),
        ("trials", 1.5, "valid integer"),
        ("workers", -1, "greater than or equal to 0"),
        ("objective", "seconds", "'accuracy', 'loss' or 'accuracy,seconds'"),
        ("objective", "seconds,accuracy", "'accuracy', 'loss' or 'accuracy,seconds'"),
        ("sampler", "TPE", "'tpe', 'gp', 'cmaes', 'random', 'qmc' or 'grid'"),
        ("sampler_seed", -1, "greater than or equal to 0"),
        ("sampler_seed", 2**32, "less than 4294967296"),
        ("lr_scaling", "cubic", "'auto', 'sqrt', 'linear' or 'none'"),
        ("lr_prior", "perhaps", "valid boolean"),
        ("rung", "median", "allowed: anneal:EPOCHS (e.g. anneal:0.3), cycle, plain, none"),
        ("rung", "anneal:0", "anneal:EPOCHS takes a number above 0"),
        ("rungs", "1/3,1/9", "allowed: rising shares of the run between 0 and 1"),
        ("rungs", "", "allowed: rising shares of the run between 0 and 1"),
        ("rung_score", "f1", "'objective', 'accuracy' or 'loss'"),
        ("reduction", 1, "greater than or equal to 2"),
        ("pruner", "patient", "allowed: halving, hyperband, median, threshold:VALUE, none"),
        ("pruner", "median:3", "allowed: halving, hyperband, median, threshold:VALUE, none"),
        ("pruner", "", "allowed: halving, hyperband, median, threshold:VALUE, none"),
        ("pruner", "threshold", "allowed: threshold:VALUE, e.g. threshold:0.5"),
        ("pruner", "threshold:", "allowed: threshold:VALUE, e.g. threshold:0.5"),
        ("pruner", "threshold:high", "allowed: threshold:VALUE, e.g. threshold:0.5"),
        ("pruner", "threshold:nan", "allowed: threshold:VALUE, e.g. threshold:0.5"),
        ("pruner", "threshold:inf", "allowed: threshold:VALUE, e.g. threshold:0.5"),
        ("heartbeat", 0, "greater than or equal to 1"),
    ],
)
def test_what_an_option_does_not_take(option: str, value: Any, expected: str) -> None:
    message = refusal(**{option: value})
    assert message.startswith(f"{option}={value}: ")
    assert expected in message


def test_an_unknown_option_has_a_suggestion() -> None:
    assert refusal(sampler_sed=1) == "unknown option 'sampler_sed'. Did you mean 'sampler_seed'?"


@pytest.mark.parametrize("rung", ["anneal:0.3", "plain", "none"])
def test_hyperband_needs_more_than_one_rung(rung: str) -> None:
    assert refusal(pruner="hyperband", rung=rung) == (
        "pruner=hyperband needs two rungs or more; rungs=1/18 is one, try rungs=1/9,1/3"
    )
    assert StudyConfig(pruner="hyperband", rungs="1/9,1/3", rung=rung).pruner == "hyperband"


def test_cmaes_knows_one_objective() -> None:
    assert refusal(sampler="cmaes", objective="accuracy,seconds") == (
        "sampler=cmaes knows one objective, objective=accuracy,seconds is two; "
        "allowed: tpe, gp, random, qmc, grid"
    )


@pytest.mark.parametrize("pruner", ["threshold:0.5", "threshold:-1", "threshold:1e3"])
def test_thresholds_are_numbers(pruner: str) -> None:
    assert StudyConfig(pruner=pruner).pruner == pruner


def test_texts_of_the_command_line_are_understood() -> None:
    given = {"trials": "7", "workers": "0", "sampler_seed": "3", "lr_prior": "true"}
    expected = StudyConfig(trials=7, workers=0, sampler_seed=3, lr_prior=True)
    assert config_from(StudyConfig, given) == expected


def test_rungs_are_written_one_way() -> None:
    assert StudyConfig(rung="anneal").rung == StudyConfig(rung="anneal:0.30").rung == "anneal:0.3"


def test_the_plan_is_that_of_the_options() -> None:
    assert StudyConfig().plan == RungPlan("anneal", (1 / 18,), 0.3)
    assert StudyConfig(rung="cycle", rungs="0.1,0.3").plan == RungPlan("cycle", (0.1, 0.3))


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "accuracy,seconds"},
        {"objective": "accuracy,seconds", "pruner": "hyperband", "rungs": "1/9,1/3"},
        {"pruner": "none"},
        {"rung": "none"},
    ],
)
def test_nobody_is_judged_where_nobody_is_pruned(options: dict[str, Any]) -> None:
    assert StudyConfig(**options).plan == RungPlan("none")


def test_options_of_a_study_and_of_its_runs_have_different_names() -> None:
    assert not set(StudyConfig.model_fields) & set(RunConfig.model_fields)
    assert set(RUNNING_OPTIONS) <= set(StudyConfig.model_fields)
    assert {*LOCAL_OPTIONS, *MLFLOW_OPTIONS} <= set(RunConfig.model_fields)
