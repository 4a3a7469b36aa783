"""The loop: what the optimizer is given, what is measured, and the ways to compute a step."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.data.loaders import Batch, Loaders
from pipelines.evaluation import evaluate
from pipelines.fit import Fit
from pipelines.optimizers import make_optimizer
from pipelines.run import FitResult, prepare
from pipelines.schedules import make_schedule
from pipelines.step import StepOptions
from pipelines.trainer import Trainer
from tests.pipelines_tests.loops import EPOCH, VALIDATE, Spy
from tracking.recorders.hyperparameters import Recorder

__all__: list[str] = []

CPU = torch.device("cpu")
LoadersMaker = Callable[..., Loaders]
TrainedMaker = Callable[..., FitResult]
SCHEDULES = (
    *("one_cycle", "one_cycle_linear", "triangular", "flat_cos"),
    *("cosine", "warm_restarts", "linear", "constant"),
)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# -- schedule --


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_optimizer_uses_exactly_the_values_of_the_schedule(
    loaders: LoadersMaker, schedule: str, optimizer: str
) -> None:
    config = RunConfig(schedule=schedule, optimizer=optimizer, momentum_max=0.9)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
    used = make_optimizer(model, config)
    recorder = Recorder(used)

    class Note(Callback):
        def before_step(self, fit: Fit) -> None:
            recorder.note(loss=fit.loss, step=fit.step)

    with recorder:
        trainer = Trainer(model, used, loaders(count=28), CPU, callbacks=[Note()])
        fit = trainer.fit(3, partial(make_schedule, config))
    rows = recorder.read().to_pylist()
    assert fit.total_steps == fit.step == 12
    expected = make_schedule(config, 12)
    assert [row["step"] for row in rows] == [step for step in range(12) for _ in range(2)]
    for row in rows:
        assert (row["lr"], row["momentum"]) == tuple(expected(row["step"]))


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate", "steps"),
    [(24, 8, 1, 3), (26, 8, 1, 4), (24, 8, 2, 2), (24, 8, 5, 1), (25, 8, 1, 3), (5, 1, 1, 5)],
)
def test_steps_of_an_epoch(
    loaders: LoadersMaker, count: int, batch_size: int, accumulate: int, steps: int
) -> None:
    sizes = []

    class Look(Callback):
        def after_batch(self, fit: Fit) -> None:
            sizes.append(fit.batch_size)

    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = StepOptions(accumulate=accumulate)
    three = loaders(count=count, batch_size=batch_size)
    trainer = Trainer(model, optimizer, three, CPU, options, [Look()])
    assert trainer.steps_per_epoch == steps
    fit = trainer.fit(2, partial(make_schedule, RunConfig()))
    assert (fit.step, fit.total_steps, len(sizes)) == (2 * steps,) * 3
    assert sum(sizes) == 2 * three.train.samples


# -- evaluation --


def test_evaluation_weights_samples_and_leaves_smoothing_out(loaders: LoadersMaker) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3), nn.BatchNorm1d(3))
    train = loaders(count=21, batch_size=8).train
    train.shuffle = False
    result = evaluate(model, train, CPU)
    batches = list(train)
    assert [len(batch.y) for batch in batches] == [8, 8, 5]
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    assert all(module.training for module in model.modules())
    assert model[3].num_batches_tracked == 0
    with torch.no_grad():
        scores = model.eval()(x)
    assert result.loss == pytest.approx(float(F.cross_entropy(scores, y)), rel=1e-6)
    assert result.accuracy == pytest.approx(float((scores.argmax(1) == y).float().mean()))
    assert result.top_class == pytest.approx(int(scores.argmax(1).bincount().max()) / 21)
    evaluate(model, train, CPU)
    assert not model.training


def test_validation_sees_the_model_in_evaluation_mode(loaders: LoadersMaker) -> None:
    modes = []

    class Look(Callback):
        def before_batch(self, fit: Fit) -> None:
            modes.append(("batch", fit.model.training))

        def before_validate(self, fit: Fit) -> None:
            modes.append(("validate", fit.model.training))

        def after_epoch(self, fit: Fit) -> None:
            modes.append(("epoch", fit.model.training))

    model = linear().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = Trainer(model, optimizer, loaders(count=8), CPU, callbacks=[Look()])
    trainer.fit(2, partial(make_schedule, RunConfig()))
    assert modes == [("batch", True), ("validate", False), ("epoch", True)] * 2


def test_history_holds_every_epoch(loaders: LoadersMaker) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    three = loaders(count=16)
    fit = Trainer(model, optimizer, three, CPU).fit(3, partial(make_schedule, RunConfig()))
    assert [(e.epoch, e.step) for e in fit.history] == [(0, 2), (1, 4), (2, 6)]
    last = fit.history[-1]
    assert last.valid == evaluate(model, three.valid, CPU)
    assert fit.metrics["valid/loss"] == last.valid.loss
    assert fit.metrics["valid/accuracy"] == last.valid.accuracy
    assert fit.metrics["samples_per_second"] == last.samples_per_second > 0
    assert last.seconds > 16 / last.samples_per_second


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples(loaders: LoadersMaker) -> None:
    class Losses(Callback):
        def after_batch(self, fit: Fit) -> None:
            seen.append((fit.batch_size, float(fit.loss)))

    seen: list[tuple[int, float]] = []
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    uneven = loaders(count=21)
    trainer = Trainer(model, optimizer, uneven, CPU, callbacks=[Losses()])
    fit = trainer.fit(1, partial(make_schedule, RunConfig()))
    assert [size for size, _ in seen] == [8, 8, 5]
    expected = sum(size * loss for size, loss in seen) / 21
    assert fit.metrics["train/loss_epoch"] == pytest.approx(expected, rel=1e-6)


def test_without_validation_data_nothing_is_validated(loaders: LoadersMaker) -> None:
    log: list[str] = []
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    three = loaders(count=16, valid=0)
    trainer = Trainer(model, optimizer, three, CPU, callbacks=[Spy(log)])
    fit = trainer.fit(2, partial(make_schedule, RunConfig()))
    epoch = [event for event in EPOCH if event not in VALIDATE]
    assert log == ["before_fit", *epoch, *epoch, "after_fit", "cleanup_fit"]
    assert fit.metrics.keys() == {"samples_per_second", "train/loss_epoch"}
    assert [e.valid for e in fit.history] == [None, None]
    assert all(e.seconds > 0 for e in fit.history)


def test_validation_changes_nothing_in_training(loaders: LoadersMaker) -> None:
    weights = []
    for valid in (0, 6):
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = Trainer(model, optimizer, loaders(valid=valid), CPU)
        trainer.fit(2, partial(make_schedule, RunConfig()))
        weights.append(weights_of(model))
    assert weights[0].equal(weights[1])


# -- small runs --


def test_one_epoch_of_one_step(trained: TrainedMaker) -> None:
    result = trained(epochs=1, train_limit=16, batch_size=16)
    assert result.recorder.read().num_rows == 2  # two parameter groups
    assert set(result.activation_stats.read()["step"].to_pylist()) == {0}
    assert len(result.history) == 1


def test_a_last_batch_of_one_sample_does_not_stop_batch_norm(trained: TrainedMaker) -> None:
    result = trained(train_limit=33, batch_size=16)
    assert set(result.recorder.read()["batch_size"].to_pylist()) == {16}
    assert math.isfinite(result.valid.loss)


def test_batches_of_one_sample_train_without_batch_norm(trained: TrainedMaker) -> None:
    result = trained(train_limit=5, batch_size=1, norm="none", epochs=1)
    assert result.recorder.read()["batch_size"].to_pylist() == [1] * 10


def test_a_model_learns(trained: TrainedMaker) -> None:
    result = trained(train_limit=0, epochs=3, batch_size=64, widths=(8, 16), lr_max=0.02)
    assert result.history[0].valid.loss > result.history[-1].valid.loss
    assert result.valid.accuracy > 0.9


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_records(trained: TrainedMaker, precision: str) -> None:
    exact, mixed = trained(), trained(precision=precision)
    assert mixed.valid.loss == pytest.approx(exact.valid.loss, rel=0.05)
    stats = [result.activation_stats.read() for result in (exact, mixed)]
    for column in ("step", "layer", "count"):
        assert stats[0][column].to_pylist() == stats[1][column].to_pylist()
    means = [np.array(table["mean"].to_pylist()) for table in stats]
    assert np.abs(means[0] - means[1]).max() < 0.1
    assert all(weight.dtype == torch.float32 for weight in mixed.model.parameters())


def test_channels_last_trains_as_contiguous_memory_does(trained: TrainedMaker) -> None:
    # Not Adam: where a gradient is nearly zero it turns a rounding error into a whole step.
    sgd = {"optimizer": "sgd", "lr_max": 0.05}
    first, second = trained(channels_last=True, **sgd), trained(channels_last=False, **sgd)
    conv = first.model.conv2.conv.weight
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert not second.model.conv2.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        weights_of(first.model), weights_of(second.model), rtol=1e-4, atol=1e-5
    )
    stats = [result.activation_stats.read() for result in (first, second)]
    for column in ("mean", "std", "min", "max"):
        values = [np.array(table[column].to_pylist()) for table in stats]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-3, atol=1e-4)


def test_accumulation_records_whole_steps(trained: TrainedMaker) -> None:
    result = trained(train_limit=60, batch_size=10, accumulate=4, epochs=1)
    assert result.recorder.read()["batch_size"].to_pylist() == [40, 40, 20, 20]
    stats = result.activation_stats.read().to_pylist()
    counts = [row["count"] for row in stats if row["layer"] == "conv1.relu"]
    assert counts == [40 * 4 * 8 * 8, 20 * 4 * 8 * 8]


def test_early_stopping_ends_a_run(trained: TrainedMaker) -> None:
    result = trained(epochs=50, patience=1, lr_max=1.0, schedule="constant")
    assert 1 < len(result.history) < 50
    assert result.stopped.startswith("no lower validation loss than")
    assert result.recorder.read().num_rows == 2 * result.history[-1].step


# -- compiled --


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own making
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
def test_compiled_training_is_that_of_the_model(trained: TrainedMaker) -> None:
    expected = trained(epochs=1, train_limit=32)
    compiled = trained(epochs=1, train_limit=32, compile=True)
    assert compiled.model.state_dict().keys() == expected.model.state_dict().keys()
    torch.testing.assert_close(
        weights_of(compiled.model), weights_of(expected.model), rtol=1e-3, atol=1e-4
    )
    assert compiled.activation_stats.read().num_rows == expected.activation_stats.read().num_rows


# -- a trainer of one's own --


def test_fit_twice_goes_on_with_the_weights(loaders: LoadersMaker) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = Trainer(model, optimizer, loaders(), CPU)
    before = weights_of(model)
    trainer.fit(1, partial(make_schedule, RunConfig()))
    middle = weights_of(model)
    second = trainer.fit(1, partial(make_schedule, RunConfig()))
    assert not before.equal(middle)
    assert not middle.equal(weights_of(model))
    assert (second.epoch, second.step) == (1, 3)


def test_trainer_of_a_setup_takes_the_options_of_the_configuration(small: Any) -> None:
    setup = prepare(
        small(accumulate=2, clip_norm=0.5, label_smoothing=0.1, precision="bf16", record=False)
    )
    assert setup.step_options == StepOptions("bf16", 2, 0.5, 0.1)
    trainer = setup.trainer([])
    assert trainer.options == setup.step_options
    assert trainer.model is setup.model
    assert isinstance(next(iter(trainer.loaders.train)), Batch)
