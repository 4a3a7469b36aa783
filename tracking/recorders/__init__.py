"""Recorders: one context manager for each table, fed by hooks while a model trains."""

from __future__ import annotations

__all__: list[str] = []
