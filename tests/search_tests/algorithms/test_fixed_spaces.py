"""What samplers search as one is the same for all trials, whatever those before them had."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna import Study, Trial
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from pipelines.config import RunConfig
from search.algorithms.samplers import make_sampler
from search.config import StudyConfig
from search.space.search_space import SearchSpace
from tests.search_tests.studies import new_study
from tracking.errors import BadOption

__all__: list[str] = []

BASE = RunConfig()
ALWAYS = {"lr_max@64", "final_div", "momentum_max", "momentum_drop", "weight_decay"}
"""Ranges of the default space that every schedule has; batch_size and schedule are choices."""


def space_of(*texts: str) -> SearchSpace:
    return SearchSpace.read(texts)


def set_up(study: Study, sampler: str, *texts: str, seed: int = 0) -> SearchSpace:
    """As a worker that has just started does it."""
    space = space_of(*texts)
    options = StudyConfig(sampler=sampler, sampler_seed=seed)
    study.sampler = make_sampler(options, space, BASE)
    return space


def far_from_best(params: dict[str, Any]) -> float:
    return abs(math.log10(params["lr_max@64"]) + 1) + 10 * abs(params["momentum_max"] - 0.95)


def studied(sampler: str, *texts: str, seed: int = 0, count: int = 60) -> Study:
    """A study after so many trials, every third of which is pruned."""
    study = new_study()
    space = set_up(study, sampler, *texts, seed=seed)
    for number in range(count):
        trial = study.ask()
        space.suggest(trial, BASE)
        value = -far_from_best(trial.params)
        if number % 3 == 1:
            trial.report(value, 1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    return study


# -- what every trial is asked for --


def test_what_no_schedule_goes_without_is_asked_for_in_every_trial() -> None:
    space = space_of()
    found = set(space.distributions(BASE, conditional=False))
    assert found == ALWAYS | {"batch_size", "schedule"}
    assert set(space.distributions(BASE)) - found == {"div", "pct_start"}


@pytest.mark.parametrize(
    ("texts", "base", "missing"),
    [
        (("pct_start=0.1:0.5",), {"schedule": "one_cycle"}, set()),
        (("pct_start=0.1:0.5", "schedule=one_cycle,linear"), {}, set()),
        (("pct_start=0.1:0.5", "schedule=one_cycle,cosine"), {}, {"pct_start"}),
        (("beta2=0.9:0.99", "optimizer=adam,sgd"), {}, {"beta2"}),
        (("beta2=0.9:0.99", "lr_max=0.1:0.2"), {"optimizer": "adam"}, set()),
    ],
)
def test_a_condition_that_always_holds_is_none(
    texts: tuple[str, ...], base: dict[str, Any], missing: set[str]
) -> None:
    space, config = space_of(*texts), RunConfig(**base)
    always = space.distributions(config, conditional=False)
    assert set(space.distributions(config)) - set(always) == missing


# -- cmaes --


@pytest.mark.parametrize("seed", [0, 1, 10])
def test_cmaes_goes_on_proposing(seed: int) -> None:
    """Also after trials whose schedules have no pct_start and no div."""
    study = studied("cmaes", seed=seed)
    trials = study.trials
    assert len({frozenset(trial.params) for trial in trials}) > 1
    generations = [trial.system_attrs.get("cma:generation", -1) for trial in trials]
    # The first is drawn at random; generations have eight trials each (4 + 3 ln 5).
    assert generations[0] == -1
    assert generations[1:] == sorted(generations[1:])
    assert generations[1] == 0
    assert generations[-1] >= 5
    far = [far_from_best(trial.params) for trial in trials]
    assert sum(far[40:]) < sum(far[:20]) / 1.5


def test_cmaes_goes_on_with_one_range() -> None:
    """Of which Optuna would have nothing to say, and draws the rest at random."""
    study = new_study()
    space = set_up(study, "cmaes", "lr_max=log:1e-3:0.3", "schedule=one_cycle,cosine")
    study.optimize(lambda trial: -abs(space.suggest(trial, BASE)["lr_max"] - 0.1), 40)
    generations = [trial.system_attrs.get("cma:generation", -1) for trial in study.trials]
    assert min(generations[1:]) == 0
    assert generations[-1] >= 7
    assert {trial.params["schedule"] for trial in study.trials} == {"one_cycle", "cosine"}


def test_cmaes_starts_from_what_the_range_test_suggests() -> None:
    study = new_study()
    space = set_up(study, "cmaes")
    study.enqueue_trial({"lr_max@64": 0.01})
    study.optimize(lambda trial: space.suggest(trial, BASE)["momentum_max"], 12)
    assert study.trials[0].params["lr_max@64"] == 0.01
    assert all("cma:generation" in trial.system_attrs for trial in study.trials[1:])


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (("batch_size=16,32", "schedule=one_cycle,cosine"), "the space has none"),
        (
            ("pct_start=0.1:0.5", "schedule=one_cycle,cosine"),
            "those of the space do not (pct_start)",
        ),
    ],
)
def test_cmaes_needs_a_range_that_every_trial_has(texts: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadOption) as caught:
        set_up(new_study(), "cmaes", *texts)
    assert str(caught.value) == (
        f"sampler=cmaes searches ranges that belong to every trial, and {why}; give one, such as "
        "lr_max=log:1e-3:1, or take another sampler"
    )


# -- gp --


def test_gp_searches_what_every_trial_has() -> None:
    study = studied("gp", count=16)
    trial = study.ask()
    space_of().suggest(trial, BASE)
    assert trial.relative_params is not None
    assert set(trial.relative_params) == ALWAYS | {"batch_size", "schedule"}


# -- qmc --

COUNT = 16


def sequence(*workers: int, first: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Parameters of COUNT trials, by turns of workers that all have trials running."""
    study = new_study()
    if first is not None:
        study.enqueue_trial(first)
    samplers = []
    for _ in workers or (1,):
        space = set_up(study, "qmc", seed=3)
        samplers.append(study.sampler)
    trials: list[Trial] = []
    for number in range(COUNT):
        study.sampler = samplers[number % len(samplers)]
        trials.append(study.ask())
        space.suggest(trials[-1], BASE)
        if number >= len(samplers):
            study.tell(trials[number - len(samplers)], 0.5)
    return [trial.params for trial in trials]


def test_qmc_covers_every_range_evenly_from_the_first_trial_on() -> None:
    """Of so many trials one each is in each of so many equal parts of a range."""
    found = sequence()
    for name in ALWAYS:
        known = space_of().distributions(BASE)[name]
        assert isinstance(known, FloatDistribution)
        scale = math.log if known.log else float
        low, high = scale(known.low), scale(known.high)
        parts = [int(COUNT * (scale(params[name]) - low) / (high - low)) for params in found]
        assert sorted(parts) == list(range(COUNT)), name
    for name in ("batch_size", "schedule"):  # four values each
        values = [params[name] for params in found]
        assert {values.count(value) for value in values} == {COUNT // 4}


def test_qmc_gives_the_same_whatever_the_first_trial_was() -> None:
    once = sequence()
    for schedule in ("cosine", "flat_cos", "one_cycle"):
        assert sequence(first={"schedule": schedule})[1:] == once[1:]


def test_qmc_gives_the_same_to_several_workers() -> None:
    assert sequence(1, 2, 3) == sequence()
