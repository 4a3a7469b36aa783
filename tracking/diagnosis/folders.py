"""Diagnosis of a run that has been recorded, from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tracking.diagnosis.engine import Diagnosis
from tracking.diagnosis.evidence import (
    GradientTrace,
    LayerTrace,
    RunContext,
    StepTrace,
    Stretch,
    UpdateTrace,
)
from tracking.diagnosis.files import EVIDENCE, Evidence, read_evidence
from tracking.diagnosis.thresholds import Thresholds
from tracking.diagnosis.traces import between, table_step_trace, table_traces
from tracking.errors import RecordsDamaged
from tracking.reasons import first_line
from tracking.record_log import LOOK_EVERY
from tracking.records import Finding
from tracking.tables import check_format

__all__ = ["ARTIFACTS", "OPTIONAL", "Diagnosed", "context_of", "diagnose", "diagnosed"]

STEPS = "hyperparameters/steps.parquet"
STATS = "activations/stats.parquet"
GRADIENTS = "gradients/stats.parquet"
UPDATES = "updates/stats.parquet"
ARTIFACTS = ("config.yaml", "model_summary.json", EVIDENCE, STEPS, STATS, GRADIENTS, UPDATES)
"""Files of a run that a diagnosis is made from; the last two are there only where wanted."""
OPTIONAL = {GRADIENTS, UPDATES}


@dataclass(frozen=True)
class Diagnosed:
    """What was found in a run's files, and what was not there to be looked at."""

    findings: tuple[Finding, ...]
    missing: tuple[str, ...] = ()


def diagnose(folder: Path, thresholds: Thresholds | None = None) -> list[Finding]:
    """Findings of the run whose files lie in ``folder``, what matters most first."""
    return list(diagnosed(folder, thresholds).findings)


def diagnosed(folder: Path, thresholds: Thresholds | None = None) -> Diagnosed:
    """Diagnose a run from its files (ARTIFACTS), as if it were being trained once more.

    What is missing or damaged is left out, and said. Raises BadOption: a threshold does not exist.
    """
    files = _Files(folder)
    evidence = files.evidence()
    diagnosis = Diagnosis(evidence.run, thresholds)
    for stretch in _stretches(files.recorded(), evidence):
        diagnosis.observe(stretch)
    diagnosis.end()
    return Diagnosed(diagnosis.findings, tuple(files.missing))


@dataclass(frozen=True)
class _Recorded:
    """Every row of a run's tables."""

    steps: StepTrace | None
    layers: Mapping[str, LayerTrace]
    gradients: Mapping[str, GradientTrace]
    updates: Mapping[str, UpdateTrace]

    def last_step(self) -> int:
        every = [trace.step for trace in self.layers.values()]
        every += [trace.step for trace in self.gradients.values()]
        every += [trace.step for trace in self.updates.values()]
        every += [self.steps.step] if self.steps is not None else []
        return max((int(step[-1]) for step in every if len(step)), default=-1)


def _stretches(recorded: _Recorded, evidence: Evidence) -> Iterator[Stretch]:
    """The run in portions of the size in which a live diagnosis gets them, in the same order."""
    steps = {"": recorded.steps} if recorded.steps is not None else {}
    ends = [one.step for one in evidence.epochs] + [one.step for one in evidence.norms.values()]
    end = max([recorded.last_step() + 1, *ends])
    for first in range(0, end, LOOK_EVERY):
        last = first + LOOK_EVERY
        yield Stretch(inputs=[one for one in evidence.inputs if first <= one.step < last])
        for part in between(steps, first, last).values():
            yield Stretch(steps=part)
        yield Stretch(
            layers=between(recorded.layers, first, last),
            gradients=between(recorded.gradients, first, last),
            updates=between(recorded.updates, first, last),
        )
        yield Stretch(
            norms=[one for one in evidence.norms.values() if first < one.step <= last],
            epochs=[one for one in evidence.epochs if first < one.step <= last],
        )


@dataclass
class _Files:
    """Reads what there is of a run's files."""

    folder: Path
    missing: list[str] = field(default_factory=list)

    def evidence(self) -> Evidence:
        """evidence.json, or what other files say in its place."""
        found: Evidence | None = self.read(EVIDENCE, read_evidence)
        if found is not None:
            return found
        return Evidence(context_of(self.folder))

    def recorded(self) -> _Recorded:
        """The rows of every table."""
        steps = self._table(STEPS)
        return _Recorded(
            steps=None if steps is None else table_step_trace(steps),
            layers=self._traces(LayerTrace, STATS, "layer"),
            gradients=self._traces(GradientTrace, GRADIENTS, "layer"),
            updates=self._traces(UpdateTrace, UPDATES, "parameter"),
        )

    def _traces(self, kind: Any, name: str, key: str) -> dict[str, Any]:
        table = self._table(name)
        return {} if table is None else table_traces(kind, table, key)

    def _table(self, name: str) -> pa.Table | None:
        """Everything of a table that can be read, or of the parts that are to become it."""
        path = self.folder / name
        parts = sorted((path.parent / "parts" / path.stem).glob("*.parquet"))
        if not path.exists() and not parts:
            if name not in OPTIONAL:
                self.missing.append(f"{name} is not there")
            return None
        tables: list[pa.Table] = []
        for file in [path] if path.exists() else parts:
            tables += self._row_groups(file, file.relative_to(self.folder).as_posix())
        if not tables:
            return None
        return pa.concat_tables(tables, promote_options="default").combine_chunks()

    def _row_groups(self, file: Path, name: str) -> Iterator[pa.Table]:
        """The row groups that can be read; the others are said to be damaged."""
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                check_format(parquet.schema_arrow, file)
                for index in range(parquet.num_row_groups):
                    try:
                        yield _added(parquet.read_row_group(index))
                    except (OSError, ValueError, pa.ArrowException) as error:
                        self.missing.append(f"{name}: a part is damaged ({first_line(error)})")
        except (RecordsDamaged, OSError, ValueError, pa.ArrowException) as error:
            why = first_line(error).replace(str(file), name)
            self.missing.append(why if name in why else f"{name} cannot be read ({why})")

    def read(self, name: str, how: Callable[[Path], Any]) -> Any:
        """A file as ``how`` reads it, or None where it is missing or damaged."""
        path = self.folder / name
        if not path.exists():
            self.missing.append(f"{name} is not there")
            return None
        try:
            return how(path)
        except (RecordsDamaged, OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            self.missing.append(f"{name} cannot be read ({first_line(error)})")
            return None


def _added(table: pa.Table) -> pa.Table:
    """A table with the columns that rules need; those it lacks are null."""
    if "mean" in table.column_names and "dead_lasting" not in table.column_names:
        nothing = pa.array(np.full(len(table), np.nan))
        return table.append_column("dead_lasting", nothing)
    return table


def context_of(folder: Path) -> RunContext:
    """What a run's own files tell of it where there is no evidence.json."""
    files = _Files(folder)
    options = files.read("config.yaml", _options) or {}
    kinds = files.read("model_summary.json", _kinds) or {}
    return RunContext(options=options, kinds=kinds)


def _options(path: Path) -> dict[str, str]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in dict(content).items()}


def _kinds(path: Path) -> dict[str, str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {str(layer["name"]): str(layer["kind"]) for layer in content["layers"]}
