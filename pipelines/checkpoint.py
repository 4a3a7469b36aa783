"""Checkpoint: all that a training run needs to go on where it was stopped, in one file.

It holds tensors, numbers and text alone, so that reading one that somebody else has made runs none
of their code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pipelines.config import RunConfig
from pipelines.evaluation import Evaluation
from pipelines.fit import EpochResult, EpochSoFar, Fit
from pipelines.options import config_from
from pipelines.snapshot import RandomState
from tracking import __version__
from tracking.earlier import EarlierRecords
from tracking.errors import BadDataset, BadModel, BadOption, BadTracking
from tracking.reasons import first_line

__all__ = ["CHECKPOINT", "Checkpoint", "StoppedRun"]

CHECKPOINT = "checkpoints/last.pt"
"""Where it lies in a run's folder and among its artifacts."""
FORMAT = 1
MODEL, OTHER_BUFFERS = "model", "other_buffers"


@dataclass(frozen=True)
class Checkpoint:
    """A training run between two batches.

    ``state`` has the states of model, optimizer, scaler and random generators. ``records`` is what
    the run's recorders remember beside their tables.
    """

    config: RunConfig
    digest: str
    """Of the data."""
    total_steps: int
    so_far: EpochSoFar
    history: tuple[EpochResult, ...]
    """Of the epochs before this one."""
    state: Mapping[str, Any]
    records: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, fit: Fit, model: nn.Module, config: RunConfig, digest: str, records: Mapping[str, Any]
    ) -> Checkpoint:
        """Of a run as it is now, between two batches; its tensors are the run's own.

        ``model`` is the one that was built, also where a compiled form of it is trained.
        """
        so_far = EpochSoFar(**{**vars(fit.so_far), "seconds": fit.training_seconds})
        return cls(
            config,
            digest,
            fit.total_steps,
            so_far,
            tuple(one for one in fit.history if one.epoch < so_far.epoch),
            {
                MODEL: model.state_dict(),
                OTHER_BUFFERS: dict(_other_buffers(model)),
                "optimizer": fit.optimizer.state_dict(),
                "scaler": fit.scaler.state_dict() if fit.scaler is not None else {},
                "random": RandomState().state_dict(),
            },
            records,
        )

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.so_far.first_step + self.so_far.steps

    def save(self, path: Path) -> None:
        """Write it in the place of an earlier one, which stays until this one is whole.

        Raises OSError: the disk does not take it.
        """
        content = {
            "format": FORMAT,
            "version": __version__,
            "config": self.config.to_yaml(),
            "digest": self.digest,
            "total_steps": self.total_steps,
            "so_far": vars(self.so_far),
            "history": [asdict(one) for one in self.history],
            "state": dict(self.state),
            "records": dict(self.records),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".tmp")
        with half.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what ``save`` wrote, onto the CPU.

        Raises BadTracking: it is damaged, something else, or another version's.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            number = int(content["format"])
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError) as error:
            # Torch's text goes on for a paragraph.
            raise _unreadable(path, first_line(error).partition(". ")[0]) from None
        except pickle.UnpicklingError:  # whose text recommends to run whatever is in it
            raise _unreadable(path, "it holds something else than numbers and text") from None
        if number > FORMAT:
            raise BadTracking(
                f"{path.name} has format {number}, of Layerscope {content['version']}; this "
                f"version reads up to {FORMAT}: update Layerscope"
            )
        try:
            return cls(
                config_from(RunConfig, yaml.safe_load(content["config"])),
                str(content["digest"]),
                int(content["total_steps"]),
                EpochSoFar(**content["so_far"]),
                tuple(_result(one) for one in content["history"]),
                content["state"],
                content["records"],
            )
        except (BadOption, KeyError, TypeError) as error:
            raise _unreadable(path, first_line(error)) from None

    def check(self, model: nn.Module, digest: str) -> None:
        """Raises BadModel or BadDataset: they are others than those of the run."""
        if digest != self.digest:
            raise BadDataset(
                f"the data have changed: {self.config.dataset} has digest {digest}, and had "
                f"{self.digest} when the run began; give it the same data (--data-dir), or train "
                "anew with the run's config.yaml"
            )
        own = {name: tuple(value.shape) for name, value in _tensors(model.state_dict())}
        kept = {name: tuple(value.shape) for name, value in _tensors(self.state[MODEL])}
        differing = sorted(name for name in own | kept if own.get(name) != kept.get(name))
        if differing:
            name = differing[0]
            raise BadModel(
                f"model={self.config.model} is another one than when the run began: {name} is "
                f"{own.get(name, 'missing')}, and was {kept.get(name, 'missing')}; train anew with "
                "the run's config.yaml"
            )

    def begin(self, fit: Fit) -> None:
        """Bring a run that was just made to where this one was; see ``Start``."""
        fit.so_far = EpochSoFar(**vars(self.so_far) | {"loss": self.so_far.loss.to(fit.device)})
        fit.epoch, fit.step = self.so_far.epoch, self.step
        fit.history[:] = self.history
        model = getattr(fit.model, "_orig_mod", fit.model)  # compiled, it holds that
        model.load_state_dict(self.state[MODEL])
        with torch.no_grad():
            for name, buffer in _other_buffers(model):
                buffer.copy_(self.state[OTHER_BUFFERS][name])
        fit.optimizer.load_state_dict(self.state["optimizer"])
        if fit.scaler is not None and self.state["scaler"]:
            fit.scaler.load_state_dict(self.state["scaler"])
        fit.loaders.train.load_state_dict(dict(self.so_far.data))

    def restore_random(self) -> None:
        """Bring the global random states to where they were."""
        RandomState.of(self.state["random"]).restore()


@dataclass(frozen=True)
class StoppedRun:
    """A run that is to go on: its checkpoint, and the folder with the artifacts it has left."""

    checkpoint: Checkpoint
    folder: Path

    @property
    def records(self) -> EarlierRecords | None:
        """For its recorders; None where nothing was recorded."""
        checkpoint = self.checkpoint
        if not checkpoint.records:
            return None
        epochs = len(checkpoint.history)
        return EarlierRecords(self.folder, checkpoint.step, epochs, checkpoint.records)


def _other_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that state_dict leaves out."""
    kept = model.state_dict().keys()
    yield from ((name, one) for name, one in model.named_buffers() if name not in kept)


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, one) for name, one in state.items() if isinstance(one, Tensor))


def _result(values: Mapping[str, Any]) -> EpochResult:
    valid = values["valid"]
    return EpochResult(**{**values, "valid": Evaluation(**valid) if valid else None})


def _unreadable(path: Path, why: str) -> BadTracking:
    return BadTracking(
        f"{path.name} cannot be read as a checkpoint ({why}); train anew with the run's config.yaml"
    )
