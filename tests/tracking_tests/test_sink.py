"""The sinks that need no store; tests/conformance/test_sinks.py has what holds for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracking.records import DatasetInfo, Metric
from tracking.sink import FanOutSink, MemorySink, NullSink, Sink

__all__: list[str] = []

DATASET = DatasetInfo("digits", "d1", "here", (1, 28, 28), ("0", "1"), {"train": 2})


class FailingSink(NullSink):
    """Cannot be closed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def close(self) -> None:
        raise self.error


def fill(sink: Sink) -> None:
    sink.metrics([Metric("a", 1.0, 0, 0.5), Metric("a", 2.0, 1, 1.5)])
    sink.metrics([])
    sink.metrics([Metric("b", 3.0, 0, 0.5)])
    sink.params({"lr": "0.1"})
    sink.params({"epochs": "5"})
    sink.tags({"state": "running"})
    sink.tags({"state": "finished"})
    sink.dataset(DATASET)
    sink.artifact(Path("x/config.yaml"))
    sink.artifact(Path("x/stats.parquet"), "activations")


def check(sink: MemorySink) -> None:
    assert [(m.key, m.value, m.step) for m in sink.logged_metrics] == [
        ("a", 1.0, 0),
        ("a", 2.0, 1),
        ("b", 3.0, 0),
    ]
    assert sink.logged_params == {"lr": "0.1", "epochs": "5"}
    assert sink.logged_tags == {"state": "finished"}
    assert sink.logged_datasets == [DATASET]
    assert sink.logged_artifacts == {
        "config.yaml": Path("x/config.yaml"),
        "activations/stats.parquet": Path("x/stats.parquet"),
    }
    assert sink.closed


def test_failing_sinks_do_not_keep_others_open() -> None:
    first, second, memory = FailingSink(ValueError("1")), FailingSink(OSError("2")), MemorySink()
    with pytest.raises(ValueError, match="1"):
        FanOutSink(first, second, memory).close()
    assert memory.closed


def test_fan_out_to_nobody() -> None:
    sink = FanOutSink()
    fill(sink)
    sink.close()
    assert sink.sinks == ()


def test_memory_keeps_everything() -> None:
    sink = MemorySink()
    fill(sink)
    assert not sink.closed
    sink.close()
    check(sink)


def test_fan_out_reaches_every_sink() -> None:
    memories = MemorySink(), MemorySink()
    sink = FanOutSink(memories[0], NullSink(), FanOutSink(memories[1]))
    fill(sink)
    sink.close()
    for memory in memories:
        check(memory)
