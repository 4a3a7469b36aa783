"""The examples in docs/other-frameworks.md are run as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.mlflow_stores import found_run, history, names_in, sqlite_store
from tracking.integrations.fits import FitRecords
from tracking.recording_options import RecordingOptions
from tracking.tables.schemas import read_stats, read_steps

__all__: list[str] = []

PAGE = Path(__file__).parents[3] / "docs" / "other-frameworks.md"


def example(title: str) -> str:
    """The code of a section."""
    section = PAGE.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return str(code)


@pytest.mark.parametrize(
    ("title", "steps", "every", "layers"),
    [
        ("Lightning", 58, 2, ["net.1", "net.3", "net.5"]),
        ("fastai", 60, 1, ["1", "3", "5"]),
        ("Transformers", 58, 1, ["net.1", "net.3", "net.5"]),
    ],
)
# What the libraries warn of is theirs.
@pytest.mark.filterwarnings("ignore")
def test_example_runs_and_leaves_what_the_page_says(
    library: Callable[[str], ModuleType], title: str, steps: int, every: int, layers: list[str]
) -> None:
    library(f"tracking.integrations.{title.lower()}")
    exec(compile(example(title), str(PAGE), "exec"), {"__name__": "example"})
    table = read_steps(Path("records/hyperparameters/steps.parquet"))
    assert sorted(set(table["step"].to_pylist())) == list(range(steps))
    assert set(table["epoch"].to_pylist()) == {0, 1}
    assert table["loss"][-1].as_py() < 0.5 * table["loss"][0].as_py()
    stats = read_stats(Path("records/activations/stats.parquet"))
    recorded = range(0, steps, every)
    assert stats["layer"].to_pylist() == layers * len(recorded)
    assert set(stats["step"].to_pylist()) == set(recorded)
    assert names_in("records/hyperparameters") == ["schedule.png", "steps.parquet"]
    assert names_in("records/activations") == [
        "color_dim",
        "color_dim.png",
        "layer_stats.png",
        "stats.parquet",
    ]
    assert names_in("records/activations/color_dim") == [f"{layer}.png" for layer in layers]


@pytest.mark.filterwarnings("ignore")
def test_example_of_a_run_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example("To a run in MLflow"), str(PAGE), "exec"), names)
    run = found_run(sqlite_store(), names["run"].info.run_id)
    assert run.info.status == "FINISHED"
    assert len(history(sqlite_store(), run.info.run_id, "train/loss")) == 29
    found = MlflowClient(sqlite_store()).list_artifacts(run.info.run_id, "activations")
    assert [Path(item.path).name for item in found] == names_in("records/activations")
    assert "activations/1/near_zero" in run.data.metrics
    assert not Path(".layerscope").exists()


def test_arguments_are_those_of_the_callbacks() -> None:
    table = PAGE.read_text("utf-8").split("\n## Arguments\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line[:3] == "| `"]
    written = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    of_all = {"directory", "run_id", "tracking_uri"}
    assert written == of_all | {field.name for field in fields(RecordingOptions)}
    for name in written - of_all:
        FitRecords(**{name: getattr(RecordingOptions(), name)})
