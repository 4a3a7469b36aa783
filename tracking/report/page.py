"""report.html: a run on one self-contained page, which opens anywhere and needs no network.

The page is template/: its frame, its style, and a script that draws the charts with plotly.js,
which travels inside the page. A further section is a further file under ``template/sections`` and a
line in SECTIONS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from tracking import __version__
from tracking.report.charts import MOST_LAYERS, chart_data, spaced
from tracking.report.data import RunReport
from tracking.report.pages import packed_plotly, page_environment
from tracking.report.text import (
    as_date,
    as_duration,
    as_number,
    as_share,
    description,
    headline,
    repeat_commands,
)
from tracking.short_names import short

__all__ = ["SECTIONS", "Section", "render", "write_report"]

PAGE = Path(__file__).with_name("template")
SCRIPTS = ("axes.js", "page.js")
FEW_LAYERS = 24
"""Up to so many layers have their colour-dim side by side; of more, one at a time is chosen."""
ROWS = 400
"""Rows of a table of layers, and of parameters."""


@dataclass(frozen=True)
class Section:
    """A part of the page: ``template/sections/<name>.html``, under a heading."""

    name: str
    title: str


SECTIONS = (
    Section("diagnosis", "Diagnosis"),
    Section("training", "Loss and accuracy"),
    Section("schedule", "Schedule as used"),
    Section("color_dim", "Inside the layers"),
    Section("curves", "Layer statistics"),
    Section("model", "Model"),
    Section("repeat", "Repeat this run"),
    Section("parameters", "Parameters"),
)


def write_report(report: RunReport, path: Path) -> Path:
    """Write the page, making its folder. Below 6 million bytes whatever the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    return path


def render(report: RunReport) -> str:
    """The page as text. Everything that comes from the run is escaped by the template."""
    layers = spaced(list(report.layers.values()), MOST_LAYERS)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            facts=report.facts,
            about=description(report.facts),
            headline=headline(report),
            versions=_versions(report),
            commands=repeat_commands(report.facts),
            layers=layers,
            few=len(layers) <= FEW_LAYERS,
            rows=ROWS,
            sections=SECTIONS,
            data=chart_data(report),
            plotly=packed_plotly(),
            style=(PAGE / "style.css").read_text(encoding="utf-8"),
            script="".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
            version=__version__,
            now=time.time(),
        )
    )


@cache
def _environment() -> Environment:
    filters: dict[str, Callable[..., str]] = {
        "date": as_date,
        "duration": as_duration,
        "listing": _listing,
        "number": as_number,
        "share": as_share,
        "short": short,
        "times": _times,
    }
    return page_environment(PAGE, filters)


def _versions(report: RunReport) -> list[str]:
    own = report.facts.version or report.versions.get("layerscope", "")
    named = {"layerscope": own} | {k: v for k, v in report.versions.items() if k != "layerscope"}
    return [f"{name} {version}" for name, version in named.items() if version]


def _listing(layer: Mapping[str, Any]) -> str:
    """Names and shapes of a layer's parameters and buffers, such as ``weight 8x1x5x5``."""
    shapes = layer.get("shapes", {})
    return ", ".join(f"{name} {_times(shape)}" for name, shape in shapes.items())


def _times(shape: list[int] | None) -> str:
    return "not called" if shape is None else "x".join(map(str, shape)) or "scalar"
