"""`study run`: everything is checked, then a study is made or continued, worked on and reported."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from rich.console import Console

from pipelines.config import LrRangeConfig, RunConfig
from pipelines.data.datasets import check_batch_size
from pipelines.lr_range import lr_range_test
from pipelines.options import config_from
from pipelines.progress import user_console
from pipelines.reports import log_lr_range, where_to_look
from pipelines.run import Setup, prepare
from search.config import RUNNING_OPTIONS, StudyConfig
from search.crew import Crew
from search.definition import DEFINITION, LOCAL_OPTIONS, MLFLOW_RUN, StudyDefinition
from search.dimensions import judged
from search.health import HealthRule
from search.outcome import best, counts, front
from search.report import write_report
from search.samplers import make_sampler
from search.space import Choice
from search.storage import open_storage
from search.storage_url import StorageUrl
from search.studies import create, exists, find_study
from search.tables import best_table
from search.trial_queue import fill_queue
from search.watch import Watch
from search.worker import wait_for_others
from search.working import end_run_of, work_on
from tracking.errors import BadInput, BadOption, BadTracking, TrainingFailed
from tracking.mlflow_run import MlflowRun
from tracking.session import TrackedRun, tracked
from tracking.spool import SpoolInUse

__all__ = ["Order", "run_study"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class Order:
    """What a command wants: a study's definition, and which of its options were really given."""

    definition: StudyDefinition
    given: Collection[str]
    url: StorageUrl


def run_study(order: Order) -> None:
    """Make the study or go on with it, up to its number of trials.

    Raises BadInput: something cannot be used; nothing has been created then. TrainingFailed: no
    trial came to an end, or one after the other failed.
    """
    console = user_console()
    definition = _agreed(order)
    setup = _checked(definition)
    with (
        _database(order.url, definition.options.heartbeat) as storage,
        _study_run(storage, definition, console) as opened,
    ):
        study = _opened_study(storage, definition, setup, opened, console)
        definition = StudyDefinition.of(study).on_this_machine(_local(definition.base))
        fill_queue(study, definition.options.trials)
        console.print(_headline(study, definition))
        try:
            with Watch(study, definition.options, console, opened.sink):
                _work(order, storage, definition, opened, setup, study, console)
        except (KeyboardInterrupt, SystemExit):
            console.print(f"stopped; to go on: {_command('run', study.study_name)}")
            raise
        _conclude(study, definition, opened, console)


def _agreed(order: Order) -> StudyDefinition:
    """The definition to work by: the stored study's, where there is one, or this command's."""
    stored = _stored(order)
    if stored is None:
        return order.definition
    lines = order.definition.differences(stored, order.given)
    if lines:
        raise BadOption(
            f"study {order.definition.options.name!r} exists and is another one: "
            f"{'; '.join(lines)}. Leave these options out to go on with it, or choose another name"
        )
    mine = order.definition.options
    running = {name: getattr(mine, name) for name in RUNNING_OPTIONS if name in order.given}
    options = config_from(StudyConfig, stored.options.model_dump() | running)
    given = {k: v for k, v in _local(order.definition.base).items() if k in order.given}
    return replace(stored, options=options).on_this_machine(given)


def _stored(order: Order) -> StudyDefinition | None:
    if order.url.missing_file:
        return None
    name = order.definition.options.name
    storage = open_storage(order.url, create=False)
    return StudyDefinition.of(find_study(storage, name)) if exists(storage, name) else None


def _checked(definition: StudyDefinition) -> Setup:
    """Everything that can be refused is refused here; gives the base configuration's parts."""
    definition.check()
    options, base, space = definition.options, definition.base, definition.space
    HealthRule(options.health)
    make_sampler(options, space, base)
    setup = prepare(base)
    sizes = space.dimensions.get("batch_size")
    largest = max(sizes.values) if isinstance(sizes, Choice) else getattr(sizes, "high", 0)
    if largest:
        with judged("batch_size", space.describe()["batch_size"]):
            check_batch_size(base.model_copy(update={"batch_size": int(largest)}), setup.data)
    cores = os.cpu_count() or 1
    if options.workers > cores:
        log.warning("workers=%d on %d cores: they will wait for each other", options.workers, cores)
    if "," in options.objective and (options.pruner != "none" or HealthRule(options.health)):
        log.info("objective=%s: Optuna does not prune with two objectives", options.objective)
    return setup


@contextmanager
def _database(url: StorageUrl, heartbeat: int) -> Iterator[BaseStorage]:
    """The studies' database. A file made for a study that then could not be made goes again."""
    missing = url.missing_file
    storage = open_storage(url, heartbeat=heartbeat, retry=end_run_of)
    try:
        yield storage
    except BadInput:
        if missing and not storage.get_all_studies():
            storage.remove_session()
            url.remove_file()
        raise


@contextmanager
def _study_run(
    storage: BaseStorage, definition: StudyDefinition, console: Console
) -> Iterator[TrackedRun]:
    """The study's run in MLflow, new or opened again; the last lines say where to look at it."""
    name, base = definition.options.name, definition.base
    if exists(storage, name):
        run_id = find_study(storage, name).user_attrs[MLFLOW_RUN]
        begin = partial(MlflowRun.known, run_id, reopen=True)
    else:
        begin = partial(MlflowRun.open, base.experiment, base.run_name or name)
    try:
        with ExitStack() as last, tracked(begin) as opened:
            last.callback(where_to_look, console, opened)
            _link_caller(opened.run)
            yield opened
    except SpoolInUse:
        raise BadTracking(
            f"study {name!r} is being run by another command on this machine; to help it: "
            + _command("worker", name)
        ) from None


def _link_caller(run: MlflowRun) -> None:
    """A run that `mlflow run` has begun, where the study has one already, says which that is."""
    caller = os.environ.get("MLFLOW_RUN_ID")
    if caller and caller != run.run_id:
        MlflowRun.known(caller).tag({"layerscope.study_run": run.run_id})


def _opened_study(
    storage: BaseStorage,
    definition: StudyDefinition,
    setup: Setup,
    opened: TrackedRun,
    console: Console,
) -> Study:
    name = definition.options.name
    if exists(storage, name):
        study = find_study(storage, name)
        study.set_user_attr(DEFINITION, definition.to_json())  # the number of trials may be new
        return study
    first: dict[str, Any] = {}
    if definition.options.lr_prior:
        definition, first = _with_prior(definition, setup, opened, console)
    study = create(storage, definition, opened.run.run_id)
    if first:
        study.enqueue_trial(first)
    opened.sink.params(_params(definition))
    opened.sink.tags({"layerscope.study": name})
    return study


def _with_prior(
    definition: StudyDefinition, setup: Setup, opened: TrackedRun, console: Console
) -> tuple[StudyDefinition, dict[str, Any]]:
    """The space around the range test's suggestion, and the parameters of a trial that uses it."""
    result = lr_range_test(setup, LrRangeConfig())
    if result.lrs:
        log_lr_range(result, opened.directory / "lr_range", opened.sink)
    if result.trouble:
        raise TrainingFailed(f"lr_prior: {result.trouble}")
    method, lr = next(iter(result.suggestions.items()))
    console.print(f"range test: a good lr_max is {lr:.2e} ({method})")
    centred = replace(definition, prior=lr)
    return centred, centred.searched.params({"lr_max": lr}, definition.base)


def _params(definition: StudyDefinition) -> Mapping[str, str]:
    options = definition.options.model_dump(mode="json", exclude=set(RUNNING_OPTIONS))
    own = {f"study.{name}": str(value) for name, value in options.items() if value is not None}
    space = {f"space.{name}": text for name, text in definition.searched.describe().items()}
    return {**definition.base.flat(), **own, **space}


def _work(
    order: Order,
    storage: BaseStorage,
    definition: StudyDefinition,
    opened: TrackedRun,
    setup: Setup,
    study: Study,
    console: Console,
) -> None:
    workers = definition.options.workers
    if workers == 1:
        work_on(storage, definition, opened.run, setup.data)
    elif workers > 1:
        Crew(definition.options.name, order.url, workers, _local(definition.base)).work()
    else:
        console.print(f"waiting for workers: {_command('worker', study.study_name)}")
        wait_for_others(study, definition.options.heartbeat)


def _conclude(
    study: Study, definition: StudyDefinition, opened: TrackedRun, console: Console
) -> None:
    options = definition.options
    two = "," in options.objective
    folder = opened.directory / "study"
    for path in write_report(study, definition.base, options.objective, options.trials, folder):
        opened.sink.artifact(path, path.parent.relative_to(folder).as_posix().strip("."))
    found = front(study) if two else [best(study)]
    if not any(found):
        raise TrainingFailed(f"study {options.name!r}: no trial was trained to its end")
    console.print(best_table(study))


def _headline(study: Study, definition: StudyDefinition) -> str:
    space = "\n".join(f"  {k} = {text}" for k, text in definition.searched.describe().items())
    done = counts(study.get_trials(deepcopy=False)).done
    return (
        f"study {study.study_name}: {definition.options.trials} trials, {done} of them done; "
        f"{definition.options.sampler}, judged by {definition.options.plan.text}\n{space}"
    )


def _command(verb: str, name: str) -> str:
    return shlex.join(["layerscope", "study", verb, "--name", name])


def _local(base: RunConfig) -> dict[str, Any]:
    return {name: getattr(base, name) for name in LOCAL_OPTIONS}
