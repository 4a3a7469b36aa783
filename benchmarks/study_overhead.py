"""What a study costs beside the bare training runs it is made of.

    python -m benchmarks.study_overhead [--rounds 5] [--trials 20]

Twenty one-epoch trials on digits, unpruned, in one worker: from the making of the study to the last
record in MLflow. Beside them the same configurations trained one after the other in this process:
each a run of its own in MLflow; recorded to disk (tables and pictures) but with neither Optuna nor
MLflow; and not recorded at all. Imports are done before; the process that sends to MLflow runs from
the warm-up on.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.runs import EXPERIMENT, fresh_store
from benchmarks.timing import (
    Target,
    interleaved,
    summary_table,
    targets_table,
    write_report,
)
from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset
from pipelines.run import prepare, train
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.space.search_space import SearchSpace
from search.storage.database import open_storage
from search.storage.studies import create
from search.storage.trial_queue import fill_queue
from search.storage.url import storage_url
from search.workers.work import work_on
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import tracked_run

RESULTS = Path(__file__).parent / "results"
STUDY, TRACKED = "study", "bare runs, in MLflow"
RECORDED, BARE = "bare runs, recorded", "bare runs, not recorded"
TARGETS = (Target(STUDY, TRACKED, 1.15), Target(STUDY, RECORDED, 1.15), Target(STUDY, BARE))


def run_study(definition: StudyDefinition, data: ImageData) -> tuple[float, list[RunConfig]]:
    """Seconds of a whole study, and its trials' configurations."""
    with fresh_store() as folder:
        began = time.perf_counter()
        storage = open_storage(storage_url(f"sqlite:///{folder}/studies.db"))
        parent = MlflowRun.open(EXPERIMENT, "study")
        study = create(storage, definition, parent.run_id)
        fill_queue(study, definition.options.trials)
        work_on(storage, definition, parent, data)
        parent.end("FINISHED", time.time())
        seconds = time.perf_counter() - began
        trials = study.get_trials()
    assert all(trial.state.name == "COMPLETE" for trial in trials)
    return seconds, [definition.with_options(trial.user_attrs["config"]) for trial in trials]


def run_tracked(configs: Sequence[RunConfig], data: ImageData) -> float:
    """Seconds of the same trainings in a row, each a run in MLflow."""
    with fresh_store():
        began = time.perf_counter()
        for config in configs:
            with tracked_run(EXPERIMENT) as tracked:
                train(prepare(config, data), tracked.directory, sink=tracked.sink, test=False)
        return time.perf_counter() - began


def run_bare(configs: Sequence[RunConfig], data: ImageData, *, record: bool) -> float:
    """Seconds of the same trainings in a row."""
    began = time.perf_counter()
    for config in configs:
        with tempfile.TemporaryDirectory() as folder:
            setup = prepare(config.model_copy(update={"record": record}), data)
            train(setup, Path(folder), test=False)
    return time.perf_counter() - began


@click.command()
@click.option("--rounds", default=5)
@click.option("--trials", default=20)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "study_overhead.md")
def main(rounds: int, trials: int, output: Path) -> None:
    """Measure and write benchmarks/results/study_overhead.md."""
    base = RunConfig(epochs=1, report=False, log_model=False)
    options = StudyConfig(
        name="overhead", trials=trials, sampler="random", pruner="none", health="none"
    )
    definition = StudyDefinition(base, options, SearchSpace.read())
    data = load_dataset(base)
    _, configs = run_study(definition, data)
    # As the commands do after their imports (tracking/quick_imports.py): a collection that looks at
    # half a million objects takes as long as a training here, and may fall into any of the series.
    gc.collect()
    gc.freeze()
    series = interleaved(
        {
            STUDY: lambda: run_study(definition, data)[0],
            TRACKED: lambda: run_tracked(configs, data),
            RECORDED: lambda: run_bare(configs, data, record=True),
            BARE: lambda: run_bare(configs, data, record=False),
        },
        rounds,
    )
    rows = [
        *targets_table(series, TARGETS),
        "",
        *summary_table(f"seconds for {trials} one-epoch trainings on digits", series),
    ]
    command = f"python -m benchmarks.study_overhead --rounds {rounds} --trials {trials}"
    write_report(output, "What a study costs", command, rows)


if __name__ == "__main__":
    main()
