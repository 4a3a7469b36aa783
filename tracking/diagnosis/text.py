"""Findings in words: a line for the terminal, a tag and a section for MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from tracking.records import Finding, Remedy

__all__ = ["FINDINGS_TAG", "advice", "line", "tag"]

FINDINGS_TAG = "layerscope.findings"


def tag(findings: Sequence[Finding]) -> str:
    """How many findings there are, and the first of them: ``3, worst: critical dead_layer``."""
    if not findings:
        return "0"
    return f"{len(findings)}, worst: {findings[0].severity} {findings[0].rule}"


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
