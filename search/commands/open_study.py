"""A study opened for `study run`: its database, its run in MLflow, what its workers must know."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from optuna import Study
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import _CachedStorage
from rich.console import Console

from pipelines.config import LOCAL_OPTIONS
from pipelines.lr_range import lr_range_test
from pipelines.lr_range_config import LrRangeConfig
from pipelines.reports import log_lr_range, where_to_look
from pipelines.run import Setup
from search.config import RUNNING_OPTIONS
from search.definition import DEFINITION, MLFLOW_RUN, StudyDefinition
from search.storage.database import open_storage
from search.storage.studies import create, exists, find_study
from search.storage.url import StorageUrl
from search.workers.work import end_run_of
from tracking.errors import BadTracking, TrainingFailed
from tracking.mlflow_runs.attach import link_caller
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import TrackedRun, check_tracking, tracked
from tracking.shown_commands import study_command
from tracking.spool import SpoolInUse

__all__ = ["OpenStudy", "open_study"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class OpenStudy:
    """A study that this process runs."""

    study: Study
    storage: _CachedStorage
    definition: StudyDefinition
    tracked: TrackedRun
    """Its run in MLflow."""


@contextmanager
def open_study(
    url: StorageUrl, definition: StudyDefinition, setup: Setup, console: Console
) -> Iterator[OpenStudy]:
    """Make the study, or open it again; its run in MLflow ends with the context.

    Raises BadTracking: the storage or MLflow cannot be used, and nothing has been made, or another
    process runs the study; TrainingFailed: the range test found no learning rate.
    """
    if url.missing_file:
        check_tracking()  # a database is made only where there can be a run in MLflow, too
    storage = open_storage(url, heartbeat=definition.options.heartbeat, retry=end_run_of)
    with _run(storage, url, definition, console) as opened:
        if exists(storage, definition.options.name):
            study = find_study(storage, definition.options.name)
            if study.user_attrs[MLFLOW_RUN] != opened.run.run_id:
                raise _just_made(definition.options.name, url)
            definition = _still(definition, StudyDefinition.of(study))
            study.set_user_attr(DEFINITION, definition.to_json())  # it may want more trials now
        else:
            study, definition = _made(storage, url, definition, setup, opened, console)
        if definition.prior is not None and not study.get_trials(deepcopy=False):
            first = {"lr_max": definition.prior}
            study.enqueue_trial(definition.searched.params(first, definition.base))
        opened.sink.params(_params(definition))
        opened.sink.tags({"layerscope.study": study.study_name, "layerscope.storage": url.shown})
        yield OpenStudy(study, storage, definition, opened)


def _still(definition: StudyDefinition, stored: StudyDefinition) -> StudyDefinition:
    """The definition with what only the stored study knows.

    Raises BadTracking: meanwhile somebody has made another study of that name.
    """
    every = {*type(definition.options).model_fields, *type(definition.base).model_fields, "space"}
    if lines := definition.differences(stored, every):
        raise BadTracking(
            f"study {definition.options.name!r} has just been made by another command, and is "
            f"another one: {'; '.join(lines)}. Choose another name"
        )
    return replace(definition, prior=stored.prior)


def _just_made(name: str, url: StorageUrl) -> BadTracking:
    return BadTracking(
        f"study {name!r} has just been made by another command; to help it: "
        + study_command("worker", name, url.given)
    )


@contextmanager
def _run(
    storage: _CachedStorage, url: StorageUrl, definition: StudyDefinition, console: Console
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
            link_caller(opened.run, "layerscope.study_run")
            yield opened
    except SpoolInUse:
        raise BadTracking(
            f"study {name!r} is being run by another command on this machine; to help it: "
            + study_command("worker", name, url.given)
        ) from None


def _made(
    storage: _CachedStorage,
    url: StorageUrl,
    definition: StudyDefinition,
    setup: Setup,
    opened: TrackedRun,
    console: Console,
) -> tuple[Study, StudyDefinition]:
    name = definition.options.name
    if definition.options.lr_prior:
        definition = _with_prior(definition, setup, opened, console)
    try:
        return create(storage, definition, opened.run.run_id), definition
    except DuplicatedStudyError:
        raise _just_made(name, url) from None


def _with_prior(
    definition: StudyDefinition, setup: Setup, opened: TrackedRun, console: Console
) -> StudyDefinition:
    """The definition with the range test's suggestion, around which the space is then."""
    result = lr_range_test(setup, LrRangeConfig())
    if result.lrs:
        log_lr_range(result, opened.directory / "lr_range", opened.sink)
    if result.trouble:
        raise TrainingFailed(f"lr_prior: {result.trouble}")
    method, found = next(iter(result.suggestions.items()))
    lr = float(f"{found:.3g}")
    console.print(f"range test: a good lr_max is {lr:g} ({method})")
    return replace(definition, prior=lr)


def _params(definition: StudyDefinition) -> Mapping[str, str]:
    options = definition.options.model_dump(mode="json", exclude=set(RUNNING_OPTIONS))
    own = {f"study.{name}": str(value) for name, value in options.items() if value is not None}
    space = {f"space.{name}": text for name, text in definition.searched.describe().items()}
    # MLflow takes no other value later; each trial's run says which device it had.
    base = {k: v for k, v in definition.base.flat().items() if k not in LOCAL_OPTIONS}
    return {**base, **own, **space}
