"""One worker's way through a study: what it needs, once, and then trial after trial."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from rich.console import Console

from pipelines.data.datasets import ImageData, load_dataset
from pipelines.run import prepare
from pipelines.warm_up import warm_up
from search.algorithms.pruners import make_pruner
from search.algorithms.samplers import make_sampler
from search.definition import MLFLOW_RUN, StudyDefinition
from search.outcome import Outcome
from search.reports.trial_lines import trial_line
from search.storage.database import open_storage
from search.storage.studies import find_study
from search.storage.url import StorageUrl
from search.trials.objective import Objective, TrialRun, end_dead_run
from search.workers.stopping import Stopping
from search.workers.worker import Worker
from tracking.errors import BadTracking
from tracking.mlflow_runs.deliveries import Deliveries
from tracking.mlflow_runs.run import MlflowRun

__all__ = ["end_run_of", "work", "work_on"]

log = logging.getLogger("layerscope")


def work(
    name: str,
    url: StorageUrl,
    local: Mapping[str, Any],
    console: Console | None = None,
    *,
    checked: bool = False,
) -> None:
    """Join a study that exists; ``local``: this machine's own options (data_dir, device, threads).

    ``console`` is told of each trial. ``checked``: this machine is known to have what the study
    needs.

    Raises BadTracking: the storage, the study, or its run in MLflow is not to be had here; other
    BadInput: its data, model or device is not; what ``Worker.run`` raises.
    """
    # With the study's heartbeat, by which the others judge whether this worker lives.
    options = StudyDefinition.of(find_study(open_storage(url, create=False), name)).options
    storage = open_storage(url, heartbeat=options.heartbeat, create=False, retry=end_run_of)
    study = find_study(storage, name)
    definition = StudyDefinition.of(study).on_this_machine(local)
    parent = MlflowRun.known(study.user_attrs[MLFLOW_RUN])
    data = load_dataset(definition.base)
    if not checked:
        # What this machine does not have is refused before it can make trials fail.
        prepare(definition.base, data)
    console = console or Console(quiet=True)
    console.print(f"study {name}: {Outcome.of(study).counts.text()}")

    def tell(trial: FrozenTrial) -> None:
        console.print(trial_line(study, trial, Outcome.of(study).states[trial.number]))

    work_on(storage, definition, parent, data, tell)
    console.print("no trial is left")


def work_on(
    storage: BaseStorage,
    definition: StudyDefinition,
    parent: MlflowRun,
    data: ImageData,
    tell: Callable[[FrozenTrial], None] | None = None,
) -> None:
    """Work until no trial is left.

    Raises what ``Worker.run`` raises, KeyboardInterrupt or SystemExit also after a signal that came
    while records were on their way; RecordsWaiting: not all of the trials' records have arrived.
    """
    options = definition.options
    with suppress(Exception):  # a trial will fail of it too, and be told of
        warm_up(prepare(definition.base, data))
    study = Study(
        options.name,
        storage,
        sampler=make_sampler(options, definition.searched, definition.base),
        pruner=make_pruner(options),
    )
    with Stopping() as stopping, Deliveries(asked=lambda: stopping.asked) as deliveries:
        shared = TrialRun(definition, data, parent, deliveries, stopping.interruptible)
        Worker(study, Objective(shared), options.heartbeat, stopping, tell).run()
    stopping.raise_again()  # after a signal that came when the trials were over


def end_run_of(_study: Study, trial: FrozenTrial) -> None:
    """A trial whose worker has died: so has its run, which may still count as running."""
    run_id = trial.user_attrs.get("mlflow_run_id")
    if run_id is None:
        return
    try:
        end_dead_run(MlflowRun.known(run_id), trial.user_attrs.get("reason", ""))
    except BadTracking as error:
        log.warning("%s", error)
