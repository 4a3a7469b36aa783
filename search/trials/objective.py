"""Objective: one trial, from the parameters that Optuna chose to a run in MLflow and its value."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from optuna import Trial, TrialPruned

from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData
from pipelines.memory import free_memory, is_out_of_memory
from pipelines.run import FitResult, prepare, train
from search.definition import StudyDefinition
from search.storage.queue_storage import batched_writes
from search.trials.judge import Judge
from search.trials.trial_data import TrialData
from tracking.errors import LayerscopeError, NonFiniteLoss, TrainingFailed, TrialStopped
from tracking.mlflow_runs.answers import is_final, is_of_store
from tracking.mlflow_runs.deliveries import Deliveries
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import TrackedRun, tracked
from tracking.reasons import one_line, reason

__all__ = ["NotBegun", "Objective", "TrialRun", "end_dead_run"]

log = logging.getLogger("layerscope")

MEMORY = "memory"
"""The constraint that a trial violates whose batch does not fit."""
PATIENCE = 600.0
"""Seconds that a trial waits to begin while MLflow is away."""
LONGEST_PAUSE = 15.0


class NotBegun(TrainingFailed):
    """MLflow takes no run for the trial, which therefore has not begun."""


class _DoesNotFit(TrialStopped):
    """The network with its batch does not fit into memory."""


@dataclass(frozen=True)
class TrialRun:
    """What the trials of a worker share."""

    definition: StudyDefinition
    data: ImageData
    parent: MlflowRun
    """The study's run."""
    deliveries: Deliveries
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within it a signal may interrupt. Where a trial's run in MLflow is being begun or ended it
    must not: the run would count as running for ever."""


class Objective:
    """Called with a trial, trains it as a run below the study's and gives its value or values.

    Raises TrialPruned, with the reason: the pruner or the diagnosis has ended it, or it diverged.
    A batch that does not fit into memory is no failure: the trial violates the constraint
    ``memory``, which samplers learn from, and has the value of guessing, and endless seconds where
    they are a value too. Raises NotBegun: MLflow stays away; the trial is another's to do. Anything
    else that is raised makes the trial a failed one.
    """

    def __init__(self, shared: TrialRun) -> None:
        self._shared = shared
        self._images = TrialData(shared.definition.base, shared.data)

    def __call__(self, trial: Trial) -> float | tuple[float, ...]:
        """Train the trial's network."""
        try:
            return self._train(trial)
        except _DoesNotFit as misfit:
            free_memory()
            trial.set_user_attr("infeasible", str(misfit))
            trial.set_constraint(MEMORY, 1.0)
            return self._values_of_guessing()
        except TrialStopped as stopped:
            trial.set_user_attr("reason", str(stopped))
            raise TrialPruned(str(stopped)) from None
        except NotBegun:
            raise
        except Exception as error:
            known = isinstance(error, LayerscopeError)
            trial.set_user_attr("reason", str(error) if known else one_line(error))
            raise

    def _train(self, trial: Trial) -> float | tuple[float, ...]:
        shared = self._shared
        with batched_writes():
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            config, own = shared.definition.config(trial)
            trial.set_user_attr("config", own)
        with self._run_of(trial) as opened:
            trial.set_user_attr("mlflow_run_id", opened.run.run_id)
            self._link_retry(trial, opened.run)
            try:
                with self._shared.interruptible():
                    result = self._fit(trial, config, opened)
            except BaseException as error:
                opened.sink.tags({"layerscope.trial_state": _state_after(error)})
                raise
            opened.sink.tags({"layerscope.trial_state": "complete"})
        return self._values(result)

    def _fit(self, trial: Trial, config: RunConfig, opened: TrackedRun) -> FitResult:
        """Train and judge; what a search takes for an outcome comes out as TrialStopped."""
        try:
            return self._judged(trial, config, opened)
        except NonFiniteLoss as error:
            raise TrialStopped(f"diverged: {error}") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out of the handler: the error's traceback holds the network, which must be given back.
        raise _DoesNotFit(
            f"batch_size={config.batch_size} with model={config.model} does not fit into memory"
        )

    def _judged(self, trial: Trial, config: RunConfig, opened: TrackedRun) -> FitResult:
        setup = prepare(config, self._images.of(config))
        judge = Judge(trial, self._shared.definition.options, setup, opened.sink)
        result: FitResult | None = None
        try:
            result = train(
                setup,
                opened.directory,
                [judge],
                opened.sink,
                test=False,
                announce=judge.announce,
            )
        finally:
            with batched_writes():
                judge.conclude(result)
                if result is not None:
                    trial.set_constraint(MEMORY, -1.0)
        return result

    @contextmanager
    def _run_of(self, trial: Trial) -> Iterator[TrackedRun]:
        study = trial.study.study_name
        tags = {"layerscope.study": study, "layerscope.trial": str(trial.number)}
        with ExitStack() as stack:
            yield self._begun(stack, f"trial {trial.number}", tags)

    def _begun(self, stack: ExitStack, name: str, tags: Mapping[str, str]) -> TrackedRun:
        """The trial's run, as soon as the store takes it."""
        begin = partial(MlflowRun.child, self._shared.parent, name, tags)
        pause, deadline = 1.0, time.monotonic() + PATIENCE
        while True:
            try:
                # Signals are held back in there, so it is not the place to wait.
                return stack.enter_context(tracked(begin, deliveries=self._shared.deliveries))
            except Exception as error:
                if not is_of_store(error):
                    raise
                if is_final(error) or time.monotonic() > deadline:
                    raise NotBegun(
                        f"{name} cannot begin: MLflow takes no run for it ({reason(error)})"
                    ) from None
                if pause == 1.0:
                    log.warning("%s waits for MLflow, which is away (%s)", name, reason(error))
            with self._shared.interruptible():
                time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _link_retry(self, trial: Trial, run: MlflowRun) -> None:
        """Where this is another try of a trial whose worker died: links both ways, and its end."""
        number = trial.user_attrs.get("retry_of")
        if number is None:
            return
        before = trial.study.get_trials(deepcopy=False)[number]
        earlier = before.user_attrs.get("mlflow_run_id")
        if earlier is None:
            return
        try:
            run.tag({"layerscope.retry_of": earlier})
            dead = MlflowRun(run.client, run.client.get_run(earlier))
            dead.tag({"layerscope.retried_as": run.run_id, "layerscope.trial_state": "retried"})
            end_dead_run(dead, before.user_attrs.get("reason", "its worker died"))
        except Exception as error:  # of the store: the link is not worth a trial
            log.warning("run %s cannot be linked to its retry (%s)", earlier, one_line(error))

    def _values(self, result: FitResult) -> float | tuple[float, ...]:
        assert result.valid is not None
        seconds = sum(epoch.seconds for epoch in result.history)
        return self._chosen(result.valid.accuracy, result.valid.loss, seconds)

    def _values_of_guessing(self) -> float | tuple[float, ...]:
        """Of a network that knows nothing and never will: no sampler is drawn to it.

        However long it were trained; a time of its own it has not, and 0 would be the best of all.
        """
        classes = self._shared.data.num_classes
        return self._chosen(1 / classes, math.log(classes), math.inf)

    def _chosen(self, accuracy: float, loss: float, seconds: float) -> float | tuple[float, ...]:
        match self._shared.definition.options.objective:
            case "loss":
                return loss
            case "accuracy,seconds":
                return accuracy, seconds
        return accuracy


def end_dead_run(run: MlflowRun, reason: str) -> None:
    """End the run of a trial whose worker has died, unless somebody has.

    Raises what the client raises.
    """
    if run.is_running():
        run.tag({"layerscope.state": "killed", "layerscope.reason": reason})
        run.end("KILLED", time.time())


def _state_after(error: BaseException) -> str:
    if isinstance(error, _DoesNotFit):
        return "infeasible"
    if isinstance(error, TrialStopped):
        return "pruned"
    return "failed" if isinstance(error, Exception) else "interrupted"
