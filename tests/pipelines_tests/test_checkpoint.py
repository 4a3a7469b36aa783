"""Checkpoints on disk: when they are written, and what is refused of one that is read."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import pipelines.checkpointing
import tracking.signals
from pipelines.callbacks import Callback
from pipelines.checkpoint import CHECKPOINT, Checkpoint
from pipelines.config import RunConfig
from pipelines.fit import Fit
from pipelines.run import prepare, train
from tests.own_signals import own_signals_kept
from tracking.errors import BadDataset, BadModel, BadTracking, NonFiniteLoss

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]


class Sends(Callback):
    """Sends this process a signal in the middle of a batch, once or twice."""

    def __init__(self, number: signal.Signals, times: int = 1) -> None:
        self.number = number
        self.times = times
        self.steps: list[int] = []

    def before_step(self, fit: Fit) -> None:
        if fit.step == 5:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def after_batch(self, fit: Fit) -> None:
        self.steps.append(fit.step)


class Fails(Callback):
    def before_step(self, fit: Fit) -> None:
        if fit.step == 5:
            raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def _fast(no_pictures: None) -> None:
    """Nothing is drawn."""


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each step, however long it takes."""
    monkeypatch.setattr(pipelines.checkpointing, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(pipelines.checkpointing, "SHARE", float("inf"))


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint.load(folder / CHECKPOINT)


@pytest.fixture
def saved(small: ConfigMaker, tmp_path: Path) -> Path:
    """A checkpoint of a run that was trained to its end."""
    train(prepare(small()), tmp_path / "run")
    return tmp_path / "run" / CHECKPOINT


# -- when it is written --


def test_a_signal_waits_for_the_end_of_the_batch(small: ConfigMaker, tmp_path: Path) -> None:
    sends = Sends(signal.SIGINT)
    with own_signals_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            train(prepare(small()), tmp_path, [sends])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sends.steps == [0, 1, 2, 3, 4, 5]
    assert checkpoint(tmp_path).step == 6


def test_a_second_signal_does_not_wait(
    small: ConfigMaker, tmp_path: Path, every_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.signals, "PATIENCE", -1.0)
    sends = Sends(signal.SIGINT, times=2)
    with own_signals_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            train(prepare(small()), tmp_path, [sends])
    assert sends.steps == [0, 1, 2, 3, 4]
    # The weights may have been changed half-way since.
    assert checkpoint(tmp_path).step == 5


def test_without_checkpoints_nobody_waits(small: ConfigMaker, tmp_path: Path) -> None:
    """A search's trials train beside the run in a batch's events, for as long as that takes."""
    sends = Sends(signal.SIGINT)
    with own_signals_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            train(prepare(small(checkpoint=False)), tmp_path, [sends])
    assert sends.steps == [0, 1, 2, 3, 4]


def test_a_failure_leaves_the_last_one(
    small: ConfigMaker, tmp_path: Path, every_step: None
) -> None:
    with pytest.raises(OSError, match="No space left"):
        train(prepare(small()), tmp_path, [Fails()])
    assert checkpoint(tmp_path).step == 5


def test_a_short_run_that_fails_has_none(small: ConfigMaker, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        train(prepare(small()), tmp_path, [Fails()])
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_is_in_none(
    small: ConfigMaker, tmp_path: Path, every_step: None
) -> None:
    config = small(optimizer="sgd", norm="none", lr_max=1e30, epochs=3)
    with pytest.raises(NonFiniteLoss):
        train(prepare(config), tmp_path)
    assert all(
        torch.isfinite(value).all()
        for value in checkpoint(tmp_path).state["model"].values()
        if value.is_floating_point()
    )


def test_none_where_none_is_wanted(small: ConfigMaker, tmp_path: Path, every_step: None) -> None:
    train(prepare(small(checkpoint=False)), tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_its_time_is_not_the_trainings(
    small: ConfigMaker, tmp_path: Path, every_step: None
) -> None:
    seen: list[float] = []

    class Sees(Callback):
        order = 300

        def after_batch(self, fit: Fit) -> None:
            seen.append(fit.aside)

    train(prepare(small(epochs=1)), tmp_path, [Sees()])
    assert all(later > earlier for earlier, later in pairwise(seen))


def test_a_disk_that_takes_none_is_a_warning(
    small: ConfigMaker, tmp_path: Path, every_step: None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "layerscope"):
        result = train(prepare(small()), tmp_path)
    assert result.test is not None
    assert caplog.text.count("the run has no further checkpoints: ") == 1


def test_signals_do_not_reach_other_threads(small: ConfigMaker, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    ended: list[bool] = []

    def work() -> None:
        train(prepare(small()), tmp_path)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) == before


# -- what is read --


def test_it_reads_what_it_wrote(saved: Path, small: ConfigMaker) -> None:
    read = Checkpoint.load(saved)
    assert read.config == small()
    assert (read.step, read.total_steps) == (8, 8)
    assert (read.so_far.epoch, read.so_far.steps) == (1, 4)
    assert [one.epoch for one in read.history] == [0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint", None])
def test_a_damaged_file_is_refused(saved: Path, content: bytes | None) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BadTracking) as caught:
        Checkpoint.load(saved)
    message = str(caught.value)
    assert message.startswith("last.pt cannot be read as a checkpoint (")
    assert "\n" not in message


class Evil:
    """What a file that somebody else has made may hold: code."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "state": Evil()}, tmp_path / "last.pt")
    with pytest.raises(BadTracking, match="it holds something else than numbers and text"):
        Checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2, "version": "9.0"}, "has format 2, of Layerscope 9.0; this version reads"),
        ({"config": "lr_min: 1\n"}, "unknown option 'lr_min'"),
        ({"so_far": {"epoch": 1}}, "missing"),
        ({"format": "x"}, "cannot be read as a checkpoint"),
    ],
)
def test_another_versions_file_is_refused(
    saved: Path, changes: dict[str, object], message: str
) -> None:
    content = torch.load(saved, weights_only=True)
    torch.save(content | changes, saved)
    with pytest.raises(BadTracking) as caught:
        Checkpoint.load(saved)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(saved: Path) -> None:
    read = Checkpoint.load(saved)
    with pytest.raises(BadModel, match="model=simple_cnn is another one than when the run began: "):
        read.check(nn.Linear(2, 2), read.digest)


def test_other_data_are_refused(saved: Path, small: ConfigMaker) -> None:
    read = Checkpoint.load(saved)
    with pytest.raises(BadDataset, match="the data have changed: digits has digest other"):
        read.check(prepare(small()).model, "other")
