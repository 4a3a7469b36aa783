"""`layerscope study`: run, worker, status, best, trials, report, retrain; `layerscope compare`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from pipelines.base_options import Options
from pipelines.config import LOCAL_OPTIONS, RunConfig
from pipelines.flags import config_file, config_flags
from pipelines.options import config_from, configs_from, given_options
from search.config import CompareConfig, StudyConfig
from search.definition import StudyDefinition, comparison_definition
from search.space.compared import Compared
from search.space.search_space import SearchSpace
from search.storage.url import DEFAULT_STORAGE, storage_url
from tracking.errors import BadOption
from tracking.quick_imports import quick_imports

__all__ = ["compare", "study"]

F = TypeVar("F", bound=Callable[..., Any])


def storage_option(command: F) -> F:
    """Where the studies are."""
    return click.option(
        "--storage",
        default="",
        metavar="URL",
        help="Database of the studies, or file:PATH of a file that holds its URL. A URL with a "
        "password is not for the command line: put it into OPTUNA_STORAGE or a file.  "
        f"[OPTUNA_STORAGE, or {DEFAULT_STORAGE}; under mlflow run beside its own file]",
    )(command)


def name_option(command: F) -> F:
    """Which study."""
    return click.option("--name", required=True, metavar="TEXT", help="Name of the study.")(command)


@click.group()
def study() -> None:
    """Search learning-rate and momentum schedules, batch sizes and any other option of `train`."""


@click.command()
@storage_option
@config_file
@config_flags(CompareConfig)
@config_flags(RunConfig)
def compare(storage: str, config_path: Path | None, **flags: Any) -> None:
    """Compare values of an option, with several seeds each.

    Does it matter? The runs of one seed are a pair: same split, same order, same first weights.
    Every option of `train` may be given; it holds for all runs. Results are of validation data.
    """
    given = given_options(flags, config_path)
    options, base = _compared_configs(given)
    if "MLFLOW_RUN_ID" in os.environ:
        unasked = _at_default(options) | _at_default(base)
        if options.factor in given:  # in whose place the base has the first value
            alone = {options.factor: given[options.factor]}
            unasked |= {*alone} & _at_default(config_from(RunConfig, alone))
        given = {name: value for name, value in given.items() if name not in unasked}
    definition = comparison_definition(options, base, given)
    url = storage_url(storage)
    shown = {"storage": storage} if storage else {}
    with quick_imports():
        from search.commands.compare import CompareOrder, run_comparison

    run_comparison(CompareOrder(definition, options.seeds, given | shown, url))


def _compared_configs(given: Mapping[str, Any]) -> tuple[CompareConfig, RunConfig]:
    own = {name: value for name, value in given.items() if name in CompareConfig.model_fields}
    options = config_from(CompareConfig, own)
    compared = Compared.read(options.factor, options.values, options.lr_scaling)
    rest = {name: value for name, value in given.items() if name not in own}
    return options, config_from(RunConfig, compared.base_options(rest))


@study.command()
@click.option(
    "--space",
    "space_texts",
    multiple=True,
    metavar="NAME=VALUES",
    help="What is searched: NAME=log:LOW:HIGH, NAME=LOW:HIGH, NAME=A,B,C. May be given several "
    "times, or once with spaces between.  [the space in search/space/default.yaml]",
)
@click.option(
    "--space-file",
    type=click.Path(path_type=Path),
    help="YAML file with the space; --space overrides it.",
)
@storage_option
@config_file
@config_flags(StudyConfig)
@config_flags(RunConfig)
def run(
    space_texts: tuple[str, ...],
    space_file: Path | None,
    storage: str,
    config_path: Path | None,
    **flags: Any,
) -> None:
    """Make a study, or go on with it, up to its number of trials.

    Every option of `train` may be given: it holds for all trials, unless the space varies it.
    """
    given = given_options(flags, config_path)
    options, base = configs_from(StudyConfig, RunConfig, given)
    if not options.name.strip():
        raise BadOption("name is missing; give the study one: --name NAME")
    texts = [text for several in space_texts for text in several.split()]
    if space_texts and not texts:
        raise BadOption("space is empty; give NAME=VALUES, or leave --space out")
    space = SearchSpace.read(texts, space_file, lr_scaling=options.lr_scaling)
    definition = StudyDefinition(base, options, space)
    url = storage_url(storage)
    names = {*given, *(["space"] if texts or space_file else [])}
    if "MLFLOW_RUN_ID" in os.environ:
        # `mlflow run` gives every parameter of its entry point, and nobody has asked for defaults.
        names -= {*_at_default(options), *_at_default(base)}
    # Optuna, torch and MLflow take seconds to import: not for --help, and not to refuse an option.
    with quick_imports():
        from search.commands.run import Order, run_study

    run_study(Order(definition, names, url))


def _at_default(options: Options) -> set[str]:
    fields = type(options).model_fields
    return {name for name, field in fields.items() if getattr(options, name) == field.default}


@study.command()
@name_option
@storage_option
@config_flags(RunConfig, LOCAL_OPTIONS)
def worker(name: str, storage: str, **local: str | None) -> None:
    """Help with a study, from this machine or another.

    The study is one that `study run` has made. The worker ends when no trial is left. It needs the
    same storage and the same MLflow server (MLFLOW_TRACKING_URI).
    """
    url = storage_url(storage)
    with quick_imports():
        from pipelines.console import user_console
        from search.workers.work import work

    work(name, url, given_options(local), user_console())


@study.command()
@name_option
@storage_option
def status(name: str, storage: str) -> None:
    """How far a study is.

    On a terminal the table lives while trials run.
    """
    url = storage_url(storage)
    from search.commands.show import show_status

    show_status(name, url)


@study.command()
@name_option
@storage_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the best configuration to this YAML file too, for `train --config`.",
)
def best(name: str, storage: str, output: Path | None) -> None:
    """The best trial and its options, or the front of two objectives."""
    url = storage_url(storage)
    from search.commands.show import show_best

    show_best(name, url, output)


@study.command()
@name_option
@storage_option
@click.option("--json", "form", flag_value="json", help="As a list of JSON objects.")
@click.option("--csv", "form", flag_value="csv", help="As comma-separated values.")
def trials(name: str, storage: str, form: str | None) -> None:
    """Every trial with its state, value and parameters."""
    url = storage_url(storage)
    from search.commands.show import show_trials

    show_trials(name, url, form or "")


@study.command()
@name_option
@storage_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write it to this folder, and not to the study's run in MLflow.",
)
def report(name: str, storage: str, output: Path | None) -> None:
    """Make study.html, pictures, trials.parquet and best.yaml again."""
    url = storage_url(storage)
    from search.commands.show import make_report

    make_report(name, url, output)


@study.command()
@name_option
@storage_option
@click.option("--trial", type=int, metavar="N", help="Another trial than the best one.")
@click.option(
    "--register",
    metavar="NAME",
    help="Name of the model in MLflow's registry.  [the study's name]",
)
@config_flags(RunConfig, LOCAL_OPTIONS)
def retrain(
    name: str, storage: str, trial: int | None, register: str | None, **local: str | None
) -> None:
    """Train the best options on all the training data.

    With validation data too; the model is tested once, and registered in MLflow.
    """
    url = storage_url(storage)
    with quick_imports():
        from search.commands.retrain import retrain_best

    model = name if register is None else register
    retrain_best(name, url, trial, model, given_options(local))
