"""The example in docs/hand-written-loops.md is run as it stands there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from tracking import ActivationStats
from tracking.tables.schemas import read_stats, read_steps

__all__: list[str] = []

PAGE = Path(__file__).parents[2] / "docs" / "hand-written-loops.md"


def test_the_example_runs_and_leaves_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})
    steps = read_steps(tmp_path / "records/hyperparameters/steps.parquet")
    stats = read_stats(tmp_path / "records/activations/stats.parquet")
    assert steps["step"].to_pylist() == list(range(58))  # 2 epochs of 1,797 images, 64 at a time
    assert steps["epoch"].to_pylist() == [0] * 29 + [1] * 29
    assert steps["loss"][57].as_py() < 0.5 * steps["loss"][0].as_py()
    assert stats["layer"].to_pylist() == ["relu1", "relu2", "head"] * 58
    files = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert files == {
        "records/activations/color_dim.png",
        "records/activations/stats.parquet",
        "records/hyperparameters/schedule.png",
        "records/hyperparameters/steps.parquet",
    }
    assert re.fullmatch(r"step 57, head: \d+% near zero\n", capsys.readouterr().out)


def test_options_and_defaults_are_those_of_the_class() -> None:
    rows = [line.split("|") for line in PAGE.read_text("utf-8").splitlines() if line[:3] == "| `"]
    written = {}
    for _, names, defaults, *_ in rows:
        values = defaults.replace("`", "").split(",")
        options = re.findall(r"`(\w+)`", names)
        written.update(zip(options, values * (len(options) // len(values)), strict=True))
    parameters = inspect.signature(ActivationStats).parameters
    for name, default in written.items():
        assert default.strip() == (
            "" if parameters[name].default is None else str(parameters[name].default)
        ), name
    # The others are in the example.
    assert parameters.keys() - written.keys() == {"model", "optimizer", "directory"}
