"""Folders of records: found, checked, and removed without touching anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracking.errors import BadTracking
from tracking.mlflow_runs.run_folders import (
    check_records_root,
    records_root,
    remove_if_empty,
    remove_run_folder,
)

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYERSCOPE_RECORDS", raising=False)


def left(root: str) -> Path:
    directory = Path(root) / "run"
    (directory / "spool").mkdir(parents=True)
    (directory / "config.yaml").write_text("")
    return directory


def test_file_in_the_way() -> None:
    Path(".layerscope").write_text("")
    with pytest.raises(BadTracking, match=r"\.layerscope: cannot be written \(File exists\); set"):
        check_records_root()


def test_default_and_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert records_root() == Path(".layerscope")
    monkeypatch.setenv("LAYERSCOPE_RECORDS", "deep/records")
    check_records_root()
    assert records_root() == Path("deep/records")
    assert list(Path("deep").iterdir()) == [Path("deep/records")]
    assert list(Path("deep/records").iterdir()) == []


def test_removal_of_a_folder_that_is_gone() -> None:
    remove_run_folder(Path(".layerscope/run"))
    assert list(Path().iterdir()) == []


def test_everything_goes_but_a_chosen_root() -> None:
    remove_run_folder(left(".layerscope"))
    remove_run_folder(left("records"))
    assert list(Path().iterdir()) == [Path("records")]
    assert list(Path("records").iterdir()) == []


def test_root_with_other_runs_stays() -> None:
    directory = left(".layerscope")
    other = Path(".layerscope/other")
    other.mkdir()
    remove_run_folder(directory)
    remove_if_empty(Path(".layerscope"))
    assert list(Path(".layerscope").iterdir()) == [other]


def test_what_was_refused_stays_with_what_it_may_name() -> None:
    directory = left(".layerscope")
    (directory / "refused.jsonl").write_text("{}\n")
    remove_run_folder(directory)
    assert {path.name for path in directory.iterdir()} == {"refused.jsonl", "config.yaml"}
