"""StudyConfig: the options of a study, beside those of the training runs it is made of.

Nothing heavy is imported here: ``--help`` reads this file.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.base_options import Options
from search.rung_plan import RungPlan, parse_shares

__all__ = ["MLFLOW_OPTIONS", "RUNNING_OPTIONS", "CompareConfig", "StudyConfig"]

# What may change from one command to the next; the rest is the study's own, from its creation on.
RUNNING_OPTIONS = ("name", "trials", "workers")

# Of the study's run in MLflow, which is not made again by a command that goes on.
MLFLOW_OPTIONS = ("experiment", "run_name")


class CompareConfig(Options):
    """Every option of a comparison. The text below a field is its help."""

    factor: str = ""
    """The option that is compared (required), such as norm, batch_size or schedule."""
    values: str = ""
    """Its values, separated by commas (widths: by ;); the others are compared with the first."""
    seeds: int = Field(5, ge=2, le=1000)
    """Trainings of each value, with the seeds from the option seed on; later commands may have
    more."""
    name: str = Field("", max_length=200)
    """Name of the comparison. Default: the factor and a digest of all that defines the comparison,
    so that the same command goes on with it."""
    workers: int = Field(1, ge=0)
    """Processes on this machine, one training at a time each; 0 leaves the work to `study
    worker`."""
    objective: Literal["accuracy", "loss"] = "accuracy"
    """What is compared, of the validation data."""
    lr_scaling: Literal["none", "sqrt", "linear", "auto"] = "none"
    """factor=batch_size or accumulate: scale lr_max with the samples per step (auto: with the root
    for adam and adamw, with them for sgd)."""
    heartbeat: int = Field(20, ge=1)
    """Seconds between a worker's signs of life; after three times as long without one its training
    is tried again, at most twice."""


class StudyConfig(Options):
    """Every option of a study. The text below a field is its help."""

    name: str = Field("", max_length=200)
    """Name of the study in its storage (required)."""
    trials: int = Field(20, ge=1, le=100_000)
    """Trials that the study is to have in all; the same command again goes on up to there."""
    workers: int = Field(1, ge=0)
    """Processes on this machine, one trial at a time each; 0 leaves the work to `study worker`."""
    objective: Literal["accuracy", "loss", "accuracy,seconds"] = "accuracy"
    """Of the validation data: highest accuracy, lowest loss, or accuracy against training seconds
    (a Pareto front, where only the diagnosis ends trials early)."""
    sampler: Literal["tpe", "gp", "cmaes", "random", "qmc", "grid"] = "tpe"
    """How parameters are chosen."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the sampler; with one worker it makes a study repeatable. Default: the runs' seed."""
    lr_scaling: Literal["auto", "sqrt", "linear", "none"] = "auto"
    """Search lr_max at the base batch size and scale it with a trial's: with the root (adam,
    adamw) or the batch size itself (sgd)."""
    lr_prior: bool = False
    """Run the range test first: centre lr_max's range on its suggestion, and try that first."""
    rung: str = "anneal:0.3"
    """What a trial is judged by on its way: anneal:EPOCHS (a copy of the weights with the learning
    rate brought down to zero), cycle (short complete runs before it), plain, or none."""
    rungs: str = "1/18"
    """Where trials are judged, as fractions of the run: 1/9 or 0.1,0.3."""
    rung_least_steps: int = Field(25, ge=1)
    """Skip rungs before this many optimizer steps; earlier scores say little."""
    rung_score: Literal["objective", "accuracy", "loss"] = "objective"
    """What is compared at a rung: what the study is after (its first objective), or validation
    accuracy or loss."""
    reduction: int = Field(3, ge=2)
    """halving, hyperband: keep the best 1/N of the trials at each rung."""
    bootstrap: int = Field(3, ge=0)
    """halving, hyperband: stop the first N trials at a rung, whatever their score; they show what
    is usual there. A fifth of all trials at most; 0 with lr_prior."""
    pruner: str = "halving"
    """halving, hyperband, median, threshold:VALUE (of the score; where a study after accuracy
    compares by loss it is exp(-loss)), or none."""
    health: str = "critical"
    """Stop a trial by the diagnosis of its layers: critical or warning (findings of that severity),
    rule names separated by commas, or none."""
    heartbeat: int = Field(20, ge=1)
    """Seconds between a worker's signs of life; after three times as long without one its trial is
    tried again, at most twice."""

    @field_validator("rung")
    @classmethod
    def _check_rung(cls, value: str) -> str:
        return RungPlan.parse(value, "1/9").text

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, value: str) -> str:
        parse_shares(value)
        return value

    @field_validator("pruner")
    @classmethod
    def _check_pruner(cls, value: str) -> str:
        kind, _, bound = value.partition(":")
        if kind == "threshold":
            try:
                finite = math.isfinite(float(bound))
            except ValueError:
                finite = False
            if not finite:
                raise ValueError("allowed: threshold:VALUE, e.g. threshold:0.5")
        elif value not in {"halving", "hyperband", "median", "none"}:
            raise ValueError("allowed: halving, hyperband, median, threshold:VALUE, none")
        return value

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.pruner == "hyperband" and len(parse_shares(self.rungs)) < 2:
            raise ValueError(
                f"pruner=hyperband needs two rungs or more; rungs={self.rungs} is one, "
                "try rungs=1/9,1/3"
            )
        if self.objective == "loss" and self.rung_score == "accuracy":
            raise ValueError("objective=loss is judged by loss; rung_score=accuracy does not fit")
        if self.sampler == "cmaes" and "," in self.objective:
            raise ValueError(
                f"sampler=cmaes knows one objective, objective={self.objective} is two; "
                "allowed: tpe, gp, random, qmc, grid"
            )
        return self

    @property
    def judged_by(self) -> Literal["accuracy", "loss"]:
        """What is compared at a rung."""
        if self.rung_score != "objective":
            return self.rung_score
        return "loss" if self.objective == "loss" else "accuracy"

    @property
    def plan(self) -> RungPlan:
        """Where and how trials are judged."""
        text = "none" if self.pruner == "none" or "," in self.objective else self.rung
        return RungPlan.parse(text, self.rungs)
