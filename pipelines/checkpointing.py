"""Checkpointing: keeps a checkpoint of the run on disk, so that `resume` can go on with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.callbacks import Callback
from pipelines.checkpoint import CHECKPOINT, Checkpoint
from pipelines.config import RunConfig
from pipelines.fit import Fit
from tracking.reasons import one_line
from tracking.signals import held_back

__all__ = ["Checkpointing"]

log = logging.getLogger("layerscope")

LEAST_SECONDS = 5.0
"""Between two checkpoints: what a process that is killed loses, where writing one is cheap."""
SHARE = 0.01
"""Of the time, at most, that goes into writing them."""


class Checkpointing(Callback):
    """Writes ``checkpoints/last.pt`` below ``directory``: now and then between two batches, and
    when the fit ends, by itself or by a signal; a failure leaves the last one of before.

    ``model`` is the module that was built. ``remember`` writes what is recorded, and gives what its
    recorders need for going on (see ``EarlierRecords``). A checkpoint that cannot be written is a
    warning, once: the run goes on without.
    """

    # After all that records and judges a step, so that the step is whole.
    order = 200

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        digest: str,
        directory: Path,
        remember: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = directory / CHECKPOINT
        self._model = model
        self._config = config
        self._digest = digest
        self._remember = remember
        self._due = 0.0
        self._failed = False

    def before_fit(self, fit: Fit) -> None:
        self._due = time.monotonic() + LEAST_SECONDS

    def after_batch(self, fit: Fit) -> None:
        if time.monotonic() >= self._due:
            self._write(fit)

    def after_epoch(self, fit: Fit) -> None:
        self.after_batch(fit)

    def cleanup_fit(self, fit: Fit) -> None:
        # A second signal does not wait for the end of a batch. What records is closed only later:
        # cleanups run in reverse order.
        if not fit.in_batch and not isinstance(fit.error, Exception):
            with held_back():
                self._write(fit)

    def _write(self, fit: Fit) -> None:
        if self._failed:
            return
        began = time.monotonic()
        try:
            records = self._remember()
            of = Checkpoint.of(fit, self._model, self._config, self._digest, records)
            of.save(self.path)
        except Exception as error:
            self._failed = True
            log.warning("the run has no further checkpoints: %s", one_line(error))
        ended = time.monotonic()
        fit.aside += ended - began
        self._due = ended + max(LEAST_SECONDS, (ended - began) / SHARE)
