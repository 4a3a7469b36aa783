"""From what a user gives (flags, a YAML file) to a configuration, or to one clear line of error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.yaml_files import read_mapping
from tracking.errors import BadOption, did_you_mean

__all__ = ["config_from", "configs_from", "given_options", "read_config"]

T = TypeVar("T", bound=BaseModel)
U = TypeVar("U", bound=BaseModel)


def config_from(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration, turning pydantic's findings into one line.

    Raises BadOption: an unknown name, or a value that is not allowed.
    """
    unknown = [name for name in values if name not in kind.model_fields]
    if unknown:
        hint = did_you_mean(unknown[0], kind.model_fields)
        raise BadOption(f"unknown option {unknown[0]!r}.{hint}")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise BadOption("; ".join(_one_line(item) for item in error.errors())) from None


def configs_from(first: type[T], second: type[U], values: Mapping[str, Any]) -> tuple[T, U]:
    """Build two configurations from the options of both. Raises BadOption, as ``config_from``."""
    own = {name: value for name, value in values.items() if name in first.model_fields}
    rest = {name: value for name, value in values.items() if name not in own}
    return config_from(first, own), config_from(second, rest)


def given_options(flags: Mapping[str, Any], path: Path | None = None) -> dict[str, Any]:
    """The options that a user gives: flags (None where one is not given), which override a file's.

    Raises BadOption, as ``read_config``.
    """
    given = read_config(path) if path else {}
    return given | {name: value for name, value in flags.items() if value is not None}


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file such as a run's ``config.yaml``.

    Raises BadOption, as ``read_mapping``.
    """
    return read_mapping(path, "config", "lr_max: 0.01")


def _one_line(item: Any) -> str:
    message = item["msg"].removeprefix("Value error, ")
    if not item["loc"]:
        return str(message)
    given = " ".join(_as_written(item["input"]).split())
    allowed = re.findall(r"'([^']*)'", message) if item["type"] == "literal_error" else []
    hint = did_you_mean(given, allowed)
    end = f".{hint}" if hint else ""
    return f"{item['loc'][0]}={given}: {message[:1].lower()}{message[1:]}{end}"


def _as_written(value: Any) -> str:
    """A value as YAML and flags have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
