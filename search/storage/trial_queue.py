"""The trials that wait in a study: how many, copies of those that were cut short, what counts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

from optuna import Study, create_trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = ["MAX_RETRIES", "copy_of", "fill_queue", "retried_numbers", "settled", "taken_over"]

MAX_RETRIES = 2

# What a copy takes over: the rest belongs to the trial that was cut short (its constraints, its
# rungs, a sampler's notes on it).
KEPT = ("fixed_params", "grid_id", "search_space")

# Commands that fill one queue at the same time correct each other; they agree after two or three.
PASSES = 10


def copy_of(trial: FrozenTrial, *, counted: bool = True) -> FrozenTrial | None:
    """A waiting trial with the parameters of one that was cut short, to which it refers by the user
    attribute "retry_of" and the system attribute "retry_history".

    None where there is a copy already, or the trial is not wanted any more; and where this would be
    more than the MAX_RETRIES that a trial has, of which it is one if it is ``counted``.

    "failed_trial" and "retry_history" are as Optuna's RetryHeartbeatStaleTrialCallback keeps them.
    """
    notes = trial.system_attrs
    retries = int(notes.get("counted_retries", 0)) + counted
    if not {"retried_as", "surplus"}.isdisjoint(trial.user_attrs) or (
        counted and retries > MAX_RETRIES
    ):
        return None
    history = [*notes.get("retry_history", []), trial.number]
    lineage = {
        "failed_trial": history[0],
        "retry_history": history,
        "counted_retries": retries,
    }
    attributes: dict[str, Any] = {
        "user_attrs": {"retry_of": trial.number},
        "system_attrs": {name: notes[name] for name in KEPT if name in notes} | lineage,
    }
    try:
        return create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            **attributes,
        )
    except ValueError:
        # Optuna lets an enqueued value lie outside its range, but no copy of it. The copy gets it
        # again from "fixed_params".
        return create_trial(state=TrialState.WAITING, **attributes)


def settled(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Those of a study's trials that count towards its target.

    Complete ones, pruned ones, and failed ones for which there is no retry. `trials` must be all of
    the study's, since a retry may still wait.
    """
    trials = list(trials)
    retried = retried_numbers(trials)
    return [trial for trial in trials if _counts(trial, retried)]


def retried_numbers(trials: Iterable[FrozenTrial]) -> frozenset[int]:
    """The numbers of the trials that a copy has taken the place of, among all of a study's.

    A copy knows whom it replaces; a trial knows of its copy where that was made before its end.
    """
    trials = list(trials)
    histories = (trial.system_attrs.get("retry_history", ()) for trial in trials)
    told = (trial.number for trial in trials if "retried_as" in trial.user_attrs)
    return frozenset(chain(told, *histories))


def fill_queue(study: Study, target: int) -> int:
    """Let as many trials wait that settled, running and waiting ones are `target`.

    Waiting trials that are too many become failed ones with the user attribute "surplus", the
    newest first. Returns how many wait now.
    """
    for _ in range(PASSES):
        trials = study.get_trials(deepcopy=False)
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        missing = target - len(settled(trials)) - running - len(waiting)
        for _ in range(missing):
            study.add_trial(create_trial(state=TrialState.WAITING))
        for trial in waiting[::-1][: max(0, -missing)]:
            _take_out(study, trial, f"not wanted any more (trials={target})")
        # Fewer wait than are too many: the others run or are done, and there is nothing to do.
        if missing == 0 or (missing < 0 and not waiting):
            break
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def taken_over(error: BaseException) -> bool:
    """Whether an error says that someone else has ended the trial meanwhile.

    So it is for a worker that was suspended for so long that its trial was given to another one.
    Writing to the trial raises UpdateFinishedTrialError; `Study.tell` raises ValueError, which
    `Study.optimize` (Optuna 5.0) hides behind an AssertionError where the objective returned.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UpdateFinishedTrialError):
            return True
        if isinstance(cause, ValueError) and re.match(r"Cannot tell a \w+ trial", str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _counts(trial: FrozenTrial, retried: Collection[int]) -> bool:
    if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}:
        return True
    gone = trial.number in retried or trial.user_attrs.get("surplus", False)
    return trial.state == TrialState.FAIL and not gone


def _take_out(study: Study, trial: FrozenTrial, reason: str) -> None:
    storage, trial_id = _storage(study), _id(trial)
    try:
        # Taken as a worker takes it, so that no worker can have it too.
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return
    except UpdateFinishedTrialError:
        return
    storage.set_trial_user_attr(trial_id, "surplus", True)
    storage.set_trial_user_attr(trial_id, "reason", reason)
    storage.set_trial_state_values(trial_id, TrialState.FAIL)


# Optuna's studies and trials keep these to themselves; only its storage can fail a waiting trial.
def _storage(study: Study) -> BaseStorage:
    return study._storage  # noqa: SLF001


def _id(trial: FrozenTrial) -> int:
    return trial._trial_id  # noqa: SLF001
