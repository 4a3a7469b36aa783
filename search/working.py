"""One worker's way through a study: what it needs, once, and then trial after trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from optuna import Study, Trial
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset
from pipelines.run import FitResult
from search.definition import MLFLOW_RUN, StudyDefinition
from search.objective import Objective, TrialRun, end_dead_run
from search.pruners import make_pruner
from search.samplers import make_sampler
from search.signals import Stopping
from search.storage import open_storage
from search.storage_url import StorageUrl
from search.studies import find_study
from search.worker import Worker
from tracking.deliveries import Deliveries
from tracking.errors import BadTracking
from tracking.mlflow_run import MlflowRun
from tracking.session import TrackedRun

__all__ = ["end_run_of", "work", "work_on"]

log = logging.getLogger("layerscope")


def work(name: str, url: StorageUrl, local: Mapping[str, Any]) -> None:
    """Join a study that exists; ``local``: this machine's own options (data_dir, device, threads).

    Raises BadTracking: the storage, the study, or its run in MLflow is not to be had here; what
    ``Worker.run`` raises.
    """
    # With the study's heartbeat, by which the others judge whether this worker lives.
    heartbeat = StudyDefinition.of(find_study(open_storage(url, create=False), name)).options
    storage = open_storage(url, heartbeat=heartbeat.heartbeat, create=False, retry=end_run_of)
    study = find_study(storage, name)
    definition = StudyDefinition.of(study).on_this_machine(local)
    parent = MlflowRun.known(study.user_attrs[MLFLOW_RUN])
    work_on(storage, definition, parent, load_dataset(definition.base))


def work_on(
    storage: BaseStorage, definition: StudyDefinition, parent: MlflowRun, data: ImageData
) -> None:
    """Work until no trial is left.

    Raises what ``Worker.run`` raises; RecordsWaiting: not all of the trials' records have arrived.
    """
    options = definition.options
    study = Study(
        options.name,
        storage,
        sampler=make_sampler(options, definition.searched, definition.base),
        pruner=make_pruner(options),
    )
    with Stopping() as stopping, Deliveries() as deliveries:
        objective = _InterruptibleFit(TrialRun(definition, data, parent, deliveries), stopping)
        Worker(study, objective, options.heartbeat, stopping).run()


class _InterruptibleFit(Objective):
    """A signal interrupts a trial only while it trains.

    Where its run in MLflow is being begun or ended, that run would else count as running for ever.
    """

    def __init__(self, shared: TrialRun, stopping: Stopping) -> None:
        super().__init__(shared)
        self._stopping = stopping

    def _fit(self, trial: Trial, config: RunConfig, opened: TrackedRun) -> FitResult:
        with self._stopping.interruptible():
            return super()._fit(trial, config, opened)


def end_run_of(_study: Study, trial: FrozenTrial) -> None:
    """A trial whose worker has died: so has its run, which may still count as running."""
    run_id = trial.user_attrs.get("mlflow_run_id")
    if run_id is None:
        return
    try:
        end_dead_run(MlflowRun.known(run_id), trial.user_attrs.get("reason", ""))
    except BadTracking as error:
        log.warning("%s", error)
