"""Report: a run on one self-contained page, from its artifacts."""

from __future__ import annotations

__all__: list[str] = []
