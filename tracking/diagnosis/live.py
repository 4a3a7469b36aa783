"""LiveDiagnosis: a diagnosis that recorders feed while a run trains, and the files it leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from torch import Tensor, nn

from tracking.diagnosis.batch_norms import NormStats
from tracking.diagnosis.engine import Diagnosis
from tracking.diagnosis.evidence import (
    EpochFigures,
    InputFigures,
    NormFigures,
    RunContext,
    Stretch,
)
from tracking.diagnosis.files import (
    EVIDENCE,
    FINDINGS,
    Evidence,
    evidence_content,
    evidence_from,
    write_evidence,
    write_findings,
)
from tracking.diagnosis.folders import stretches_of
from tracking.diagnosis.inputs import InputStats
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES
from tracking.diagnosis.thresholds import Thresholds
from tracking.diagnosis.traces import (
    gradient_traces,
    layer_traces,
    step_trace,
    update_traces,
)
from tracking.hooks.graph_operators import forget_graphs
from tracking.hooks.layers import inner_model, named_layers
from tracking.hooks.module_hooks import HookHandle, ValuesHook
from tracking.hooks.outputs import in_trace
from tracking.pace import Pace
from tracking.reasons import one_line
from tracking.records import Finding, GradientRecord, HyperParams, LayerStats, UpdateRecord

__all__ = ["LiveDiagnosis"]


Method = TypeVar("Method", bound=Callable[..., None])

log = logging.getLogger("layerscope")


def _guarded(method: Method) -> Method:
    """A diagnosis that fails must not fail the training: it ends, with a warning."""

    @wraps(method)
    def guarded(self: LiveDiagnosis, *arguments: Any) -> None:
        if not self._active:
            return
        try:
            method(self, *arguments)
        except Exception as error:
            self._active = False
            self.close()
            log.warning("the diagnosis failed and goes no further (%s)", one_line(error))

    return cast(Method, guarded)


class LiveDiagnosis:
    """Diagnoses a run while it trains; ``announce`` is given each finding when it is new.

    Some of its methods are what recorders take as ``watch``; as a context manager it looks itself
    at what goes into ``model`` and into its batch-norm layers. Raises BadOption: a threshold does
    not exist. ``first_step``: steps done before, in a run that goes on; ``active``: where it is not
    set, as on ranks that do not record, nothing is looked at. ``pace`` is told what looking takes.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RunContext,
        announce: Callable[[Finding], None] | None = None,
        thresholds: Thresholds | None = None,
        *,
        first_step: int = 0,
        active: bool = True,
        pace: Pace | None = None,
        rules: Sequence[type[Rule]] = RULES,
    ) -> None:
        run = replace(run, kinds=_kinds(model) | dict(run.kinds))
        self.diagnosis = Diagnosis(run, thresholds, rules)
        self.current_step = first_step
        self._active = active
        self._pace = pace or Pace(1)
        self._announce = announce
        self._evidence = Evidence(run)
        self._model = inner_model(model)
        self._inputs = InputStats(self._input, first_step)
        self._norms = NormStats(self._model, self._norm, first_step)
        self._forward = ValuesHook(self._before_forward)
        self._handle: HookHandle | None = None

    def __enter__(self) -> Self:
        if self._active:
            forget_graphs()  # and so the numbers of the hooks are those of the run before
            self._handle = self._forward.before(self._model)
            self._norms.attach()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. May be called twice."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._norms.close()
        self._close_inputs()

    @_guarded
    def _close_inputs(self) -> None:
        self._inputs.close()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers beside the tables: numbers and text."""
        return {
            "evidence": evidence_content(self._evidence),
            "norms": self._norms.state_dict(),
            "found": self.diagnosis.found,
        }

    @_guarded
    def recall(self, folder: Path, state: Mapping[str, Any], epochs: int) -> None:
        """Look at what was recorded of the run before it goes on; nobody is told once more.

        Its tables, or parts of them, lie below ``folder``; ``state`` is what ``state_dict`` gave,
        and of the validations in it the first ``epochs`` count.
        """
        earlier = evidence_from(state["evidence"])
        del earlier.epochs[epochs:]
        self.diagnosis.recall(stretches_of(folder, earlier, []), state["found"])
        self._norms.load_state_dict(state["norms"])
        self._inputs.first_step = min((one.step for one in earlier.inputs), default=0)
        self._evidence = replace(earlier, run=self._evidence.run)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found so far, what matters most first."""
        return self.diagnosis.findings

    @_guarded
    def layers(self, records: Sequence[LayerStats]) -> None:
        """Take activation statistics."""
        self._look(Stretch(layers=layer_traces(records)))

    @_guarded
    def steps(self, records: Sequence[HyperParams]) -> None:
        """Take hyperparameters and losses."""
        self._look(Stretch(steps=step_trace(records)))

    @_guarded
    def gradients(self, records: Sequence[GradientRecord]) -> None:
        """Take gradients."""
        self._look(Stretch(gradients=gradient_traces(records)))

    @_guarded
    def updates(self, records: Sequence[UpdateRecord]) -> None:
        """Take updates."""
        self._look(Stretch(updates=update_traces(records)))

    @_guarded
    def note(self, labels: Tensor) -> None:
        """Take the labels (n,) of the step under way."""
        self._inputs.note(labels)

    @_guarded
    def step(self) -> None:
        """End the current step."""
        self._inputs.step()
        self.current_step += 1
        self._norms.current_step = self.current_step

    @_guarded
    def validated(self, loss: float, accuracy: float, top_class: float) -> None:
        """Take the result of a validation after the steps done so far."""
        figures = EpochFigures(self.current_step, loss, accuracy, top_class)
        self._evidence.epochs.append(figures)
        self._look(Stretch(epochs=[figures]))

    def end(self, directory: Path) -> list[Path]:
        """The run is over: write diagnosis.json and evidence.json into ``directory``.

        Gives the files that could be written.
        """
        written: list[Path] = []
        self._end(directory, written)
        return written

    @_guarded
    def _end(self, directory: Path, written: list[Path]) -> None:
        self._tell(self.diagnosis.end())
        written.append(write_findings(self.findings, directory / FINDINGS))
        written.append(write_evidence(self._evidence, directory / EVIDENCE))

    def _before_forward(self, inputs: tuple[Any, ...]) -> None:
        # Compiled code calls it after its removal too.
        if self._handle is not None and not in_trace():
            began = time.perf_counter()
            self._look_at(inputs)
            self._pace.always += time.perf_counter() - began

    @_guarded
    def _look_at(self, inputs: tuple[Any, ...]) -> None:
        training = self._model.training
        self._norms.before_forward(training, compiled=self._forward.compiled)
        if training:
            self._inputs.look(inputs)

    def _input(self, figures: InputFigures) -> None:
        self._evidence.inputs.append(figures)
        self._look(Stretch(inputs=[figures]))

    def _norm(self, figures: NormFigures) -> None:
        self._evidence.norms[figures.layer] = figures
        self._look(Stretch(norms=[figures]))

    def _look(self, stretch: Stretch) -> None:
        self._tell(self.diagnosis.observe(stretch))

    def _tell(self, new: Sequence[Finding]) -> None:
        if self._announce is not None:
            for finding in new:
                self._announce(finding)


def _kinds(model: nn.Module) -> dict[str, str]:
    modules = named_layers(inner_model(model))
    return {name: type(module).__name__ for name, module in modules.items()}
