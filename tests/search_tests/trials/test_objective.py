"""One trial at a time: what it leaves in Optuna and in MLflow, whatever becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from mlflow.entities import Run
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset
from pipelines.evaluation import Evaluation
from pipelines.fit import Fit
from search.algorithms.pruners import make_pruner
from search.algorithms.samplers import make_sampler
from search.definition import StudyDefinition
from search.storage.database import open_storage
from search.storage.queue_storage import give_back
from search.storage.studies import create
from search.storage.url import storage_url
from search.trials import objective as objective_module
from search.trials.judge import Judge
from search.trials.objective import NotBegun, Objective, TrialRun
from search.workers.worker import _quiet
from tests.mlflow_stores import artifact_text, found_run, sqlite_store
from tracking.errors import BadModel
from tracking.mlflow_runs.deliveries import Deliveries
from tracking.mlflow_runs.run import MlflowRun

__all__: list[str] = []

Defined = Callable[..., StudyDefinition]

pytestmark = pytest.mark.usefixtures("here", "no_drawings")


@contextmanager
def opened(definition: StudyDefinition) -> Iterator[tuple[Study, Objective]]:
    """A study with its run in MLflow, and the objective of one worker; all delivered at the end."""
    storage = open_storage(storage_url())
    parent = MlflowRun.open("tests", definition.options.name)
    create(storage, definition, parent.run_id)
    options, space = definition.options, definition.searched
    study = Study(
        options.name,
        storage,
        sampler=make_sampler(options, space, definition.base),
        pruner=make_pruner(options),
    )
    with Deliveries() as deliveries:
        data = load_dataset(definition.base)
        yield study, Objective(TrialRun(definition, data, parent, deliveries))
    parent.end("FINISHED", 1.0)


def one_trial(definition: StudyDefinition, **fixed: Any) -> tuple[FrozenTrial, Run, Study]:
    """Run a single trial, with fixed parameters where some are given."""
    with opened(definition) as (study, objective):
        study.enqueue_trial(fixed)
        study.optimize(objective, n_trials=1, catch=(Exception,))
    trial = study.trials[0]
    return trial, found_run(sqlite_store(), trial.user_attrs["mlflow_run_id"]), study


def test_a_complete_trial(defined: Defined) -> None:
    trial, run, study = one_trial(defined(), lr_max=0.02)
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [trial.user_attrs["accuracy"]]
    assert trial.user_attrs["config"] == {"lr_max": 0.02}
    assert trial.user_attrs["samples"] == 2 * 60
    assert trial.user_attrs["seconds"] > 0
    assert trial.constraints == {"memory": -1.0}
    assert study.best_trial.number == 0
    # the run in MLflow
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert tags["mlflow.parentRunId"]
    assert (tags["layerscope.study"], tags["layerscope.trial"]) == ("study", "0")
    assert tags["layerscope.trial_state"] == "complete"
    assert run.data.params["lr_max"] == "0.02"
    assert run.data.metrics["valid/accuracy"] == trial.values[0]
    assert "test/accuracy" not in run.data.metrics
    config = artifact_text(sqlite_store(), run.info.run_id, "config.yaml")
    assert "lr_max: 0.02" in config
    assert artifact_text(sqlite_store(), run.info.run_id, "diagnosis.json")


def test_a_trial_waits_for_mlflow(
    defined: Defined, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin, tries = MlflowRun.child, []

    def away_at_first(*given: Any) -> MlflowRun:
        tries.append(given)
        if len(tries) < 3:
            raise ConnectionError("refused")
        return begin(*given)

    monkeypatch.setattr(MlflowRun, "child", away_at_first)
    monkeypatch.setattr(objective_module.time, "sleep", lambda _seconds: None)
    trial, run, _ = one_trial(defined())
    assert (trial.state, run.info.status) == (TrialState.COMPLETE, "FINISHED")
    assert caplog.text.count("trial 0 waits for MLflow, which is away (refused)") == 1


def test_a_trial_that_cannot_begin_is_no_failure(
    defined: Defined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_given: Any) -> MlflowRun:
        raise ConnectionError("refused")

    monkeypatch.setattr(MlflowRun, "child", away)
    monkeypatch.setattr(objective_module, "PATIENCE", -1.0)
    with opened(defined()) as (study, objective):
        study.enqueue_trial({})
        with pytest.raises(NotBegun, match=r"^trial 0 cannot begin: MLflow takes no run for it"):
            study.optimize(objective, n_trials=1)


def test_an_error_of_this_side_is_not_waited_out(
    defined: Defined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: Any) -> MlflowRun:
        raise TypeError("unexpected argument")

    monkeypatch.setattr(MlflowRun, "child", broken)
    with opened(defined()) as (study, objective):
        study.enqueue_trial({})
        study.optimize(objective, n_trials=1, catch=(Exception,))
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["reason"] == "TypeError: unexpected argument"


def test_rungs_are_scored_and_kept(defined: Defined) -> None:
    trial, run, _ = one_trial(defined(rungs="1/4,1/2", base={"epochs": 4}))
    rungs = trial.user_attrs["rungs"]
    assert [rung["share"] for rung in rungs] == [0.25, 0.5]
    # One report at each rung.
    scores = {1: rungs[0]["accuracy"], 2: rungs[1]["accuracy"]}
    assert trial.intermediate_values == pytest.approx(scores, abs=1e-5)
    assert trial.user_attrs["aside_samples"] == sum(rung["samples"] for rung in rungs) > 0
    assert run.data.metrics["rung/accuracy"] == rungs[1]["accuracy"]


@pytest.mark.parametrize("rung", ["plain", "cycle"])
def test_other_rungs(rung: str, defined: Defined) -> None:
    trial, _, _ = one_trial(defined(rung=rung))
    rungs = trial.user_attrs["rungs"]
    assert len(rungs) == len(trial.intermediate_values) >= 1
    spent = {"plain": 0, "cycle": sum(r["samples"] for r in rungs)}[rung]
    assert trial.user_attrs["aside_samples"] == spent


def test_rungs_can_be_compared_by_loss(defined: Defined) -> None:
    trial, _, _ = one_trial(defined(rung_score="loss", rungs="1/2"))
    # It grows as the loss falls, since accuracy is to be maximised.
    score = math.exp(-trial.user_attrs["rungs"][0]["loss"])
    assert trial.intermediate_values == pytest.approx({1: score})


def test_loss_is_minimised(defined: Defined) -> None:
    trial, _, study = one_trial(defined(objective="loss"))
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert trial.values == [trial.user_attrs["loss"]]
    assert set(trial.intermediate_values.values()) == {
        rung["loss"] for rung in trial.user_attrs["rungs"]
    }


def test_two_objectives_are_not_pruned(defined: Defined) -> None:
    trial, _, _ = one_trial(defined(objective="accuracy,seconds"))
    assert trial.values == [trial.user_attrs["accuracy"], trial.user_attrs["seconds"]]
    assert "rungs" not in trial.user_attrs


def test_the_pruner_ends_a_trial_with_its_reason(defined: Defined) -> None:
    trial, run, _ = one_trial(defined(pruner="threshold:0.999", rungs="1/3"))
    assert trial.state == TrialState.PRUNED
    reason = trial.user_attrs["reason"]
    assert reason.startswith("pruned by threshold:0.999 at the anneal:0.3 rung at 33% of the run")
    assert run.info.status == "KILLED"
    assert run.data.tags["layerscope.reason"] == reason
    assert run.data.tags["layerscope.trial_state"] == "pruned"


def test_a_diverged_trial_is_pruned_with_its_reason(defined: Defined) -> None:
    definition = defined(
        ("lr_max=log:1e-3:1e9",), base={"optimizer": "sgd", "norm": "none"}, pruner="none"
    )
    trial, run, _ = one_trial(definition, lr_max=1e9)
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"].startswith(("diverged: the loss became", "pruned by health"))
    assert (run.info.status, run.data.tags["layerscope.trial_state"]) == ("KILLED", "pruned")


def test_an_ill_network_is_stopped_before_its_end(defined: Defined) -> None:
    definition = defined(
        ("lr_max=log:1e-3:1e9",),
        base={"optimizer": "sgd", "momentum_min": 0.0, "epochs": 60},
        health="lr_too_high,dead_layer,exploding_activations,non_finite,constant_predictions",
        pruner="none",
    )
    trial, _, _ = one_trial(definition, lr_max=3e4)
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["samples"] < 60 * 60
    assert trial.user_attrs["findings"]


def test_a_healthy_trial_is_left_alone_by_health(defined: Defined) -> None:
    trial, _, _ = one_trial(defined(health="critical", pruner="none"))
    assert trial.state == TrialState.COMPLETE


def test_a_failure_is_a_failed_trial(defined: Defined, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BadModel("this model cannot be built")

    monkeypatch.setattr(objective_module, "prepare", refuse)
    trial, run, _ = one_trial(defined())
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "this model cannot be built"
    assert run.info.status == "FAILED"
    assert run.data.tags["layerscope.reason"] == "this model cannot be built"
    assert run.data.tags["layerscope.trial_state"] == "failed"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ("accuracy", [0.1]),
        ("loss", [math.log(10)]),
        ("accuracy,seconds", [0.1, math.inf]),
    ],
)
def test_a_batch_that_does_not_fit_is_infeasible(
    error: Exception,
    wanted: str,
    value: list[float],
    defined: Defined,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class TooLarge(Callback):
        def before_step(self, fit: Fit) -> None:
            raise error

    train = objective_module.train
    monkeypatch.setattr(
        objective_module,
        "train",
        lambda setup, folder, callbacks, *args, **more: train(
            setup, folder, [*callbacks, TooLarge()], *args, **more
        ),
    )
    trial, run, study = one_trial(defined(objective=wanted))
    assert trial.state == TrialState.COMPLETE
    assert trial.constraints == {"memory": 1.0}
    assert trial.values == pytest.approx(value)
    assert "batch_size=16" in trial.user_attrs["infeasible"]
    assert run.data.tags["layerscope.trial_state"] == "infeasible"
    assert run.info.status == "KILLED"
    assert study.best_trials == []


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_learn_from_what_does_not_fit(
    sampler: str, defined: Defined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches above 128 do not fit, and nothing else tells one from the other."""

    def prepare(config: RunConfig, data: ImageData) -> SimpleNamespace:
        if config.batch_size > 128:
            raise MemoryError
        return SimpleNamespace(config=config)

    def train(setup: SimpleNamespace, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(valid=Evaluation(loss=0.5, accuracy=0.9), history=[], findings=())

    monkeypatch.setattr(objective_module, "prepare", prepare)
    monkeypatch.setattr(objective_module, "train", train)
    definition = defined(("batch_size=log:16:1024",), sampler=sampler, rung="none")
    with opened(definition) as (study, objective):
        for _ in range(24):
            study.enqueue_trial({})
        study.optimize(objective, n_trials=24)
    fits = [trial.constraints["memory"] < 0 for trial in study.trials]
    assert fits == [trial.params["batch_size"] <= 128 for trial in study.trials]
    # Ten are drawn at random, and about half of those do not fit.
    assert sum(fits[:10]) < 8
    assert sum(fits[14:]) >= 8


@pytest.mark.parametrize("name", ["TPESampler", "GPSampler"])
def test_samplers_take_endless_seconds(name: str) -> None:
    """And the worker keeps to itself what the Gaussian process says of them."""
    sampler = getattr(optuna.samplers, name)(seed=0, n_startup_trials=4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def fits(trial: optuna.Trial) -> tuple[float, float]:
        batch = trial.suggest_int("batch_size", 16, 1024, log=True)
        misfit = batch > 128
        trial.set_constraint("memory", 1.0 if misfit else -1.0)
        return (0.1, math.inf) if misfit else (0.5 + batch / 1000, 1000 / batch)

    with _quiet():
        study.optimize(fits, n_trials=7)
    assert any(math.isinf(trial.values[1]) for trial in study.trials[:4])
    assert study.best_trials
    assert all(math.isfinite(trial.values[1]) for trial in study.best_trials)


def test_a_retry_and_its_dead_run_are_linked(defined: Defined) -> None:
    with opened(defined()) as (study, objective):
        study.add_trial(optuna.create_trial(state=TrialState.WAITING))

        def dies(trial: optuna.Trial) -> float:
            value = objective(trial)
            objective._shared.deliveries.wait()  # the run's end has arrived
            MlflowRun.known(trial.user_attrs["mlflow_run_id"], reopen=True)
            give_back(study, trial, "interrupted")
            raise RuntimeError(value)

        study.optimize(dies, n_trials=1, catch=(RuntimeError,))
        study.optimize(objective, n_trials=1)
    first, second = (
        found_run(sqlite_store(), trial.user_attrs["mlflow_run_id"]) for trial in study.trials
    )
    assert second.data.tags["layerscope.retry_of"] == first.info.run_id
    assert first.data.tags["layerscope.retried_as"] == second.info.run_id
    assert first.info.status == "KILLED"
    assert study.trials[1].params == study.trials[0].params


def test_an_interrupt_ends_the_run_as_killed(
    defined: Defined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(judge: Judge, fit: Fit) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Judge, "after_batch", interrupt)
    with opened(defined()) as (study, objective):
        study.add_trial(optuna.create_trial(state=TrialState.WAITING))
        with pytest.raises(KeyboardInterrupt):
            study.optimize(objective, n_trials=1)
    trial = study.trials[0]
    run = found_run(sqlite_store(), trial.user_attrs["mlflow_run_id"])
    assert trial.state == TrialState.FAIL
    assert run.info.status == "KILLED"
    assert run.data.tags["layerscope.trial_state"] == "interrupted"
