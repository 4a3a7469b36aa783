"""Keys of metrics: names of layers may hold characters that MLflow refuses."""

from __future__ import annotations

import re

__all__ = ["metric_key"]

REFUSED = re.compile(r"[^\w\-. :/]")


def metric_key(group: str, name: str, value: str) -> str:
    """``group/name/value`` with characters that MLflow takes."""
    return f"{group}/{REFUSED.sub('_', name)}/{value}"
