"""The trainings of a comparison, each a value and a seed: which are wanted, and which there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from search.outcome import Outcome
from search.space.compared import SEED, Compared

__all__ = ["Pair", "fill_pairs", "pair_of", "wanted_pairs"]

Pair = tuple[Any, int]
"""A value of the factor, and a seed."""

DONE_WITH = {"failed", "cancelled", "retried"}
"""States of trials that have given nothing: another command may try again."""


def wanted_pairs(compared: Compared, first_seed: int, seeds: int) -> Iterator[Pair]:
    """Every value with every seed, seed by seed.

    The order of the values goes round from seed to seed: a machine that grows slower favours none.
    """
    values = compared.values
    for number in range(seeds):
        turn = number % len(values)
        for value in values[turn:] + values[:turn]:
            yield value, first_seed + number


def pair_of(compared: Compared, trial: FrozenTrial) -> Pair | None:
    """A trial's value and seed; None where it is none of a comparison's."""
    # A trial that waits has not been asked for its parameters yet.
    params = trial.system_attrs.get("fixed_params", {}) | trial.params
    if compared.factor not in params or SEED not in params:
        return None
    return params[compared.factor], int(params[SEED])


def fill_pairs(study: Study, compared: Compared, first_seed: int, seeds: int) -> None:
    """Let those of the wanted trainings wait in the queue that are not there yet."""
    outcome = Outcome.of(study)
    there = {
        pair_of(compared, trial)
        for trial in outcome.trials
        if outcome.states[trial.number] not in DONE_WITH
    }
    for value, seed in wanted_pairs(compared, first_seed, seeds):
        if (value, seed) not in there:
            study.enqueue_trial(compared.params(value, seed))
