"""From entering to closing: hooks, failures, memory; training is not disturbed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd, train
from tracking.errors import BadOption
from tracking.recorders.updates import UpdateStats
from tracking.sink import MemorySink
from tracking.tables.flow_tables import read_updates
from tracking.tables.schemas import check_format

__all__: list[str] = []


class Boom(Exception):
    """What a loop may raise."""


def test_failure_of_the_loop_passes_and_leaves_the_rows() -> None:
    model = cnn()
    optimizer = sgd(model)
    stats = UpdateStats(model, optimizer)

    def loop() -> None:
        with stats:
            assert hooks_on(model, optimizer) == 2
            train(model, optimizer, 2)
            raise Boom

    with pytest.raises(Boom):
        loop()
    assert hooks_on(model, optimizer) == 0
    assert [row["step"] for row in rows(stats.read())] == [0] * 4 + [1] * 4
    train(model, optimizer, 1)
    stats.close()
    assert pq.read_metadata(stats.path).num_rows == 8


def test_the_copy_lives_only_during_the_step() -> None:
    model = cnn()
    optimizer = sgd(model)
    held: list[int] = []
    with UpdateStats(model, optimizer, every=2) as stats:
        optimizer.register_step_pre_hook(lambda *_: held.append(len(stats._before)))
        for x in batches(3):
            model(x).sum().backward()
            optimizer.step()
            assert stats._before == {}
    assert held == [4, 0, 4]


def test_memory_does_not_grow_with_the_steps() -> None:
    model = cnn()
    optimizer = sgd(model)
    waiting = []
    with UpdateStats(model, optimizer, flush_every=4) as stats:
        for x in batches(1) * 50:
            model(x).square().mean().backward()
            optimizer.step()
            waiting.append(len(stats._rows._done))
    assert waiting == [4, 8, 12, 0] * 12 + [4, 8]
    assert len(stats.read()) == 200


def training_result(record: bool, **options: Any) -> list[Any]:
    """Everything that recording could disturb."""
    model = nn.Sequential(*cnn(inplace=True), nn.Dropout(0.3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, **options)
    torch.manual_seed(7)
    stats = UpdateStats(model, optimizer)
    if record:
        stats.__enter__()
    train(model, optimizer, 4)
    stats.close()
    assert len(stats.read()) == (24 if record else 0)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [*model.state_dict().values(), *moments, torch.get_rng_state()]


@pytest.mark.parametrize("how", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
def test_training_is_bit_identical_with_and_without(how: dict[str, bool]) -> None:
    with_, without = training_result(True, **how), training_result(False, **how)
    assert all(torch.equal(a, b) for a, b in zip(with_, without, strict=True))


def test_rows_come_back_from_disk_with_their_settings(tmp_path: Path) -> None:
    model = cnn()
    optimizer = sgd(model)
    with UpdateStats(model, optimizer, every=3, directory=tmp_path, flush_every=1) as stats:
        train(model, optimizer, 7)
        middle = stats.read()
    table = read_updates(tmp_path / "stats.parquet")
    assert rows(table) == rows(stats.read()) == rows(middle)
    assert sorted({row["step"] for row in rows(table)}) == [0, 3, 6]
    meta = check_format(pq.read_schema(stats.path), stats.path)
    assert (meta["format"], meta["every"]) == (1, "3")


def test_metrics_are_thinned_ratios() -> None:
    model = cnn()
    nn.init.zeros_(model[3].bias)  # its first ratio is not defined
    optimizer = sgd(model)
    sink = MemorySink()
    with UpdateStats(model, optimizer, sink=sink, expected_steps=3000) as stats:
        train(model, optimizer, 5)
    ratios = {(r["parameter"], r["step"]): r["ratio"] for r in rows(stats.read())}
    assert {(m.key, m.step): m.value for m in sink.logged_metrics} == {
        (f"updates/{name}/ratio", step): ratios[name, step]
        for step in (0, 3)
        for name in stats.parameters
        if (name, step) != ("3.bias", 0)
    }


def test_a_compiled_model_goes_by_the_names_inside_it() -> None:
    model = cnn()
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = sgd(model)
    with UpdateStats(compiled, optimizer) as stats:
        model(batches(1)[0]).sum().backward()
        optimizer.step()
    assert stats.parameters == ("0.weight", "0.bias", "3.weight", "3.bias")


def test_the_optimizer_of_a_copy_is_refused() -> None:
    model = cnn()
    twin = copy.deepcopy(model)
    expected = "optimizer=SGD: has no trainable parameter of the model; give the optimizer"
    for of in (twin, model.requires_grad_(False)):
        stats = UpdateStats(model, sgd(of))
        with pytest.raises(BadOption, match=f"^{re.escape(expected)}"), stats:
            pass
        assert hooks_on(model, stats.optimizer) == 0


def test_an_empty_model_has_no_parameters() -> None:
    with pytest.raises(BadOption, match="has no trainable parameter"):
        UpdateStats(nn.ReLU(), sgd(cnn())).__enter__()


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": "auto:2"}, {"flush_every": 0}], ids=str
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    model = cnn()
    [(name, value)] = options.items()
    with pytest.raises(BadOption, match=f"^{name}={value}: allowed: a whole number from 1"):
        UpdateStats(model, sgd(model), **options)


def test_an_instance_serves_one_run() -> None:
    model = cnn()
    optimizer = sgd(model)
    stats = UpdateStats(model, optimizer)
    with stats:
        pass
    with pytest.raises(RuntimeError, match=r"^UpdateStats records once; make a new one"), stats:
        pass
    assert hooks_on(model, optimizer) == 0
