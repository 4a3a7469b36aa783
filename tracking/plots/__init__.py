"""Plots: colour-dim, curves of layers and of schedules, as PNG."""

from __future__ import annotations

__all__: list[str] = []
