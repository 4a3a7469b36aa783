"""Failures: what is skipped, and cleanup that runs whatever happens."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from pipelines.callbacks import Callback
from pipelines.fit import Fit
from tests.pipelines_tests.loops import BATCH, VALIDATE, LoadersMaker, Spy, fit, trainer_of

__all__: list[str] = []


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
