"""diagnosis.json (what was found) and evidence.json (what tables do not hold), written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from tracking import __version__
from tracking.diagnosis.evidence import (
    DataFacts,
    EpochFigures,
    InputFigures,
    NormFigures,
    RunContext,
)
from tracking.errors import RecordsDamaged
from tracking.records import Finding, Remedy

__all__ = [
    "EVIDENCE",
    "FINDINGS",
    "Evidence",
    "evidence_content",
    "evidence_from",
    "plain",
    "read_evidence",
    "read_findings",
    "write_evidence",
    "write_findings",
]

EVIDENCE, FINDINGS = "evidence.json", "diagnosis.json"
FORMAT = 1

T = TypeVar("T")


@dataclass
class Evidence:
    """What rules look at besides the tables."""

    run: RunContext
    inputs: list[InputFigures] = field(default_factory=list)
    norms: dict[str, NormFigures] = field(default_factory=dict)
    """The last look at each layer."""
    epochs: list[EpochFigures] = field(default_factory=list)


def write_findings(findings: Sequence[Finding], path: Path, missing: Sequence[str] = ()) -> Path:
    """Write what was found, and what was not there to be looked at."""
    return _write(path, {"findings": [asdict(f) for f in findings], "missing": list(missing)})


def read_findings(path: Path) -> tuple[list[Finding], list[str]]:
    """What ``write_findings`` wrote.

    Raises RecordsDamaged: it is something else, or a newer version's.
    """
    content = _read(path)
    try:
        return [_finding(entry) for entry in content["findings"]], list(content["missing"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RecordsDamaged(f"{path}: is no diagnosis") from None


def write_evidence(evidence: Evidence, path: Path) -> Path:
    """Write what is known beside the tables."""
    return _write(path, evidence_content(evidence))


def evidence_content(evidence: Evidence) -> dict[str, Any]:
    """Evidence as numbers, text, lists and mappings."""
    return {
        "run": asdict(evidence.run),
        "inputs": [asdict(one) for one in evidence.inputs],
        "norms": [asdict(one) for one in evidence.norms.values()],
        "epochs": [asdict(one) for one in evidence.epochs],
    }


def read_evidence(path: Path) -> Evidence:
    """What ``write_evidence`` wrote.

    Raises RecordsDamaged: it is something else, or a newer version's.
    """
    try:
        return evidence_from(_read(path))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RecordsDamaged(f"{path}: holds no evidence") from None


def evidence_from(content: Mapping[str, Any]) -> Evidence:
    """What ``evidence_content`` gave, also after it has been JSON.

    Raises KeyError, TypeError, ValueError or AttributeError: it is something else.
    """
    run = content["run"]
    data = run["data"] and _made(DataFacts, run["data"])
    norms = [_made(NormFigures, one) for one in content["norms"]]
    return Evidence(
        RunContext(**(run | {"data": data})),
        [_made(InputFigures, one) for one in content["inputs"]],
        {one.layer: one for one in norms},
        [_made(EpochFigures, one) for one in content["epochs"]],
    )


def _finding(entry: Mapping[str, Any]) -> Finding:
    remedies = tuple(Remedy(**remedy) for remedy in entry["remedies"])
    evidence = {str(name): _number(value) for name, value in entry["evidence"].items()}
    layers = tuple(map(str, entry["layers"]))
    return Finding(**(dict(entry) | {"remedies": remedies, "layers": layers, "evidence": evidence}))


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """A record from its values; null, which JSON has for NaN, becomes NaN again."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _number(value) for name, value in values.items() if name in known})


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return math.nan if value is None else value


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    whole = {"format": FORMAT, "version": __version__, **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(whole), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """The same for JSON, which knows neither NaN nor infinities: null stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RecordsDamaged(f"{path}: cannot be read as JSON of Layerscope") from None
    if not isinstance(version, int) or version > FORMAT:
        raise RecordsDamaged(
            f"{path}: has format {version}, this version reads up to {FORMAT}; update Layerscope"
        )
    return dict(content)
