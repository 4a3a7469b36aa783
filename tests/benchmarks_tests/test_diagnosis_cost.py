"""The benchmark of the diagnosis' cost runs and writes its table."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from benchmarks.diagnosis_cost import main, shares
from pipelines.config import RunConfig
from tracking.diagnosis.live import LiveDiagnosis

__all__: list[str] = []


def test_shares_are_those_of_parts_that_were_at_work() -> None:
    before = dict(vars(LiveDiagnosis))
    figures = shares(RunConfig(train_limit=80, epochs=1, batch_size=8, widths=(4,), device="cpu"))
    assert set(figures) == {"rules", "hooks", "together"}
    assert 0 < figures["rules"] < figures["together"] < 100
    assert dict(vars(LiveDiagnosis)) == before


def test_the_table_is_written(tmp_path: Path) -> None:
    output = tmp_path / "cost.md"
    arguments = ["--rounds", "1", "--dataset", "digits", "--limit", "64", "--batch-size", "16"]
    result = CliRunner().invoke(main, [*arguments, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "| batch 16: rules | 1 |" in output.read_text("utf-8")
