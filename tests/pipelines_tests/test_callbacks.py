"""Events: their names, their order, and cleanup that runs whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.callbacks import EVENTS, Callback, CallbackList, EarlyStopping, LossGuard
from pipelines.config import RunConfig
from pipelines.data.loaders import Loaders
from pipelines.schedules import make_schedule
from pipelines.step import StepOptions
from pipelines.trainer import Fit, Trainer
from tracking.errors import NonFiniteLoss, TrainingFailed

__all__: list[str] = []

CPU = torch.device("cpu")
LoadersMaker = Callable[..., Loaders]

BATCH = ["before_batch", "before_step", "after_batch", "cleanup_batch"]
VALIDATE = ["before_validate", "after_validate"]
EPOCH = ["before_epoch", *BATCH, *BATCH, *VALIDATE, "after_epoch", "cleanup_epoch"]


class Spy(Callback):
    """Writes down every event it is told of, and raises in one of them."""

    def __init__(
        self, log: list[Any], name: str = "", fails: str = "", error: BaseException | None = None
    ) -> None:
        self.log = log
        self.name = name
        self.fails = fails
        self.error = RuntimeError(f"{name} in {fails}") if error is None else error

    def _note(self, event: str) -> None:
        self.log.append((self.name, event) if self.name else event)
        if event == self.fails:
            raise self.error


for _event in EVENTS:
    setattr(Spy, _event, lambda self, fit, event=_event: self._note(event))


class Broken(nn.Module):
    """Fails in its second call."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.error = error
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return self.linear(x.flatten(1))


def trainer_of(
    loaders: Loaders, *callbacks: Callback, model: nn.Module | None = None, **options: Any
) -> Trainer:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(model, optimizer, loaders, CPU, StepOptions(**options), callbacks)


def fit(trainer: Trainer, epochs: int = 1, lr_max: float = 0.01) -> Fit:
    return trainer.fit(epochs, lambda steps: make_schedule(RunConfig(lr_max=lr_max), steps))


# -- names --


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("before_epochs", "before_epoch"),
        ("after_bacth", "after_batch"),
        ("cleanup_fitt", "cleanup_fit"),
        ("afterBatch", "after_batch"),
        ("befor_fit", "before_fit"),
        ("before_batches", "before_batch"),
    ],
)
def test_misspelled_event_raises_when_the_class_is_defined(name: str, suggestion: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("Mine", (Callback,), {name: lambda self, fit: None})
    assert f"Mine.{name} is no event of Callback" in str(caught.value)
    assert str(caught.value).endswith(f"did you mean {suggestion}?")


@pytest.mark.parametrize("name", ["on_epoch_end", "after_everything", "cleanup", "before_forward"])
def test_names_of_other_libraries(name: str) -> None:
    if name == "cleanup":  # a helper's name, and no event's
        assert type("Mine", (Callback,), {name: lambda self: None})
    else:
        with pytest.raises(TypeError, match=f"{name} is no event"):
            type("Mine", (Callback,), {name: lambda self, fit: None})


def test_unknown_event_lists_those_there_are() -> None:
    with pytest.raises(TypeError) as caught:
        type("Mine", (Callback,), {"on_completed": lambda self: None})
    assert all(event in str(caught.value) for event in EVENTS)


def test_helpers_attributes_and_private_methods_are_no_events() -> None:
    class Mine(Callback):
        order = 3
        after_all = "an attribute"

        def validate_it(self) -> int:
            return 1

        def _after_bacth(self) -> int:
            return 2

    assert Mine().validate_it() + Mine()._after_bacth() + Mine.order == 6


def test_misspelled_event_in_a_subclass_of_a_subclass_raises() -> None:
    with pytest.raises(TypeError, match="did you mean after_epoch"):
        type("Mine", (EarlyStopping,), {"after_epok": lambda self, fit: None})


# -- order of events --


def test_events_nest(loaders: LoadersMaker) -> None:
    log: list[str] = []
    fit(trainer_of(loaders(count=16), Spy(log)), epochs=2)
    assert log == ["before_fit", *EPOCH, *EPOCH, "after_fit", "cleanup_fit"]


def test_callbacks_run_by_order_and_clean_up_in_reverse(loaders: LoadersMaker) -> None:
    log: list[tuple[str, str]] = []
    late, early, same = Spy(log, "late"), Spy(log, "early"), Spy(log, "same")
    late.order, early.order, same.order = 5, -1, 5
    fit(trainer_of(loaders(count=8), late, early, same))
    told = {event: [name for name, e in log if e == event] for event in EVENTS}
    for event, names in told.items():
        expected = ["early", "late", "same"]
        assert names == (expected[::-1] if event.startswith("cleanup") else expected)


def test_order_is_read_once() -> None:
    reads = []

    class Counting(Callback):
        @property
        def order(self) -> int:  # type: ignore[override]
            reads.append(self)
            return 0

    callbacks = CallbackList([Counting(), Counting()])
    made = len(reads)
    callbacks.call("before_fit", None)  # type: ignore[arg-type]
    assert (made, len(reads)) == (2, 2)


def test_values_of_the_step_are_set_before_the_batch(loaders: LoadersMaker) -> None:
    seen = []

    class Look(Callback):
        def before_batch(self, fit: Fit) -> None:
            seen.append((fit.step, fit.epoch, fit.optimizer.param_groups[0]["lr"], fit.values.lr))

    trainer = trainer_of(loaders(count=16), Look())
    schedule = fit(trainer, epochs=2).schedule
    assert seen == [(s, s // 2, schedule(s).lr, schedule(s).lr) for s in range(4)]


def test_gradients_are_there_before_the_step_and_weights_change_after(
    loaders: LoadersMaker,
) -> None:
    weights: list[Tensor] = []

    class Look(Callback):
        def before_step(self, fit: Fit) -> None:
            weight = fit.model[1].weight
            assert weight.grad is not None
            weights.append(weight.detach().clone())

        def after_batch(self, fit: Fit) -> None:
            weights.append(fit.model[1].weight.detach().clone())

    fit(trainer_of(loaders(count=16), Look()))
    before, after, again, _ = weights
    assert not before.equal(after)
    assert after.equal(again)


# -- failures --

FAILURES = [
    ("before_fit", ["before_fit", "cleanup_fit"]),
    ("before_epoch", ["before_fit", "before_epoch", "cleanup_epoch", "cleanup_fit"]),
    (
        "before_batch",
        [
            *("before_fit", "before_epoch", "before_batch"),
            *("cleanup_batch", "cleanup_epoch", "cleanup_fit"),
        ],
    ),
    (
        "before_step",
        ["before_fit", "before_epoch", *BATCH[:2], "cleanup_batch", "cleanup_epoch", "cleanup_fit"],
    ),
    ("after_batch", ["before_fit", "before_epoch", *BATCH, "cleanup_epoch", "cleanup_fit"]),
    (
        "cleanup_batch",
        ["before_fit", "before_epoch", *BATCH, "cleanup_epoch", "cleanup_fit"],
    ),
    (
        "before_validate",
        [
            *("before_fit", "before_epoch", *BATCH, "before_validate"),
            *("cleanup_epoch", "cleanup_fit"),
        ],
    ),
    (
        "after_validate",
        ["before_fit", "before_epoch", *BATCH, *VALIDATE, "cleanup_epoch", "cleanup_fit"],
    ),
    (
        "after_epoch",
        [
            *("before_fit", "before_epoch", *BATCH, *VALIDATE),
            *("after_epoch", "cleanup_epoch", "cleanup_fit"),
        ],
    ),
    (
        "cleanup_epoch",
        [
            *("before_fit", "before_epoch", *BATCH, *VALIDATE),
            *("after_epoch", "cleanup_epoch", "cleanup_fit"),
        ],
    ),
]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize(("event", "expected"), FAILURES, ids=[event for event, _ in FAILURES])
def test_failure_in_a_callback_skips_after_and_runs_every_cleanup(
    loaders: LoadersMaker, event: str, expected: list[str], error: BaseException
) -> None:
    log: list[str] = []
    with pytest.raises(type(error)) as caught:
        fit(trainer_of(loaders(count=8), Spy(log, fails=event, error=error)))
    assert caught.value is error
    assert log == expected


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), StopIteration()])
def test_failure_in_forward_runs_every_cleanup(loaders: LoadersMaker, error: BaseException) -> None:
    log: list[str] = []
    seen = []

    class Look(Callback):
        def cleanup_batch(self, fit: Fit) -> None:
            seen.append(fit.error)

        def cleanup_fit(self, fit: Fit) -> None:
            seen.append(fit.error)

    with pytest.raises(type(error)):
        fit(trainer_of(loaders(count=16), Spy(log), Look(), model=Broken(error)))
    assert log[-4:] == ["before_batch", "cleanup_batch", "cleanup_epoch", "cleanup_fit"]
    assert seen == [None, error, error]


def test_failure_of_the_loader_runs_every_cleanup(loaders: LoadersMaker) -> None:
    log: list[str] = []
    three = loaders(count=16)
    three.train.augment = lambda images, generator: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        fit(trainer_of(three, Spy(log)))
    assert log == ["before_fit", "before_epoch", "cleanup_epoch", "cleanup_fit"]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), SystemExit()], ids=repr)
@pytest.mark.parametrize("event", ["cleanup_batch", "cleanup_epoch", "cleanup_fit"])
def test_every_cleanup_runs_when_one_fails(
    loaders: LoadersMaker, event: str, error: BaseException
) -> None:
    log: list[tuple[str, str]] = []
    first = type(error)("c")
    callbacks = [Spy(log, "a", event), Spy(log, "b"), Spy(log, "c", event, first)]
    with pytest.raises(type(error)) as caught:
        fit(trainer_of(loaders(count=8), *callbacks))
    assert caught.value is first
    assert [name for name, e in log if e == event] == ["c", "b", "a"]
    assert [name for name, e in log if e == "cleanup_fit"] == ["c", "b", "a"]
    assert caught.value.__notes__ == [f"{event} failed too: RuntimeError('a in {event}')"]


def test_failures_of_cleanup_become_notes_on_the_first_failure(loaders: LoadersMaker) -> None:
    log: list[tuple[str, str]] = []
    callbacks = [Spy(log, name, fails="cleanup_fit") for name in "ab"]
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(trainer_of(loaders(count=8), Spy(log, fails="before_step", error=error), *callbacks))
    assert caught.value.__notes__ == [
        "cleanup_fit failed too: RuntimeError('b in cleanup_fit')",
        "cleanup_fit failed too: RuntimeError('a in cleanup_fit')",
    ]


def test_an_error_that_is_false_is_an_error(loaders: LoadersMaker) -> None:
    class Falsy(Exception):
        def __bool__(self) -> bool:
            return False

    log: list[str] = []
    error = Falsy()
    with pytest.raises(Falsy):
        fit(trainer_of(loaders(count=8), Spy(log, fails="cleanup_batch", error=error)))


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
    assert f"the loss became {bad} by step 3 (epoch 0) at a learning rate of 0.00" in message
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


def test_stop_before_the_fit_ends_it_after_one_epoch(loaders: LoadersMaker) -> None:
    class AtOnce(Callback):
        def before_fit(self, fit: Fit) -> None:
            fit.stop("enough")

    log: list[str] = []
    done = fit(trainer_of(loaders(count=16), AtOnce(), Spy(log)), epochs=5)
    assert (len(done.history), done.stopped) == (1, "enough")
    assert log[-3:] == ["cleanup_epoch", "after_fit", "cleanup_fit"]
