"""Statistics: one pass over an output, and what passes of one step and layer merge into."""

from __future__ import annotations

__all__: list[str] = []
