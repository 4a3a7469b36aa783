"""Trainings that take turns every few steps, for differences of a few per cent on a noisy machine.

Where whole trainings take turns, what a machine does meanwhile falls on one of them: on a shared
machine the same training differs from itself by a tenth. Here each has a process of its own, trains
for a fraction of a second, then stands still, with all that it has started, while the others do the
same steps. So what one of them does on the side, such as sending to MLflow, takes time from itself
alone.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import ClassVar

import psutil
import torch

from benchmarks.runs import tracked_training
from benchmarks.timing import Figures
from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.fit import Fit

__all__ = ["Side", "TakeTurns", "in_turns"]

STEPS = 20
"""Optimizer steps of a turn."""
PATIENCE = 600.0
"""Seconds that a turn may take, with preparation, validation and delivery where it has them."""


class TakeTurns(Callback):
    """Says so after every ``steps`` steps, then waits to be told to go on: time that is aside."""

    order: ClassVar[int] = -100  # before whatever begins to count its time

    def __init__(self, connection: Connection, steps: int = STEPS) -> None:
        self._connection = connection
        self._steps = steps

    def before_batch(self, fit: Fit) -> None:
        if fit.step % self._steps:
            return
        if fit.device.type != "cpu":
            torch.accelerator.synchronize(fit.device)
        began = time.perf_counter()
        self._connection.send(None)
        self._connection.recv()
        fit.aside += time.perf_counter() - began


class Side:
    """A process that trains by a configuration as often as it is asked to, turn by turn."""

    def __init__(self, config: RunConfig, steps: int = STEPS) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self._connection, end = context.Pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="layerscope-bench-")
        arguments = (end, config, steps, self._folder.name)
        self._process = context.Process(target=_train_on, args=arguments)
        self._process.start()
        end.close()  # or the end of the process would not be noticed here
        assert self._process.pid is not None
        self.process = psutil.Process(self._process.pid)

    def turn(self) -> Figures | None:
        """Let it go on to its next turn, then stop it. Gives what a training came to at its end.

        Raises RuntimeError: it failed, having said why, or takes longer than PATIENCE.
        """
        self._each(psutil.Process.resume)
        try:
            self._connection.send(None)
            if not self._connection.poll(PATIENCE):
                raise RuntimeError(f"a training did not get on in {PATIENCE:g} seconds")
            figures: Figures | None = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError("a training has failed") from None
        self._each(psutil.Process.suspend)
        return figures

    def close(self) -> None:
        """End the process, wherever it is, and what it has started."""
        self._each(psutil.Process.kill)
        self._process.join()
        self._connection.close()
        self._folder.cleanup()

    def _each(self, action: Callable[[psutil.Process], None]) -> None:
        """Do something to the process and to all that it has started, as far as they live."""
        with suppress(psutil.NoSuchProcess):
            for process in [self.process, *self.process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    action(process)


def in_turns(
    variants: Mapping[str, RunConfig], rounds: int, *, warm_up: int = 1, steps: int = STEPS
) -> dict[str, list[float]]:
    """Figures of trainings that take turns every ``steps`` steps, named as by ``interleaved``.

    Each round is one training of every variant; which begins alternates. A run as a whole is
    neither begun nor ended in turns, so that its time, ``whole run``, is left out.
    """
    series: dict[str, list[float]] = {}
    with _sides(variants, steps) as sides:
        for index in range(warm_up + rounds):
            names = list(variants) if index % 2 else list(variants)[::-1]
            figures = _one_round({name: sides[name] for name in names})
            if index < warm_up:
                continue
            for key, value in figures.items():
                series.setdefault(key, []).append(value)
                print(f"round {index - warm_up + 1}/{rounds}  {key}: {value:.4g}", flush=True)
    return series


@contextmanager
def _sides(variants: Mapping[str, RunConfig], steps: int) -> Iterator[dict[str, Side]]:
    sides: dict[str, Side] = {}
    try:
        for name, config in variants.items():
            sides[name] = Side(config, steps)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def _one_round(sides: Mapping[str, Side]) -> Figures:
    figures: dict[str, Figures] = {}
    waiting = deque(sides.items())
    while waiting:
        name, side = waiting.popleft()
        result = side.turn()
        if result is None:
            waiting.append((name, side))
        else:
            figures[name] = result
    return {
        f"{name}: {figure}": value
        for name in sides
        for figure, value in figures[name].items()
        if figure != "whole run"
    }


def _train_on(connection: Connection, config: RunConfig, steps: int, folder: str) -> None:
    """In a process of its own: a training each time that it is told to."""
    tempfile.tempdir = folder  # it is killed in the end, and cannot remove what it has there
    turns: Sequence[Callback] = [TakeTurns(connection, steps)]
    while True:
        connection.recv()
        connection.send(tracked_training(config, turns))
