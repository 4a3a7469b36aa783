"""Someone else's exception in one line, to be quoted inside an error message of ours."""

from __future__ import annotations

__all__ = ["one_line"]

LONGEST = 300


def one_line(error: BaseException) -> str:
    """Type and message of an exception on one line, cut to 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
