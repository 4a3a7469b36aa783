"""A Recorder from entering to closing: flushes, failures, what reaches disk and sink."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, marked, rows
from tracking import Recorder
from tracking.errors import BadOption
from tracking.sink import MemorySink
from tracking.tables.record_file import RecordFile

__all__: list[str] = []

Optimizer = torch.optim.Optimizer


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 0.1)
    return p


def sgd(**options: Any) -> Optimizer:
    return torch.optim.SGD([parameter()], **{"lr": 0.1, **options})


def test_the_graph_of_a_loss_is_not_kept_alive() -> None:
    optimizer = sgd()
    with Recorder(optimizer) as recorder:
        loss, alive = marked(torch.ones((), requires_grad=True))
        recorder.note(loss=loss)
        del loss
        assert not alive()
        optimizer.step()
    assert [row["loss"] for row in rows(recorder.read())] == [1]


@pytest.mark.parametrize("fused", [False, True])
def test_updates_that_a_scaler_skips_are_not_recorded(fused: bool) -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with Recorder(optimizer) as recorder:
        for factor, x in zip((1.0, math.inf, 2.0), batches(3), strict=True):
            optimizer.zero_grad()
            loss = model(x).square().mean() * factor
            scaler.scale(loss).backward()
            recorder.note(loss=loss, epoch=int(factor) if factor < 9 else 0)
            scaler.step(optimizer)
            scaler.update()
    found = rows(recorder.read())
    assert [(row["step"], row["epoch"]) for row in found] == [(0, 1), (1, 2)]
    assert all(math.isfinite(row["loss"]) for row in found)


@pytest.mark.parametrize("flush_every", [1, 2, 3, 64])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_rows_are_the_same_whenever_they_are_flushed(
    flush_every: int, steps: int, tmp_path: Path
) -> None:
    optimizer = sgd()
    with Recorder(optimizer, directory=tmp_path, flush_every=flush_every) as recorder:
        for step in range(steps):
            recorder.note(loss=torch.tensor(float(step)))
            optimizer.step()
        parts = list((tmp_path / "parts" / "steps").iterdir())
        assert len(parts) == steps // flush_every
        assert recorder.read()["loss"].to_pylist() == list(range(steps))
    table = recorder.read()
    assert table["step"].to_pylist() == table["loss"].to_pylist() == list(range(steps))
    assert recorder.path == tmp_path / "steps.parquet"
    assert [path.name for path in tmp_path.iterdir()] == ["steps.parquet"]


def test_memory_does_not_grow_with_the_steps() -> None:
    optimizer = sgd()
    with Recorder(optimizer, flush_every=50) as recorder:
        for step in range(1000):
            recorder.note(loss=torch.tensor(1.0))
            optimizer.step()
            assert len(recorder._pending) == (step + 1) % 50
    assert len(recorder.read()) == 1000


def test_empty_recording_has_the_schema() -> None:
    with Recorder(sgd()) as recorder:
        pass
    expected = {
        **dict.fromkeys(("step", "epoch", "batch_size"), pa.int64()),
        **dict.fromkeys(("lr", "momentum", "weight_decay"), pa.float64()),
        **dict.fromkeys(("loss", "loss_smooth", "time"), pa.float64()),
        "group": pa.dictionary(pa.int32(), pa.string()),
    }
    schema = recorder.read().schema
    assert {field.name: field.type for field in schema} == expected


def test_failure_of_the_loop_passes_and_leaves_the_rows() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(optimizer)

    def loop() -> None:
        with recorder:
            assert hooks_on(model, optimizer) == 2
            optimizer.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert hooks_on(model, optimizer) == 0
    optimizer.step()
    recorder.close()
    assert len(recorder.read()) == 1


def test_rows_that_could_not_be_written_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = sgd()
    recorder = Recorder(optimizer, flush_every=2)

    def disk_full(self: RecordFile, table: Any) -> None:
        raise OSError("disk full")

    def loop() -> None:
        with recorder, monkeypatch.context() as patch:
            patch.setattr(RecordFile, "append", disk_full)
            for loss in (3.0, 1.0, 2.0):
                recorder.note(loss=loss)
                optimizer.step()

    with pytest.raises(OSError, match="disk full"):
        loop()
    found = rows(recorder.read())
    assert [row["loss"] for row in found] == [3.0, 1.0]
    # No loss has entered the average twice.
    assert found[1]["loss_smooth"] == pytest.approx((0.98 * 3 + 1) / 1.98)


def test_two_runs_in_sequence_do_not_disturb_each_other(tmp_path: Path) -> None:
    optimizer = sgd()
    recorders = []
    for name in ("a", "b"):
        with Recorder(optimizer, directory=tmp_path / name) as recorder:
            optimizer.step()
        recorders.append(recorder)
        optimizer.param_groups[0]["lr"] = 9.0
    assert [rows(recorder.read())[0]["lr"] for recorder in recorders] == [0.1, 9.0]


def test_bad_use_is_refused() -> None:
    with pytest.raises(BadOption, match=r"^flush_every=0: allowed: a whole number from 1$"):
        Recorder(sgd(), flush_every=0)
    recorder = Recorder(sgd())
    with recorder:
        pass
    with pytest.raises(RuntimeError, match="make a new one"), recorder:
        pass


def test_metrics_are_those_of_the_first_group() -> None:
    sink = MemorySink()
    groups = [{"params": [parameter()], "lr": 0.5}, {"params": [parameter()], "lr": 0.7}]
    optimizer = torch.optim.Adagrad(groups)
    with Recorder(optimizer, sink=sink) as recorder:
        recorder.note(loss=torch.tensor(2.0))
        optimizer.step()
        optimizer.step()
    found = [(m.key, m.step, m.value) for m in sink.logged_metrics]
    # Adagrad has no momentum, and the second step was given no loss.
    first = [("lr", 0, 0.5), ("train/loss", 0, 2.0), ("train/loss_smooth", 0, 2.0)]
    assert found == [*first, ("lr", 1, 0.5)]


@pytest.mark.parametrize(("expected", "points"), [(4000, 1000), (2500, 1334), (None, 2000)])
def test_metrics_are_thinned_and_the_table_is_not(expected: int | None, points: int) -> None:
    sink = MemorySink()
    optimizer = sgd()
    with Recorder(optimizer, sink=sink, expected_steps=expected, flush_every=500) as recorder:
        for _ in range(4000):
            optimizer.step()
    assert len([m for m in sink.logged_metrics if m.key == "lr"]) == points
    assert len(recorder.read()) == 4000
