"""Reports of runs in an MLflow store: what a run is, its values and files, and the page logged."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import DatasetInput, Run
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE

from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs.run import MlflowRun
from tracking.reasons import reason
from tracking.records import DatasetInfo, Metric
from tracking.report.data import ARTIFACTS, HEADLINES, RunFacts, RunReport, read_report
from tracking.report.page import write_report

__all__ = ["NOTE", "download", "has_note", "make_report", "note_tags", "read_run", "run_facts"]

NOTE = MLFLOW_RUN_NOTE
"""Tag of a run's description."""
OWN_NOTE = "layerscope.note"
STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


def make_report(run_id: str, output: Path | None = None) -> str:
    """Make a run's report.html again and log it to the run, or write it to ``output``.

    Gives a line that says where it is. Raises BadTracking: no such run, no such store, or the file
    cannot be written; RecordsWaiting: the page is made, but the store does not take it.
    """
    run = MlflowRun.known(run_id, deleted=True)
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        report = read_run(run, Path(folder))
        if output is not None:
            return _write(report, output)
        page = write_report(report, Path(folder) / "report.html")
        try:
            run.check()
            run.client.log_artifact(run_id, str(page))
        except Exception as error:
            raise RecordsWaiting(
                f"report.html cannot be logged to run {run_id}: {reason(error)}; "
                "write it to a file with --output FILE"
            ) from None
    return f"report.html is among the artifacts of run {run_id} in {run.shown_uri}"


def read_run(run: MlflowRun, folder: Path) -> RunReport:
    """A run's report from its values and its artifacts, which are downloaded into ``folder``."""
    absent = download(run, ARTIFACTS, folder)
    return read_report(run_facts(run), folder, absent)


def download(run: MlflowRun, names: Iterable[str], folder: Path) -> dict[str, str]:
    """Bring artifacts below ``folder``, those that the run has.

    Gives why others cannot be brought, by name.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for each file
    absent = {}
    for name in names:
        try:
            _download(run, name, folder)
        except Exception as error:
            absent[name] = f"cannot be downloaded ({reason(error)})"
    return absent


def run_facts(run: MlflowRun) -> RunFacts:
    """What the store says of a run. Raises what the client raises."""
    found = run.client.get_run(run.run_id)
    info, tags = found.info, found.data.tags
    return RunFacts(
        run_id=run.run_id,
        name=info.run_name or "",
        experiment=run.client.get_experiment(run.experiment_id).name,
        state=STATES.get(info.status, "running"),
        reason=tags.get("layerscope.reason", ""),
        began=None if info.start_time is None else info.start_time / 1000,
        ended=None if info.end_time is None else info.end_time / 1000,
        commit=tags.get(MLFLOW_GIT_COMMIT, ""),
        version=tags.get("layerscope.version", ""),
        params=found.data.params,
        metrics={key: _points(run, key) for key in HEADLINES if key in found.data.metrics},
        dataset=_dataset(found),
    )


def has_note(run: MlflowRun) -> bool:
    """Whether somebody else has described the run. Raises what the client raises."""
    tags = run.tags
    return bool(tags.get(NOTE)) and note_tags(tags[NOTE])[OWN_NOTE] != tags.get(OWN_NOTE)


def note_tags(note: str) -> dict[str, str]:
    """A run's description, and what shows later that it is ours: a run that goes on replaces it."""
    return {NOTE: note, OWN_NOTE: hashlib.sha256(note.encode()).hexdigest()[:16]}


def _write(report: RunReport, output: Path) -> str:
    try:
        return f"report of run {report.facts.run_id}: {write_report(report, output)}"
    except OSError as error:
        raise BadTracking(
            f"--output {output}: cannot be written ({error.strerror}); give a file in a folder "
            "that can"
        ) from None


def _download(run: MlflowRun, name: str, folder: Path) -> None:
    """Bring an artifact below ``folder``, if the run has it. Raises what the client raises."""
    inside = name.rpartition("/")[0]
    if name not in [file.path for file in run.client.list_artifacts(run.run_id, inside or None)]:
        return
    target = (folder / name).parent
    target.mkdir(parents=True, exist_ok=True)
    download_artifacts(
        run_id=run.run_id,
        artifact_path=name,
        dst_path=str(target),
        tracking_uri=run.tracking_uri,
    )


def _points(run: MlflowRun, key: str) -> list[Metric]:
    """A metric's points in order of step; of several for a step, as a run that was gone on with may
    have them, the latest."""
    history = run.client.get_metric_history(run.run_id, key)
    points = {
        p.step: Metric(key, p.value, p.step, p.timestamp / 1000)
        for p in sorted(history, key=lambda p: p.timestamp)
    }
    return [points[step] for step in sorted(points)]


def _dataset(run: Run) -> DatasetInfo | None:
    """The data set as tracking/mlflow_runs/delivery.py has described it; None where others have."""
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        try:
            return _info(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def _info(entry: DatasetInput) -> DatasetInfo:
    dataset = entry.dataset
    profile, schema = json.loads(dataset.profile or "{}"), json.loads(dataset.schema or "{}")
    [features] = json.loads(schema["mlflow_tensorspec"]["features"])
    channels, height, width = features["tensor-spec"]["shape"][1:]
    return DatasetInfo(
        name=str(dataset.name),
        digest=str(dataset.digest).partition("-")[0],
        source=str(json.loads(dataset.source).get("tags", {}).get("source", "")),
        image_shape=(int(channels), int(height), int(width)),
        classes=tuple(map(str, profile["classes"])),
        sizes={str(split): int(size) for split, size in profile["images"].items()},
    )
