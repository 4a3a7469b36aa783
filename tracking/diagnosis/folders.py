"""Diagnosis of a run that has been recorded, from the files in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracking.diagnosis.engine import Diagnosis
from tracking.diagnosis.evidence import (
    GradientTrace,
    LayerTrace,
    StepTrace,
    Stretch,
    UpdateTrace,
)
from tracking.diagnosis.files import Evidence
from tracking.diagnosis.saved import GRADIENTS, STATS, STEPS, UPDATES, evidence_of, tables_of
from tracking.diagnosis.thresholds import Thresholds
from tracking.diagnosis.traces import between, table_step_trace, table_traces
from tracking.pace import LOOK_EVERY
from tracking.records import Finding

__all__ = ["Diagnosed", "diagnose", "diagnosed", "stretches_of"]

KINDS: dict[str, tuple[Any, str]] = {
    STATS: (LayerTrace, "layer"),
    GRADIENTS: (GradientTrace, "layer"),
    UPDATES: (UpdateTrace, "parameter"),
}
"""Tables whose rows belong to a layer or a parameter."""
BLOCK = 128 * LOOK_EVERY
"""Steps that are in memory at a time."""


@dataclass(frozen=True)
class Diagnosed:
    """What was found in a run's files, and what was not there to be looked at."""

    findings: tuple[Finding, ...]
    missing: tuple[str, ...] = ()


def diagnose(folder: Path, thresholds: Thresholds | None = None) -> list[Finding]:
    """Findings of the run whose files lie in ``folder``, what matters most first."""
    return list(diagnosed(folder, thresholds).findings)


def diagnosed(folder: Path, thresholds: Thresholds | None = None) -> Diagnosed:
    """Diagnose a run from its files (see saved.py), as if it were being trained once more.

    What is missing or damaged is left out, and said. The tables stream by, so memory does not grow
    with the run. Raises BadOption: a threshold does not exist.
    """
    missing: list[str] = []
    evidence = evidence_of(folder, missing)
    diagnosis = Diagnosis(evidence.run, thresholds)
    for stretch in stretches_of(folder, evidence, missing):
        diagnosis.observe(stretch)
    diagnosis.end()
    return Diagnosed(diagnosis.findings, tuple(missing))


def stretches_of(folder: Path, evidence: Evidence, missing: list[str]) -> Iterator[Stretch]:
    """What was recorded of a run, in portions of the size in which a live diagnosis gets them.

    What cannot be read becomes a line of ``missing``.
    """
    tables = {name: _Rows(tables_of(folder, name, missing)) for name in (STEPS, *KINDS)}
    yield from _stretches(tables, evidence)


class _Rows:
    """A table's rows in order of their steps, so many steps at a time."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._ahead: list[pa.Table] = []
        self.ended = False

    def before(self, step: int) -> pa.Table | None:
        """The rows that come before a step, without those that were given; None for none."""
        while not self.ended and (not self._ahead or _last(self._ahead[-1]) < step):
            table = next(self._tables, None)
            self.ended = table is None
            self._ahead += [table] if table is not None and len(table) else []
        if not self._ahead:
            return None
        joined = pa.concat_tables(self._ahead, promote_options="default")
        count = int(np.searchsorted(joined["step"].to_numpy(), step))
        self._ahead = [joined.slice(count)] if count < len(joined) else []
        return joined.slice(0, count).combine_chunks() if count else None

    @property
    def done(self) -> bool:
        """Whether every row has been given."""
        return self.ended and not self._ahead


def _stretches(tables: Mapping[str, _Rows], evidence: Evidence) -> Iterator[Stretch]:
    """The run's portions, in the order in which a live diagnosis gets them."""
    ends = [one.step for one in evidence.epochs] + [one.step for one in evidence.norms.values()]
    end = max([0, *ends, *(one.step + 1 for one in evidence.inputs)])
    first = 0
    while first < end or not all(rows.done for rows in tables.values()):
        block = {name: rows.before(first + BLOCK) for name, rows in tables.items()}
        steps = {} if block[STEPS] is None else {"": table_step_trace(block[STEPS])}
        traces = {
            name: {} if block[name] is None else table_traces(kind, block[name], key)
            for name, (kind, key) in KINDS.items()
        }
        for begin in range(first, first + BLOCK, LOOK_EVERY):
            yield from _portion(begin, begin + LOOK_EVERY, steps, traces, evidence)
        first += BLOCK


def _portion(
    first: int,
    last: int,
    steps: Mapping[str, StepTrace],
    traces: Mapping[str, Mapping[str, Any]],
    evidence: Evidence,
) -> Iterator[Stretch]:
    """What was recorded of the steps from ``first`` to before ``last``, part by part."""
    inputs = [one for one in evidence.inputs if first <= one.step < last]
    norms = [one for one in evidence.norms.values() if first < max(1, one.step) <= last]
    epochs = [one for one in evidence.epochs if first < max(1, one.step) <= last]
    layers, gradients, updates = (
        between(traces[name], first, last) for name in (STATS, GRADIENTS, UPDATES)
    )
    if inputs:
        yield Stretch(inputs=inputs)
    for part in between(steps, first, last).values():
        yield Stretch(steps=part)
    if layers or gradients or updates:
        yield Stretch(layers=layers, gradients=gradients, updates=updates)
    if norms or epochs:
        yield Stretch(norms=norms, epochs=epochs)


def _last(table: pa.Table) -> int:
    return int(table["step"][-1].as_py())
