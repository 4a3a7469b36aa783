"""The trials of a study as a table: for Parquet, JSON and CSV. The console's: console_tables.py.

One row a trial, in the order of their numbers. Where a trial lacks something (a killed one has no
results, one with another schedule no ``pct_start``) there is null.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from search.outcome import Outcome, objectives
from search.reports.trial_text import end_of, note, number_of, plain, utc

__all__ = ["trials_csv", "trials_json", "trials_table"]

TIME = pa.timestamp("us", tz="UTC")
Column = tuple[str, pa.DataType, list[Any]]
"""Name, type, values."""


def trials_table(study: Study) -> pa.Table:
    """All trials.

    Columns: ``number`` int64 · ``state`` string, a name of ``outcome.Counts`` · ``value/OBJECTIVE``
    float64 (of complete trials) · ``params/NAME``, what the sampler chose, and
    ``config/NAME``, the options of RunConfig that came of it: bool, int64, float64 or string, JSON
    text where values are lists or of several kinds · ``seconds`` ``aside_seconds`` ``accuracy``
    ``loss`` float64, ``samples`` ``aside_samples`` int64 ("aside" is what the rungs took) ·
    ``findings`` list of strings · ``reason`` ``mlflow_run_id`` ``worker`` string · ``started``
    ``ended`` timestamps in UTC · ``retry_of`` int64, the trial that this one is another try of.
    """
    columns = {name: pa.array(values, kind) for name, kind, values in _columns(study)}
    return pa.table(columns)


def trials_json(study: Study) -> str:
    """All trials as a JSON list of objects; ``values``, ``params`` and ``config`` are objects."""
    return json.dumps([_nested(row) for row in trials_table(study).to_pylist()], indent=2)


def trials_csv(study: Study) -> str:
    """All trials as CSV with a header (RFC 4180): null is empty, findings are joined by ``;``."""
    table = trials_table(study)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in table.to_pylist())
    return text.getvalue()


def _columns(study: Study) -> Iterator[Column]:
    outcome = Outcome.of(study)
    trials = outcome.trials
    yield "number", pa.int64(), [trial.number for trial in trials]
    yield "state", pa.string(), [outcome.states[trial.number] for trial in trials]
    for place, name in enumerate(objectives(study)):
        yield f"value/{name}", pa.float64(), [_value(trial, place) for trial in trials]
    yield from _group("params", [trial.params for trial in trials])
    yield from _group("config", [_config(trial) for trial in trials])
    for name in ("seconds", "aside_seconds", "accuracy", "loss"):
        yield name, pa.float64(), [number_of(trial, name) for trial in trials]
    for name in ("samples", "aside_samples"):
        yield name, pa.int64(), [_whole(number_of(trial, name)) for trial in trials]
    yield "findings", pa.list_(pa.string()), [_findings(trial) for trial in trials]
    yield "reason", pa.string(), [end_of(trial) for trial in trials]
    for name in ("mlflow_run_id", "worker"):
        yield name, pa.string(), [note(trial, name) for trial in trials]
    yield "started", TIME, [utc(trial.datetime_start) for trial in trials]
    yield "ended", TIME, [utc(trial.datetime_complete) for trial in trials]
    yield "retry_of", pa.int64(), [_retry_of(trial) for trial in trials]


def _group(prefix: str, rows: Sequence[dict[str, Any]]) -> Iterator[Column]:
    """A column for each name that occurs."""
    for name in sorted({name for row in rows for name in row}):
        values = [row.get(name) for row in rows]
        kind = _kind([value for value in values if value is not None])
        if kind == pa.string():
            text = all(value is None or isinstance(value, str) for value in values)
            values = [v if v is None or text else plain(v) for v in values]
        yield f"{prefix}/{name}", kind, values


def _kind(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} and float in kinds else pa.string()


def _value(trial: FrozenTrial, place: int) -> float | None:
    """None for a pruned trial: what Optuna takes for its value is its last score."""
    if trial.state != TrialState.COMPLETE or not trial.values or place >= len(trial.values):
        return None
    return float(trial.values[place])


def _config(trial: FrozenTrial) -> dict[str, Any]:
    config = trial.user_attrs.get("config")
    return config if isinstance(config, dict) else {}


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)


def _findings(trial: FrozenTrial) -> list[str]:
    return [str(rule) for rule in trial.user_attrs.get("findings") or ()]


def _retry_of(trial: FrozenTrial) -> int | None:
    history = trial.system_attrs.get("retry_history")
    return history[-1] if history else None


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    groups = {"value": "values", "params": "params", "config": "config"}
    for name, value in row.items():
        group, slash, inner = name.partition("/")
        if not slash:
            nested[name] = _jsonable(value)
            continue
        inside = nested.setdefault(groups[group], {})
        if value is not None or group == "value":
            inside[inner] = _jsonable(value)
    return nested


def _jsonable(value: Any) -> Any:
    """JSON knows no infinity; a time is written as ISO 8601."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ";".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
