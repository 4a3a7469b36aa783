"""Progress of a training run: a live bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

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
from pipelines.trainer import Fit

__all__ = ["ProgressReport"]

# A terminal shows no more, and reading the loss makes an accelerator wait.
UPDATES = 200


class ProgressReport(Callback):
    """Shows steps, loss and validation results while a run trains."""

    order = 50

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
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

    def before_fit(self, fit: Fit) -> None:
        self._task = self._progress.add_task("training", total=fit.total_steps, shown="")
        self._every = max(1, fit.total_steps // UPDATES)
        self._progress.start()

    def after_batch(self, fit: Fit) -> None:
        if self.console.is_terminal and fit.step % self._every == 0:
            shown = f"loss {float(fit.loss):.4f}  lr {fit.values.lr:.2e}"
            self._progress.update(self._task, completed=fit.step + 1, shown=shown)

    def after_epoch(self, fit: Fit) -> None:
        valid = fit.history[-1].valid
        width = len(str(fit.epochs))
        self.console.print(
            f"epoch {fit.epoch + 1:>{width}}/{fit.epochs}  "
            f"train loss {float(fit.loss):.4f}  valid loss {valid.loss:.4f}  "
            f"valid accuracy {valid.accuracy:.2%}  {fit.history[-1].samples_per_second:,.0f} img/s",
            highlight=False,
        )

    def cleanup_fit(self, fit: Fit) -> None:
        self._progress.stop()
