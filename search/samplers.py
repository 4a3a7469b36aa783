"""The sampler of a study, from its options."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from pipelines.config import RunConfig
from search.config import StudyConfig
from search.space import Range, SearchSpace
from tracking.errors import BadOption

__all__ = ["make_sampler"]


def make_sampler(options: StudyConfig, space: SearchSpace, base: RunConfig) -> BaseSampler:
    """The sampler that the options name.

    Raises BadOption: a grid over ranges, or cmaes without a range.
    """
    seed = base.seed if options.sampler_seed is None else options.sampler_seed
    # These two are sequences that all workers share: their seed says which one.
    if options.sampler == "grid":
        return GridSampler(space.grid(base), seed=seed)
    if options.sampler == "qmc":
        return _qmc(seed)
    if options.sampler == "cmaes" and not any(
        isinstance(dimension, Range) for dimension in space.dimensions.values()
    ):
        raise BadOption(
            "sampler=cmaes searches ranges, and the space has none; give one, such as "
            "lr_max=log:1e-3:1, or take another sampler"
        )
    return _PerTrial(_MAKERS[options.sampler], seed)


def _qmc(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(
            scramble=True,
            seed=seed,
            # Of what the first trial did not have; the sequence is for what it had.
            independent_sampler=_PerTrial(_random, seed),
            warn_independent_sampling=False,
        )


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # In groups, since a parameter that only some schedules have is missing in other trials.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "random": _random,
}


class _PerTrial(BaseSampler):
    """Makes a sampler for each trial, seeded by the study's seed and the trial's number.

    What a trial is given then depends on the trials before it and on nothing else: not on which
    worker asks, nor on whether the study went on in another process.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
        self._sampler = self._make(int.from_bytes(digest[:4], "little"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        with warnings.catch_warnings():
            # cmaes says after each trial that it does not learn from constraints: a batch that does
            # not fit has the value of guessing, which is enough for it.
            warnings.filterwarnings("ignore", "Constraints have been set")
            self._sampler.after_trial(study, trial, state, values)
