"""From entering to closing: hooks, copies, failures; nothing waits, grows or disturbs training."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.tracking_tests.flow import NoWaiting
from tests.tracking_tests.models import batches, cnn, hooks_on, marked, rows, sgd, train
from tracking.errors import BadOption, BadTracking
from tracking.recorders import gradients
from tracking.recorders.gradients import GradientStats
from tracking.sink import MemorySink, NullSink
from tracking.statistics.norms import torch_gradient_sums
from tracking.tables.flow_tables import read_gradients
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import check_format

__all__: list[str] = []


class Boom(Exception):
    """What a loop may raise."""


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_failure_of_the_loop_passes_and_leaves_the_rows(error: type[BaseException]) -> None:
    model = cnn()
    optimizer = sgd(model)
    stats = GradientStats(model, optimizer=optimizer)

    def loop() -> None:
        with stats:
            assert hooks_on(model, optimizer) == 5
            train(model, optimizer, 2)
            model(batches(1)[0]).sum().backward()
            raise error

    with pytest.raises(error):
        loop()
    assert hooks_on(model, optimizer) == 0
    assert [row["step"] for row in rows(stats.read())] == [0, 0, 1, 1, 2, 2]
    assert pq.read_metadata(stats.path).num_rows == 6


def test_a_graph_that_outlives_the_context_changes_nothing() -> None:
    model = cnn()
    with GradientStats(model) as stats:
        loss = model(batches(1)[0]).sum()
    loss.backward()
    stats.close()
    assert rows(stats.read()) == []


def test_a_graph_of_a_step_before_belongs_to_the_step_of_its_backward_pass() -> None:
    model = cnn()
    [x] = batches(1)
    with GradientStats(model, layers="^3$", every=2) as stats:
        first = model(x).sum()
        stats.step()
        first.backward(retain_graph=True)  # in step 1, which is not recorded
        stats.step()
        first.backward()
        stats.step()
    assert [(row["step"], row["count"]) for row in rows(stats.read())] == [(2, 15)]


def test_graphs_are_not_kept_alive() -> None:
    model = cnn()
    with GradientStats(model):
        y, alive = marked(model(batches(1)[0]))
        assert alive()
        del y
        assert not alive()


class ManyThreaded(NullSink):
    """Cannot be copied."""

    def __init__(self) -> None:
        self.lock = Lock()


def test_copies_of_the_model_are_not_recorded() -> None:
    model = cnn()
    [x] = batches(1)
    with GradientStats(model, sink=ManyThreaded()) as stats:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(x).sum().backward()
        stats.step()
    assert rows(stats.read()) == []


def test_only_the_own_optimizer_ends_steps() -> None:
    a, b = cnn(0), cnn(1)
    one, other = sgd(a), sgd(b)
    with (
        GradientStats(a, optimizer=one, layers="^3$") as of_a,
        GradientStats(b, optimizer=other, layers="^3$") as of_b,
    ):
        for x in batches(4):
            a(x).square().mean().backward()
            b(x).square().mean().backward()
            other.step()
            b(x).square().mean().backward()
            other.step()
            one.step()
    assert [(row["step"], row["count"]) for row in rows(of_a.read())] == [(n, 15) for n in range(4)]
    assert [(row["step"], row["count"]) for row in rows(of_b.read())] == [(n, 15) for n in range(8)]


def test_layers_that_join_or_leave_the_model() -> None:
    model = cnn()
    [x] = batches(1)
    with GradientStats(model) as stats:
        gone = model[1]
        model[1] = nn.Tanh()
        model.add_module("4", nn.ReLU())
        model(x).sum().backward()
        stats.step()
        assert not gone._forward_hooks
    assert stats.layers == ("1", "3", "4")
    assert [row["layer"] for row in rows(stats.read())] == ["1", "3", "4"]


def training_result(record: bool, **options: Any) -> list[Any]:
    """Everything that recording could disturb."""
    model = nn.Sequential(*cnn(inplace=True), nn.Dropout(0.3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(7)
    stats = GradientStats(model, optimizer=optimizer, **options)
    kept = []
    if record:
        stats.__enter__()
    for x in batches(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        kept.extend([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
    stats.close()
    assert len(stats.read()) == (0 if not record else len(stats.layers) * 4)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [*model.state_dict().values(), *moments, *kept, torch.get_rng_state()]


@pytest.mark.parametrize("layers", ["activations", "all"])
def test_training_is_bit_identical_with_and_without(layers: str) -> None:
    with_, without = training_result(True, layers=layers, flush_every=2), training_result(False)
    assert len(with_) == len(without)
    assert all(torch.equal(a, b) for a, b in zip(with_, without, strict=True))


def test_the_host_never_waits_between_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "gradient_sums", torch_gradient_sums)  # as on an accelerator
    model = cnn()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with GradientStats(model, optimizer=optimizer, scaler=scaler, flush_every=100) as stats:
        with NoWaiting():
            for x in batches(5):
                scaler.scale(model(x).square().mean()).backward()
                optimizer.step()
        with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            float(model[0].weight.sum())
    assert len(stats.read()) == 10


def test_memory_does_not_grow_with_the_steps() -> None:
    model = cnn()
    optimizer = sgd(model)
    waiting = []
    with GradientStats(model, optimizer=optimizer, flush_every=4) as stats:
        for x in batches(1) * 50:
            model(x).square().mean().backward()
            optimizer.step()
            waiting.append(len(stats._rows._done))
    assert waiting == [2, 4, 6, 0] * 12 + [2, 4]
    assert len(stats.read()) == 100


@pytest.mark.parametrize("flush_every", [1, 3, 64])
def test_rows_are_the_same_whenever_they_are_read(flush_every: int, tmp_path: Path) -> None:
    model = cnn()
    with GradientStats(model, flush_every=flush_every, directory=tmp_path) as stats:
        for x in batches(5):
            y = model(x)
            model(x).square().mean().backward()
            stats.read()  # in the middle of a step
            y.square().mean().backward()
            stats.step()
    found = rows(stats.read())
    assert [(row["step"], row["layer"]) for row in found] == [
        (step, layer) for step in range(5) for layer in "13"
    ]
    assert {row["count"] for row in found} == {2 * 15, 2 * 5 * 4 * 36}
    assert rows(read_gradients(tmp_path / "stats.parquet")) == found
    meta = check_format(pq.read_schema(stats.path), stats.path)
    assert (meta["format"], meta["layers"], meta["every"]) == (1, "activations", "1")


def test_metrics_are_thinned_norms() -> None:
    model = nn.Sequential()
    model.add_module("act[0]", nn.ReLU())
    sink = MemorySink()
    with GradientStats(model, layers="act", sink=sink, expected_steps=4000) as stats:
        for step in range(8):
            x = torch.ones(2, 3, requires_grad=True)
            model(x * 1).backward(torch.full((2, 3), float(step or torch.nan)))
            stats.step()
    # Every fourth step is shown; the first one has no finite element.
    assert [(m.key, m.step, m.value) for m in sink.logged_metrics] == [
        ("gradients/act_0_/norm", 4, pytest.approx(4 * 6**0.5))
    ]
    assert stats.read()["layer"].to_pylist() == ["act[0]"] * 8


def test_a_write_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn()
    optimizer = sgd(model)

    def full(*_: Any) -> None:
        raise OSError("disk full")

    with GradientStats(model, optimizer=optimizer) as stats:
        train(model, optimizer, 2)
        with monkeypatch.context() as broken:
            broken.setattr(RecordFile, "append", full)
            with pytest.raises(OSError, match="disk full"):
                stats.flush()
        train(model, optimizer, 1)
    assert [row["step"] for row in rows(stats.read())] == [0, 0, 1, 1, 2, 2]


def test_an_instance_serves_one_run() -> None:
    model = cnn()
    stats = GradientStats(model)
    with stats:
        pass
    with pytest.raises(RuntimeError, match=r"^GradientStats records once; make a new one"), stats:
        pass
    assert hooks_on(model) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": "conv"},
            "layers=conv: matches no module of the model; it has: model, 0, 1, 2, 3",
        ),
        ({"layers": "("}, "layers=(: not a regular expression"),
        ({"every": 0}, "every=0: allowed: a whole number from 1, or auto:SHARE"),
        ({"every": "often"}, "every=often: allowed: a whole number from 1"),
        ({"flush_every": 0}, "flush_every=0: allowed: a whole number from 1"),
    ],
)
def test_bad_options_are_refused_before_anything_happens(
    options: dict[str, Any], message: str
) -> None:
    model = cnn()
    with pytest.raises(BadOption, match=f"^{re.escape(message)}") as caught:
        GradientStats(model, **options).__enter__()
    assert "\n" not in str(caught.value)
    assert hooks_on(model) == 0


def test_an_empty_model_has_no_layers() -> None:
    with pytest.raises(BadOption, match=r"^layers=activations: matches no module"):
        GradientStats(nn.Sequential()).__enter__()


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadTracking, match=r"file.*cannot be written"):
        GradientStats(cnn(), directory=tmp_path / "file" / "below")
