"""Records and tables as the arrays that rules look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracking.diagnosis.evidence import GradientTrace, LayerTrace, StepTrace, UpdateTrace
from tracking.records import GradientRecord, HyperParams, LayerStats, UpdateRecord

__all__ = [
    "between",
    "gradient_traces",
    "layer_traces",
    "step_trace",
    "table_step_trace",
    "table_traces",
    "update_traces",
]

Trace = TypeVar("Trace", LayerTrace, StepTrace, GradientTrace, UpdateTrace)

WHOLE = frozenset({"step", "count", "nonfinite"})
"""Values that are whole numbers, and always known."""


def layer_traces(records: Sequence[LayerStats]) -> dict[str, LayerTrace]:
    """Training rows by layer; layers in the order in which they come."""
    return _by_name(LayerTrace, [r for r in records if r.mode == "train"], "layer")


def gradient_traces(records: Sequence[GradientRecord]) -> dict[str, GradientTrace]:
    """Gradients by layer."""
    return _by_name(GradientTrace, records, "layer")


def update_traces(records: Sequence[UpdateRecord]) -> dict[str, UpdateTrace]:
    """Updates by parameter."""
    return _by_name(UpdateTrace, records, "parameter")


def step_trace(records: Sequence[HyperParams]) -> StepTrace:
    """Steps of the first parameter group, which every step has; there is at least one."""
    first = records[0].group
    return _trace(StepTrace, [r for r in records if r.group == first])


def table_traces(kind: type[Trace], table: pa.Table, name: str) -> dict[str, Trace]:
    """The rows of a table of statistics by their ``name``: layer or parameter."""
    if "mode" in table.column_names:
        table = table.filter(pc.equal(table["mode"].cast(pa.string()), "train"))
    names = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    columns = {field.name: _column(table, field.name) for field in fields(kind)}
    return {
        text: kind(**{column: values[codes == code] for column, values in columns.items()})
        for code, text in enumerate(names.dictionary.to_pylist())
    }


def table_step_trace(table: pa.Table) -> StepTrace:
    """The rows of a table of hyperparameters that are of the first parameter group."""
    groups = table["group"].cast(pa.string())
    if len(table):
        table = table.filter(pc.equal(groups, groups[0]))
    return StepTrace(**{field.name: _column(table, field.name) for field in fields(StepTrace)})


def _by_name(kind: type[Trace], records: Sequence[Any], name: str) -> dict[str, Trace]:
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(getattr(record, name), []).append(record)
    return {text: _trace(kind, group) for text, group in groups.items()}


def _trace(kind: type[Trace], records: Sequence[Any]) -> Trace:
    names = _field_names(kind)
    columns = zip(*map(attrgetter(*names), records), strict=True)
    arrays: dict[str, Any] = {
        # None, where there is no value, becomes NaN.
        name: np.array(column, np.int64 if name in WHOLE else np.float64)
        for name, column in zip(names, columns, strict=True)
    }
    return kind(**arrays)


def _field_names(kind: type[Trace]) -> tuple[str, ...]:
    return tuple(kind.__dataclass_fields__)


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    kind = np.int64 if name in WHOLE else np.float64
    return np.asarray(table[name].to_numpy(), kind)


def between(traces: Mapping[str, Trace], first: int, last: int) -> dict[str, Trace]:
    """The rows of the steps from ``first`` to before ``last``; names without any are left out."""
    cut = {name: _cut(trace, first, last) for name, trace in traces.items()}
    return {name: trace for name, trace in cut.items() if len(trace.step)}


def _cut(trace: Trace, first: int, last: int) -> Trace:
    here = slice(*np.searchsorted(trace.step, [first, last]))
    return type(trace)(**{field.name: getattr(trace, field.name)[here] for field in fields(trace)})
