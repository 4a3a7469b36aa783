"""RunRecord: every recorder of one training run, and the artifacts it leaves.

In a hand-written loop::

    with RunRecord(model, optimizer, "records") as record:
        for x, y in batches:
            loss = loss_function(model(x), y)
            loss.backward()
            record.note(loss=loss, batch_size=len(x))
            optimizer.step()
            record.step()
            optimizer.zero_grad()
    table = record.activation_stats.read()
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from tracking.diagnosis.evidence import RunContext
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES
from tracking.diagnosis.text import FINDINGS_TAG, tag
from tracking.earlier import EarlierRecords, remembered
from tracking.pace import Pace
from tracking.plots.pictures import draw
from tracking.ranks import is_first_rank, several_ranks
from tracking.reasons import one_line
from tracking.recorders.activations import ActivationStats
from tracking.recorders.gradients import GradientStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recorders.updates import UpdateStats
from tracking.recording_options import RecordingOptions
from tracking.records import Finding
from tracking.run_recorders import run_diagnosis, run_recorders
from tracking.sink import NullSink, Sink

__all__ = ["RunRecord"]

log = logging.getLogger("layerscope")


class RunRecord:
    """Records one training run below ``directory``: hyperparameters, activations, and more.

    A context manager, used once. While it is open, ``note`` says before each ``optimizer.step()``
    what the optimizer cannot know, and ``step`` ends a step after it. When it closes, whatever
    ended the training, hooks are removed, tables written, pictures drawn, and all of them handed
    to ``sink`` under the names of a run's artifacts. ``recorder``, ``activation_stats`` and, where
    the options want them, ``gradient_stats`` and ``update_stats`` can be read before and after.
    ``first_step`` is the number of steps done before the recording; ``earlier`` is what was
    recorded of them, if this record is to go on with it. ``scaler`` is what the loss is scaled with
    before ``backward``, if it is. ``context`` is what is known of the run besides, for
    its diagnosis; ``announce`` is given each finding when it is new. With several ranks each must
    have a RunRecord, and the first one leaves the artifacts; with ``together=False`` the first one
    alone has one, of its own share. ``rules`` are those of the diagnosis.

    Raises BadOption, when it is entered: ``options.layers`` matches nothing of the model;
    BadTracking: the directory cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        directory: Path | str,
        *,
        sink: Sink | None = None,
        expected_steps: int | None = None,
        first_step: int = 0,
        earlier: EarlierRecords | None = None,
        options: RecordingOptions | None = None,
        scaler: torch.amp.GradScaler | None = None,
        context: RunContext | None = None,
        announce: Callable[[Finding], None] | None = None,
        together: bool = True,
        rules: Sequence[type[Rule]] = RULES,
    ) -> None:
        options = options or RecordingOptions()
        first_step = first_step if earlier is None else earlier.step
        self.directory = Path(directory)
        self._sink = sink or NullSink()
        # Several ranks must record the same steps: their ActivationStats agree on the interval.
        self._pace = Pace(options.every, adapts=not (together and several_ranks()))
        scaled = scaler is not None and scaler.is_enabled()
        known = (context or RunContext()).completed(expected_steps, scaled)
        told: dict[str, Any] = {"announce": announce, "first_step": first_step, "rules": rules}
        self._diagnosis = run_diagnosis(model, known, options, self._pace, **told)
        self._recorders = run_recorders(
            model,
            optimizer,
            self.directory,
            options,
            self._pace,
            sink=self._sink,
            expected_steps=expected_steps,
            scaler=scaler,
            diagnosis=self._diagnosis,
            together=together,
        )
        for recorder in self._recorders:
            recorder.current_step = first_step
        if earlier is not None:
            earlier.hand_over(self._recorders, self._pace, self._diagnosis, self.directory)
        self._closing = ExitStack()
        self._entered = False

    @property
    def recorder(self) -> Recorder:
        """Hyperparameters and losses."""
        return self._recorders.hyperparameters

    @property
    def activation_stats(self) -> ActivationStats:
        return self._recorders.activations

    @property
    def gradient_stats(self) -> GradientStats | None:
        return self._recorders.gradients

    @property
    def update_stats(self) -> UpdateStats | None:
        return self._recorders.updates

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a RunRecord records once; make a new one for another run")
        self._entered = True
        with ExitStack() as entered:
            if self._diagnosis is not None:
                entered.enter_context(self._diagnosis)
            for recorder in self._recorders:
                entered.enter_context(recorder)
            self._closing.callback(self._hand_over)  # after all of them have been closed
            self._closing.push(entered.pop_all())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def note(
        self,
        *,
        loss: Tensor | float | None = None,
        batch_size: int | None = None,
        epoch: int | None = None,
        step: int | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Say what the optimizer cannot know of its next step; see ``Recorder.note``.

        ``labels``, class numbers (n,), tell the diagnosis what the batch's answers are.
        """
        began = time.perf_counter()
        self.recorder.note(loss=loss, batch_size=batch_size, epoch=epoch, step=step)
        if self._diagnosis is not None and labels is not None:
            self._diagnosis.note(labels)
        if self.update_stats is not None:
            # A step that a scaler skips counts for the loop, but not for the optimizer.
            self.update_stats.current_step = self.activation_stats.current_step
        self._pace.always += time.perf_counter() - began

    def step(self) -> None:
        """End the current step; call it after ``optimizer.step()``."""
        pace, step = self._pace, self.activation_stats.current_step
        began = time.perf_counter()
        if self._diagnosis is not None:
            self._diagnosis.step()  # what went in is known before what came of it
        self.activation_stats.step()
        if self.gradient_stats is not None:
            self.gradient_stats.step()
        if not pace.recording:  # of a step that is recorded, the recorders count what they take
            pace.always += time.perf_counter() - began
        pace.end_step(step)

    def resume(self) -> None:
        """Say that what was done since the last step was no training.

        An automatic interval would take it for the training's own time, and record too much.
        """
        self._pace.begin()

    def validated(self, loss: float, accuracy: float, top_class: float = math.nan) -> None:
        """Tell the diagnosis what a validation gave, after the steps done so far.

        ``top_class``: share of the class that was predicted most often.
        """
        if self._diagnosis is not None:
            self._diagnosis.validated(loss, accuracy, top_class)

    def remember(self) -> dict[str, Any]:
        """Write what is finished; gives what ``EarlierRecords`` needs for going on after it."""
        return remembered(self._recorders, self._pace, self._diagnosis)

    def close(self) -> None:
        """Close every recorder, also when one of them fails, and hand over what there is.

        May be called twice. The last failure is raised, with the others as its context.
        """
        self._closing.close()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the run, as far as is known, what matters most first."""
        return self._diagnosis.findings if self._diagnosis is not None else ()

    def _hand_over(self) -> None:
        if not is_first_rank():
            return
        self._sink.hurry()  # what comes now, the pictures above all, takes one core
        for path, folder in self._artifacts():
            self._sink.artifact(path, folder)

    def _artifacts(self) -> Iterator[tuple[Path, str]]:
        """What there is: a recorder that could not write its table has none."""
        whole = [one.path for one in self._recorders if one.path.exists()]
        for path in whole:
            yield path, path.parent.relative_to(self.directory).as_posix()
        if self._diagnosis is not None and (written := self._diagnosis.end(self.directory)):
            yield from ((path, "") for path in written)
            self._sink.tags({FINDINGS_TAG: tag(self.findings)})
        stats = self.activation_stats
        if self.recorder.path in whole and stats.path in whole:
            try:
                yield from draw(self.recorder.path, stats.path, stats.layers, self.directory)
            except Exception as error:  # the training is done, and its tables are written
                log.warning("not all pictures could be drawn (%s)", one_line(error))
