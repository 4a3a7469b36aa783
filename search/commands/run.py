"""`study run`: everything is checked, then a study is made or continued, worked on and reported."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, replace

from rich.console import Console

from pipelines.console import user_console
from pipelines.data.datasets import check_batch_size
from pipelines.options import config_from
from pipelines.run import Setup, prepare
from search.algorithms.health import HealthRule
from search.algorithms.samplers import make_sampler
from search.commands.buildable import check_networks
from search.commands.open_study import OpenStudy, open_study
from search.commands.watch import Watch
from search.config import RUNNING_OPTIONS, StudyConfig
from search.definition import StudyDefinition, refuse_comparison
from search.outcome import Outcome
from search.reports.console_tables import best_table
from search.reports.report import send_report
from search.reports.study_note import study_note
from search.space.dimension_text import about_dimension
from search.space.search_space import Choice
from search.storage.database import NoStudies, open_storage
from search.storage.studies import exists, find_study
from search.storage.trial_queue import fill_queue
from search.storage.url import StorageUrl
from search.workers.pool import WorkerPool
from search.workers.work import work_on
from search.workers.worker import wait_for_others
from tracking.errors import BadOption, RecordsWaiting, TrainingFailed
from tracking.mlflow_runs.report import NOTE
from tracking.shown_commands import study_command

__all__ = ["Order", "run_study", "work_through"]

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
    trial came to an end, or one after the other failed; RecordsWaiting: the study is done and
    reported, but not all of it is in MLflow.
    """
    console = user_console()
    definition = _agreed(order)
    setup = _checked(definition)
    late: RecordsWaiting | None = None
    try:
        with open_study(order.url, definition, setup, console) as opened:
            late = _run(opened, order.url, setup, console)
    except RecordsWaiting as waiting:
        if late is None:
            raise
        raise RecordsWaiting(
            f"{waiting}; those of trials wait too: without a folder it sends all of them"
        ) from waiting
    if late is not None:
        raise late


def _run(
    opened: OpenStudy, url: StorageUrl, setup: Setup, console: Console
) -> RecordsWaiting | None:
    """The trials, and what they have come to; says that records of theirs still wait."""
    console.print(_headline(opened))
    late = None
    try:
        fill_queue(opened.study, opened.definition.options.trials)
        with Watch(opened.study, opened.definition.options, console, opened.tracked.sink):
            work_through(opened, url, setup, console)
    except RecordsWaiting as waiting:
        late = waiting  # all the same, the trials are done
    except (KeyboardInterrupt, SystemExit):
        again = study_command("run", opened.study.study_name, url.given)
        console.print(f"stopped; to go on: {again}")
        raise
    _conclude(opened, url, console)
    return late


def _agreed(order: Order) -> StudyDefinition:
    """The definition to work by: the stored study's, where there is one, or this command's."""
    stored = _stored(order)
    if stored is None:
        return order.definition if "trials" in order.given else order.definition.whole_grid()
    refuse_comparison(stored, "go on with it by its own command, layerscope compare")
    lines = order.definition.differences(stored, order.given)
    if lines:
        raise BadOption(
            f"study {order.definition.options.name!r} exists and is another one: "
            f"{'; '.join(lines)}. Leave these options out to go on with it, or choose another name"
        )
    mine = order.definition.options
    running = {name: getattr(mine, name) for name in RUNNING_OPTIONS if name in order.given}
    options = config_from(StudyConfig, stored.options.model_dump() | running)
    return replace(stored, options=options).on_this_machine(order.definition.local)


def _stored(order: Order) -> StudyDefinition | None:
    if order.url.missing_file:
        return None
    name = order.definition.options.name
    try:
        storage = open_storage(order.url, create=False)
    except NoStudies:
        return None
    return StudyDefinition.of(find_study(storage, name)) if exists(storage, name) else None


def _checked(definition: StudyDefinition) -> Setup:
    """Everything that can be refused is refused here; gives the base configuration's parts."""
    definition.check()
    if definition.grid_size and definition.options.trials < definition.grid_size:
        log.warning(
            "trials=%d of the %d combinations of the grid",
            definition.options.trials,
            definition.grid_size,
        )
    options, base, space = definition.options, definition.base, definition.space
    HealthRule(options.health)
    make_sampler(options, space, base)
    setup = prepare(base)
    sizes = space.dimensions.get("batch_size")
    largest = max(sizes.values) if isinstance(sizes, Choice) else getattr(sizes, "high", 0)
    if largest:
        with about_dimension("batch_size", space.describe()["batch_size"]):
            check_batch_size(base.model_copy(update={"batch_size": int(largest)}), setup.data)
    check_networks(definition, setup.data)
    cores = os.cpu_count() or 1
    if options.workers > cores:
        log.warning("workers=%d on %d cores: they will wait for each other", options.workers, cores)
    return setup


def work_through(opened: OpenStudy, url: StorageUrl, setup: Setup, console: Console) -> None:
    """Have every trial that waits done, by this process, a pool, or workers elsewhere.

    Raises what ``work_on``, ``WorkerPool.work`` and ``wait_for_others`` raise.
    """
    study, definition = opened.study, opened.definition
    workers, number = definition.options.workers, Outcome.of(study).counts
    if number.over:
        return
    if workers == 1:
        work_on(opened.storage, definition, opened.tracked.run, setup.data)
    elif workers > 1:
        # No more of them than there are trials: each takes seconds to start.
        size = min(workers, number.waiting + number.running)
        WorkerPool(study.study_name, url, size, definition.local).work()
    else:
        helper = study_command("worker", study.study_name, url.given)
        console.print(f"waiting for workers: {helper}")
        wait_for_others(study, definition.options.heartbeat)


def _conclude(opened: OpenStudy, url: StorageUrl, console: Console) -> None:
    study, options = opened.study, opened.definition.options
    sink, folder = opened.tracked.sink, opened.tracked.directory / "study"
    send_report(study, opened.definition, folder, sink, url.given)
    sink.tags({NOTE: study_note(study, url.given)})
    if Outcome.of(study).best is None:
        raise TrainingFailed(f"study {options.name!r}: no trial was trained to its end")
    console.print(best_table(study, url.given))


def _headline(opened: OpenStudy) -> str:
    study, definition = opened.study, opened.definition
    space = "\n".join(f"  {k} = {text}" for k, text in definition.searched.describe().items())
    done = Outcome.of(study).counts.done
    plan = definition.options.plan.text
    judged_on_the_way = "not judged on the way" if plan == "none" else f"judged by {plan}"
    return (
        f"study {study.study_name}: {definition.options.trials} trials, {done} of them done; "
        f"{definition.options.sampler}, {judged_on_the_way}\n{space}"
    )
