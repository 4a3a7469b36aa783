"""The console of the commands."""

from __future__ import annotations

from rich.console import Console

__all__ = ["user_console"]


def user_console() -> Console:
    """Standard output as it is: no colours of its own, no wrapping, no markup in names."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
