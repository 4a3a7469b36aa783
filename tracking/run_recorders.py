"""The recorders of one run, which record the same steps and are watched by one diagnosis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tracking.diagnosis.evidence import RunContext
from tracking.diagnosis.live import LiveDiagnosis
from tracking.diagnosis.thresholds import parse_thresholds
from tracking.pace import Pace
from tracking.ranks import is_first_rank
from tracking.recorders.activations import ActivationStats
from tracking.recorders.gradients import GradientStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recorders.updates import UpdateStats
from tracking.recording_options import RecordingOptions
from tracking.sink import Sink

__all__ = ["RunRecorders", "run_diagnosis", "run_recorders"]

AnyRecorder = Recorder | ActivationStats | GradientStats | UpdateStats


@dataclass(frozen=True)
class RunRecorders:
    """What a run is recorded with; gradients and updates where the options want them."""

    hyperparameters: Recorder
    activations: ActivationStats
    gradients: GradientStats | None = None
    updates: UpdateStats | None = None

    def by_name(self) -> dict[str, AnyRecorder]:
        """Those that there are, by what they record."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: one for name, one in every.items() if one is not None}

    def __iter__(self) -> Iterator[AnyRecorder]:
        yield from self.by_name().values()


def run_diagnosis(
    model: nn.Module, run: RunContext, options: RecordingOptions, pace: Pace, **told: Any
) -> LiveDiagnosis | None:
    """The diagnosis that watches the recorders, where the options want one; ``told`` as there.

    Raises BadOption: a threshold does not exist.
    """
    if not options.diagnose:
        return None
    limits = parse_thresholds(options.thresholds)
    # There is one on every rank, since all must flush at the same steps.
    first = is_first_rank()
    return LiveDiagnosis(model, run, thresholds=limits, active=first, pace=pace, **told)


def run_recorders(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    directory: Path,
    options: RecordingOptions,
    pace: Pace,
    *,
    sink: Sink,
    expected_steps: int | None,
    scaler: torch.amp.GradScaler | None,
    diagnosis: LiveDiagnosis | None,
    together: bool,
) -> RunRecorders:
    """Recorders that write below ``directory``; arguments as those of RunRecord.

    Raises BadOption: ``options`` cannot be used; BadTracking: the directory cannot be written.
    """
    shared: dict[str, Any] = {"sink": sink, "expected_steps": expected_steps}
    paced: dict[str, Any] = {"every": pace, **shared}
    hyperparameters = Recorder(
        optimizer,
        directory=directory / "hyperparameters",
        watch=diagnosis.steps if diagnosis else None,
        pace=pace,
        together=together,
        **shared,
    )
    activations = ActivationStats(
        model,
        layers=options.layers,
        record_eval=options.record_eval,
        near_zero_eps=options.near_zero_eps,
        above_threshold=options.above_threshold,
        directory=directory / "activations",
        watch=diagnosis.layers if diagnosis else None,
        together=together,
        **paced,
    )
    below: dict[str, Any] = {"directory": directory, "diagnosis": diagnosis, **paced}
    return RunRecorders(
        hyperparameters,
        activations,
        _gradients(model, options.layers, scaler, **below) if options.gradients else None,
        _updates(model, optimizer, **below) if options.updates else None,
    )


def _gradients(
    model: nn.Module,
    layers: str,
    scaler: torch.amp.GradScaler | None,
    *,
    directory: Path,
    diagnosis: LiveDiagnosis | None,
    **paced: Any,
) -> GradientStats:
    return GradientStats(
        model,
        layers=layers,
        scaler=scaler,
        directory=directory / "gradients",
        watch=diagnosis.gradients if diagnosis else None,
        **paced,
    )


def _updates(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    directory: Path,
    diagnosis: LiveDiagnosis | None,
    **paced: Any,
) -> UpdateStats:
    return UpdateStats(
        model,
        optimizer,
        directory=directory / "updates",
        watch=diagnosis.updates if diagnosis else None,
        **paced,
    )
