"""Severities in order, and findings as one tag of a run."""

from __future__ import annotations

from collections.abc import Sequence

from tracking.records import Finding

__all__ = ["FINDINGS_TAG", "SEVERITIES", "tag"]

SEVERITIES = ("critical", "warning", "note")
"""The worst first."""
FINDINGS_TAG = "layerscope.findings"


def tag(findings: Sequence[Finding]) -> str:
    """How many findings there are, and the worst of them: ``3, worst: critical dead_layer``."""
    if not findings:
        return "0"
    worst = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return f"{len(findings)}, worst: {worst.severity} {worst.rule}"
