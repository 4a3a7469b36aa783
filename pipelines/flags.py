"""Command-line flags from a configuration's fields: the same names, defaults and help."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["config_file", "config_flags"]

F = TypeVar("F", bound=Callable[..., Any])


config_file = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML file with options, such as a run's config.yaml; flags override it.",
)
"""A decorator that adds the file whose options flags override: see ``given_options``."""


def config_flags(kind: type[BaseModel], only: Collection[str] | None = None) -> Callable[[F], F]:
    """A decorator that adds a flag for every field of a configuration, or for some of them.

    ``lr_max`` becomes ``--lr-max``; the command group accepts ``--lr_max`` too, since
    `mlflow run -P` passes names as they are. Values are passed on as text and judged by the
    configuration, so that an error reads the same wherever an option came from; a flag that is not
    given is None.
    """

    def add(command: F) -> F:
        for name, field in reversed(list(kind.model_fields.items())):
            if only is not None and name not in only:
                continue
            option = click.option(
                f"--{name.replace('_', '-')}",
                name,
                metavar=_metavar(field),
                **_optional(field),
                help=f"{field.description or ''}{_default(field)}",
            )
            command = option(command)
        return command

    return add


def _optional(field: FieldInfo) -> dict[str, Any]:
    """`--gradients` alone means true; so does `--gradients true`, as MLflow passes it."""
    return {"is_flag": False, "flag_value": "true"} if field.annotation is bool else {}


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"  [{value}]"


def _metavar(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    names = {bool: "true|false", int: "N", float: "X", str: "TEXT", Path: "PATH"}
    return names.get(kind, "N,N,...") if isinstance(kind, type) else _inner(kind)


def _inner(kind: Any) -> str:
    """For Annotated[float, ...] inside a union."""
    names = {int: "N", float: "X"}
    arguments = get_args(kind)
    return names.get(arguments[0], "N,N,...") if arguments else "TEXT"
