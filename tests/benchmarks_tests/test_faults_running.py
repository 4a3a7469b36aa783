"""Running a case: records and figures in its folder, whatever becomes of the training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.cases import Case
from benchmarks.faults.plants import Plant
from benchmarks.faults.running import CaseResult, case_job, run_case, run_job, twin_job

__all__: list[str] = []

OPTIONS: dict[str, Any] = {
    "image_size": 8,
    "widths": (4,),
    "train_limit": 48,
    "batch_size": 16,
    "epochs": 1,
    "norm": "none",
    "head": "linear",
}
SPOILT = Plant("spoilt_weight", {"module": "conv1.conv", "value": "nan", "step": 1})


def case(**options: Any) -> Case:
    return Case("a case", "a fault", {**OPTIONS, **options}, SPOILT, onset=1, twin=OPTIONS)


def test_training_that_fails_is_a_result(tmp_path: Path) -> None:
    result = run_case(case(), tmp_path)
    assert math.isnan(result.accuracy)
    assert "nan" in result.error
    assert result.diverged == 1
    assert (tmp_path / "activations" / "stats.parquet").exists()


def test_twin_has_no_fault_and_records_without_pictures(tmp_path: Path) -> None:
    result = run_job(twin_job(case(), tmp_path))
    assert not result.error
    assert 0 <= result.accuracy <= 1
    assert result.steps == 3
    assert len(result.epochs) == 1
    assert not list(tmp_path.rglob("*.png"))
    assert CaseResult.load(tmp_path) == result


@pytest.mark.parametrize(
    ("option", "value", "failed"), [("lr_max", "0.001", False), ("epochs", "2", True)]
)
def test_only_an_option_that_has_to_do_with_the_plant_lifts_it(
    option: str, value: str, failed: bool, tmp_path: Path
) -> None:
    assert bool(run_case(case(), tmp_path, {option: value}).error) is failed


def test_data_put_right_lifts_plants_in_the_data_only(tmp_path: Path) -> None:
    assert run_case(case(), tmp_path / "a", {"dataset": ""}).error
    data = Case("b", "f", OPTIONS, Plant("raw_pixels"))
    healthy = run_job(twin_job(case(), tmp_path / "c"))
    assert run_case(data, tmp_path / "b", {"dataset": ""}).epochs == healthy.epochs


def test_remedy_that_cannot_be_used_is_a_result_too(tmp_path: Path) -> None:
    result = run_case(case(), tmp_path, {"cycles": "3"})
    assert "cycles" in result.error
    assert math.isnan(result.accuracy)
    assert CaseResult.load(tmp_path) is not None


def test_records_are_used_again_for_the_same_run_only(tmp_path: Path) -> None:
    job = twin_job(case(), tmp_path)
    assert job.done() is None
    assert run_job(job) == job.done()
    assert case_job(case(), tmp_path).done() is None
    assert case_job(replace(case(seed=1), plant=None), tmp_path).done() is None
    assert case_job(replace(case(), plant=None), tmp_path).done() is not None
