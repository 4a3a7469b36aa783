"""Names that are too long for their place."""

from __future__ import annotations

__all__ = ["short"]


def short(name: str, letters: int) -> str:
    """A long name without its middle: the beginning says where, the end says what."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"
