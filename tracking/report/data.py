"""What a report is made of, whether the run is here or in an MLflow store.

``RunFacts`` is what is known of a run without its files, ``RunReport`` adds what its files hold. A
file that is missing or damaged leaves its part empty, and ``missing`` says so: a report shows what
there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tracking.diagnosis.files import FINDINGS, read_findings
from tracking.errors import RecordsDamaged
from tracking.reasons import first_line
from tracking.records import DatasetInfo, Finding, Metric
from tracking.sink import NullSink
from tracking.tables.columns import read_columns
from tracking.tables.layer_columns import LayerColumns
from tracking.tables.schemas import check_format
from tracking.tables.step_columns import StepColumns, read_step_columns

__all__ = ["ARTIFACTS", "HEADLINES", "Headlines", "RunFacts", "RunReport", "read_report"]

T = TypeVar("T")

HEADLINES = ("valid/loss", "valid/accuracy", "test/loss", "test/accuracy", "samples_per_second")
"""Metrics that a report shows; losses of single steps come from steps.parquet."""
CONFIG, MODEL = "config.yaml", "model_summary.json"
STEPS, STATS = "hyperparameters/steps.parquet", "activations/stats.parquet"
ROLES = ("trainable", "frozen", "buffers")
ARTIFACTS = (CONFIG, MODEL, STEPS, STATS, FINDINGS)
"""Files of a run that a report is made from."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run without reading its files."""

    run_id: str
    name: str = ""
    experiment: str = ""
    state: str = "running"
    """running, finished, failed or killed."""
    reason: str = ""
    """Why it failed or was killed."""
    began: float | None = None
    """Unix seconds, as for the next."""
    ended: float | None = None
    commit: str = ""
    """Of the code that trained it."""
    version: str = ""
    """Of Layerscope."""
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[Metric]] = field(default_factory=dict)
    """Points of HEADLINES, in order of step."""
    dataset: DatasetInfo | None = None

    @property
    def by_command(self) -> bool:
        """Whether `layerscope train` made it, and not a loop of somebody's own."""
        return {"model", "dataset"} <= {*self.params}

    def last(self, key: str) -> float | None:
        """The last value of a metric."""
        points = self.metrics.get(key, ())
        return points[-1].value if points else None

    @property
    def seconds(self) -> float | None:
        """How long the run took."""
        if self.began is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.began)


@dataclass(frozen=True)
class RunReport:
    """A run's facts, and what its files hold."""

    facts: RunFacts
    config: str = ""
    """config.yaml."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """model_summary.json."""
    steps: StepColumns | None = None
    layers: Mapping[str, LayerColumns] = field(default_factory=dict)
    findings: Sequence[Finding] | None = None
    """What is wrong with the run, what matters most first; None where nobody has looked."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that wrote the tables."""
    missing: Sequence[str] = ()
    """What there is not, one line each."""


class Headlines(NullSink):
    """A sink that keeps what a report needs and no more: parameters, data set, headline metrics.

    ``earlier``: points of the run before it went on, of which it may repeat the last ones.
    """

    def __init__(self, earlier: Mapping[str, Sequence[Metric]] | None = None) -> None:
        self.logged: dict[str, str] = {}
        self.points = {key: list(points) for key, points in (earlier or {}).items()}
        self.info: DatasetInfo | None = None

    def params(self, params: Mapping[str, str]) -> None:
        self.logged.update(params)

    def metrics(self, metrics: Sequence[Metric]) -> None:
        for metric in metrics:
            if metric.key in HEADLINES:
                points = self.points.setdefault(metric.key, [])
                while points and points[-1].step >= metric.step:
                    points.pop()
                points.append(metric)

    def dataset(self, dataset: DatasetInfo) -> None:
        self.info = dataset


def read_report(
    facts: RunFacts, folder: Path, absent: Mapping[str, str] | None = None
) -> RunReport:
    """A report of a run whose artifacts lie in ``folder`` under their names (ARTIFACTS).

    ``absent``: why one of them is not there, where that is known.
    """
    missing: list[str] = []

    def read(name: str, how: Callable[[Path], T], nothing: T) -> T:
        path = folder / name
        if not path.exists():
            if name in {CONFIG, MODEL} and not facts.by_command:
                return nothing  # which only the command leaves
            missing.append(f"{name} {(absent or {}).get(name) or _why(name, facts)}")
            return nothing
        try:
            return how(path)
        except (RecordsDamaged, OSError, ValueError, pa.ArrowException) as error:
            why = first_line(error).replace(str(path), name)
            missing.append(why if name in why else f"{name} cannot be read ({why})")
            return nothing

    steps = read(STEPS, read_step_columns, None)
    nothing: dict[str, LayerColumns] = {}
    layers = read(STATS, read_columns, nothing)
    if not layers and (folder / STATS).exists() and not any(STATS in line for line in missing):
        missing.append(f"{STATS} has no rows: no step of training was recorded")
    return RunReport(
        facts=facts,
        config=read(CONFIG, _text, ""),
        model=read(MODEL, _model, {}),
        steps=steps if steps is not None and len(steps) else None,
        layers=layers,
        findings=read(FINDINGS, _findings, None) if (folder / FINDINGS).exists() else None,
        versions=_versions(folder),
        missing=tuple(missing),
    )


def _why(name: str, facts: RunFacts) -> str:
    if name in {STEPS, STATS} and facts.params.get("record") == "false":
        return "is not there: recording was switched off (record=false)"
    return "is not there" + (": it comes when the run ends" if facts.state == "running" else "")


def _findings(path: Path) -> list[Finding] | None:
    return read_findings(path)[0]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _model(path: Path) -> dict[str, Any]:
    """The summary, with every key that a page needs."""
    try:
        summary = json.loads(_text(path))
        totals = {role: int(summary[role]) for role in ROLES}
        layers = [_layer(layer) for layer in summary["layers"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecordsDamaged(f"{path}: is no model summary") from None
    return totals | {"layers": layers}


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    shape = layer.get("output_shape")
    return {
        "name": str(layer["name"]),
        "kind": str(layer.get("kind", "")),
        "output_shape": None if shape is None else [int(side) for side in shape],
        "shapes": {str(k): [int(side) for side in v] for k, v in layer.get("shapes", {}).items()},
        **{role: int(layer[role]) for role in ROLES},
    }


def _versions(folder: Path) -> dict[str, str]:
    """Of the libraries, as they stand in a table's metadata."""
    for name in (STATS, STEPS):
        try:
            versions = check_format(pq.read_schema(folder / name), folder / name).get("versions")
        except (RecordsDamaged, OSError, ValueError):
            continue
        if isinstance(versions, dict):
            return {str(key): str(value) for key, value in versions.items()}
    return {}
