"""From entering to closing: hooks, changes of the model, failures; training is not disturbed."""

from __future__ import annotations

import gc
import math
import re
import weakref
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, marked, rows, sgd, train
from tracking import ActivationStats
from tracking.errors import BadOption, BadTracking
from tracking.sink import NullSink
from tracking.tables.record_file import RecordFile

__all__: list[str] = []


class Boom(Exception):
    """What a loop may raise."""


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit])
def test_failure_of_the_loop_passes_and_leaves_the_rows(error: type[BaseException]) -> None:
    model = cnn()
    optimizer = sgd(model)
    stats = ActivationStats(model, optimizer=optimizer)

    def loop() -> None:
        with stats:
            assert hooks_on(model, optimizer) == 5
            train(model, optimizer, 2)
            model(batches(1)[0])
            raise error

    with pytest.raises(error):
        loop()
    assert hooks_on(model, optimizer) == 0
    assert [row["step"] for row in rows(stats.read())] == [0, 0, 1, 1, 2, 2]
    assert pq.read_metadata(stats.path).num_rows == 6


def test_hooks_are_gone_although_the_rows_cannot_be_written(tmp_path: Path) -> None:
    model = cnn()

    class Full(NullSink):
        def metrics(self, metrics: Any) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), ActivationStats(model, sink=Full()):
        model(batches(1)[0])
    assert hooks_on(model) == 0


def test_rows_that_could_not_be_written_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = cnn()
    optimizer = sgd(model)
    stats = ActivationStats(model, optimizer=optimizer, flush_every=2)

    def disk_full(self: RecordFile, table: Any) -> None:
        raise OSError("disk full")

    def loop() -> None:
        with stats, monkeypatch.context() as patch:
            patch.setattr(RecordFile, "append", disk_full)
            train(model, optimizer, 3)

    with pytest.raises(OSError, match="disk full"):
        loop()
    assert [row["step"] for row in rows(stats.read())] == [0, 0, 1, 1]
    assert hooks_on(model, optimizer) == 0


def test_closing_twice_and_late_outputs_change_nothing() -> None:
    model = cnn()
    optimizer = sgd(model)
    with ActivationStats(model, optimizer=optimizer) as stats:
        train(model, optimizer, 2)
    before = stats.path.read_bytes()
    train(model, optimizer, 2)
    stats.close()
    stats.close()
    assert stats.path.read_bytes() == before
    assert stats.current_step == 2


def test_closing_without_entering_leaves_an_empty_table() -> None:
    stats = ActivationStats(cnn())
    stats.close()
    assert len(stats.read()) == 0
    assert stats.path.is_file()


def test_an_instance_serves_one_run() -> None:
    model = cnn()
    stats = ActivationStats(model)
    with stats, pytest.raises(RuntimeError, match="make a new one"):
        stats.__enter__()
    with pytest.raises(RuntimeError, match="make a new one"), stats:
        pass
    assert hooks_on(model) == 0


def test_results_of_an_earlier_run_outlive_later_ones(tmp_path: Path) -> None:
    model = cnn()
    optimizer = sgd(model)
    runs = []
    for name in ("a", "b"):
        with ActivationStats(model, optimizer=optimizer, directory=tmp_path / name) as stats:
            train(model, optimizer, 3)
        runs.append((stats, stats.read(), stats.path.read_bytes()))
    with torch.no_grad():
        model.eval()(batches(1)[0])
    for stats, table, content in runs:
        assert stats.read().equals(table)
        assert stats.path.read_bytes() == content
    assert not runs[0][1].equals(runs[1][1])


def test_two_recorders_of_one_model_do_not_meet() -> None:
    model = cnn()
    with ActivationStats(model, layers="^1$") as first:
        model(batches(1)[0])
        with ActivationStats(model, layers="^3$") as second:
            model(batches(1)[0])
    assert [row["layer"] for row in rows(first.read())] == ["1"]
    assert [row["layer"] for row in rows(second.read())] == ["3"]


def test_files_of_an_earlier_run_in_the_same_place_are_replaced(tmp_path: Path) -> None:
    model = cnn()
    for steps in (5, 2):
        optimizer = sgd(model)
        with ActivationStats(
            model, optimizer=optimizer, directory=tmp_path, flush_every=1
        ) as stats:
            train(model, optimizer, steps)
    assert len(stats.read()) == 2 * 2
    assert [path.name for path in tmp_path.iterdir()] == ["stats.parquet"]


def test_temporary_files_go_with_the_instance() -> None:
    model = cnn()
    with ActivationStats(model) as stats:
        model(batches(1)[0])
    path, gone = stats.path, weakref.ref(stats)
    assert path.is_file()
    del stats
    gc.collect()
    assert gone() is None
    assert not path.parent.exists()


def training_result(record: bool, **options: Any) -> list[Any]:
    """Everything that recording could disturb."""
    model = nn.Sequential(*cnn(inplace=True), nn.Dropout(0.3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(7)
    gradients = []

    def loop() -> None:
        for x in batches(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
            optimizer.step()

    if record:
        with ActivationStats(model, optimizer=optimizer, **options):
            loop()
    else:
        loop()
    state = [*model.state_dict().values(), *model.buffers(), torch.get_rng_state()]
    moments = [value for group in optimizer.state.values() for value in group.values()]
    return [*state, *moments, *[g for step in gradients for g in step]]


@pytest.mark.parametrize("layers", ["activations", "all", "."])
def test_training_is_bit_identical_with_and_without(layers: str) -> None:
    with_, without = training_result(True, layers=layers, flush_every=2), training_result(False)
    assert len(with_) == len(without)
    assert all(torch.equal(a, b) for a, b in zip(with_, without, strict=True))


def test_the_model_is_not_changed() -> None:
    model = cnn()
    keys, text = list(model.state_dict()), repr(model)
    with ActivationStats(model):
        model(batches(1)[0])
        assert list(model.state_dict()) == keys
        assert repr(model) == text


def test_outputs_are_not_kept_alive() -> None:
    model = cnn()
    with ActivationStats(model):
        y, alive = marked(model(batches(1)[0]))
        assert alive()
        del y
        assert not alive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": "conv"},
            "layers=conv: matches no module of the model; it has: model, 0, 1, 2, 3",
        ),
        ({"layers": "("}, "layers=(: not a regular expression"),
        ({"every": 0}, "every=0: allowed: a whole number from 1, or auto:SHARE"),
        ({"every": "auto:1"}, "every=auto:1: allowed: a whole number from 1"),
        ({"every": "often"}, "every=often: allowed: a whole number from 1"),
        ({"flush_every": 0}, "flush_every=0: allowed: a whole number from 1"),
        ({"near_zero_eps": math.nan}, "near_zero_eps=nan: allowed: a number from 0"),
        ({"near_zero_eps": -0.1}, "near_zero_eps=-0.1: allowed: a number from 0"),
        ({"above_threshold": math.nan}, "above_threshold=nan: allowed: a number"),
        ({"optimizer": [1]}, "optimizer=list: allowed: a torch.optim.Optimizer"),
    ],
)
def test_bad_options_are_refused_before_anything_happens(
    options: dict[str, Any], message: str
) -> None:
    model = cnn()
    with pytest.raises(BadOption, match=f"^{re.escape(message)}") as caught:
        ActivationStats(model, **options).__enter__()
    assert "\n" not in str(caught.value)
    assert hooks_on(model) == 0


def test_all_layers_of_a_model_without_children_are_none() -> None:
    with pytest.raises(
        BadOption, match=r"^layers=all: matches no module of the model; it has: model$"
    ):
        ActivationStats(nn.ReLU(), layers="all").__enter__()


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadTracking, match=r"file.*cannot be written"):
        ActivationStats(cnn(), directory=tmp_path / "file" / "below")


def test_a_skipped_update_ends_no_step() -> None:
    # A fused optimizer is called although the gradient scaler has it change nothing.
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with ActivationStats(model, optimizer=optimizer, layers="^1$") as stats:
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(batches(1)[0]).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    size = 5 * 4 * 6 * 6
    assert [(row["step"], row["count"]) for row in rows(stats.read())] == [(0, size), (1, 2 * size)]
