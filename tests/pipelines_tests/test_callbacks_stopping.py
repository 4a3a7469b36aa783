"""The callbacks that end a run: at a loss that is not finite, or that no longer falls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.callbacks import Callback, EarlyStopping, LossGuard
from pipelines.fit import Fit
from tests.pipelines_tests.loops import BATCH, LoadersMaker, Spy, fit, trainer_of
from tracking.errors import BadOption, NonFiniteLoss, TrainingFailed

__all__: list[str] = []

# -- loss guard --


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_guard_stops_at_the_first_bad_step(loaders: LoadersMaker, bad: float) -> None:
    steps: list[int] = []

    class Spoil(Callback):
        def before_step(self, fit: Fit) -> None:
            steps.append(fit.step)
            if fit.step == 3:
                fit.loss = torch.tensor(bad)

    with pytest.raises(NonFiniteLoss) as caught:
        fit(trainer_of(loaders(count=32), Spoil(), LossGuard()), epochs=3)
    assert steps == [0, 1, 2, 3]
    message = str(caught.value)
    assert f"the loss became {bad} by step 3, in epoch 1, at a learning rate of 0.00" in message
    assert "\n" not in message
    assert isinstance(caught.value, TrainingFailed)


def test_guard_reads_no_loss_in_between_on_an_accelerator(loaders: LoadersMaker) -> None:
    class Elsewhere(Callback):
        def before_batch(self, fit: Fit) -> None:
            fit.device = torch.device("meta")

        def before_step(self, fit: Fit) -> None:
            if fit.step >= 1:
                fit.loss = torch.tensor(float("nan"))

        def after_batch(self, fit: Fit) -> None:
            reached.append(fit.step)

    reached: list[int] = []
    with pytest.raises(NonFiniteLoss, match="by step 2"):
        fit(trainer_of(loaders(count=32), Elsewhere(), LossGuard(interval=2)))
    assert reached == [0, 1, 2]
    reached.clear()
    with pytest.raises(NonFiniteLoss, match="by step 3"):
        fit(trainer_of(loaders(count=32), Elsewhere(), LossGuard(interval=100)))
    assert reached == [0, 1, 2, 3]


def test_guard_sees_weights_that_the_last_step_spoilt(loaders: LoadersMaker) -> None:
    class Spoil(Callback):
        def after_batch(self, fit: Fit) -> None:
            if fit.step == 1:
                nn.init.constant_(fit.model[1].weight, float("nan"))

    with pytest.raises(NonFiniteLoss, match="validation loss became nan by step 1"):
        fit(trainer_of(loaders(count=16), Spoil(), LossGuard()))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_guard_sees_them_without_validation_too(loaders: LoadersMaker, bad: float) -> None:
    class Spoil(Callback):
        def after_batch(self, fit: Fit) -> None:
            if fit.step == 1:
                with torch.no_grad():
                    fit.model[1].bias[2] = bad

    log: list[str] = []
    with pytest.raises(NonFiniteLoss) as caught:
        fit(trainer_of(loaders(count=16, valid=0), Spoil(), LossGuard(), Spy(log)))
    assert str(caught.value).startswith(
        "the weights became NaN or infinite by step 1, in epoch 1, at a learning rate of "
    )
    assert log[-2:] == ["cleanup_epoch", "cleanup_fit"]


def test_guard_leaves_a_sound_run_without_validation_alone(loaders: LoadersMaker) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    # What a model keeps for itself, such as a mask, may well be infinite.
    model.register_buffer("mask", torch.tensor(float("-inf")))
    done = fit(trainer_of(loaders(valid=0), LossGuard(), model=model), epochs=2)
    assert len(done.history) == 2


@pytest.mark.parametrize("valid", [0, 6])
def test_guard_looks_at_the_last_loss_of_an_epoch(loaders: LoadersMaker, valid: int) -> None:
    class Elsewhere(Callback):
        def before_batch(self, fit: Fit) -> None:
            fit.device = torch.device("meta")

        def before_step(self, fit: Fit) -> None:
            if fit.step == 3:
                fit.loss = torch.tensor(float("inf"))

    with pytest.raises(NonFiniteLoss, match="the loss became inf by step 3"):
        fit(trainer_of(loaders(count=32, valid=valid), Elsewhere(), LossGuard()))


def test_guard_raises_in_a_real_divergence(loaders: LoadersMaker) -> None:
    with pytest.raises(NonFiniteLoss, match="try a lower lr_max"):
        fit(trainer_of(loaders(count=32), LossGuard()), epochs=20, lr_max=1e38)


def test_guard_runs_after_callbacks_that_record(loaders: LoadersMaker) -> None:
    class Spoil(Callback):
        def before_step(self, fit: Fit) -> None:
            fit.loss = torch.tensor(float("nan"))

    log: list[str] = []
    with pytest.raises(NonFiniteLoss):
        fit(trainer_of(loaders(count=32), LossGuard(), Spy(log), Spoil()))
    assert log == ["before_fit", "before_epoch", *BATCH, "cleanup_epoch", "cleanup_fit"]


# -- early stopping --


class Losses(Callback):
    """Puts losses of its own in the place of the validation's."""

    def __init__(self, *losses: float) -> None:
        self.losses = losses

    def after_validate(self, fit: Fit) -> None:
        fit.metrics["valid/loss"] = self.losses[fit.epoch]


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        ((3, 2, 2, 1), 1, 3),  # no lower is not better
        ((3, 4, 2, 3, 4, 1), 2, 5),  # an improvement begins the count anew
        ((3, 2, 1, 0), 1, 4),
        ((3, 2, 2), 1, 3),
    ],
)
def test_early_stopping(
    loaders: LoadersMaker, losses: tuple[float, ...], patience: int, epochs: int
) -> None:
    stopping = EarlyStopping(patience)
    done = fit(trainer_of(loaders(count=8), Losses(*losses), stopping), epochs=len(losses))
    assert len(done.history) == done.epoch == epochs
    assert bool(done.stopped) == (epochs < len(losses))
    if done.stopped:
        assert done.stopped == (
            f"no lower validation loss than {min(losses[:epochs]):.4f} for {patience} epochs"
        )


def test_early_stopping_forgets_an_earlier_fit(loaders: LoadersMaker) -> None:
    trainer = trainer_of(loaders(count=8), Losses(1, 2, 3), EarlyStopping(2))
    assert [len(fit(trainer, epochs=3).history) for _ in range(2)] == [3, 3]


def test_early_stopping_without_validation_is_refused_before_the_fit(
    loaders: LoadersMaker,
) -> None:
    log: list[str] = []
    with pytest.raises(BadOption, match=r"^patience=2 needs validation data, and there is none"):
        fit(trainer_of(loaders(valid=0), EarlyStopping(2), Spy(log)))
    assert "before_epoch" not in log


def test_stop_before_the_fit_ends_it_after_one_epoch(loaders: LoadersMaker) -> None:
    class AtOnce(Callback):
        def before_fit(self, fit: Fit) -> None:
            fit.stop("enough")

    log: list[str] = []
    done = fit(trainer_of(loaders(count=16), AtOnce(), Spy(log)), epochs=5)
    assert (len(done.history), done.stopped) == (1, "enough")
    assert log[-3:] == ["cleanup_epoch", "after_fit", "cleanup_fit"]
