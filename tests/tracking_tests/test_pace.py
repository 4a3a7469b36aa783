"""One pace for the recorders of a run: the same steps, and what all of them take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.tracking_tests.models import batches, cnn, sgd
from tracking import pace, recording
from tracking.diagnosis import live
from tracking.pace import Pace
from tracking.recorders import activations, hyperparameters, sum_stats
from tracking.recorders.hyperparameters import Recorder
from tracking.recorders.step_notes import StepNotes, losses_on_host, understood
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions

__all__: list[str] = []


class TickingClock:
    """Each look at it is a second later than the one before."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "draw", lambda *args: iter(()))


@pytest.mark.usefixtures("no_pictures")
def test_recorders_of_a_run_record_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = TickingClock()
    for module in (activations, hyperparameters, live, pace, recording, sum_stats):
        monkeypatch.setattr(module, "time", clock)
    model = cnn()
    optimizer = sgd(model)
    options = RecordingOptions(every="auto:0.5", gradients=True, updates=True)
    with RunRecord(model, optimizer, tmp_path, options=options) as record:
        for x in batches(50):
            loss = model(x).square().mean()
            loss.backward()
            record.note(loss=loss, batch_size=len(x))
            optimizer.step()
            clock.now += 10
            record.step()
            optimizer.zero_grad()
    assert record.gradient_stats
    assert record.update_stats
    tables = [one.read() for one in (record.activation_stats, record.gradient_stats)]
    tables.append(record.update_stats.read())
    steps = [sorted(set(table["step"].to_pylist())) for table in tables]
    assert steps[0] == steps[1] == steps[2]
    assert 5 <= len(steps[0]) < 40
    assert record.recorder.read()["step"].to_pylist() == list(range(50))


@pytest.mark.usefixtures("no_pictures")
def test_what_each_recorder_does_in_every_step_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = TickingClock()
    for module in (hyperparameters, live, pace, recording):
        monkeypatch.setattr(module, "time", clock)
    model = cnn()
    optimizer = sgd(model)
    [x] = batches(1)
    with RunRecord(model, optimizer, tmp_path) as record:
        taken = []
        model(x).sum().backward()
        taken.append(record._pace.always)
        record.note(batch_size=len(x), labels=torch.zeros(len(x), dtype=torch.int64))
        taken.append(record._pace.always)
        optimizer.step()
        taken.append(record._pace.always)
        record.step()
        taken.append(record._pace.always)
    assert taken[0] > 0
    assert taken[0] < taken[1] < taken[2]
    assert taken[3] == 0


def test_evaluation_is_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TickingClock()
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(pace, "BESIDE", 1.0)  # this clock misses nothing
    paced = Pace("auto:0.5")
    paced.recording = 1.0
    paced.end_step(0)  # the first is left out of the measure
    for step in range(1, 30):
        paced.before_forward(training=False)
        clock.now += 1000
        paced.always += 500
        paced.before_forward(training=True)
        paced.recording = 9.0 * paced.due(step)
        clock.now += 3 + paced.recording
        paced.end_step(step)
    # 9 s of recording in every third step of 3 s and a look at the clock: less than half
    assert paced.interval.steps == 3
    assert str(paced) == "auto:0.5"


def test_what_cannot_be_measured_is_taken_into_account(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TickingClock()
    monkeypatch.setattr(pace, "time", clock)
    paced = Pace("auto:0.1")
    for step in range(100):
        paced.recording = 10_000.0 * paced.due(step)
        clock.now += 10_000 + 1.8 * paced.recording
        paced.end_step(step)
    # 18 s in every n-th step of 10 s: n = ceil(1.8 * 0.9 / 0.1)
    assert paced.interval.steps == 17


@pytest.mark.parametrize("own", [0.0, 300.0])
def test_waiting_for_the_device_is_the_training_s_own_time(
    monkeypatch: pytest.MonkeyPatch, own: float
) -> None:
    clock = TickingClock()
    monkeypatch.setattr(hyperparameters, "time", clock)

    def after_a_while(steps: Sequence[StepNotes]) -> list[float | None]:
        clock.now += 1000
        return losses_on_host(steps)

    def at_once(steps: Sequence[StepNotes], losses: Sequence[float | None]) -> Sequence[StepNotes]:
        clock.now += own
        return understood(steps, losses)

    monkeypatch.setattr(hyperparameters, "losses_on_host", after_a_while)
    monkeypatch.setattr(hyperparameters, "understood", at_once)
    model = cnn()
    optimizer = sgd(model)
    paced = Pace("auto:0.05")
    [x] = batches(1)
    with Recorder(optimizer, pace=paced, flush_every=1) as recorder:
        for _ in range(2):
            model(x).sum().backward()
            optimizer.step()
            assert own < paced.always < own + 20
            paced.begin()
        assert len(recorder.read()) == 2
