"""Runs in MLflow: opened, fed by a process of their own, read again. MLflow is imported here
alone."""

from __future__ import annotations

__all__: list[str] = []
