"""Watch: a line and a point of a metric for each trial that ends, whatever the storage does."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Container
from typing import Any

import pytest
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from search import outcome as outcome_module
from search.commands import watch as watch_module
from search.commands.watch import Watch, _duration
from search.config import StudyConfig
from tests.search_tests.studies import every_state, finished, new_study, trial
from tracking.sink import MemorySink

__all__: list[str] = []

PARAMS = {"lr_max@64": 0.03, "batch_size": 128}


class Seen:
    """A study that is watched, with what is told of it."""

    def __init__(self, study: Study, *, terminal: bool = False, **options: Any) -> None:
        self.file = io.StringIO()
        self.sink = MemorySink()
        console = Console(
            file=self.file,
            force_terminal=terminal,
            width=200,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
        )
        self.watch = Watch(study, StudyConfig(**options), console, self.sink)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()

    @property
    def points(self) -> list[tuple[str, float, int]]:
        return [(m.key, m.value, m.step) for m in self.sink.logged_metrics]


def finish(study: Study, accuracy: float, **more: Any) -> None:
    study.add_trial(finished(len(study.trials), PARAMS, accuracy, **more))


def test_each_trial_that_ends_is_a_line_and_a_point() -> None:
    study = new_study()
    seen = Seen(study)
    with seen.watch:
        finish(study, 0.5)
        seen.watch._look()
        finish(study, 0.9)
        finish(study, 0.7)
    assert [line.split()[:5] for line in seen.lines] == [
        ["trial", "0", "complete", "accuracy", "50.00"],
        ["trial", "1", "complete", "accuracy", "90.00"],
        ["trial", "2", "complete", "accuracy", "70.00"],
    ]
    assert ["best" in line for line in seen.lines] == [True, True, False]
    assert seen.points == [
        ("trial/value", 0.5, 0),
        ("best/value", 0.5, 0),
        ("trial/value", 0.9, 1),
        ("best/value", 0.9, 1),
        ("trial/value", 0.7, 2),
        ("best/value", 0.9, 2),
    ]


def test_trials_from_before_are_not_told_again() -> None:
    study = every_state()
    seen = Seen(study)
    with seen.watch:
        finish(study, 0.6)
        seen.watch._look()
    assert [line.split()[1] for line in seen.lines] == ["9"]
    assert seen.points == [("trial/value", 0.6, 9), ("best/value", 0.97, 9)]


def test_every_way_to_end_is_told_and_nothing_else() -> None:
    study = new_study()
    seen = Seen(study)
    with seen.watch:
        study.add_trials(every_state().trials)
    told = [line.split()[1:3] for line in seen.lines if line.startswith("trial")]
    assert told == [
        ["0", "retried"],
        ["1", "complete"],
        ["2", "pruned"],
        ["3", "failed"],
        ["4", "infeasible"],
        ["8", "complete"],
    ]
    assert "           no such file" in seen.lines
    values = {step: value for key, value, step in seen.points if key == "trial/value"}
    assert values == {1: 0.97, 4: 0.999, 8: 0.95}
    assert {value for key, value, _ in seen.points if key == "best/value"} == {0.97}


def test_a_trial_is_told_once_it_has_ended() -> None:
    study = new_study()
    seen = Seen(study)
    with seen.watch:
        running = study.ask()
        seen.watch._look()
        assert seen.lines == []
        study.tell(running, state=TrialState.FAIL)
        seen.watch._look()
    assert [line.split()[1:3] for line in seen.lines] == [["0", "failed"]]
    assert seen.points == []


def test_a_look_that_finds_nothing_new_works_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of thousands of trials it would take so long that the training beside it were slower."""
    looked_at: list[int] = []
    state_of = outcome_module._state

    def counted(trial: FrozenTrial, retried: Container[int]) -> str:
        looked_at.append(trial.number)
        return state_of(trial, retried)

    study = every_state()
    seen = Seen(study)
    monkeypatch.setattr(outcome_module, "_state", counted)
    seen.watch._look()
    assert looked_at == []
    finish(study, 0.6)
    seen.watch._look()
    seen.watch._look()
    assert looked_at == list(range(10))
    assert len(seen.lines) == 1


def test_values_that_are_no_numbers_are_left_out() -> None:
    study = new_study()
    seen = Seen(study)
    with seen.watch:
        study.add_trial(trial(TrialState.COMPLETE, float("inf")))
    assert len(seen.lines) == 1
    assert seen.points == []


def test_names_in_brackets_stay_as_they_are() -> None:
    study = new_study()
    seen = Seen(study)
    with seen.watch:
        study.add_trial(trial(TrialState.FAIL, reason="[enforce fail at a.cpp:1] [/x] :smile:"))
    assert seen.lines[1].strip() == "[enforce fail at a.cpp:1] [/x] :smile:"


def test_two_objectives() -> None:
    study = new_study("maximize", "minimize")
    seen = Seen(study, objective="accuracy,seconds")
    with seen.watch:
        finish(study, 0.5, values=(0.5, 30.0))
    assert "accuracy 50.00 %  seconds 30" in seen.lines[0]
    assert seen.points == [("trial/value", 0.5, 0), ("best/value", 0.5, 0)]


def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "INTERVAL", 0.001)
    study = new_study()
    seen = Seen(study)
    told = threading.Event()
    seen.sink.metrics = lambda metrics: told.set()  # type: ignore[method-assign]
    with seen.watch:
        finish(study, 0.5)
        assert told.wait(60)
    names = [thread.name for thread in threading.enumerate()]
    assert "layerscope-watch" not in names


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the output goes to `head`: rich then wants to end the process."""
    study = new_study()
    seen = Seen(study)

    def gone(*args: Any, **named: Any) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(seen.watch._console, "print", gone)
    with seen.watch:
        for accuracy in (0.5, 0.6):
            finish(study, accuracy)
            seen.watch._look()
    assert [point for point in seen.points if point[0] == "trial/value"] == [
        ("trial/value", 0.5, 0),
        ("trial/value", 0.6, 1),
    ]


def test_a_storage_that_fails_is_a_warning_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = new_study()
    seen = Seen(study)
    get_trials: Callable[..., Any] = study.get_trials
    broken = True

    def fails(*args: Any, **named: Any) -> Any:
        if broken:
            raise StorageInternalError("the server\nwent away")
        return get_trials(*args, **named)

    monkeypatch.setattr(study, "get_trials", fails)
    with caplog.at_level(logging.WARNING, "layerscope"), seen.watch:
        seen.watch._look()
        seen.watch._look()
        broken = False
        finish_number = len(get_trials())
        study.add_trial(finished(finish_number, PARAMS, 0.5))
        seen.watch._look()
        broken = True
    assert len(seen.lines) == 1
    # Once for each time that it goes away, however often it is looked at meanwhile.
    expected = "the study cannot be looked at"
    assert [message.startswith(expected) for message in caplog.messages] == [True, True]
    assert all("\n" not in message for message in caplog.messages)


def test_the_watch_ends_whatever_ends_the_work() -> None:
    study = new_study()
    seen = Seen(study)

    def work() -> None:
        finish(study, 0.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), seen.watch:
        work()
    assert len(seen.lines) == 1
    assert not seen.watch._thread.is_alive()


def test_a_terminal_has_a_bar() -> None:
    study = new_study()
    seen = Seen(study, terminal=True, trials=4)
    with seen.watch:
        finish(study, 0.5)
        study.add_trial(trial(TrialState.PRUNED, params=PARAMS, reported={1: 0.1}))
        study.add_trial(trial(TrialState.RUNNING, params=PARAMS))
        seen.watch._look()
        task = seen.watch._progress.tasks[0]
        assert (task.completed, task.total) == (2, 4)
        assert task.fields["shown"].startswith("1 running  1 pruned  about ")
    assert "2/4" in seen.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1 h 00 min")],
)
def test_time_left_in_words(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
