"""What a run records, that it lasts, and that nothing stays behind on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipelines.callbacks import Callback, LossGuard
from pipelines.config import RunConfig
from pipelines.data.images import Split
from pipelines.data.loaders import Batch, InMemoryLoader, Loaders
from pipelines.evaluation import evaluate
from pipelines.fit import Fit
from pipelines.recording import EpochMetrics, Recording
from pipelines.run import FitResult, prepare, train
from pipelines.schedules import make_schedule
from pipelines.trainer import Trainer
from tracking import pace
from tracking.diagnosis.evidence import RunContext
from tracking.errors import BadOption, NonFiniteLoss
from tracking.recorders.hyperparameters import Recorder
from tracking.records import Finding
from tracking.sink import MemorySink

__all__: list[str] = []

CPU = torch.device("cpu")
LoadersMaker = Callable[..., Loaders]
ConfigMaker = Callable[..., RunConfig]
TrainedMaker = Callable[..., FitResult]


class Fails(Callback):
    """Raises in one event."""

    order = 200

    def __init__(self, event: str, error: BaseException) -> None:
        self.event = event
        self.error = error

    def before_fit(self, fit: Fit) -> None:
        if self.event == "before_fit":
            raise self.error

    def after_batch(self, fit: Fit) -> None:
        if self.event == "after_batch" and fit.step == 2:
            raise self.error


def trainer_of(
    loaders: Loaders, directory: Path, *callbacks: Callback, **options: Any
) -> tuple[Trainer, Recording, MemorySink]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sink = MemorySink()
    context = RunContext(classes=3)
    recording = Recording(RunConfig(**options), model, directory, sink, context)
    trainer = Trainer(model, optimizer, loaders, CPU, callbacks=[recording, *callbacks])
    return trainer, recording, sink


class StandingClock:
    """Goes on only where it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def fit(trainer: Trainer, epochs: int = 1) -> Fit:
    return trainer.fit(epochs, lambda steps: make_schedule(RunConfig(), steps))


def hooks_on(trainer: Trainer) -> int:
    modules = trainer.model.modules()
    on_model = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    optimizer = trainer.optimizer
    return (
        on_model
        + len(optimizer._optimizer_step_pre_hooks)
        + len(optimizer._optimizer_step_post_hooks)
    )


# -- failures --


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_what_was_recorded_before_a_failure_is_handed_over(
    loaders: LoadersMaker, tmp_path: Path, no_pictures: None, error: BaseException
) -> None:
    trainer, recording, sink = trainer_of(loaders(count=48), tmp_path, Fails("after_batch", error))
    with pytest.raises(type(error)):
        fit(trainer)
    assert hooks_on(trainer) == 0
    steps = pq.read_table(sink.logged_artifacts["hyperparameters/steps.parquet"])
    assert steps["step"].to_pylist() == [0, 1, 2]
    stats = pq.read_table(sink.logged_artifacts["activations/stats.parquet"])
    assert set(stats["step"].to_pylist()) == {0, 1, 2}
    assert "activations/color_dim.png" in sink.logged_artifacts
    assert stats.equals(recording.activation_stats.read())


def test_failure_before_the_first_step_leaves_empty_tables_and_no_pictures(
    loaders: LoadersMaker, tmp_path: Path
) -> None:
    trainer, _, sink = trainer_of(loaders(), tmp_path, Fails("before_fit", ValueError()))
    with pytest.raises(ValueError):  # noqa: PT011 - it is the test's own
        fit(trainer)
    assert hooks_on(trainer) == 0
    assert sorted(sink.logged_artifacts) == [
        "activations/stats.parquet",
        "diagnosis.json",
        "evidence.json",
        "hyperparameters/steps.parquet",
    ]
    assert pq.read_table(sink.logged_artifacts["activations/stats.parquet"]).num_rows == 0


def test_layers_that_match_nothing_leave_no_hook(loaders: LoadersMaker, tmp_path: Path) -> None:
    trainer, _, sink = trainer_of(loaders(), tmp_path, layers="nothing_like_it")
    with pytest.raises(BadOption, match="matches no module") as caught:
        fit(trainer)
    assert not hasattr(caught.value, "__notes__")
    assert hooks_on(trainer) == 0
    assert sink.logged_artifacts == {}


def test_hooks_go_also_when_a_table_cannot_be_written(
    loaders: LoadersMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Recorder) -> None:
        raise OSError(28, "No space left on device")

    trainer, _, _ = trainer_of(loaders(), tmp_path)
    monkeypatch.setattr(Recorder, "flush", full)
    with pytest.raises(OSError, match="No space left"):
        fit(trainer)
    on_model = sum(len(m._forward_hooks) for m in trainer.model.modules())
    assert on_model == 0


def test_recording_twice_with_one_callback_starts_anew(
    loaders: LoadersMaker, tmp_path: Path, no_pictures: None
) -> None:
    trainer, recording, _ = trainer_of(loaders(count=16), tmp_path)
    fit(trainer)
    fit(trainer, epochs=2)
    assert hooks_on(trainer) == 0
    assert recording.recorder.read()["step"].to_pylist() == [0, 1, 2, 3]


class Spoilt(InMemoryLoader):
    """A loader one of whose batches is damaged."""

    def __init__(self, sound: InMemoryLoader, at: int, damage: Callable[[Batch], Batch]) -> None:
        split = Split(sound.split.images, sound.split.labels)
        super().__init__(split, sound.batch_size, (0.5,), (0.25,), CPU)
        self._at = at
        self._damage = damage

    def __iter__(self) -> Iterator[Batch]:
        for index, batch in enumerate(super().__iter__()):
            yield self._damage(batch) if index == self._at else batch


def failed_on(loaders: Loaders, folder: Path, at: int, damage: Callable[[Batch], Batch]) -> Finding:
    """What the diagnosis says first of a run whose batch ``at`` is damaged."""
    assert isinstance(loaders.train, InMemoryLoader)
    damaged = loaders._replace(train=Spoilt(loaders.train, at, damage))
    trainer, recording, _ = trainer_of(damaged, folder, LossGuard())
    with pytest.raises((NonFiniteLoss, IndexError)):
        fit(trainer)
    return recording.findings[0]


# The first steps are looked at anyway, and so is the sixteenth; the twelfth is not.
@pytest.mark.parametrize("at", [0, 5, 12, 16, 19])
def test_a_step_whose_loss_cannot_be_computed_tells_of_its_labels(
    loaders: LoadersMaker, tmp_path: Path, no_pictures: None, at: int
) -> None:
    def damage(batch: Batch) -> Batch:
        return Batch(batch.x, batch.y + 3)

    found = failed_on(loaders(count=160), tmp_path, at, damage)
    assert (found.rule, found.first_step) == ("labels_out_of_range", at)
    assert "the model has 3 outputs" in found.summary


@pytest.mark.parametrize("at", [0, 5, 12, 16, 19])
def test_damaged_images_are_blamed_and_not_the_first_layer(
    loaders: LoadersMaker, tmp_path: Path, no_pictures: None, at: int
) -> None:
    def damage(batch: Batch) -> Batch:
        x = batch.x.clone()
        x[-1, 0, 0, 0] = torch.nan
        return Batch(x, batch.y)

    found = failed_on(loaders(count=160), tmp_path, at, damage)
    assert (found.rule, found.first_step) == ("non_finite", at)
    assert "the input" in found.summary


def test_what_happens_between_epochs_is_no_part_of_a_step(
    small: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seconds = StandingClock(), []

    class Long(Callback):
        def after_epoch(self, fit: Fit) -> None:
            clock.now += 1000

    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(
        pace.Interval, "end_step", lambda self, step, whole, *rest: seconds.append(whole)
    )
    train(prepare(small(report=False, valid_fraction=0)), tmp_path, [Long()])
    assert seconds == [0.0] * len(seconds)
    assert len(seconds) >= 8


# -- what is there afterwards --


def test_artifacts_of_the_contract(small: ConfigMaker, tmp_path: Path) -> None:
    sink = MemorySink()
    train(prepare(small(epochs=1, train_limit=32, widths=(4,))), tmp_path, sink=sink)
    assert sorted(sink.logged_artifacts) == [
        "activations/color_dim.png",
        "activations/color_dim/conv1.relu.png",
        "activations/color_dim/head.norm.png",
        "activations/layer_stats.png",
        "activations/stats.parquet",
        "config.yaml",
        "diagnosis.json",
        "evidence.json",
        "hyperparameters/schedule.png",
        "hyperparameters/steps.parquet",
        "model_summary.json",
        "model_summary.txt",
    ]
    for name, path in sink.logged_artifacts.items():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") == name.endswith(".png")
        assert content.startswith(b"PAR1") == name.endswith(".parquet")


def test_result_stays_readable(
    small: ConfigMaker, tmp_path: Path, no_pictures: None, trained: TrainedMaker
) -> None:
    setup = prepare(small())
    result = train(setup, tmp_path / "one")
    before = result.recorder.read(), result.activation_stats.read()
    assert before[0].num_rows == 16
    assert before[1].num_rows == 8 * len(result.activation_stats.layers) == 24
    evaluate(result.model, setup.loaders.valid, CPU)
    result.model.train()
    result.model(next(iter(setup.loaders.train)).x)
    train(setup, tmp_path / "two")
    trained(seed=5)
    after = result.recorder.read(), result.activation_stats.read()
    assert before[0].equals(after[0])
    assert before[1].equals(after[1])


def test_validation_is_recorded_on_request_and_kept_apart(trained: TrainedMaker) -> None:
    both, alone = trained(record_eval=True), trained()
    table = both.activation_stats.read()
    modes = table["mode"].to_pylist()
    assert set(modes) == {"train", "eval"}
    train_rows = table.filter([mode == "train" for mode in modes])
    only = alone.activation_stats.read()
    for column in ("step", "layer", "count", "mean", "hist"):
        assert train_rows[column].to_pylist() == only[column].to_pylist()


def test_every_and_layers_reach_the_statistics(trained: TrainedMaker) -> None:
    result = trained(every=3, layers="conv.*norm")
    table = result.activation_stats.read()
    assert sorted(set(table["step"].to_pylist())) == [0, 3, 6]
    assert result.activation_stats.layers == ("conv1.norm", "conv2.norm")


@pytest.mark.parametrize("counted", [True, False])
def test_what_callbacks_do_aside_is_not_taken_for_the_training_s_time(
    small: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    class Aside(Callback):
        order = 200

        def after_batch(self, fit: Fit) -> None:
            clock.now += 1000
            fit.aside += 1000 * counted

    clock, seconds = StandingClock(), []
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(
        pace.Interval, "end_step", lambda self, step, whole, *rest: seconds.append(whole)
    )
    train(prepare(small(report=False)), tmp_path, [Aside()])
    # Four steps in each epoch; a validation before the second one is left out anyway.
    between = [0 if counted else 1000] * 3
    assert seconds == [0, *between, 0, *between]


def test_epoch_metrics_carry_the_steps_that_were_done(loaders: LoadersMaker) -> None:
    sink = MemorySink()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    callbacks = [EpochMetrics(sink)]
    trainer = Trainer(model, optimizer, loaders(count=16), CPU, callbacks=callbacks)
    done = fit(trainer, epochs=2)
    points = [(m.key, m.step) for m in sink.logged_metrics]
    keys = ("valid/loss", "valid/accuracy", "samples_per_second", "train/loss_epoch")
    assert points == [(key, step) for step in (2, 4) for key in keys]
    assert sink.logged_metrics[4].value == done.history[1].valid.loss


def test_epoch_metrics_without_validation_are_those_of_training(loaders: LoadersMaker) -> None:
    sink = MemorySink()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    three = loaders(count=16, valid=0)
    fit(Trainer(model, optimizer, three, CPU, callbacks=[EpochMetrics(sink)]), epochs=2)
    points = [(m.key, m.step) for m in sink.logged_metrics]
    keys = ("samples_per_second", "train/loss_epoch")
    assert points == [(key, step) for step in (2, 4) for key in keys]


def test_gradients_and_updates_are_recorded_on_request(small: ConfigMaker, tmp_path: Path) -> None:
    sink = MemorySink()
    config = small(gradients=True, updates=True, every="2", precision="bf16")
    result = train(prepare(config), tmp_path, sink=sink)
    gradients = pq.read_table(sink.logged_artifacts["gradients/stats.parquet"])
    updates = pq.read_table(sink.logged_artifacts["updates/stats.parquet"])
    assert result.activation_stats is not None
    activations = result.activation_stats.read()
    assert gradients.select(["step", "layer"]).equals(activations.select(["step", "layer"]))
    assert set(updates["step"].to_pylist()) == set(activations["step"].to_pylist())
    names = [name for name, _ in result.model.named_parameters()]
    assert updates["parameter"].to_pylist()[: len(names)] == names
    assert min(updates["ratio"].drop_null().to_pylist()) > 0
    keys = {metric.key for metric in sink.logged_metrics}
    assert {f"updates/{name}/ratio" for name in names} <= keys
    assert {f"gradients/{layer}/norm" for layer in result.activation_stats.layers} <= keys
    plain = train(prepare(small(every="2", precision="bf16")), tmp_path / "plain")
    for name, weight in result.model.state_dict().items():
        assert torch.equal(weight, plain.model.state_dict()[name]), name
