"""A callback for fastai's Learner: docs/other-frameworks.md has an example."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from fastai.callback.core import Callback
from fastai.distributed import rank_distrib
from fastai.learner import Learner

from tracking.integrations.fits import FitRecords
from tracking.integrations.steps import ToldSteps, samples_in

__all__ = ["LayerscopeCallback"]

TORCH_NAMES = {"mom": "momentum", "wd": "weight_decay"}


class LayerscopeCallback(FitRecords, Callback):  # type: ignore[misc]
    """Records hyperparameters and activation statistics of ``Learner.fit`` and what calls it.

    On the learner it is ``learn.layerscope``. It works with fastai's optimizers and with
    OptimWrapper; hyperparameters go by torch's names. Batches whose gradients accumulate are one
    step. Validation is recorded only with ``record_eval`` and within a fit; ``validate``,
    ``get_preds`` and ``lr_find`` are not. Where there are several processes, the first one records
    its own share of each batch. See FitRecords for the arguments.

    Raises BadOption, when the training starts: ``layers`` matches nothing; BadTracking: the
    directory or the run cannot be used.
    """

    # After all that may still set hyperparameters, or cancel the step.
    order: ClassVar[int] = 1000
    run_valid: ClassVar[bool] = False
    _learner: Any = None

    @property
    def learn(self) -> Any:
        """The learner; fastai sets it when the callback joins, and takes it back afterwards."""
        return self._learner

    @learn.setter
    def learn(self, learn: Learner | None) -> None:
        self._close_after(sys.exception())
        if self._learner is not None:
            self._learner.__dict__.pop("fit", None)
        self.__dict__["_learner"] = learn
        if learn is not None:
            # fastai has no event for a fit that fails, and hooks must not outlive one.
            learn.fit = self._fit

    def before_train(self) -> None:
        # Not in before_fit, which belongs to `validate` and `get_preds` too.
        if not self._recording and not hasattr(self.learn, "lr_finder") and not rank_distrib():
            self._begin_fit(self.learn)

    def before_backward(self) -> None:
        if self._recording:
            self._batches.add(self.learn.loss, samples_in(self.learn.yb))

    def before_step(self) -> None:
        if self._recording:
            self._record.note(**self._batches.take(), epoch=self.learn.epoch)
            self._steps.before()

    def after_step(self) -> None:
        # It comes after a cancelled step as well.
        if self._recording and self._steps.after():
            self._record.step()

    def after_fit(self) -> None:
        self.close()

    def _begin_fit(self, learn: Learner) -> None:
        self._steps = ToldSteps(lambda: _groups(learn.opt))
        self._begin(
            learn.model,
            cast(torch.optim.Optimizer, self._steps),
            expected_steps=learn.n_epoch * len(learn.dls.train),
        )

    def _fit(self, *args: Any, **kwargs: Any) -> None:
        """``Learner.fit``, and the end of the recording, whatever ends the fit."""
        learn = self._learner
        try:
            type(learn).fit(learn, *args, **kwargs)
        except BaseException as error:
            self._close_after(error)
            raise


def _groups(optimizer: Any) -> Sequence[Mapping[str, Any]]:
    """Parameter groups as torch names them."""
    wrapped = getattr(optimizer, "opt", None)
    if isinstance(wrapped, torch.optim.Optimizer):
        return wrapped.param_groups
    return [
        {TORCH_NAMES.get(name, name): value for name, value in group.items()}
        for group in optimizer.param_groups
    ]
