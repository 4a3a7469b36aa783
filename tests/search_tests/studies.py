"""Studies in memory, with trials in every state, as workers leave them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
from optuna import Study, create_trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

__all__ = ["BEGAN", "SPACE", "every_state", "finished", "new_study", "realistic", "trial"]

BEGAN = datetime(2026, 11, 20, 9, 30)

SPACE: dict[str, BaseDistribution] = {
    "lr_max@64": FloatDistribution(1e-3, 1.0, log=True),
    "batch_size": CategoricalDistribution((64, 128, 256, 512)),
    "schedule": CategoricalDistribution(("one_cycle", "flat_cos", "constant")),
    "pct_start": FloatDistribution(0.05, 0.5),
    "weight_decay": FloatDistribution(1e-5, 1e-1, log=True),
    "cycles": IntDistribution(1, 9),
}


def new_study(*directions: str, name: str = "lr-and-batch") -> Study:
    """An empty one; without directions it maximises."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name=name, directions=list(directions) or ["maximize"])


def trial(
    state: TrialState = TrialState.COMPLETE,
    *values: float,
    params: dict[str, Any] | None = None,
    at: float = 0.0,
    took: float | None = 60.0,
    replaces: Sequence[int] = (),
    infeasible: bool = False,
    reported: dict[int, float] | None = None,
    **notes: Any,
) -> FrozenTrial:
    """A trial that began ``at`` seconds after BEGAN and took so many."""
    params = params or {}
    made = create_trial(
        state=state,
        values=list(values) or None,
        params=params,
        distributions={name: SPACE[name] for name in params},
        user_attrs=notes,
        system_attrs={"retry_history": list(replaces)} if replaces else {},
        intermediate_values=reported or {},
        constraints={"memory": 1.0 if infeasible else -1.0}
        if state == TrialState.COMPLETE
        else None,
    )
    if state != TrialState.WAITING:
        made.datetime_start = BEGAN + timedelta(seconds=at)
        if took is not None and state.is_finished():
            made.datetime_complete = made.datetime_start + timedelta(seconds=took)
    return made


def finished(number: int, params: dict[str, Any], accuracy: float, **more: Any) -> FrozenTrial:
    """A complete trial with all that a worker notes on it."""
    batch_size = params.get("batch_size", 64)
    own = {name: value for name, value in params.items() if name != "lr_max@64"}
    lr = params.get("lr_max@64", 0.05) * batch_size / 64
    notes: dict[str, Any] = {
        "mlflow_run_id": f"{number:032x}",
        "worker": f"node1:{4000 + number % 2}",
        "config": own | {"lr_max": lr},
        "seconds": 41.5 + number,
        "samples": 36000,
        "aside_seconds": 3.25,
        "aside_samples": 1800,
        "accuracy": accuracy,
        "loss": 1.2 * (1 - accuracy),
        "rungs": [{"share": 0.33, "accuracy": accuracy - 0.02, "loss": 0.2, "samples": 900}],
    }
    values = more.pop("values", (accuracy,))
    return trial(TrialState.COMPLETE, *values, params=params, **(notes | more))


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Parameters: ``pct_start`` only where the schedule has one."""
    schedule = str(rng.choice(["one_cycle", "flat_cos", "constant"], p=[0.6, 0.25, 0.15]))
    params: dict[str, Any] = {
        "batch_size": int(rng.choice([64, 128, 256, 512])),
        "lr_max@64": float(10 ** rng.uniform(-3, 0)),
        "schedule": schedule,
        "weight_decay": float(10 ** rng.uniform(-5, -1)),
    }
    if schedule != "constant":
        params["pct_start"] = float(rng.uniform(0.05, 0.5))
    return params


def accuracy_of(params: dict[str, Any], rng: np.random.Generator) -> float:
    """Best near lr_max@64 = 0.06 with one_cycle."""
    off = math.log10(params["lr_max@64"]) + 1.2
    loss = 0.015 + 0.03 * off**2 + 0.01 * (params["schedule"] != "one_cycle")
    return float(np.clip(1 - loss - abs(rng.normal(0, 0.004)), 0.1, 1))


def realistic(size: int = 40, *, two: bool = False, name: str = "lr-and-batch") -> Study:
    """Two workers; a third of the trials is pruned, some do not fit, one was killed and retried."""
    rng = np.random.default_rng(1)
    study = new_study(*(["maximize", "minimize"] if two else []), name=name)
    for number in range(size):
        params = drawn(rng)
        accuracy = accuracy_of(params, rng)
        seconds = 40 + 15 * 64 / params["batch_size"] + float(rng.uniform(0, 6))
        at = 30.0 * number
        reported = {1: accuracy - 0.05, 3: accuracy - 0.015 + float(rng.normal(0, 0.004))}
        common: dict[str, Any] = {"at": at, "reported": {} if two else reported}
        if number % 13 == 5:
            made = _infeasible(params, (0.1, math.inf) if two else (0.1,), at)
        elif number == 7:
            made = trial(TrialState.FAIL, params=params, at=at, took=25, worker="node1:4001")
        elif number == 11:
            made = trial(
                TrialState.FAIL, params=params, at=at, took=4, reason="DataLoader: out of files"
            )
        elif accuracy < 0.93 and not two:
            made = trial(
                TrialState.PRUNED,
                params=params,
                at=at,
                took=seconds / 3,
                reported={1: accuracy - 0.05},
                reason="pruned by halving at the anneal:0.3 rung at 33% of the run",
                findings=["dead_channels"],
                config=params,
            )
        else:
            values = (accuracy, seconds) if two else (accuracy,)
            replaces = [7] if number == 9 else []
            common |= {"values": values, "replaces": replaces, "took": seconds, "seconds": seconds}
            made = finished(number, params, accuracy, **common)
        study.add_trial(made)
    return study


def every_state(name: str = "lr-and-batch") -> Study:
    """One trial in each state; the copy of the retried one is complete."""
    study = new_study(name=name)
    params = {"lr_max@64": 0.05, "batch_size": 128, "schedule": "one_cycle", "pct_start": 0.3}
    other = {"lr_max@64": 0.8, "batch_size": 512, "schedule": "constant"}
    study.add_trials(
        [
            trial(TrialState.FAIL, params=params, took=30, worker="node1:1"),
            finished(1, params, 0.97, replaces=[0], at=60),
            trial(TrialState.PRUNED, params=other, reported={1: 0.3}, reason="pruned by halving"),
            trial(TrialState.FAIL, params=other, took=1, reason="no such file"),
            _infeasible(other, (0.999,)),
            trial(TrialState.RUNNING, params=other, worker="node1:2"),
            trial(TrialState.WAITING),
            trial(TrialState.FAIL, surplus=True, reason="not wanted any more (trials=6)"),
            finished(8, other | {"weight_decay": 1e-4}, 0.95, at=120),
        ]
    )
    return study


def _infeasible(params: dict[str, Any], values: Sequence[float], at: float = 0.0) -> FrozenTrial:
    made = trial(TrialState.COMPLETE, *values, params=params, infeasible=True, at=at, took=2)
    made.set_user_attr("infeasible", "batch_size=512 does not fit into memory")
    return made
