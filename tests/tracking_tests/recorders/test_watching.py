"""Watchers of recorders: shown finished records every sixteen steps, before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.tracking_tests.models import batches, cnn, sgd
from tracking.recorders import step_recorder
from tracking.recorders.activations import ActivationStats
from tracking.recorders.gradients import GradientStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recorders.updates import UpdateStats

__all__: list[str] = []

RECORDERS = {
    "activations": lambda model, optimizer, **more: ActivationStats(
        model, optimizer=optimizer, **more
    ),
    "gradients": lambda model, optimizer, **more: GradientStats(model, optimizer=optimizer, **more),
    "updates": UpdateStats,
    "hyperparameters": lambda model, optimizer, **more: Recorder(optimizer, **more),
}


def shown(
    kind: str, folder: Path, steps: int, **options: Any
) -> tuple[list[list[int]], list[int], Any]:
    """Steps of each portion that a watcher saw, parts on disk at that time, and the table."""
    model = cnn()
    optimizer = sgd(model)
    portions: list[list[int]] = []
    parts: list[int] = []

    def watch(records: Sequence[Any]) -> None:
        portions.append(sorted({record.step for record in records}))
        parts.append(len(list(folder.rglob("parts/*/*.parquet"))))

    with RECORDERS[kind](model, optimizer, directory=folder, watch=watch, **options) as recorder:
        for x in batches(steps):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return portions, parts, recorder.read()


LOOKS = [[*range(first, first + 16)] for first in range(0, 256, 16)]
"""Steps of each portion that a watcher sees of 256."""


@pytest.mark.parametrize("kind", RECORDERS)
def test_records_come_every_sixteen_steps_and_256_are_written_together(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_recorder, "WRITE_WITHIN", 1e9)  # however slow the machine is
    portions, parts, table = shown(kind, tmp_path, 260)
    assert portions == [*LOOKS, [*range(256, 260)]]
    assert parts == [0] * 16 + [1]
    assert sorted(set(table["step"].to_pylist())) == [*range(260)]


@pytest.mark.parametrize("kind", RECORDERS)
def test_records_of_a_slow_training_are_written_sooner(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_recorder, "WRITE_WITHIN", 0)
    _, parts, table = shown(kind, tmp_path, 40)
    assert parts == [0, 1, 2]
    assert sorted(set(table["step"].to_pylist())) == [*range(40)]


@pytest.mark.parametrize("within", [0, 1e9])
@pytest.mark.parametrize("kind", RECORDERS)
def test_when_records_come_does_not_depend_on_the_clock(
    kind: str, within: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks exchange when they take, and only the first of them writes."""
    monkeypatch.setattr(step_recorder, "WRITE_WITHIN", within)
    portions, *_ = shown(kind, tmp_path, 50, flush_every=20)
    assert [portion[-1] + 1 for portion in portions] == [16, 20, 36, 40, 50]


@pytest.mark.parametrize("kind", RECORDERS)
def test_a_watcher_changes_nothing_of_the_table(kind: str, tmp_path: Path) -> None:
    *_, watched = shown(kind, tmp_path / "watched", 20)
    model: nn.Module = cnn()
    optimizer = sgd(model)
    with RECORDERS[kind](model, optimizer, directory=tmp_path / "alone") as recorder:
        for x in batches(20):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    alone = recorder.read()
    kept = [name for name in alone.column_names if name != "time"]
    assert watched.select(kept).equals(alone.select(kept))
