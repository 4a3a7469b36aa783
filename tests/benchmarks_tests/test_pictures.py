"""The benchmark of the pictures: its tables are ones that training could have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.pictures import main, verdict, write_tables
from tracking.tables.columns import read_columns
from tracking.tables.schemas import read_stats
from tracking.tables.step_columns import read_step_columns

__all__: list[str] = []


def test_tables_have_a_row_for_each_layer_and_step(tmp_path: Path) -> None:
    used, stats = write_tables(tmp_path, steps=70, layers=3)
    assert read_step_columns(used).step.tolist() == list(range(70))
    columns = read_columns(stats)
    assert list(columns) == [f"features.{n}.activation" for n in range(3)]
    for position, one in enumerate(columns.values()):
        assert one.first.tolist() == list(range(70))
        assert (one.hist[:, 41:].sum(axis=1) > 5_000).all()
        assert one.hist[:, :41].any() == bool(position % 2)  # every other one is a rectifier
    table = read_stats(stats)
    counts = np.array([sum(row) for row in table["hist"].to_pylist()])
    assert (table["count"].to_numpy() == counts).all()


def test_verdict_is_of_the_medians() -> None:
    whole = "reading and all pictures"
    series = {f"{whole}: seconds": [9.0, 3.0, 4.0], f"{whole}: CPU seconds": [5.0, 5.5, 6.0]}
    assert verdict(series) == (
        "Reading and drawing takes 4.0 s and 5.5 CPU seconds (wanted: at most 5 s)."
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_report_says_what_was_drawn(tmp_path: Path, layers: int) -> None:
    report = tmp_path / "pictures.md"
    options = ["--rounds", "1", "--steps", "40", "--layers", str(layers), "--output", str(report)]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0
    text = report.read_text(encoding="utf-8")
    assert f"40 steps, {layers} layers, {40 * layers} rows; {layers + 3} pictures" in text
    assert "| reading and all pictures: CPU seconds | 1 |" in text
