"""RunRecord: what it leaves, whatever happens, and that nothing stays behind on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd
from tracking import recording
from tracking.errors import BadOption, BadTracking
from tracking.recorders.hyperparameters import Recorder
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions
from tracking.sink import MemorySink

__all__: list[str] = []

TABLES = ["activations/stats.parquet", "hyperparameters/steps.parquet"]
BEGINS = {".png": b"\x89PNG", ".parquet": b"PAR1", ".json": b"{"}
FILES = sorted([*TABLES, "diagnosis.json", "evidence.json"])


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "draw", lambda *args: iter(()))


def train(record: RunRecord, model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    for x in batches(n):
        loss = model(x).square().mean()
        loss.backward()
        record.note(loss=loss, batch_size=len(x), epoch=0)
        optimizer.step()
        record.step()
        optimizer.zero_grad()


def interrupts_in(step: int) -> Callable[..., None]:
    """A hook that does what Ctrl-C does."""
    steps = count()

    def hook(*args: Any) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt

    return hook


# -- what goes wrong --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "("}, r"layers=\(: not a regular expression"),
        ({"every": 0}, "every=0: allowed: a whole number from 1"),
        ({"every": "auto:2"}, "every=auto:2: allowed"),
    ],
)
def test_options_are_checked_before_anything_is_recorded(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        RecordingOptions(**options)


def test_layers_that_match_nothing_leave_no_hook_and_nothing_to_hand_over(tmp_path: Path) -> None:
    model, sink = cnn(), MemorySink()
    optimizer = sgd(model)
    record = RunRecord(
        model, optimizer, tmp_path, sink=sink, options=RecordingOptions(layers="no_such_layer")
    )
    with pytest.raises(BadOption, match="matches no module"), record:
        raise AssertionError("the body must not run")
    record.close()
    assert hooks_on(model, optimizer) == 0
    assert sink.logged_artifacts == {}


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = cnn()
    with pytest.raises(BadTracking, match="cannot be written"):
        RunRecord(model, sgd(model), tmp_path / "file" / "records")


@pytest.mark.usefixtures("no_pictures")
def test_a_failure_in_training_leaves_readable_tables_and_no_hook(tmp_path: Path) -> None:
    model, sink = cnn(), MemorySink()
    optimizer = sgd(model)
    record = RunRecord(model, optimizer, tmp_path, sink=sink)
    optimizer.register_step_pre_hook(interrupts_in(3))
    with pytest.raises(KeyboardInterrupt), record:
        train(record, model, optimizer, 9)
    optimizer._optimizer_step_pre_hooks.clear()
    assert hooks_on(model, optimizer) == 0
    assert pq.read_table(sink.logged_artifacts[TABLES[1]])["step"].to_pylist() == [0, 1, 2]
    assert max(pq.read_table(sink.logged_artifacts[TABLES[0]])["step"].to_pylist()) == 3


def test_a_recorder_that_fails_does_not_take_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sink = cnn(), MemorySink()
    optimizer = sgd(model)
    record = RunRecord(model, optimizer, tmp_path, sink=sink)

    def full(self: Recorder) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, "flush", full)
    with pytest.raises(OSError, match="No space left"), record:
        train(record, model, optimizer, 2)
    assert hooks_on(model, optimizer) == 0
    assert list(sink.logged_artifacts) == [
        TABLES[0],
        "diagnosis.json",
        "evidence.json",
    ]  # and no picture of half the records


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Iterator[Any]:
        raise MemoryError("a picture is too large")

    monkeypatch.setattr(recording, "draw", fails)
    model, sink = cnn(), MemorySink()
    with RunRecord(model, sgd(model), tmp_path, sink=sink):
        pass
    assert sorted(sink.logged_artifacts) == FILES
    assert "not all pictures could be drawn (MemoryError: a picture is too large)" in caplog.text


# -- what is there afterwards --


def test_artifacts_of_a_run(tmp_path: Path) -> None:
    model, sink = cnn(), MemorySink()
    optimizer = sgd(model)
    with RunRecord(model, optimizer, tmp_path / "records", sink=sink) as record:
        train(record, model, optimizer, 2)
    assert sorted(sink.logged_artifacts) == [
        "activations/color_dim.png",
        "activations/color_dim/1.png",
        "activations/color_dim/3.png",
        "activations/layer_stats.png",
        TABLES[0],
        "diagnosis.json",
        "evidence.json",
        "hyperparameters/schedule.png",
        TABLES[1],
    ]
    for name, path in sink.logged_artifacts.items():
        assert path == tmp_path / "records" / name
        assert path.read_bytes().startswith(BEGINS[path.suffix])
    assert {"lr", "train/loss", "activations/1/mean"} <= {m.key for m in sink.logged_metrics}


@pytest.mark.usefixtures("no_pictures")
def test_entering_twice_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = cnn()
    optimizer = sgd(model)
    with RunRecord(model, optimizer, tmp_path) as record:
        before = hooks_on(model, optimizer)
        with pytest.raises(RuntimeError, match="a RunRecord records once"):
            record.__enter__()
        assert hooks_on(model, optimizer) == before
        for x in batches(3):
            model(x).sum().backward()
            optimizer.step()
            record.step()
    assert hooks_on(model, optimizer) == 0
    assert len(record.activation_stats.read()) == 6


def test_an_optimizer_without_a_rate_is_recorded_with_its_pictures(tmp_path: Path) -> None:
    class OwnRate(torch.optim.SGD):
        """As Adafactor: it finds its rate itself."""

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            pass

    model, sink = cnn(), MemorySink()
    optimizer = OwnRate(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with RunRecord(model, optimizer, tmp_path, sink=sink, expected_steps=40) as record:
        for x in batches(40):
            loss = model(x).square().mean()
            loss.backward()
            record.note(loss=loss, batch_size=len(x))
            optimizer.step()
            record.step()
    assert {row["lr"] for row in rows(record.recorder.read())} == {None}
    assert "hyperparameters/schedule.png" in sink.logged_artifacts
    assert "diagnosis.json" in sink.logged_artifacts
    assert not [m for m in sink.logged_metrics if m.key == "lr"]


def test_closing_twice_hands_over_once(tmp_path: Path) -> None:
    class Counting(MemorySink):
        calls = 0

        def artifact(self, path: Path, folder: str = "") -> None:
            self.calls += 1

    model, sink = cnn(), Counting()
    with RunRecord(model, sgd(model), tmp_path, sink=sink) as record:
        record.close()
    assert sink.calls == len(FILES)
    record.close()
    assert sink.calls == len(FILES)


@pytest.mark.usefixtures("no_pictures")
def test_steps_go_on_where_an_earlier_training_ended(tmp_path: Path) -> None:
    model = cnn()
    optimizer = sgd(model)
    with RunRecord(model, optimizer, tmp_path, first_step=100) as record:
        train(record, model, optimizer, 2)
    assert record.recorder.read()["step"].to_pylist() == [100, 101]
    assert set(record.activation_stats.read()["step"].to_pylist()) == {100, 101}


@pytest.mark.usefixtures("no_pictures")
def test_options_reach_the_statistics(tmp_path: Path) -> None:
    @dataclass
    class Config:
        layers: str = "^0$"
        every: int = 2
        record_eval: bool = True
        near_zero_eps: float = 1e9
        above_threshold: float = -1e9
        gradients: bool = True
        updates: bool = False
        diagnose: bool = True
        thresholds: str = "dead_units.share=0.5"
        something_else: str = ""

    model = cnn()
    optimizer = sgd(model)
    options = RecordingOptions.of(Config())
    with RunRecord(model, optimizer, tmp_path, options=options) as record:
        train(record, model, optimizer, 3)
        model.eval()(batches(1)[0])
    table = record.activation_stats.read().to_pylist()
    assert {(row["step"], row["mode"]) for row in table} == {
        (0, "train"),
        (2, "train"),
        (3, "eval"),
    }
    assert {row["layer"] for row in table} == {"0"}
    assert all(row["near_zero"] == 1 and row["above"] == row["count"] for row in table)


@pytest.mark.usefixtures("no_pictures")
def test_training_is_not_changed(tmp_path: Path) -> None:
    recorded, bare = cnn(), cnn()
    optimizer = sgd(recorded)
    with RunRecord(recorded, optimizer, tmp_path) as record:
        train(record, recorded, optimizer, 3)
    optimizer = sgd(bare)
    for x in batches(3):
        bare(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(recorded.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


# -- wrapped models --


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A training by several processes, of which there is one."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("no_pictures", "one_rank")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's own making
@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrapped_model_has_the_names_that_it_has_by_itself(
    compiled: bool, tmp_path: Path
) -> None:
    model = cnn()
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(model)
    called: Any = torch.compile(wrapped, backend="eager") if compiled else wrapped
    optimizer = sgd(wrapped)
    options = RecordingOptions(gradients=True, updates=True)
    with RunRecord(called, optimizer, tmp_path, options=options) as record:
        train(record, called, optimizer, 2)
    assert record.activation_stats.layers == ("1", "3")
    assert record.gradient_stats is not None
    assert record.gradient_stats.layers == ("1", "3")
    assert record.update_stats is not None
    assert record.update_stats.parameters == tuple(dict(model.named_parameters()))
    assert record.activation_stats.read()["step"].to_pylist() == [0, 0, 1, 1]
    assert hooks_on(model, optimizer) == 0
