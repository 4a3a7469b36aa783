"""Runs to report on, made by hand, and what a page holds."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.tracking_tests.figures import row, table
from tracking.diagnosis.files import FINDINGS, write_findings
from tracking.records import DatasetInfo, Finding, HyperParams, Metric, Remedy
from tracking.report.data import RunFacts
from tracking.tables.layer_columns import LayerColumns
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import StatsSettings, stats_schema, steps_schema, steps_table

__all__ = [
    "DATASET",
    "FINDING",
    "LAYERS",
    "MODEL",
    "facts",
    "numbers",
    "random_layer",
    "run_folder",
]

DATASET = DatasetInfo(
    "digits", "d1", "here", (1, 28, 28), ("0", "1"), {"train": 1294, "valid": 144}
)
LAYERS = ("conv1.relu", "head.norm")
MODEL: dict[str, Any] = {
    "layers": [
        {
            "name": "conv1",
            "kind": "Conv2d",
            "output_shape": [8, 14, 14],
            "shapes": {"weight": [8, 1, 5, 5], "bias": [8]},
            "roles": {"weight": "trainable", "bias": "trainable"},
            "trainable": 208,
            "frozen": 0,
            "buffers": 0,
        }
    ],
    "trainable": 30542,
    "frozen": 0,
    "buffers": 265,
}


FINDING = Finding(
    rule="dead_layer",
    severity="critical",
    summary="conv1.relu gives nothing but zeros <since> step 20",
    cause="Every input of the non-linearity is negative.",
    remedies=(Remedy("lower it", "lr_max", "0.001"), Remedy("look at the data")),
    first_step=20,
    last_step=59,
    found_step=31,
    layers=("conv1.relu",),
    evidence={"steps": 40.0},
)


def facts(**changed: Any) -> RunFacts:
    """Of a run that went well."""
    metrics = {
        key: [Metric(key, value / (1 + epoch), 20 * (1 + epoch), 0.0) for epoch in range(3)]
        for key, value in (("valid/loss", 1.5), ("valid/accuracy", 0.9))
    }
    metrics |= {"test/accuracy": [Metric("test/accuracy", 0.9916, 60, 0.0)]}
    params = {"model": "simple_cnn", "dataset": "digits", "epochs": "3", "lr_max": "0.01"}
    usual = {"name": "merry-crow", "state": "finished", "began": 1e9, "ended": 1e9 + 75.0}
    given = {"params": params, "metrics": metrics, "dataset": DATASET, "version": "0.1.0"}
    return RunFacts(**{"run_id": "0123456789abcdef", **usual, **given, **changed})


def run_folder(folder: Path, steps: int = 60, layers: tuple[str, ...] = LAYERS) -> Path:
    """A folder with the artifacts of a short run."""
    settings = StatsSettings(0.05, 1.0, "activations", "1")
    stats = RecordFile("stats.parquet", stats_schema(settings), folder / "activations")
    stats.append(table(*[row(s, layer) for s in range(steps) for layer in layers]))
    stats.close()
    used = RecordFile("steps.parquet", steps_schema(), folder / "hyperparameters")
    used.append(
        steps_table(
            [
                HyperParams(s, 0, "0", 0.01, 0.9, 0.0, 64, 2.0 - s / 100, 2.0 - s / 120, 1e9 + s)
                for s in range(steps)
            ]
        )
    )
    used.close()
    (folder / "config.yaml").write_text("dataset: digits\nepochs: 3\n", encoding="utf-8")
    (folder / "model_summary.json").write_text(json.dumps(MODEL), encoding="utf-8")
    write_findings([FINDING], folder / FINDINGS)
    return folder


def random_layer(name: str, columns: int, steps_each: int = 100) -> LayerColumns:
    """Columns that hardly can be packed."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    first = np.arange(columns, dtype=np.int64) * steps_each
    counts = np.full(columns, steps_each)
    curves = [rng.random(columns) for _ in range(6)]
    hist = rng.integers(0, 10**6, (columns, 82))
    return LayerColumns(name, first, first + steps_each - 1, counts, 0 * counts, hist, *curves)


def numbers(page: str) -> dict[str, Any]:
    """The numbers behind a page's charts, as the browser unpacks them."""
    [data] = re.findall(r'<script type="application/octet-stream" id="data">([^<]*)</script>', page)
    return dict(json.loads(gzip.decompress(base64.b64decode(data))))
