"""The rounds of the benchmark: every case, then every faulty one's twin and its remedy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case
from benchmarks.faults.healthy import GOOD
from benchmarks.faults.running import CaseResult, Job, case_job, run_all, twin_job
from benchmarks.faults.scoring import Judged, Remedied, applicable
from tracking.diagnosis.folders import diagnose
from tracking.records import Remedy

__all__ = ["judged_cases"]


def judged_cases(cases: Sequence[Case], folder: Path, workers: int, remedies: bool) -> list[Judged]:
    """Run, diagnose and, where asked for, remedy every case; records go below ``folder``."""
    results = _done([case_job(case, folder / case.name) for case in cases], workers)
    judged = [
        Judged(case, result.accuracy, diagnose(result.folder), result.diverged)
        for case, result in zip(cases, results, strict=True)
    ]
    for one in judged:
        _warn_if_unhealthy(one)
    return _remedied(judged, folder, workers) if remedies else judged


def _remedied(judged: Sequence[Judged], folder: Path, workers: int) -> list[Judged]:
    """Each faulty case beside its healthy twin and, where a remedy has an option, with it applied.

    Only the first remedy that can be applied is tried, as someone would who trusts the diagnosis.
    """
    faulty = [one for one in judged if one.case.fault]
    jobs: dict[Path, Job] = {}
    for one in faulty:
        twin = _twin_folder(one.case, folder)
        jobs.setdefault(twin, twin_job(one.case, twin))
        if (chosen := applicable(one.findings)) is not None:
            changes = _changes(chosen[1])
            own = _remedy_folder(one.case, folder, changes)
            jobs[own] = case_job(one.case, own, changes)
    results = _done(list(jobs.values()), workers)
    accuracy = {result.folder: result.accuracy for result in results}
    return [_with_remedy(one, folder, accuracy) if one.case.fault else one for one in judged]


def _with_remedy(one: Judged, folder: Path, accuracy: Mapping[Path, float]) -> Judged:
    twin = accuracy[_twin_folder(one.case, folder)]
    chosen = applicable(one.findings)
    if chosen is None:
        return replace(one, remedied=Remedied("", "", "", math.nan, twin))
    finding, remedy = chosen
    reached = accuracy[_remedy_folder(one.case, folder, _changes(remedy))]
    again = Remedied(finding.rule, remedy.option, remedy.value, reached, twin)
    return replace(one, remedied=again)


def _changes(remedy: Remedy) -> dict[str, str]:
    return {remedy.option: remedy.value}


def _twin_folder(case: Case, folder: Path) -> Path:
    """Cases with the same twin share its run."""
    return folder / "twins" / _digest(case.twin)


def _remedy_folder(case: Case, folder: Path, changes: Mapping[str, str]) -> Path:
    """A remedy that is proposed again need not be tried again."""
    return folder / "remedies" / f"{case.name} {_digest(changes)}"


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _done(jobs: Sequence[Job], workers: int) -> list[CaseResult]:
    """Results in the order of the jobs; those whose records are there are not run."""
    loaded = [job.done() for job in jobs]
    found = {result.folder: result for result in loaded if result is not None}
    missing = [job for job in jobs if job.folder not in found]
    count = 0

    def show(result: CaseResult) -> None:
        nonlocal count
        count += 1
        done = f"{count}/{len(missing)}  {result.name}"
        reached = result.error[:60] or f"{result.accuracy:.3f}"
        print(f"{done}: {reached}, {result.seconds:.1f} s", flush=True)

    for result in run_all(missing, workers, show) if missing else []:
        found[result.folder] = result
    return [found[job.folder] for job in jobs]


def _warn_if_unhealthy(one: Judged) -> None:
    wanted = GOOD[str(one.case.overrides["dataset"])]
    if not one.case.fault and not one.accuracy >= wanted:
        print(f"{one.case.name}: healthy, but reached {one.accuracy:.3f} only", flush=True)
