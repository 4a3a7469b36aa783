"""Diagnosis of a run in an MLflow store: brings its files here, diagnoses, and says it in words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tracking.diagnosis.evidence import EpochFigures
from tracking.diagnosis.files import EVIDENCE, Evidence, plain, write_evidence
from tracking.diagnosis.folders import Diagnosed, diagnosed
from tracking.diagnosis.saved import ARTIFACTS, OPTIONAL, context_of
from tracking.diagnosis.thresholds import Thresholds
from tracking.mlflow_runs.report import download, run_facts
from tracking.mlflow_runs.run import MlflowRun
from tracking.records import Finding, Remedy
from tracking.report.data import RunFacts

__all__ = ["as_json", "diagnose_run", "show"]


def diagnose_run(run_id: str, thresholds: Thresholds | None = None) -> Diagnosed:
    """What is wrong with a run in the store that MLFLOW_TRACKING_URI names.

    Raises BadTracking: no such run, or no such store; BadOption: a threshold does not exist.
    """
    run = MlflowRun.known(run_id, deleted=True)
    with tempfile.TemporaryDirectory(prefix="layerscope-") as name:
        folder = Path(name)
        absent = download(run, ARTIFACTS, folder)
        if not (folder / EVIDENCE).exists():
            # Recorded by a version that did not diagnose, or by another program.
            write_evidence(_evidence(folder, run_facts(run)), folder / EVIDENCE)
            absent.setdefault(EVIDENCE, "is not there: inputs and batch norms were not looked at")
        found = diagnosed(folder, thresholds)
    wanted = {k: v for k, v in absent.items() if k not in OPTIONAL or "cannot" in v}
    known = [line for line in found.missing if not any(line.startswith(k) for k in wanted)]
    return replace(found, missing=(*(f"{k} {v}" for k, v in wanted.items()), *known))


def show(diagnosis: Diagnosed, console: Console) -> None:
    """Print findings as a table, what matters most first, and what was not there to look at."""
    if diagnosis.findings:
        console.print(_table(diagnosis.findings))
    else:
        console.print("nothing found")
    for line in diagnosis.missing:
        console.print(f"not looked at: {line}")


def as_json(diagnosis: Diagnosed) -> str:
    """The same for programs."""
    findings = [asdict(finding) for finding in diagnosis.findings]
    content = plain({"findings": findings, "missing": list(diagnosis.missing)})
    return json.dumps(content, indent=1, allow_nan=False)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("finding", "what and why", "what to do", show_lines=True)
    for finding in findings:
        first, last = finding.first_step, finding.last_step
        steps = f"step {first:,}" if first == last else f"steps {first:,} - {last:,}"
        table.add_row(
            "\n".join([finding.severity, finding.rule, steps]),
            f"{finding.summary}\n{finding.cause}",
            "\n".join(f"{n}. {_apart(one)}" for n, one in enumerate(finding.remedies, 1)),
        )
    return table


def _apart(remedy: Remedy) -> str:
    """The option on a line of its own, where it is not broken."""
    option = str(remedy).removeprefix(remedy.text).strip(" ()")
    return f"{remedy.text}\n   {option}" if option else remedy.text


def _evidence(folder: Path, facts: RunFacts) -> Evidence:
    """What the store itself knows, in place of evidence.json."""
    classes = len(facts.dataset.classes) if facts.dataset is not None else None
    context = replace(context_of(folder), options=facts.params, classes=classes)
    losses = {point.step: point.value for point in facts.metrics.get("valid/loss", ())}
    epochs = [
        EpochFigures(point.step, losses.get(point.step, float("nan")), point.value)
        for point in facts.metrics.get("valid/accuracy", ())
    ]
    return Evidence(context, epochs=epochs)
