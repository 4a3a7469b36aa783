"""Hooks: which modules of a model are recorded, and what torch calls while it trains."""

from __future__ import annotations

__all__: list[str] = []
