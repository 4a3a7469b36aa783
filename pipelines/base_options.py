"""What all configurations have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

__all__ = ["Options"]


class Options(BaseModel):
    """Frozen, closed, and strict about numbers: finite ones, and no truth values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return _checked(value, cls.model_fields[str(info.field_name)].annotation)


def _checked(value: Any, kind: Any) -> Any:
    """The value, given for an option of this type. Python would take true and false for numbers."""
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, bool) for one in values) and {int, float} & set(_parts(kind)):
        raise ValueError("allowed: a number, not true or false")
    return value


def _parts(kind: Any) -> Iterator[Any]:
    """The types that a type is made of: int of ``tuple[Annotated[int, ...], ...] | None``."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)
