"""The numbers behind a report's charts, packed so that the page stays small whatever the run."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tracking.records import Metric
from tracking.report.data import RunFacts, RunReport
from tracking.short_names import short
from tracking.statistics.kernels import HIST_EDGES
from tracking.tables.layer_columns import CURVES, LayerColumns

__all__ = ["MOST_LAYERS", "chart_data", "packed"]

COLUMNS = 400
TOTAL = 24_000
"""Columns of all layers together, to begin with."""
BUDGET = 3_000_000
"""Bytes of the packed numbers. plotly.js has 2 million, and a page is to stay below 6."""
STEPS = 2000
EPOCHS = 2000
MOST_LAYERS = 1000
NAME = 120
MOST_MARKS = 12


def chart_data(report: RunReport) -> str:
    """All numbers of the charts, packed; fewer and broader columns where they would not fit.

    A network of more than MOST_LAYERS layers is shown by that many of them, evenly spaced.
    """
    layers = spaced(list(report.layers.values()), MOST_LAYERS)
    columns = min(COLUMNS, TOTAL // max(1, len(layers)))
    rest = _steps(report) | _epochs(report.facts) | {"marks": _marks(report)}
    while True:
        data = packed(json.dumps(rest | _layers(layers, columns), separators=(",", ":")))
        if len(data) <= BUDGET or columns == 1:
            return data
        columns = max(1, columns // 2)


def packed(text: str) -> str:
    """Text as base64 of gzip, which a page unpacks with DecompressionStream."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def spaced(layers: list[LayerColumns], most: int) -> list[LayerColumns]:
    """At most so many of the layers, the first and the last among them."""
    places = np.linspace(0, len(layers) - 1, min(len(layers), most)).round().astype(int)
    return [layers[place] for place in places]


def _layers(layers: Sequence[LayerColumns], columns: int) -> dict[str, Any]:
    shown = [_layer(one.joined(columns)) for one in layers]
    return {"bins": HIST_EDGES.tolist(), "layers": shown}


def _layer(one: LayerColumns) -> dict[str, Any]:
    low, high = one.used_bins
    curves = {name: _numbers(getattr(one, name)) for name in CURVES}
    return curves | {
        "name": short(one.layer, NAME),
        "first": one.first.tolist(),
        "last": one.last.tolist(),
        "end": float(one.edges[-1]) if len(one) else 0,
        "low": low,
        "hist": one.hist[:, low:high].tolist(),
    }


def _steps(report: RunReport) -> dict[str, Any]:
    if report.steps is None:
        return {"steps": None}
    steps = report.steps.thinned(STEPS)
    names = ("lr", "momentum", "loss", "loss_smooth")
    curves = {name: _numbers(getattr(steps, name)) for name in names}
    return {"steps": curves | {"step": steps.step.tolist()}}


def _epochs(facts: RunFacts) -> dict[str, Any]:
    return {
        key: _points(facts.metrics.get(f"{split}/{kind}", ()))
        for split in ("valid", "test")
        for kind in ("loss", "accuracy")
        for key in [f"{split}_{kind}"]
    }


def _marks(report: RunReport) -> list[dict[str, Any]]:
    """Where findings begin, to be drawn into the charts."""
    return [
        {
            "number": number,
            "severity": finding.severity,
            "step": finding.first_step,
            "layers": [short(layer, NAME) for layer in finding.layers],
        }
        for number, finding in enumerate((report.findings or ())[:MOST_MARKS], start=1)
    ]


def _points(points: Sequence[Metric]) -> dict[str, Any]:
    chosen = points[:: -(-len(points) // EPOCHS) or 1]
    return {"step": [p.step for p in chosen], "value": _numbers(p.value for p in chosen)}


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Six digits are more than a screen shows; JSON has no NaN."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
