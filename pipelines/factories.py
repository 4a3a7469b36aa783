"""``package.module:factory``: data sets and models that live in the user's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tracking.errors import BadInput, did_you_mean
from tracking.reasons import one_line

__all__ = ["load_factory"]


def load_factory(spec: str, error: type[BadInput]) -> Callable[..., Any]:
    """The callable that ``package.module:factory`` names.

    The module is imported with the current directory on ``sys.path``, where it stays: the factory
    and what it returns may import their own modules later.

    Raises `error`: the module cannot be imported, has no such attribute, or it is not callable.
    """
    module_name, _, name = spec.partition(":")
    module = _import(spec, module_name, error)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise error(f"{spec}: {module_name} has no {name!r}.{did_you_mean(name, public)}")
    factory = getattr(module, name)
    if not callable(factory):
        raise error(f"{spec}: {name} is a {type(factory).__name__}; expected a callable")
    return factory  # type: ignore[no-any-return]  # getattr: what it returns is checked by the caller


def _import(spec: str, module_name: str, error: type[BadInput]) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as cause:  # the user's module may do anything when imported
        raise error(
            f"{spec}: {module_name} cannot be imported ({one_line(cause)}); looked in {here} and "
            "the Python path"
        ) from cause
