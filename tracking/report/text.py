"""A run's figures in words: for the report's head and for the run's description in MLflow."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracking.records import Finding
from tracking.shown_commands import resume_command, train_command

if TYPE_CHECKING:  # a study's tables have figures in words, too, and need not import torch
    from tracking.report.data import RunFacts, RunReport

__all__ = [
    "Figure",
    "as_date",
    "as_duration",
    "as_number",
    "as_share",
    "description",
    "headline",
    "repeat_commands",
    "run_note",
]


@dataclass(frozen=True)
class Figure:
    """One figure of the headline."""

    name: str
    value: str


def as_share(value: float | None) -> str:
    """0.9916 as 99.16 %."""
    return "—" if value is None or math.isnan(value) else f"{value:.2%}".replace("%", " %")


def as_number(value: float | None) -> str:
    """Four significant digits; whole numbers with thousands apart."""
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def as_duration(seconds: float | None) -> str:
    """75 as 1 min 15 s."""
    if seconds is None:
        return "—"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def as_date(seconds: float | None) -> str:
    """Universal time, to the minute."""
    return "—" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def headline(report: RunReport) -> list[Figure]:
    """What one wants to know first; what is not known is left out."""
    figures = _results(report.facts)
    if report.steps is not None:
        figures.append(Figure("steps", as_number(float(report.steps.step[-1] + 1))))
    if report.model:
        figures.append(Figure("trainable parameters", as_number(float(report.model["trainable"]))))
    return figures


def description(facts: RunFacts) -> str:
    """One sentence on what was trained and how; empty where no parameter tells."""
    p = facts.params
    parts = []
    if "model" in p and "dataset" in p:
        parts.append(f"{p['model']} on {p['dataset']}")
    parts += [
        f"{p[name]} epoch{'' if p[name] == '1' else 's'}" for name in ("epochs",) if name in p
    ]
    parts += [f"batch size {p[name]}" for name in ("batch_size",) if name in p]
    parts += [p[name] for name in ("optimizer",) if name in p]
    if "schedule" in p and "lr_max" in p:
        parts.append(f"{p['schedule']} with lr_max {p['lr_max']}")
    return ", ".join(parts)


def repeat_commands(facts: RunFacts) -> list[str]:
    """Shell commands that train the same again, from a clone of the code."""
    download = ["mlflow", "artifacts", "download", "--run-id", facts.run_id]
    commands = [shlex.join([*download, "--artifact-path", "config.yaml", "--dst-path", "."])]
    if facts.commit:
        commands.insert(0, shlex.join(["git", "checkout", facts.commit]))
    return [*commands, train_command("config.yaml")]


def run_note(facts: RunFacts, findings: Sequence[Finding] | None = None) -> str:
    """The run's description for MLflow, in Markdown: what runs and, once known, what came of it.

    ``findings``: what is wrong with it; None where nobody has looked.
    """
    lines = [_plain(description(facts)), ""]
    if findings:
        first = findings[0]
        more = f" (and {len(findings) - 1} more findings below)" if len(findings) > 1 else ""
        lines += [f"**{first.severity}**: {_plain(first.summary)}{more}", ""]
    if facts.state not in {"running", "finished"}:
        lines += [f"**{facts.state}**: {_plain(facts.reason)}", ""]
    figures = _results(facts)
    if figures:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {figure.name} | **{figure.value}** |" for figure in figures]
        lines += [""]
    if findings is not None:
        lines += ["### Diagnosis", "", *_findings(findings), ""]
    if facts.state != "running":
        lines += ["The page `report.html` among the artifacts shows what happened inside.", ""]
    if facts.by_command and facts.state == "killed" and facts.params.get("checkpoint") == "true":
        lines += ["To go on with it:", "", f"    {resume_command(facts.run_id)}", ""]
    if facts.by_command:
        lines += ["To repeat it:", "", *(f"    {line}" for line in repeat_commands(facts))]
    return "\n".join(lines).rstrip()


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["Nothing found."]
    lines = []
    for finding in findings:
        lines.append(f"- **{finding.severity}**: {_plain(finding.summary)}. {finding.cause}")
        if finding.remedies:
            lines.append(f"  Try: {_plain(str(finding.remedies[0]))}.")
    return lines


def _results(facts: RunFacts) -> list[Figure]:
    figures = []
    for split, name in (("test", "test"), ("valid", "validation")):
        for kind, shown in (("accuracy", as_share), ("loss", as_number)):
            value = facts.last(f"{split}/{kind}")
            if value is not None:
                figures.append(Figure(f"{name} {kind}", shown(value)))
    if facts.seconds is not None:
        figures.append(Figure("time", as_duration(facts.seconds)))
    speed = facts.last("samples_per_second")
    if speed is not None:
        figures.append(Figure("images per second", as_number(round(speed))))
    return figures


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = re.sub(r"[&<>]", lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", text)
