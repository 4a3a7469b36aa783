"""A run that was stopped and went on is the run that nobody has stopped."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.callbacks import Callback
from pipelines.checkpoint import CHECKPOINT, Checkpoint, StoppedRun
from pipelines.config import RunConfig
from pipelines.fit import Fit
from pipelines.run import FitResult, prepare, train
from tracking.diagnosis.files import read_evidence, read_findings
from tracking.sink import MemorySink

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]

# 60 images, of which 6 validate: 54 in batches of 16 are 4 steps an epoch, 2 epochs.
STEPS = 8
NOISY = """
import random
from collections import OrderedDict
import numpy as np
import torch
from torch import nn

class Noise(nn.Module):
    # Draws from every global generator, and has a buffer that state_dict leaves out.
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls += 1
            x = x + 0.01 * self.calls * (random.random() + np.random.rand())
        return x

def make(image_shape, classes):
    return nn.Sequential(OrderedDict(
        flat=nn.Flatten(), noise=Noise(), drop=nn.Dropout(0.5), relu=nn.ReLU(),
        norm=nn.BatchNorm1d(image_shape[1] * image_shape[2]),
        linear=nn.Linear(image_shape[1] * image_shape[2], classes),
    ))
"""


class StopAt(Callback):
    """Interrupts the run as a signal does: between two batches, or in an event of an epoch."""

    order = 300

    def __init__(self, step: int, event: str = "after_batch") -> None:
        self.step = step
        self.event = event

    def after_batch(self, fit: Fit) -> None:
        self._stop("after_batch", fit.step + 1)

    def before_validate(self, fit: Fit) -> None:
        self._stop("before_validate", fit.step)

    def after_epoch(self, fit: Fit) -> None:
        self._stop("after_epoch", fit.step)

    def before_epoch(self, fit: Fit) -> None:
        self._stop("before_epoch", fit.step)

    def after_fit(self, fit: Fit) -> None:
        self._stop("after_fit", fit.step)

    def _stop(self, event: str, step: int) -> None:
        if (event, step) == (self.event, self.step):
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _fast(no_pictures: None) -> None:
    """Nothing is drawn."""


@pytest.fixture
def noisy_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "noisy_net.py").write_text(NOISY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "noisy_net:make"
    sys.modules.pop("noisy_net", None)


def stopped_at(config: RunConfig, folder: Path, stop: StopAt) -> StoppedRun:
    with pytest.raises(KeyboardInterrupt):
        train(prepare(config), folder, [stop])
    return StoppedRun(Checkpoint.load(folder / CHECKPOINT), folder)


def gone_on(stopped: StoppedRun, folder: Path, sink: MemorySink | None = None) -> FitResult:
    # Whatever has been done meanwhile must not matter.
    torch.manual_seed(99)
    seed_others(99)
    setup = prepare(stopped.checkpoint.config)
    stopped.checkpoint.check(setup.model, setup.data.digest)
    return train(setup, folder, sink=sink, stopped=stopped)


def seed_others(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - a user's code may draw from it
    random.seed(seed)


def timeless(path: Path) -> pa.Table:
    table = pq.read_table(path)
    return table.drop_columns(["time"]) if "time" in table.column_names else table


def assert_same(one: Path, other: Path, a: FitResult, b: FitResult) -> None:
    for name, x in a.model.state_dict().items():
        assert x.equal(b.model.state_dict()[name]), name
    assert (a.test, a.valid, a.stopped) == (b.test, b.valid, b.stopped)
    epochs = [[(e.epoch, e.step, e.valid) for e in result.history] for result in (a, b)]
    assert epochs[0] == epochs[1]
    tables = sorted(path.relative_to(one) for path in one.rglob("*.parquet"))
    assert tables
    assert tables == sorted(path.relative_to(other) for path in other.rglob("*.parquet"))
    for table in tables:
        assert timeless(one / table).equals(timeless(other / table)), table
    if (one / "evidence.json").exists():
        assert read_evidence(one / "evidence.json") == read_evidence(other / "evidence.json")
        assert read_findings(one / "diagnosis.json") == read_findings(other / "diagnosis.json")


@pytest.mark.parametrize(
    ("step", "event"),
    [
        *((step, "after_batch") for step in range(1, STEPS + 1)),
        *((step, event) for step in (4, 8) for event in ("before_validate", "after_epoch")),
        (4, "before_epoch"),
        (8, "after_fit"),
    ],
)
def test_wherever_it_is_stopped(small: ConfigMaker, tmp_path: Path, step: int, event: str) -> None:
    config = small(augment="crop-flip", erase=0.5, gradients=True, updates=True)
    whole = train(prepare(config), tmp_path / "whole")
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(step, event))
    assert stopped.checkpoint.step == step
    assert stopped.checkpoint.total_steps == STEPS
    again = gone_on(stopped, tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum_max": 0.9},
        {"optimizer": "adam", "accumulate": 3, "batch_size": 4},
        {"precision": "bf16", "channels_last": False},
        {"schedule": "warm_restarts", "cycles": 2, "clip_norm": 0.5},
        {"valid_fraction": 0.0},
        {"every": 3, "record_eval": True},
        {"record": False},
        {"diagnose": False},
        {"norm": "none", "lr_max": 0.3, "optimizer": "sgd"},
    ],
    ids=str,
)
def test_whatever_is_trained(small: ConfigMaker, tmp_path: Path, options: dict[str, Any]) -> None:
    config = small(**options)
    whole = train(prepare(config), tmp_path / "whole")
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(5))
    again = gone_on(stopped, tmp_path / "again")
    if config.record:
        assert_same(tmp_path / "whole", tmp_path / "again", whole, again)
    for name, value in whole.model.state_dict().items():
        assert value.equal(again.model.state_dict()[name]), name


def test_a_network_that_draws_random_numbers(
    small: ConfigMaker, tmp_path: Path, noisy_net: str
) -> None:
    config = small(model=noisy_net)

    seed_others(7)
    whole = train(prepare(config), tmp_path / "whole")
    seed_others(7)
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(3))
    again = gone_on(stopped, tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)
    assert float(again.model.get_submodule("noise").calls) == STEPS


def test_images_that_are_read_from_disk(tmp_path: Path, small: ConfigMaker) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(30):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{index}.png")
    config = small(dataset=f"folder:{tmp_path / 'images'}", train_limit=0, augment="flip")
    whole = train(prepare(config), tmp_path / "whole")
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(2))
    again = gone_on(stopped, tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)


def test_it_may_be_stopped_as_often_as_one_likes(small: ConfigMaker, tmp_path: Path) -> None:
    config = small(every=2)
    whole = train(prepare(config), tmp_path / "whole")
    stopped = stopped_at(config, tmp_path / "0", StopAt(1))
    for step in (2, 3, 6, 8):
        setup = prepare(stopped.checkpoint.config)
        with pytest.raises(KeyboardInterrupt):
            train(setup, tmp_path / str(step), [StopAt(step)], stopped=stopped)
        folder = tmp_path / str(step)
        stopped = StoppedRun(Checkpoint.load(folder / CHECKPOINT), folder)
    again = gone_on(stopped, tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)


def test_patience_remembers(small: ConfigMaker, tmp_path: Path) -> None:
    config = small(epochs=20, patience=1, lr_max=0.3, schedule="constant", optimizer="sgd")
    whole = train(prepare(config), tmp_path / "whole")
    assert whole.stopped
    last = whole.history[-1].step
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(last - 2))
    again = gone_on(stopped, tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)


def test_records_after_the_checkpoint_are_recorded_again(
    small: ConfigMaker, tmp_path: Path
) -> None:
    """A process that is killed has recorded more than its checkpoint knows of, in parts."""
    config = small(gradients=True)
    whole = train(prepare(config), tmp_path / "whole")
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(3))
    later = stopped_at(config, tmp_path / "later", StopAt(6))
    for table in list((tmp_path / "later").rglob("*.parquet")):
        parts = table.parent / "parts" / table.stem
        parts.mkdir(parents=True)
        rows = pq.read_table(table)
        pq.write_table(rows.slice(0, 5), parts / "00000000.parquet")
        pq.write_table(rows.slice(5), parts / "00000001.parquet")
        table.unlink()
    again = gone_on(StoppedRun(stopped.checkpoint, later.folder), tmp_path / "again")
    assert_same(tmp_path / "whole", tmp_path / "again", whole, again)


def test_tables_that_are_lost_are_a_warning(
    small: ConfigMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = stopped_at(small(), tmp_path / "stopped", StopAt(3))
    (tmp_path / "stopped" / "activations" / "stats.parquet").unlink()
    again = gone_on(stopped, tmp_path / "again")
    assert "activations/stats.parquet lacks the steps before 3: " in caplog.text
    assert again.recorder.read()["step"].to_pylist()[0] == 0
    assert again.activation_stats.read()["step"].to_pylist()[0] == 3


def test_findings_are_not_announced_twice(small: ConfigMaker, tmp_path: Path) -> None:
    config = small(
        epochs=10, norm="none", lr_max=3.0, optimizer="sgd", clip_norm=1.0, valid_fraction=0.0
    )
    told: list[str] = []
    whole = train(prepare(config), tmp_path / "whole", announce=lambda one: told.append(one.rule))
    assert told
    stopped = stopped_at(config, tmp_path / "stopped", StopAt(39))
    late: list[str] = []
    setup = prepare(config)
    again = train(
        setup, tmp_path / "again", announce=lambda one: late.append(one.rule), stopped=stopped
    )
    assert [one.rule for one in again.findings] == [one.rule for one in whole.findings]
    assert set(late) < set(told) or not late


def test_metrics_go_on(small: ConfigMaker, tmp_path: Path) -> None:
    def points(sink: MemorySink) -> list[tuple[str, int, float]]:
        shown = [one for one in sink.logged_metrics if one.key != "samples_per_second"]
        return sorted((one.key, one.step, one.value) for one in shown)

    config = small()
    whole, first, rest = MemorySink(), MemorySink(), MemorySink()
    train(prepare(config), tmp_path / "whole", sink=whole)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(config), tmp_path / "stopped", [StopAt(5)], first)
    stopped = StoppedRun(Checkpoint.load(tmp_path / "stopped" / CHECKPOINT), tmp_path / "stopped")
    gone_on(stopped, tmp_path / "again", rest)
    assert sorted(points(first) + points(rest)) == points(whole)
