"""What can be read of a run's files: tables row group by row group, evidence, context."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tracking.diagnosis.evidence import RunContext
from tracking.diagnosis.files import EVIDENCE, Evidence, read_evidence
from tracking.diagnosis.rules import RULES
from tracking.errors import RecordsDamaged
from tracking.reasons import first_line
from tracking.tables.schemas import check_format

__all__ = [
    "ARTIFACTS",
    "GRADIENTS",
    "OPTIONAL",
    "STATS",
    "STEPS",
    "UPDATES",
    "context_of",
    "evidence_of",
    "tables_of",
]

STEPS = "hyperparameters/steps.parquet"
STATS = "activations/stats.parquet"
GRADIENTS = "gradients/stats.parquet"
UPDATES = "updates/stats.parquet"
ARTIFACTS = ("config.yaml", "model_summary.json", EVIDENCE, STEPS, STATS, GRADIENTS, UPDATES)
"""Files of a run that a diagnosis is made from; the last two are there only where wanted."""
OPTIONAL = {GRADIENTS, UPDATES}

SOURCES = {
    "steps": STEPS,
    "layers": STATS,
    **dict.fromkeys(("inputs", "norms", "epochs", "data"), EVIDENCE),
}
"""Files that hold what rules need."""


def tables_of(folder: Path, name: str, missing: list[str]) -> Iterator[pa.Table]:
    """Everything of a table that can be read, or of the parts that were to become it.

    What cannot be read becomes a line of ``missing``; so does a table that is not there.
    """
    path = folder / name
    parts = sorted((path.parent / "parts" / path.stem).glob("*.parquet"))
    if not path.exists() and not parts:
        if name not in OPTIONAL:
            missing.append(f"{name} is not there{_without(name)}")
        return
    for file in [path] if path.exists() else parts:
        yield from _row_groups(file, file.relative_to(folder).as_posix(), missing)


def _row_groups(file: Path, name: str, missing: list[str]) -> Iterator[pa.Table]:
    """The row groups that can be read; the others are said to be damaged."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            check_format(parquet.schema_arrow, file)
            # No rule looks at histograms, which are most of the file.
            columns = [column for column in parquet.schema_arrow.names if column != "hist"]
            for index in range(parquet.num_row_groups):
                try:
                    yield _added(parquet.read_row_group(index, columns=columns))
                except (OSError, ValueError, pa.ArrowException) as error:
                    missing.append(f"{name}: a part is damaged ({first_line(error)})")
    except (RecordsDamaged, OSError, ValueError, pa.ArrowException) as error:
        why = first_line(error).replace(str(file), name)
        missing.append(why if name in why else f"{name} cannot be read ({why})")


def evidence_of(folder: Path, missing: list[str]) -> Evidence:
    """evidence.json, or what other files say in its place."""
    found: Evidence | None = _read(folder, EVIDENCE, read_evidence, missing)
    return Evidence(context_of(folder, missing)) if found is None else found


def _without(name: str) -> str:
    """Which rules see nothing where a file is not there."""
    blind = [rule.name for rule in RULES if SOURCES.get(rule.needs) == name]
    return f"; without it these rules see nothing: {', '.join(blind)}"


def _read(folder: Path, name: str, how: Callable[[Path], Any], missing: list[str]) -> Any:
    """A file as ``how`` reads it, or None where it is missing or damaged."""
    path = folder / name
    if not path.exists():
        missing.append(f"{name} is not there{_without(name) if name == EVIDENCE else ''}")
        return None
    try:
        return how(path)
    except (RecordsDamaged, OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        why = first_line(error).replace(str(path), name)
        missing.append(why if name in why else f"{name} cannot be read ({why})")
        return None


def context_of(folder: Path, missing: list[str] | None = None) -> RunContext:
    """What a run's own files tell of it where there is no evidence.json."""
    missing = [] if missing is None else missing
    options = _read(folder, "config.yaml", _options, missing) or {}
    kinds = _read(folder, "model_summary.json", _kinds, missing) or {}
    return RunContext(options=options, kinds=kinds)


def _added(table: pa.Table) -> pa.Table:
    """A table with the columns that rules need; those it lacks are null."""
    if "mean" in table.column_names and "dead_lasting" not in table.column_names:
        nothing = pa.array(np.full(len(table), np.nan))
        return table.append_column("dead_lasting", nothing)
    return table


def _options(path: Path) -> dict[str, str]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in dict(content).items()}


def _kinds(path: Path) -> dict[str, str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {str(layer["name"]): str(layer["kind"]) for layer in content["layers"]}
