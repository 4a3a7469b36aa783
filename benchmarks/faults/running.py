"""Running cases: each in a folder of its own, several at a time in worker processes."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic import ValidationError

from benchmarks.faults.cases import Case
from benchmarks.faults.plants import Plant, lifts, plant_into
from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.fit import Fit
from pipelines.run import prepare, train
from tracking.errors import BadInput, TrainingFailed

__all__ = ["CaseResult", "Job", "case_job", "run_all", "run_case", "run_job", "twin_job"]

RESULT = "result.json"
RECORDS = ("hyperparameters", "activations", "gradients", "updates")
DIVERGED = 2.0
"""A loss of so many times the first step's is called divergence."""
MACHINE = {"device": "cpu", "threads": 1, "report": False}


@dataclass(frozen=True)
class CaseResult:
    """What a run came to; its records lie in ``folder``."""

    name: str
    folder: Path
    accuracy: float
    """Of the last validation; NaN where training failed or could not begin."""
    seconds: float
    steps: int = 0
    diverged: int | None = None
    """First step with a loss of DIVERGED times the first step's, or none that is a number."""
    error: str = ""
    """Why training failed or could not begin, or empty."""
    epochs: tuple[tuple[float, float], ...] = ()
    """Validation loss and accuracy after each epoch."""
    recipe: str = ""
    """Short hash of what was run."""

    def save(self) -> None:
        """Write result.json beside the records."""
        values = asdict(self) | {"folder": None}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RESULT).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> CaseResult | None:
        """What ``save`` wrote into a folder; None where it did not."""
        path = folder / RESULT
        if not path.exists():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        epochs = tuple((loss, accuracy) for loss, accuracy in values.pop("epochs"))
        return cls(**(values | {"folder": folder, "epochs": epochs}))


@dataclass(frozen=True)
class Job:
    """A run to do: options, what is planted into it, and the folder for its records."""

    name: str
    options: Mapping[str, Any]
    plant: Plant | None
    folder: Path

    @property
    def recipe(self) -> str:
        """Short hash of what is run."""
        plant = self.plant and asdict(self.plant)
        text = json.dumps([dict(self.options), plant], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def done(self) -> CaseResult | None:
        """The result in the folder; None where there is none, or another run's."""
        result = CaseResult.load(self.folder)
        return result if result is not None and result.recipe == self.recipe else None


def case_job(case: Case, folder: Path, overrides: Mapping[str, Any] | None = None) -> Job:
    """A case, with its fault unless ``overrides`` lift it.

    ``dataset`` without a value stands for data that has been put right: it changes nothing but
    lifts a plant in the data.
    """
    changed = dict(overrides or {})
    lifted = any(lifts(case.plant, option) for option in changed)
    if not changed.get("dataset", True):
        del changed["dataset"]
    plant = None if lifted else case.plant
    return Job(case.name, {**case.overrides, **changed}, plant, folder)


def twin_job(case: Case, folder: Path) -> Job:
    """A case's healthy twin."""
    return Job(f"{case.name} (twin)", case.twin, None, folder)


def run_case(case: Case, folder: Path, overrides: Mapping[str, Any] | None = None) -> CaseResult:
    """Train a case into a folder; see ``case_job``."""
    return run_job(case_job(case, folder, overrides))


def run_job(job: Job) -> CaseResult:
    """Train, and save what it came to; records of an earlier run in the folder are removed.

    Options that cannot be used give a result with an error, as a training that fails does.
    """
    for kind in RECORDS:
        shutil.rmtree(job.folder / kind, ignore_errors=True)
    watch, error, began = _Watch(), "", time.perf_counter()
    try:
        config = RunConfig(**{**job.options, **MACHINE})
        setup, callbacks = plant_into(prepare(config), job.plant)
        with _without_pictures():
            train(setup, job.folder, [*callbacks, watch], test=False)
    except (TrainingFailed, BadInput, ValidationError) as failure:
        error = str(failure)
    result = CaseResult(
        job.name,
        job.folder,
        accuracy=math.nan if error else watch.epochs[-1][1],
        seconds=time.perf_counter() - began,
        steps=watch.steps,
        diverged=watch.diverged,
        error=error,
        epochs=tuple(watch.epochs),
        recipe=job.recipe,
    )
    result.save()
    return result


class _Watch(Callback):
    """What a run came to, also where it fails later."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []
        self.steps = 0
        self.diverged: int | None = None
        self._first = math.nan

    def after_batch(self, fit: Fit) -> None:
        loss = float(fit.loss)
        self._first = loss if fit.step == 0 else self._first
        # Written so that NaN is above the limit.
        if self.diverged is None and not loss < DIVERGED * self._first:
            self.diverged = fit.step

    def after_epoch(self, fit: Fit) -> None:
        self.epochs.append((fit.metrics["valid/loss"], fit.metrics["valid/accuracy"]))

    def cleanup_fit(self, fit: Fit) -> None:
        self.steps = fit.step


@contextmanager
def _without_pictures() -> Iterator[None]:
    """A run's pictures take longer than these short trainings, and nobody looks at them."""
    with mock.patch("tracking.recording.draw", return_value=()):
        yield


def run_all(
    jobs: Sequence[Job], workers: int, done: Callable[[CaseResult], None] | None = None
) -> list[CaseResult]:
    """Run jobs in worker processes of one thread each; results in the order of the jobs.

    ``done`` is called with each result as it comes in.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the workers load their libraries
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run_job, job) for job in jobs]
        for future in as_completed(futures):
            if done is not None:
                done(future.result())
        return [future.result() for future in futures]
