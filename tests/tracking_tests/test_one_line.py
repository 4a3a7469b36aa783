"""Other people's exceptions on one line."""

from __future__ import annotations

import pytest

from tracking.reasons import one_line

__all__: list[str] = []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a\n  b\tc"), "ValueError: a b c"),
        (AssertionError(), "AssertionError"),
        (OSError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
    ],
)
def test_everything_on_one_line(error: Exception, expected: str) -> None:
    assert one_line(error) == expected


def test_long_messages_are_cut() -> None:
    assert one_line(ValueError("x" * 1000)) == f"ValueError: {'x' * 287}…"
