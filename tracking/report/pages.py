"""What the project's HTML pages share: how their templates are read, and plotly.js in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from tracking.report.charts import packed

__all__ = ["packed_plotly", "page_environment"]


def page_environment(folder: Path, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """Templates in a folder. What they are given is escaped; a name that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


@cache
def packed_plotly() -> str:
    """plotly.js for a page that needs no network, compressed."""
    return packed(get_plotlyjs())
