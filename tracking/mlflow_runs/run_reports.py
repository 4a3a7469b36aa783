"""A run's report and its description in MLflow, made where the run is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tracking import __version__
from tracking.diagnosis.files import FINDINGS, read_findings
from tracking.errors import RecordsDamaged
from tracking.mlflow_runs.report import has_note, note_tags, run_facts
from tracking.mlflow_runs.session import TrackedRun, ended_as, why_ended
from tracking.reasons import one_line
from tracking.records import Finding
from tracking.report.data import Headlines, RunFacts, read_report
from tracking.report.page import write_report
from tracking.report.text import run_note
from tracking.shown_commands import report_command
from tracking.sink import FanOutSink, Sink

__all__ = ["reported"]

log = logging.getLogger("layerscope")


@contextmanager
def reported(
    tracked: TrackedRun, params: Mapping[str, str], *, page: bool = True
) -> Iterator[Sink]:
    """Gives the sink to train with; afterwards, whatever ended the training, makes the report.

    ``params``: what is known of the run before it begins. Its description in MLflow says what runs
    and, at the end, what came of it; one that somebody else has written stays. With ``page``,
    report.html is made of what lies in the run's folder. A report that cannot be made is a warning:
    it must not fail a run that was trained.
    """
    facts, described = _known(tracked)
    headlines = Headlines(facts.metrics)
    facts = replace(facts, params=params, version=__version__, state="running", ended=None)
    if not described:
        tracked.sink.tags(note_tags(run_note(facts)))
    state, reason = "finished", ""
    try:
        yield FanOutSink(tracked.sink, headlines)
    except BaseException as error:
        state, reason = ended_as(error), why_ended(error)
        raise
    finally:
        facts = replace(
            facts,
            state=state,
            reason=reason,
            ended=time.time(),
            params=headlines.logged or params,
            metrics=headlines.points,
            dataset=headlines.info,
        )
        if not described:
            tracked.sink.tags(note_tags(run_note(facts, _findings(tracked))))
        if page:
            _make_page(tracked, facts)


def _known(tracked: TrackedRun) -> tuple[RunFacts, bool]:
    """What the store says of the run, and whether it has a description already."""
    try:
        return run_facts(tracked.run), has_note(tracked.run)
    except Exception as error:
        log.warning("the report will lack the run's name (%s)", one_line(error))
        return RunFacts(tracked.run.run_id, began=time.time()), False


def _findings(tracked: TrackedRun) -> Sequence[Finding] | None:
    """What the diagnosis has left in the run's folder."""
    try:
        return read_findings(tracked.directory / FINDINGS)[0]
    except RecordsDamaged:  # nothing was recorded, or nothing diagnosed
        return None


def _make_page(tracked: TrackedRun, facts: RunFacts) -> None:
    try:
        report = read_report(facts, tracked.directory)
        tracked.sink.artifact(write_report(report, tracked.directory / "report.html"))
    except Exception as error:
        log.warning(
            "report.html could not be made (%s); once the run has been sent, try: %s",
            one_line(error),
            report_command(facts.run_id),
        )
