"""Callback: the events of a training run, and the small callbacks that come with the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from tracking.errors import BadOption, NonFiniteLoss

if TYPE_CHECKING:
    from pipelines.fit import Fit

__all__ = ["Callback", "CallbackList", "EarlyStopping", "LossGuard"]


class Callback:
    """Base of everything that joins a training run; each event is a no-op until overridden.

    Events nest: fit > epoch > batch, each before, (body), after, cleanup. ``after_*`` is skipped
    when the body failed, ``cleanup_*`` always runs: release hooks, files and threads there.
    A batch is one optimizer step, over several batches of the loader where gradients are
    accumulated. Callbacks run in ascending ``order``, which is read once, before the fit.

    A method that is named like an event but is none (``before_epochs``, ``on_epoch_end``) raises
    TypeError when the class is defined, since it would never be called.
    """

    order: ClassVar[int] = 0

    def before_fit(self, fit: Fit) -> None:
        """Everything is built, nothing has been trained."""

    def before_epoch(self, fit: Fit) -> None:
        """``fit.epoch`` is set, the model is in training mode."""

    def before_batch(self, fit: Fit) -> None:
        """The schedule's values for ``fit.step`` are in the optimizer."""

    def before_step(self, fit: Fit) -> None:
        """Gradients are complete and clipped; the optimizer has not used them yet."""

    def after_batch(self, fit: Fit) -> None:
        """The optimizer has made its step; ``fit.loss`` is that of the batch."""

    def cleanup_batch(self, fit: Fit) -> None:
        """Always, also after a failure in the batch."""

    def before_validate(self, fit: Fit) -> None:
        """The model is in evaluation mode. Not called where there is no validation data."""

    def after_validate(self, fit: Fit) -> None:
        """``fit.metrics`` holds this epoch's ``valid/loss`` and ``valid/accuracy``.

        Not called where there is no validation data.
        """

    def after_epoch(self, fit: Fit) -> None:
        """Training and validation of the epoch are done."""

    def cleanup_epoch(self, fit: Fit) -> None:
        """Always, also after a failure in the epoch."""

    def after_fit(self, fit: Fit) -> None:
        """All epochs are done, or the run was stopped early."""

    def cleanup_fit(self, fit: Fit) -> None:
        """Always, also after a failure; ``fit.error`` holds it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if callable(value) and not name.startswith("_") and name not in EVENTS:
                _refuse_misspelled(cls, name)


EVENTS = tuple(
    name for name in vars(Callback) if name.startswith(("before_", "after_", "cleanup_"))
)


def _refuse_misspelled(cls: type, name: str) -> None:
    close = get_close_matches(name.lower(), EVENTS, n=1, cutoff=0.85)
    if close or name.startswith(("before_", "after_", "cleanup_", "on_")):
        hint = f"did you mean {close[0]}?" if close else f"the events are {', '.join(EVENTS)}"
        raise TypeError(
            f"{cls.__name__}.{name} is no event of Callback and would never run; {hint}"
        )


class CallbackList:
    """Callbacks sorted once, and for each event only those that do something in it."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = sorted(callbacks, key=lambda callback: callback.order)
        self._listeners: dict[str, list[Callable[[Fit], None]]] = {
            event: [
                getattr(callback, event)
                for callback in self.callbacks
                if getattr(type(callback), event) is not getattr(Callback, event)
            ]
            for event in EVENTS
        }

    def call(self, event: str, fit: Fit) -> None:
        """Run an event; the first failure ends it."""
        for listener in self._listeners[event]:
            listener(fit)

    def cleanup(self, event: str, fit: Fit) -> None:
        """Run a cleanup event in every callback, in reverse order, also when one of them fails.

        The first failure is raised at the end, and any other becomes a note on it; where the run
        has failed already, all of them become notes on that error.
        """
        failures: list[BaseException] = [] if fit.error is None else [fit.error]
        for listener in reversed(self._listeners[event]):
            try:
                listener(fit)
            except BaseException as error:
                failures.append(error)
        for failure in failures[1:]:
            failures[0].add_note(f"{event} failed too: {failure!r}")
        if failures and fit.error is None:
            raise failures[0]


class LossGuard(Callback):
    """Ends the run with NonFiniteLoss when the training or validation loss is NaN or infinite.

    On the CPU every step is looked at. On an accelerator reading the loss would make the host wait
    for the device, so every ``interval``-th step is, and the last one of an epoch. Where there is
    no validation, the weights are looked at after each epoch.
    """

    # After the callbacks that record, so the step that went wrong is in the records.
    order = 100

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_batch(self, fit: Fit) -> None:
        if fit.device.type == "cpu" or fit.step % self.interval == 0:
            self._check(fit, "loss", float(fit.loss), fit.step)

    def after_epoch(self, fit: Fit) -> None:
        # The update of the epoch's last step may have spoilt the weights: no training loss has
        # been computed with them yet.
        last = fit.step - 1
        self._check(fit, "loss", float(fit.loss), last)
        if "valid/loss" in fit.metrics:
            self._check(fit, "validation loss", fit.metrics["valid/loss"], last)
        elif not _all_finite(fit.model):
            raise _diverged(fit, "weights became NaN or infinite", last)

    def _check(self, fit: Fit, name: str, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise _diverged(fit, f"{name} became {loss}", step)


def _diverged(fit: Fit, what: str, step: int) -> NonFiniteLoss:
    return NonFiniteLoss(
        f"the {what} by step {step}, in epoch {fit.epoch + 1}, at a learning rate of "
        f"{fit.values.lr:.3g}; "
        "try a lower lr_max, a longer warm-up or clip_norm"
    )


def _all_finite(model: nn.Module) -> bool:
    """Whether every parameter is; one transfer in all."""
    finite = [parameter.detach().isfinite().all() for parameter in model.parameters()]
    return bool(torch.stack(finite).all())


class EarlyStopping(Callback):
    """Stops after ``patience`` epochs without a lower validation loss.

    Raises BadOption, before the fit: there is no validation data.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._best = math.inf
        self._waited = 0

    def before_fit(self, fit: Fit) -> None:
        if not len(fit.loaders.valid):
            raise BadOption(
                f"patience={self.patience} needs validation data, and there is none; allowed: a "
                "valid_fraction above 0, or no EarlyStopping"
            )
        self._best, self._waited = math.inf, 0
        for epoch in fit.history:  # of a run that goes on
            if epoch.valid is not None:
                self._wait(epoch.valid.loss)

    def after_epoch(self, fit: Fit) -> None:
        self._wait(fit.metrics["valid/loss"])
        if self._waited >= self.patience and fit.epoch + 1 < fit.epochs:
            fit.stop(f"no lower validation loss than {self._best:.4f} for {self.patience} epochs")

    def _wait(self, loss: float) -> None:
        self._waited = 0 if loss < self._best else self._waited + 1
        self._best = min(self._best, loss)
