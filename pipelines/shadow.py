"""Shadow: a copy of the network that is trained for a while beside the run, which goes on as if
nothing had been.

It answers questions about a run that is not over: what would come out if the learning rate were
brought down to zero from here (``anneal``), what a complete schedule of fewer steps comes to
(``cycle``), and how good the weights are as they are (``as_it_is``). In mid-cycle that last figure
says little about the run's end.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import nn

from pipelines.data.datasets import seeded
from pipelines.data.loaders import Loader
from pipelines.evaluation import Evaluation, evaluate
from pipelines.fit import Fit
from pipelines.optimizers import apply_values, make_optimizer
from pipelines.run import Setup
from pipelines.schedules import Schedule, ScheduleValues, make_schedule
from pipelines.snapshot import RandomState
from pipelines.step import TrainStep, endless_groups

__all__ = ["Shadow", "ShadowResult"]


@dataclass(frozen=True)
class ShadowResult:
    """What a shadow came to."""

    valid: Evaluation
    """On the validation data; its loss is not finite where the shadow diverged."""
    samples: int
    """Training samples it took."""


class Shadow:
    """Trains copies of a run's network; weights, optimizer, data order and random states of the run
    stay bit-identical to those of a run without a shadow.

    Make it before the run starts, while the model has no hooks: what records the run then sees
    nothing of it. It takes the memory of one more model, and of an optimizer while it trains.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._model = copy.deepcopy(setup.model)

    def anneal(self, fit: Fit, steps: int) -> ShadowResult:
        """From the run's weights and optimizer, bring the learning rate down to zero in ``steps``.

        It falls on a straight line from its present value; momentum rises to ``momentum_max``.
        """
        step = self._new_step()
        step.optimizer.load_state_dict(copy.deepcopy(fit.optimizer.state_dict()))
        if fit.scaler is not None:
            step.scaler.load_state_dict(fit.scaler.state_dict())
        now, last = fit.values, self._setup.config.momentum_max

        def falling(index: int) -> ScheduleValues:
            share = (index + 0.5) / steps
            momentum = now.momentum + (last - now.momentum) * share
            return ScheduleValues(now.lr * (1 - share), momentum)

        return self._train(step, steps, falling, f"anneal {fit.step}")

    def cycle(self, steps: int) -> ShadowResult:
        """From the run's weights, train by the run's whole schedule, shortened to ``steps``.

        Asked before the run's first step, it is a short run of its own.
        """
        schedule: Schedule = make_schedule(self._setup.config, steps)
        return self._train(self._new_step(), steps, schedule, f"cycle {steps}")

    def as_it_is(self) -> ShadowResult:
        """The run's weights, validated."""
        setup = self._setup
        _copy(setup.model, self._model)
        before = RandomState()
        try:
            return ShadowResult(self._validate(), 0)
        finally:
            before.restore()

    def _new_step(self) -> TrainStep:
        """The run's weights in the copy, and a new optimizer for them."""
        setup = self._setup
        _copy(setup.model, self._model)
        optimizer = make_optimizer(self._model, setup.config)
        return TrainStep(self._model, optimizer, setup.device, setup.step_options)

    def _train(
        self, step: TrainStep, steps: int, values: Callable[[int], ScheduleValues], purpose: str
    ) -> ShadowResult:
        setup = self._setup
        loader = self._loader(purpose)
        samples = 0
        before = RandomState()
        try:
            self._model.train()
            groups = endless_groups(loader, setup.config.accumulate)
            for index, group in enumerate(islice(groups, steps)):
                apply_values(step.optimizer, values(index))
                loss = step.gradients(group)
                samples += sum(len(batch.y) for batch in group)
                if setup.device.type == "cpu" and not math.isfinite(float(loss)):
                    return ShadowResult(Evaluation(float(loss), 0.0), samples)
                step.update()
            return ShadowResult(self._validate(), samples)
        finally:
            before.restore()

    def _validate(self) -> Evaluation:
        setup = self._setup
        return evaluate(self._model, setup.loaders.valid, setup.device, setup.config.precision)

    def _loader(self, purpose: str) -> Loader:
        """The run's training data, in an order of its own."""
        loader = copy.copy(self._setup.loaders.train)
        loader.generator = seeded(self._setup.config.seed, purpose)
        return loader


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers, in the same order for every copy of a model."""
    return chain(model.parameters(), model.buffers())


def _copy(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for own, other in zip(_tensors(target), _tensors(source), strict=True):
            own.copy_(other)
