"""Samplers: each draws what a space allows, and a study with one worker can be repeated."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import Study, create_trial
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from pipelines.config import RunConfig
from pipelines.options import config_from
from search.algorithms.samplers import make_sampler
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.space.search_space import SearchSpace
from search.storage.database import open_storage
from search.storage.studies import create, find_study
from search.storage.url import storage_url
from tests.search_tests.studies import new_study
from tracking.errors import BadOption

__all__: list[str] = []

BASE = RunConfig()
GRID = ("batch_size=16,32,64", "schedule=one_cycle,cosine")
DEFAULT: tuple[str, ...] = ()

# Samplers, and after how many trials each has begun to learn from them.
LEARNING = {"tpe": 13, "gp": 11, "cmaes": 6, "random": 6, "qmc": 6}


def space_of(texts: tuple[str, ...]) -> SearchSpace:
    return SearchSpace.read(texts)


def work(
    study: Study, count: int, sampler: str, texts: tuple[str, ...] = DEFAULT, **options: Any
) -> None:
    """Do so many trials as a worker that has just started does."""
    space = space_of(texts)
    study.sampler = make_sampler(StudyConfig(sampler=sampler, **options), space, BASE)

    def objective(trial: optuna.Trial) -> float:
        config = config_from(RunConfig, BASE.model_dump() | space.suggest(trial, BASE))
        trial.set_constraint("memory", -1.0)
        return -abs(config.lr_max - 0.05) - config.batch_size / 1e4

    for _ in range(count):
        study.add_trial(create_trial(state=TrialState.WAITING))
    study.optimize(objective, n_trials=count)


def drawn(*counts: int, sampler: str, **more: Any) -> list[dict[str, Any]]:
    """Parameters of the trials that workers draw one after the other, so many each."""
    study = new_study()
    for count in counts:
        work(study, count, sampler, **more)
    return [trial.params for trial in study.trials]


# -- each sampler --


@pytest.mark.parametrize("sampler", LEARNING)
def test_each_sampler_draws_from_the_default_space(sampler: str) -> None:
    found = drawn(6, sampler=sampler)
    names = space_of(DEFAULT).distributions(BASE)
    assert all({"lr_max@64", "batch_size", "schedule"} <= set(params) for params in found)
    for params in found:
        for name, value in params.items():
            known = names[name]
            assert known._contains(known.to_internal_repr(value)), name
        assert ("pct_start" in params) == (params["schedule"] != "cosine")
    assert len({params["lr_max@64"] for params in found}) == 6


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_study_of_one_worker_can_be_repeated(sampler: str) -> None:
    count = LEARNING[sampler]
    once = drawn(count, sampler=sampler, sampler_seed=3)
    assert drawn(count, sampler=sampler, sampler_seed=3) == once
    other = drawn(3, sampler=sampler, sampler_seed=4)
    assert all(mine != theirs for mine, theirs in zip(once[:3], other, strict=True))


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_study_that_was_interrupted_goes_on_as_if_it_had_not_been(sampler: str) -> None:
    count = LEARNING[sampler]
    once = drawn(count, sampler=sampler)
    assert drawn(3, count - 3, sampler=sampler) == once
    assert drawn(count - 1, 1, sampler=sampler) == once


def test_workers_do_not_draw_the_same() -> None:
    """Two that know nothing of each other's trials: the numbers of theirs are different."""
    for sampler in LEARNING:
        study = new_study()
        space = space_of(DEFAULT)
        options = StudyConfig(sampler=sampler)
        found = []
        for _ in range(2):
            study.sampler = make_sampler(options, space, BASE)
            found.append(study.ask(space.distributions(BASE)).params)
        assert all(found[0][name] != found[1][name] for name in ("lr_max@64", "div", "final_div"))


def test_the_runs_seed_is_the_samplers_unless_it_has_one() -> None:
    space = space_of(DEFAULT)
    for options, base, same in [
        (StudyConfig(sampler="random"), RunConfig(seed=7), True),
        (StudyConfig(sampler="random", sampler_seed=7), RunConfig(), True),
        (StudyConfig(sampler="random", sampler_seed=0), RunConfig(seed=7), False),
    ]:
        study = new_study()
        study.sampler = make_sampler(options, space, base)
        params = study.ask(space.distributions(BASE)).params
        expected = drawn(1, sampler="random", sampler_seed=7)[0]
        assert (params["lr_max@64"] == expected["lr_max@64"]) is same


def test_samplers_learn() -> None:
    """Near the end a model-based sampler does better than it did by chance at the beginning."""
    for sampler in ("tpe", "cmaes"):
        study = new_study()
        space = SearchSpace.read(["lr_max=log:1e-5:1", "weight_decay=log:1e-4:0.3"])
        study.sampler = make_sampler(StudyConfig(sampler=sampler), space, BASE)

        def far(trial: optuna.Trial, space: SearchSpace = space) -> float:
            return -abs(space.suggest(trial, BASE)["lr_max"] - 0.5)

        study.optimize(far, n_trials=40)
        first, last = study.trials[:10], study.trials[30:]
        assert sum(t.values[0] for t in last) > sum(t.values[0] for t in first), sampler


def test_two_objectives_can_be_searched() -> None:
    for sampler in ("tpe", "gp", "random", "qmc"):
        study = new_study("maximize", "minimize")
        space = SearchSpace.read(["lr_max=log:1e-3:0.1", "batch_size=16,32"])
        options = StudyConfig(sampler=sampler, objective="accuracy,seconds")
        study.sampler = make_sampler(options, space, BASE)

        def both(trial: optuna.Trial, space: SearchSpace = space) -> tuple[float, float]:
            own = space.suggest(trial, BASE)
            return own["lr_max"], 1.0 / own["batch_size"]

        study.optimize(both, n_trials=11)
        assert len(study.best_trials) >= 1


# -- the grid --


def point(params: dict[str, Any]) -> tuple[Any, ...]:
    return params["batch_size"], params["schedule"]


EVERY_POINT = set(product((16, 32, 64), ("one_cycle", "cosine")))


@pytest.mark.parametrize("counts", [(6,), (3, 3), (1, 1, 1, 1, 1, 1)])
def test_a_grid_visits_every_point_once(counts: tuple[int, ...]) -> None:
    found = [point(params) for params in drawn(*counts, sampler="grid", texts=GRID)]
    assert len(found) == len(EVERY_POINT)
    assert set(found) == EVERY_POINT


def test_a_grid_comes_in_the_order_of_its_seed() -> None:
    once = drawn(6, sampler="grid", texts=GRID, sampler_seed=1)
    assert drawn(2, 4, sampler="grid", texts=GRID, sampler_seed=1) == once
    assert any(
        drawn(6, sampler="grid", texts=GRID, sampler_seed=seed) != once for seed in (2, 3, 4)
    )


def test_a_grid_has_no_ranges() -> None:
    with pytest.raises(BadOption, match="a grid needs values, not ranges"):
        make_sampler(StudyConfig(sampler="grid"), space_of(("lr_max=0.1:0.2",)), BASE)


def test_a_point_that_failed_is_visited_by_its_copy() -> None:
    """As the queue copies a trial whose worker died: with the number of its point in the grid."""
    study = new_study()
    space = space_of(GRID)
    study.sampler = make_sampler(StudyConfig(sampler="grid"), space, BASE)
    dead = study.ask()
    first = point(space.suggest(dead, BASE))
    study.tell(dead, state=TrialState.FAIL)
    notes = study.trials[0].system_attrs
    copied = {name: notes[name] for name in ("grid_id", "search_space")}
    for _ in range(5):
        work(study, 1, "grid", GRID)
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=copied))
    study.sampler = make_sampler(StudyConfig(sampler="grid"), space, BASE)
    assert point(space.suggest(study.ask(), BASE)) == first
    assert {point(trial.params) for trial in study.trials} == EVERY_POINT


def test_a_grid_goes_on_in_a_storage_that_is_opened_again(tmp_path: Path) -> None:
    url = storage_url(f"sqlite:///{tmp_path}/grid.db")
    create(open_storage(url), StudyDefinition(BASE, StudyConfig(name="S"), space_of(GRID)), "")
    for _ in range(3):
        work(find_study(open_storage(url), "S"), 2, "grid", GRID)
    found = [point(trial.params) for trial in find_study(open_storage(url), "S").trials]
    assert len(found) == len(EVERY_POINT)
    assert set(found) == EVERY_POINT


def test_choices_keep_their_order() -> None:
    """Optuna takes another order for another parameter, and would refuse the trial."""
    study = new_study()
    work(study, 1, "random", ("batch_size=64,16,32", "lr_max=0.1:0.2"))
    distribution = study.trials[0].distributions["batch_size"]
    assert isinstance(distribution, CategoricalDistribution)
    assert distribution.choices == (64, 16, 32)
