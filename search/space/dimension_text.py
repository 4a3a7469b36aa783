"""The text that describes a dimension of a search space: read, checked, and written.

    64,128,256        one of these values (widths: separated by ``;``, since they contain commas)
    0.05:0.5          any value in between, both ends included
    0:0.5:0.1         every value that is a number of steps above the low end
    log:1e-4:1        uniform in the logarithm

A range of an option that takes whole numbers has whole numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from search.space.dimensions import Choice, Dimension, Range
from search.space.searchable import check_name, flag, number_type, option_value
from tracking.errors import BadOption

__all__ = [
    "about_dimension",
    "as_text",
    "check_dimension",
    "parse_dimension",
    "value_text",
    "values_of",
]


@contextmanager
def about_dimension(name: str, text: str) -> Iterator[None]:
    """Say in every BadOption which part of the space it is about."""
    try:
        yield
    except BadOption as error:
        raise BadOption(f"space {name}={' '.join(text.split())}: {error}") from None


def parse_dimension(name: str, given: str | Sequence[Any] | Mapping[str, Any]) -> Dimension:
    """A dimension from its text, from a list of values, or from a mapping of low, high, log, step.

    Raises BadOption: the option cannot be searched, or the values or the range are not allowed.
    """
    with about_dimension(name, _given_text(name, given)):
        check_name(name)
        dimension = _parse(name, _mapping_text(given) if isinstance(given, Mapping) else given)
        _check(name, dimension)
        return dimension


def check_dimension(name: str, dimension: Dimension) -> None:
    """Raise BadOption where an option cannot be searched, or not over these values."""
    with about_dimension(name, as_text(name, dimension)):
        check_name(name)
        _check(name, dimension)


def as_text(name: str, dimension: Dimension) -> str:
    """A dimension as it is written on the command line; ``parse_dimension`` reads it back."""
    if isinstance(dimension, Choice):
        return _separator(name).join(map(value_text, dimension.values))
    numbers = [dimension.low, dimension.high, *([dimension.step] if dimension.step else [])]
    return "log:" * dimension.log + ":".join(map(value_text, numbers))


def _separator(name: str) -> str:
    return ";" if name == "widths" else ","


def values_of(name: str, text: str) -> tuple[Any, ...]:
    """The values of an option in a text such as ``64,128``, as ``option_value`` gives them.

    Raises BadOption: RunConfig does not allow one.
    """
    parts = text.split(_separator(name)) if text.strip() else []
    return tuple(option_value(name, part.strip()) for part in parts)


def value_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(value_text, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _given_text(name: str, given: Any) -> str:
    """For a message, so anything is taken as it is."""
    if isinstance(given, (list, tuple)):
        return as_text(name, Choice(tuple(given)))
    return str(given)


def _mapping_text(given: Mapping[str, Any]) -> str:
    texts = {name: value_text(value) for name, value in given.items()}
    log = texts.get("log", "false").lower()
    unknown = set(texts) - {"low", "high", "log", "step"}
    if unknown or not {"low", "high"} <= set(texts) or log not in {"true", "false"}:
        raise BadOption("expected low and high, and where wanted log (true or false) or step")
    step = [texts["step"]] if "step" in texts else []
    return "log:" * (log == "true") + ":".join([texts["low"], texts["high"], *step])


def _parse(name: str, given: Any) -> Dimension:
    separator = _separator(name)
    if isinstance(given, str):
        if ":" in given and separator not in given and number_type(name):
            return _parse_range(name, given)
        given = given.split(separator) if given.strip() else ()
    values = (value.strip() if isinstance(value, str) else value for value in given)
    return Choice(tuple(option_value(name, value) for value in values))


def _parse_range(name: str, text: str) -> Range:
    first, *rest = (part.strip() for part in text.split(":"))
    log = first == "log"
    try:
        low, high, *steps = map(float, rest if log else [first, *rest])
        (step,) = steps or (None,)
    except ValueError:
        raise BadOption(
            "expected numbers as low:high, low:high:step or log:low:high, "
            "or values separated by commas"
        ) from None
    return Range(low, high, log, number_type(name) is int, step)


def _check(name: str, dimension: Dimension) -> None:
    if isinstance(dimension, Choice):
        _check_values(name, dimension.values)
    else:
        _check_range(name, dimension)


def _check_values(name: str, given: Sequence[Any]) -> None:
    values = [option_value(name, value) for value in given]
    if not values:
        raise BadOption("no values; give at least two, or a range such as 0.1:0.5")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise BadOption(f"{value_text(twice[0])} is given twice; give every value once")
    if len(values) == 1:
        value = value_text(values[0])
        plain = (
            "set momentum_min instead: --momentum-min"
            if name == "momentum_drop"
            else f"give it as a plain option: {flag(name)} {value}"
        )
        several = ", or separate several by ';'" if name == "widths" else ""
        raise BadOption(f"one value leaves nothing to search; {plain}{several}")


def _check_range(name: str, dimension: Range) -> None:
    low, high, step = dimension.low, dimension.high, dimension.step
    kind = number_type(name)
    if kind is None:
        raise BadOption(f"{name} has no range; give values separated by '{_separator(name)}'")
    if dimension.integer != (kind is int):
        raise BadOption(f"{name} takes {'whole' if kind is int else 'real'} numbers")
    if not all(math.isfinite(number) for number in (low, high, step or 0)):
        raise BadOption("low, high and step must be finite numbers")
    for end in (low, high):
        option_value(name, value_text(end))
    if low >= high:
        raise BadOption("the range is empty; its low end must be below its high end")
    if dimension.log and low <= 0:
        raise BadOption("log needs a low end above 0")
    _check_step(name, dimension)


def _check_step(name: str, dimension: Range) -> None:
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None:
        if dimension.log:
            raise BadOption("log goes without a step; leave one of them out")
        if not 0 < step <= high - low:
            raise BadOption(f"step={value_text(step)} must be above 0 and fit into the range")
        if dimension.integer and step != round(step):
            raise BadOption(f"step={value_text(step)} must be a whole number")
    if dimension.integer:  # some options refuse numbers in between: first_kernel takes odd ones
        option_value(name, value_text(low + (step or 1)))
        option_value(name, value_text(dimension.last))
