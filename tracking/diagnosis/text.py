"""Findings in words: a line for the terminal, a tag and a section for MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from tracking.records import Finding, Remedy

__all__ = ["FINDINGS_TAG", "SEVERITIES", "advice", "line", "tag"]

SEVERITIES = ("critical", "warning", "note")
"""The worst first."""
FINDINGS_TAG = "layerscope.findings"


def tag(findings: Sequence[Finding]) -> str:
    """How many findings there are, and the worst of them: ``3, worst: critical dead_layer``."""
    if not findings:
        return "0"
    worst = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return f"{len(findings)}, worst: {worst.severity} {worst.rule}"


def line(finding: Finding) -> str:
    """A finding in one line."""
    remedies = f"; try: {advice(finding.remedies[0])}" if finding.remedies else ""
    return (
        f"{finding.severity} at step {finding.found_step}: {finding.summary} "
        f"({finding.rule}){remedies}"
    )


def advice(remedy: Remedy) -> str:
    """A remedy with the option that carries it out."""
    if remedy.option and remedy.value:
        return f"{remedy.text} (--{remedy.option.replace('_', '-')} {remedy.value})"
    return remedy.text
