"""Events: their names and their order."""

from __future__ import annotations

import pytest
from torch import Tensor

from pipelines.callbacks import EVENTS, Callback, CallbackList, EarlyStopping
from pipelines.fit import Fit
from tests.pipelines_tests.loops import EPOCH, LoadersMaker, Spy, fit, trainer_of

__all__: list[str] = []

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
