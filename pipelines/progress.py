"""Progress of long work: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.callbacks import Callback
from pipelines.fit import Fit

__all__ = ["LrRangeProgress", "ProgressReport"]

# A terminal shows no more, and reading the loss makes an accelerator wait.
UPDATES = 200
LINES = 10
QUIET = 30.0
"""Seconds after which somebody who reads a file of lines wants to know that it goes on."""


class ProgressReport(Callback):
    """Shows steps, loss and validation results while a run trains."""

    order = 50

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = _bar(console)

    def before_fit(self, fit: Fit) -> None:
        self._task = self._progress.add_task("training", total=fit.total_steps, shown="")
        self._every = max(1, fit.total_steps // UPDATES)
        self._progress.start()
        self._told = time.monotonic()

    def after_batch(self, fit: Fit) -> None:
        if not self.console.is_terminal:
            self._tell_now_and_then(fit)
        elif fit.step % self._every == 0:
            shown = f"loss {float(fit.loss):.4f}  lr {fit.values.lr:.2e}"
            self._progress.update(self._task, completed=fit.step + 1, shown=shown)

    def _tell_now_and_then(self, fit: Fit) -> None:
        now = time.monotonic()
        if now - self._told >= QUIET:
            self._told = now
            self.console.print(
                f"{_epoch(fit)}  step {fit.step + 1}/{fit.total_steps}  loss {float(fit.loss):.4f}"
            )

    def after_epoch(self, fit: Fit) -> None:
        self._told = time.monotonic()
        done = fit.history[-1]
        parts = [
            _epoch(fit),
            f"train loss {fit.metrics['train/loss_epoch']:.4f}",
        ]
        if done.valid is not None:
            parts.append(f"valid loss {done.valid.loss:.4f}")
            parts.append(f"valid accuracy {done.valid.accuracy:.2%}")
        self.console.print("  ".join([*parts, f"{done.samples_per_second:,.0f} img/s"]))

    def cleanup_fit(self, fit: Fit) -> None:
        self._progress.stop()


def _epoch(fit: Fit) -> str:
    return f"epoch {fit.epoch + 1:>{len(str(fit.epochs))}}/{fit.epochs}"


class LrRangeProgress:
    """Shows a range test's steps, learning rates and smoothed losses; a context manager."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self._steps = steps
        self._progress = _bar(console)
        self._task = self._progress.add_task("range test", total=steps, shown="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, step: int, lr: float, loss: float) -> None:
        """Take note of a step that has been done."""
        shown = f"lr {lr:.2e}  smoothed loss {loss:.4f}"
        self._progress.update(self._task, completed=step + 1, shown=shown)
        if not self.console.is_terminal and (step + 1) % max(1, self._steps // LINES) == 0:
            self.console.print(f"step {step + 1:>{len(str(self._steps))}}/{self._steps}  {shown}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
