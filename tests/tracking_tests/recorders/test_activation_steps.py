"""Which steps are recorded, in which mode, and when rows reach the disk and the sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from tests.tracking_tests.models import Outputs, batches, captured, cnn, rows, sgd, train, verify
from tracking import ActivationStats, pace
from tracking.recorders import activations
from tracking.sink import MemorySink

__all__: list[str] = []


@pytest.mark.parametrize("every", [1, 2, 3, "4"])
def test_every_nth_step(every: int | str) -> None:
    model = cnn()
    optimizer = sgd(model)
    with ActivationStats(model, optimizer=optimizer, every=every) as stats:
        train(model, optimizer, 9)
    expected = [(step, layer) for step in range(0, 9, int(every)) for layer in ("1", "3")]
    assert [(row["step"], row["layer"]) for row in rows(stats.read())] == expected


def test_steps_that_are_not_due_do_not_leak_into_others() -> None:
    model = cnn()
    with captured({"1": model[1]}) as seen, ActivationStats(model, layers="1", every=2) as stats:
        for x in batches(5):
            model(x)
            stats.step()
            seen.next_step()
    verify(stats.read(), type(seen)({key: x for key, x in seen.items() if key[1] % 2 == 0}))


class Clock:
    """Time as the test has it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_automatic_interval_keeps_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def take_two_milliseconds(x: Tensor) -> bool:
        clock.now += 0.002
        return True

    monkeypatch.setattr(activations, "time", clock)
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(pace, "BESIDE", 1.0)  # this clock misses nothing
    monkeypatch.setattr(activations, "has_values", take_two_milliseconds)
    model = cnn()
    with ActivationStats(model, every="auto:0.05") as stats:
        for x in batches(1) * 200:
            model(x)
            clock.now += 0.01
            stats.step()
    steps = sorted({row["step"] for row in rows(stats.read())})
    # Two layers of 2 ms every n steps of 10 ms: n = ceil(0.4 * 0.95 / 0.05)
    assert steps[:2] == [0, 1]
    assert steps[2:] == list(range(9, 200, 8))


def test_evaluation_between_steps_does_not_change_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(activations, "time", clock)
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(pace, "BESIDE", 1.0)  # this clock misses nothing
    model = cnn()
    [x] = batches(1)
    with ActivationStats(model, every="auto:0.5") as stats:
        for _ in range(20):
            model(x)
            clock.now += 0.01
            stats._pace.recording = 0.015 * stats._pace.due(stats.current_step)
            clock.now += stats._pace.recording
            stats.step()
            model.eval()
            model(x)
            clock.now += 100
            model.train()
    # 15 ms of recording in every n-th step of 10 ms: n = ceil(1.5 * 0.5 / 0.5)
    assert sorted({row["step"] for row in rows(stats.read())}) == [0, *range(1, 20, 2)]


@pytest.mark.parametrize("record_eval", [False, True])
def test_evaluation_is_recorded_on_request_and_kept_apart(record_eval: bool) -> None:
    model = cnn()
    optimizer = sgd(model)
    options: dict[str, Any] = {"layers": "^1$", "record_eval": record_eval}
    with (
        captured({"1": model[1]}) as seen,
        ActivationStats(model, optimizer=optimizer, **options) as stats,
    ):
        train(model, optimizer, 2)
        model.eval()
        with torch.inference_mode():
            for x in batches(3, seed=5):
                model(x)
        model.train()
        train(model, optimizer, 1)
    table = stats.read()
    modes = [(row["step"], row["mode"], row["count"]) for row in rows(table)]
    size = seen["1", 0][0].numel()
    trained = [(step, "train", size) for step in range(3)]
    # What is evaluated between two steps makes one row, numbered like the step that follows.
    assert modes == ([*trained, (2, "eval", 3 * size)] if record_eval else trained)


def test_statistics_of_training_are_the_same_with_and_without_evaluation() -> None:
    tables = []
    for record_eval in (False, True):
        model = cnn()
        optimizer = sgd(model)
        with ActivationStats(model, optimizer=optimizer, record_eval=record_eval) as stats:
            for _ in range(2):
                train(model, optimizer, 2)
                model.eval()
                model(batches(1, seed=9)[0])
                model.train()
        tables.append([row for row in rows(stats.read()) if row["mode"] == "train"])
    assert tables[0] == tables[1]


def test_evaluation_goes_by_the_whole_model() -> None:
    # A frozen part in evaluation mode is still part of training.
    model = cnn()
    model[1].eval()
    with ActivationStats(model) as stats:
        model(batches(1)[0])
    assert [row["mode"] for row in rows(stats.read())] == ["train", "train"]


@pytest.mark.parametrize("flush_every", [1, 2, 5, 64])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6])
def test_rows_are_the_same_whenever_they_are_flushed(
    flush_every: int, steps: int, tmp_path: Path
) -> None:
    model = cnn()
    with (
        captured({"1": model[1], "3": model[3]}) as seen,
        ActivationStats(model, flush_every=flush_every, directory=tmp_path) as stats,
    ):
        for x in batches(steps):
            model(x)
            stats.step()
            seen.next_step()
        parts = list((tmp_path / "parts" / "stats").glob("*.parquet"))
        assert len(parts) == steps // flush_every
    verify(stats.read(), seen)
    assert [row["step"] for row in rows(stats.read())] == [i // 2 for i in range(2 * steps)]


@pytest.mark.parametrize("flush_every", [1, 2, 64])
def test_reading_at_any_moment_loses_nothing(flush_every: int) -> None:
    model = cnn()
    optimizer = sgd(model)
    names = {"1": model[1], "3": model[3]}
    with (
        captured(names) as seen,
        ActivationStats(model, optimizer=optimizer, flush_every=flush_every) as stats,
    ):
        assert len(stats.read()) == 0
        for step, x in enumerate(batches(5)):
            loss = model(x).square().mean()
            assert len(stats.read()) == 2 * step  # in the middle of a step
            loss.backward()
            model(x[:2])
            optimizer.step()
            seen.next_step()
            assert len(stats.read()) == 2 * (step + 1)
    verify(stats.read(), seen)


def test_memory_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.ReLU() for _ in range(20)])
    x = torch.ones(1, 2)
    with ActivationStats(model, directory=tmp_path, flush_every=30) as stats:
        for step in range(300):
            model(x)
            stats.step()
            if step % 30 == 29:
                buffers = stats._buffers._buffers.values()
                assert len(buffers) == 20
                assert {len(buffer._ints) for buffer in buffers} == {30}
                assert not any(buffer._moments for buffer in buffers)
                assert {buffer._channels[2].alive.shape for buffer in buffers} == {(30, 2)}
        assert not stats._log._unwritten
        assert len(list((tmp_path / "parts" / "stats").iterdir())) == 10
    assert pq.read_metadata(stats.path).num_rows == 6000
    assert stats.read()["step"].to_pylist() == [row // 20 for row in range(6000)]


def test_memory_does_not_grow_with_the_widths_of_outputs() -> None:
    model = nn.Sequential(nn.ReLU())
    seen: Outputs = {}
    with ActivationStats(model, flush_every=4) as stats:
        for step in range(40):
            x = torch.randn(2, 1 + step, 3)
            seen["0", step] = [model(x)]
            stats.step()
            [buffer] = stats._buffers._buffers.values()
            assert len(buffer._channels) <= 8
    verify(stats.read(), seen)


def test_metrics_of_every_layer_reach_the_sink() -> None:
    model = cnn()
    optimizer = sgd(model)
    sink = MemorySink()
    with ActivationStats(model, optimizer=optimizer, sink=sink, flush_every=2) as stats:
        train(model, optimizer, 3)
    metrics = {(m.key, m.step): m.value for m in sink.logged_metrics}
    table = rows(stats.read())
    names = ("mean", "std", "near_zero", "dead_channels")
    assert metrics == {
        (f"activations/{row['layer']}/{name}", row["step"]): row[name]
        for row in table
        for name in names
    }
    assert all(m.time > 1e9 for m in sink.logged_metrics)


def test_metrics_without_a_value_are_left_out() -> None:
    model = nn.Sequential(nn.ReLU())
    sink = MemorySink()
    with ActivationStats(model, sink=sink):
        model(torch.full((3,), torch.nan))
    assert sink.logged_metrics == []


def test_metrics_of_evaluation_have_names_of_their_own() -> None:
    model = nn.Sequential(nn.ReLU()).eval()
    sink = MemorySink()
    with ActivationStats(model, sink=sink, record_eval=True):
        model(torch.ones(2, 2))
    assert {m.key.rsplit("/", 1)[0] for m in sink.logged_metrics} == {"activations_eval/0"}


@pytest.mark.parametrize(
    ("every", "expected", "points"),
    [(2, 3000, 1000), (4, 3000, 750), (1, None, 1000 + 500 + 250)],
)
def test_metrics_are_thinned_and_the_table_is_not(
    every: int, expected: int | None, points: int
) -> None:
    model = nn.Sequential(nn.ReLU())
    sink = MemorySink()
    x = torch.ones(1, 1)
    with ActivationStats(
        model, sink=sink, every=every, expected_steps=expected, flush_every=256
    ) as stats:
        for _ in range(3000):
            model(x)
            stats.step()
    assert len({m.step for m in sink.logged_metrics}) == points
    assert len(sink.logged_metrics) == 4 * points
    assert len(stats.read()) == 3000 // every


def test_evaluating_a_part_of_the_model_fills_no_buffer_beyond_its_end(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    with ActivationStats(
        model, directory=tmp_path, every=1000, record_eval=True, flush_every=2
    ) as stats:
        model.eval()
        for _ in range(7):
            model[0](torch.ones(1, 2))  # not through the model's own call
            stats.step()
    assert stats.read()["step"].to_pylist() == list(range(7))
