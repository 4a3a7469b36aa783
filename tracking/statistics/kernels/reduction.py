"""What every kernel is: something that adds a tensor to a row of accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reduction"]


class Reduction(Protocol):
    """Adds a tensor's elements to one row of accumulators."""

    def rows(self, table: Tensor) -> Sequence[Any]:
        """A table's rows (n, ...), in the form in which a call takes them: views or addresses.

        The table must outlive them, and stay as large as it is.
        """

    def __call__(self, x: Tensor, ints: Any, floats: Any, alive: Any | None) -> None:
        """Add every element of ``x``.

        ``ints`` (int64, INTS) and ``floats`` (float64, FLOATS) are the row, ``alive`` (bool, one
        per channel of ``x``, None where it has no dimension 1) marks channels that have an
        element > 0; all are updated in place. They are what ``rows`` gave, and lie on the device of
        ``x``.
        """
