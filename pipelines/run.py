"""From a RunConfig to a trained model: prepare (everything that can be refused), then train."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from pipelines.callbacks import Callback, EarlyStopping, LossGuard
from pipelines.checkpoint import StoppedRun
from pipelines.checkpointing import Checkpointing
from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, check_batch_size, load_dataset
from pipelines.data.loaders import Loaders, make_loaders
from pipelines.evaluation import Evaluation, evaluate
from pipelines.fit import EpochResult, Fit
from pipelines.models import build_model
from pipelines.optimizers import make_optimizer
from pipelines.recording import EpochMetrics, Recording
from pipelines.schedules import make_schedule
from pipelines.step import StepOptions
from pipelines.summary import ModelSummary, summarize
from pipelines.trainer import Trainer
from tracking.diagnosis.evidence import RunContext
from tracking.errors import BadOption, NonFiniteLoss
from tracking.hooks.layers import select_layers
from tracking.recorders.activations import ActivationStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recording_options import RecordingOptions
from tracking.records import DatasetInfo, Finding, Metric
from tracking.sink import NullSink, Sink

__all__ = ["FitResult", "Setup", "make_model", "prepare", "train"]


@dataclass(frozen=True)
class Setup:
    """Everything a run needs, checked and built; nothing has been trained."""

    config: RunConfig
    device: torch.device
    data: ImageData
    loaders: Loaders
    model: nn.Module
    optimizer: torch.optim.Optimizer
    summary: ModelSummary

    @property
    def step_options(self) -> StepOptions:
        """How the configuration wants a step to be computed."""
        config = self.config
        return StepOptions(
            config.precision, config.accumulate, config.clip_norm, config.label_smoothing
        )

    def trainer(self, callbacks: Iterable[Callback]) -> Trainer:
        """A trainer for these parts."""
        model = torch.compile(self.model) if self.config.compile else self.model
        return Trainer(
            cast(nn.Module, model),  # compiled, it still is one
            self.optimizer,
            self.loaders,
            self.device,
            self.step_options,
            callbacks,
            # A checkpoint is of whole batches. Without one, nobody should wait for what a callback
            # does beside the training, such as a search's trainings on the way.
            signals_wait=self.config.checkpoint,
        )


@dataclass(frozen=True)
class FitResult:
    """What a training run came to. Recorder and statistics stay readable."""

    model: nn.Module
    data: ImageData
    history: Sequence[EpochResult]
    valid: Evaluation | None
    """Of the last epoch; None where there is no validation data."""
    test: Evaluation | None
    """None where the run was not to look at test data."""
    stopped: str
    """Why the run ended early, or empty."""
    recorder: Recorder | None
    activation_stats: ActivationStats | None
    findings: Sequence[Finding] = ()
    """What is wrong with the run, what matters most first."""


def prepare(config: RunConfig, data: ImageData | None = None) -> Setup:
    """Load the data and build model and optimizer; seeds torch's global generator.

    ``data`` is what ``load_dataset`` gave for a configuration with the same data options, where
    several runs share it. Raises BadInput: an option, the data or the model cannot be used. Nothing
    has been started then.
    """
    RecordingOptions.of(config)  # whether layers and thresholds can be used
    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if data is None:
        data = load_dataset(config)
    else:
        check_batch_size(config, data)
    torch.manual_seed(config.seed)
    model = make_model(config, data).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loaders = make_loaders(data, config, device)
    summary = summarize(model, torch.zeros(1, *data.image_shape, device=device))
    return Setup(config, device, data, loaders, model, make_optimizer(model, config), summary)


def make_model(config: RunConfig, data: ImageData) -> nn.Module:
    """The network for these images, on no device yet; draws its weights from torch's generator.

    Raises BadInput: it cannot be built, or ``layers`` means none of its layers.
    """
    model = build_model(config, data.image_shape, data.num_classes)
    if config.record:
        select_layers(model, config.layers)
    return model


def train(
    setup: Setup,
    directory: Path,
    callbacks: Iterable[Callback] = (),
    sink: Sink | None = None,
    *,
    test: bool = True,
    announce: Callable[[Finding], None] | None = None,
    stopped: StoppedRun | None = None,
) -> FitResult:
    """Train, record below ``directory``, and hand parameters, metrics and artifacts to ``sink``.

    ``directory`` must stay until the sink is closed. Test data is read once, at the end, and only
    where ``test`` is set. ``announce`` is given each finding of the diagnosis when it is
    new. ``stopped`` is the run to go on with, if there is one: what follows is what would have
    followed, and the tables are those of the whole run. Raises TrainingFailed and whatever
    callbacks raise; all that was recorded until then is in the sink.
    """
    config = setup.config
    sink = sink or NullSink()
    _describe(setup, directory, sink)
    recording = None
    if config.record:
        earlier = None if stopped is None else stopped.records
        context = run_context(setup)
        recording = Recording(config, setup.model, directory, sink, context, announce, earlier)
    trainer = setup.trainer([*_own_callbacks(setup, directory, sink, recording), *callbacks])
    start = None if stopped is None else stopped.checkpoint
    fit = trainer.fit(config.epochs, lambda steps: make_schedule(config, steps), start)
    result = _test(setup, fit, sink) if test else None
    return FitResult(
        model=setup.model,
        data=setup.data,
        history=tuple(fit.history),
        valid=fit.history[-1].valid,
        test=result,
        stopped=fit.stopped,
        recorder=recording.recorder if recording else None,
        activation_stats=recording.activation_stats if recording else None,
        findings=recording.findings if recording else (),
    )


def _own_callbacks(
    setup: Setup, directory: Path, sink: Sink, recording: Recording | None
) -> Iterator[Callback]:
    config = setup.config
    yield LossGuard()
    yield EpochMetrics(sink)
    if recording is not None:
        yield recording
    if config.patience:
        yield EarlyStopping(config.patience)
    if config.checkpoint:
        remember = recording.remember if recording is not None else dict
        yield Checkpointing(setup.model, config, setup.data.digest, directory, remember)


def run_context(setup: Setup) -> RunContext:
    """What the diagnosis may know of a run besides what is recorded."""
    data = setup.data
    return RunContext(
        options=setup.config.flat(),
        classes=data.num_classes,
        data=data.facts if setup.config.diagnose else None,
    )


def resolve_device(name: str) -> torch.device:
    """The device that ``name`` means on this machine.

    Raises BadOption: no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadOption(
            f"device={name}: not usable here ({str(error).splitlines()[0]}); "
            "allowed: auto, cpu, cuda, cuda:1, mps"
        ) from None
    return device


def _describe(setup: Setup, directory: Path, sink: Sink) -> None:
    """What is known before the first step: parameters, data set, config.yaml, model summary."""
    data = setup.data
    sizes = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
    sink.params(setup.config.flat())
    sink.dataset(
        DatasetInfo(data.name, data.digest, data.source, data.image_shape, data.classes, sizes)
    )
    texts = {
        "config.yaml": setup.config.to_yaml(),
        "model_summary.txt": setup.summary.to_text(),
        "model_summary.json": json.dumps(setup.summary.to_dict(), indent=1),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
        sink.artifact(directory / name)


def _test(setup: Setup, fit: Fit, sink: Sink) -> Evaluation:
    result = evaluate(fit.model, setup.loaders.test, setup.device, setup.config.precision)
    if not math.isfinite(result.loss):  # without validation nobody has noticed before
        raise NonFiniteLoss(
            f"the trained network's test loss is {result.loss}; "
            "try a lower lr_max, a longer warm-up or clip_norm"
        )
    now = time.time()
    values = {"test/loss": result.loss, "test/accuracy": result.accuracy}
    sink.metrics([Metric(key, value, fit.step, now) for key, value in values.items()])
    return result
