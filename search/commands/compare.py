"""`layerscope compare`: the same training with several values of an option and several seeds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from pipelines.console import user_console
from pipelines.data.datasets import check_batch_size
from pipelines.run import Setup, make_model, prepare
from pipelines.snapshot import RandomState
from search.commands.open_study import OpenStudy, open_study
from search.commands.run import work_through
from search.commands.watch import Watch
from search.comparisons.pairs import fill_pairs
from search.comparisons.report import comparison_note, comparison_table, send_comparison
from search.comparisons.result import COMMAND, VALID_IMAGES, comparison_of
from search.definition import StudyDefinition
from search.storage.database import NoStudies, open_storage
from search.storage.studies import exists, find_study
from search.storage.url import StorageUrl
from search.trials.trial_data import TrialData
from tracking.errors import BadInput, BadOption, RecordsWaiting, TrainingFailed
from tracking.mlflow_runs.report import NOTE
from tracking.shown_commands import compare_command

__all__ = ["CompareOrder", "run_comparison"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class CompareOrder:
    """What a command wants."""

    definition: StudyDefinition
    seeds: int
    given: Mapping[str, Any]
    """The options as they were given, for the command that repeats it."""
    url: StorageUrl


def run_comparison(order: CompareOrder) -> None:
    """Make the comparison or go on with it, and report what it shows.

    Raises BadInput: something cannot be used; nothing has been created then. TrainingFailed: no
    training came to an end, or one after the other failed; RecordsWaiting: it is done and reported,
    but not all of it is in MLflow.
    """
    console = user_console()
    definition = _agreed(order)
    setup = _checked(definition)
    with open_study(order.url, definition, setup, console) as opened:
        late = _run(opened, order, setup, console)
    if late is not None:
        raise late


def _run(
    opened: OpenStudy, order: CompareOrder, setup: Setup, console: Console
) -> RecordsWaiting | None:
    study, definition, late = opened.study, opened.definition, None
    compared = definition.compared
    assert compared is not None
    console.print(_headline(definition, order.seeds))
    command = compare_command(order.given)
    study.set_user_attr(VALID_IMAGES, len(setup.data.valid))
    study.set_user_attr(COMMAND, command)
    fill_pairs(study, compared, definition.base.seed, order.seeds)
    try:
        with Watch(study, definition.options, console, opened.tracked.sink, compares=True):
            work_through(opened, order.url, setup, console)
    except RecordsWaiting as waiting:
        late = waiting  # all the same, the trainings are done
    except (KeyboardInterrupt, SystemExit):
        console.print(f"stopped; to go on: {command}")
        raise
    result = comparison_of(study, definition)
    sink = opened.tracked.sink
    send_comparison(study, definition, opened.tracked.directory / "comparison", sink)
    sink.tags({NOTE: comparison_note(result)})
    if not any(arm.complete for arm in result.arms):
        raise TrainingFailed(f"comparison {result.name}: nothing was trained to its end")
    console.print(comparison_table(result))
    return late


def _agreed(order: CompareOrder) -> StudyDefinition:
    """This command's definition, which a comparison of that name must have had too."""
    mine = order.definition
    name = mine.options.name
    stored = None
    if not order.url.missing_file:
        try:
            storage = open_storage(order.url, create=False)
            if exists(storage, name):
                stored = StudyDefinition.of(find_study(storage, name))
        except NoStudies:
            pass
    if stored is None:
        return mine
    own = {*type(mine.base).model_fields, *type(mine.options).model_fields}
    assert mine.compared is not None
    lines = mine.differences(stored, own - {"heartbeat", mine.compared.factor})
    if lines:
        raise BadOption(
            f"{name!r} exists and is another one: {'; '.join(lines)}. Leave --name out, or choose "
            "another one"
        )
    return replace(mine, options=stored.options.model_copy(update=_running(mine, stored)))


def _running(mine: StudyDefinition, stored: StudyDefinition) -> dict[str, int]:
    """It never has fewer seeds than before."""
    trials = max(mine.options.trials, stored.options.trials)
    return {"trials": trials, "workers": mine.options.workers}


def _checked(definition: StudyDefinition) -> Setup:
    """Everything that can be refused is refused here; gives the base configuration's parts."""
    definition.check()
    setup = prepare(definition.base)
    compared = definition.compared
    assert compared is not None
    before, images = RandomState(), TrialData(definition.base, setup.data)
    try:
        for value, text in zip(compared.values, compared.texts(), strict=True):
            own = compared.options(value, definition.base.seed, definition.base)
            _check_value(definition, own, images, f"{compared.factor}={text}")
    finally:
        before.restore()
    return setup


def _check_value(
    definition: StudyDefinition, own: Mapping[str, Any], images: TrialData, about: str
) -> None:
    config = definition.with_options(own)
    try:
        data = images.of(config)  # other ones where the factor is train_limit or image_size
        check_batch_size(config, data)
        make_model(config, data)
    except BadInput as error:
        raise BadOption(f"values: {about} could not be trained: {error}") from None


def _headline(definition: StudyDefinition, seeds: int) -> str:
    compared, base = definition.compared, definition.base
    assert compared is not None
    return (
        f"comparison {definition.options.name}: {compared.factor} = "
        f"{', '.join(compared.texts())}, each with {seeds} seeds from {base.seed} on"
    )
