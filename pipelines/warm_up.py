"""What the first steps of a process do once, done beforehand: its trainings can be compared."""

from __future__ import annotations

from itertools import islice

from pipelines.evaluation import evaluate
from pipelines.run import Setup
from pipelines.step import TrainStep, batch_groups
from tracking.recorders.activations import ActivationStats

__all__ = ["warm_up"]

STEPS = 2


def warm_up(setup: Setup) -> None:
    """Train ``setup``, which is of no use afterwards, for a moment, recorded if it would be.

    Code is compiled or loaded, devices and libraries are made ready. Raises what a step raises.
    """
    config = setup.config
    step = TrainStep(setup.model, setup.optimizer, setup.device, setup.step_options)
    stats = ActivationStats(setup.model, optimizer=setup.optimizer, layers=config.layers)
    setup.model.train()
    with stats:
        for group in islice(batch_groups(setup.loaders.train, config.accumulate), STEPS):
            step.gradients(group)
            step.update()
    if len(setup.loaders.valid):
        evaluate(setup.model, setup.loaders.valid, setup.device, config.precision)
