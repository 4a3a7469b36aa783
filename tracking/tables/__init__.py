"""Tables: the Parquet files that a run leaves, their columns, and reading them back."""

from __future__ import annotations

__all__: list[str] = []
