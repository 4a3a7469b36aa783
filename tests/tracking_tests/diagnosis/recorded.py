"""Recorded runs made by hand: traces of layers and steps for rules to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tracking.diagnosis.evidence import (
    EpochFigures,
    GradientTrace,
    InputFigures,
    LayerTrace,
    RunContext,
    StepTrace,
    Stretch,
    UpdateTrace,
)
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES
from tracking.records import Finding

__all__ = [
    "BY_NAME",
    "CNN",
    "OPTIONS",
    "crashes",
    "dead",
    "decaying",
    "found",
    "gradients",
    "inputs",
    "layer",
    "looked_at",
    "losses",
    "since",
    "sizes",
    "stretches",
    "updates",
    "validations",
]

OPTIONS = {"lr_max": "0.1", "optimizer": "sgd", "epochs": "4"}
CNN = RunContext(
    options=OPTIONS,
    kinds={"conv1.relu": "ReLU", "conv2.relu": "ReLU", "act": "Tanh", "head": "Linear"},
    classes=10,
    total_steps=200,
)

Values = Sequence[float] | npt.NDArray[Any] | float

BY_NAME: dict[str, type[Rule]] = {rule.name: rule for rule in RULES}
DEEP = ("conv1.relu", "conv2.relu", "conv3.relu", "conv4.relu", "conv5.relu", "head")

decaying = [2.3 * 0.98**n for n in range(200)]


def layer(steps: int, first: int = 0, **changed: Values) -> LayerTrace:
    """A healthy layer, but for what is changed; a number holds for all steps."""
    usual: dict[str, Values] = {
        "count": 1000,
        "mean": 0.4,
        "std": 0.6,
        "min": 0.0,
        "max": 3.0,
        "near_zero": 0.5,
        "dead_channels": 0.0,
        "dead_lasting": 0.0,
        "nonfinite": 0,
    }
    columns = {name: _column(value, steps) for name, value in {**usual, **changed}.items()}
    whole = {name: columns.pop(name).astype(np.int64) for name in ("count", "nonfinite")}
    return LayerTrace(step=np.arange(first, first + steps), **whole, **columns)


def losses(loss: Values, lr: Values = 0.1, batch_size: Values = 64, first: int = 0) -> StepTrace:
    """Steps with these losses."""
    values = np.asarray(loss, np.float64)
    steps = len(values)
    return StepTrace(
        np.arange(first, first + steps), values, _column(lr, steps), _column(batch_size, steps)
    )


def gradients(steps: int, norm: Values, count: int = 100, nonfinite: Values = 0) -> GradientTrace:
    """Gradients at a layer's output."""
    whole = _column(nonfinite, steps).astype(np.int64)
    norms = _column(norm, steps)
    return GradientTrace(np.arange(steps), np.full(steps, count), norms, norms / 10, whole)


def updates(steps: int, ratio: Values) -> UpdateTrace:
    """Updates of a parameter."""
    return UpdateTrace(np.arange(steps), _column(ratio, steps), np.zeros(steps, np.int64))


def inputs(step: int = 0, **changed: Any) -> InputFigures:
    """A healthy batch, but for what is changed."""
    usual = {"samples": 64, "mean": 0.0, "std": 1.0, "min": -1.0, "max": 3.0}
    known = {"classes": 10, "lowest_label": 0, "highest_label": 9}
    return InputFigures(
        **{"step": step, "nonfinite": 0, "constant": 0.0, **usual, **known, **changed}
    )


def validations(
    *losses_: float, accuracy: float = 0.9, top_class: float = 0.1, every: int = 50
) -> list[EpochFigures]:
    """A validation after each epoch."""
    return [
        EpochFigures(every * n, loss, accuracy, top_class)
        for n, loss in enumerate(losses_, start=1)
    ]


def stretches(whole: Stretch, size: int) -> Iterator[Stretch]:
    """A recording in portions of so many steps, as it comes while a run trains."""
    traces = [*whole.layers.values(), *whole.gradients.values(), *whole.updates.values()]
    ends = [int(trace.step[-1]) + 1 for trace in traces if len(trace.step)]
    ends += [int(whole.steps.step[-1]) + 1] if whole.steps is not None else []
    ends += [one.step + 1 for one in (*whole.inputs, *whole.epochs, *whole.norms)]  # type: ignore[attr-defined]
    for first in range(0, max(ends, default=0), size):
        last = first + size
        yield Stretch(
            steps=None if whole.steps is None else _cut(whole.steps, first, last),
            layers={name: _cut(one, first, last) for name, one in _met(whole.layers, first, last)},
            gradients={n: _cut(one, first, last) for n, one in _met(whole.gradients, first, last)},
            updates={n: _cut(one, first, last) for n, one in _met(whole.updates, first, last)},
            epochs=[one for one in whole.epochs if first <= one.step < last],
            inputs=[one for one in whole.inputs if first <= one.step < last],
            norms=[one for one in whole.norms if first <= one.step < last],
        )


def looked_at(rule: Rule, whole: Stretch, size: int = 16) -> Rule:
    """The rule after it has seen all of a recording, in portions."""
    for stretch in stretches(whole, size):
        if stretch.steps is not None:
            rule.curve.add(stretch.steps)
        rule.observe(stretch)
    return rule


def found(
    rule: type[Rule] | Callable[[RunContext], Rule],
    whole: Stretch,
    run: RunContext = CNN,
    *,
    ended: bool = True,
) -> list[Finding]:
    """What a rule finds; the same whatever the portions in which it sees the recording."""
    results = [
        list(looked_at(rule(run), whole, size).findings(ended)) for size in (1, 7, 16, 10_000)
    ]
    first = results[0]
    for other in results[1:]:
        assert [_essence(one) for one in other] == [_essence(one) for one in first]
    return results[2]


def _essence(finding: Finding) -> tuple[Any, ...]:
    return finding.rule, finding.severity, finding.layers, finding.first_step


def _column(value: Values, steps: int) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.asarray(value, np.float64), (steps,)).copy()


def _met(traces: Any, first: int, last: int) -> list[Any]:
    return [(name, one) for name, one in traces.items() if len(_cut(one, first, last).step)]


def _cut(trace: Any, first: int, last: int) -> Any:
    here = slice(*np.searchsorted(trace.step, [first, last]))
    return type(trace)(**{name: getattr(trace, name)[here] for name in trace.__dataclass_fields__})


def since(step: int, steps: int, value: float, usual: float = 0.0) -> list[float]:
    return [value if n >= step else usual for n in range(steps)]


def dead(steps: int, at: int) -> Any:
    return layer(
        steps,
        dead_channels=since(at, steps, 1.0),
        near_zero=since(at, steps, 1.0, 0.5),
        mean=since(at, steps, 0.0, 0.4),
        std=since(at, steps, 0.0, 0.6),
    )


def sizes(*values: float, steps: int = 20) -> dict[str, Any]:
    """Layers whose activations begin with these sizes."""
    return {name: layer(steps, mean=0.0, std=x) for name, x in zip(DEEP, values, strict=False)}


def crashes(*, factor: float = 10.0, times: int = 3, steps: int = 120) -> list[float]:
    """A scale that grows by a factor over ten steps and falls back, again and again."""
    period = steps // times
    return [0.1 * factor ** min(1.0, (n % period) / 10) for n in range(steps)]
