"""A worker takes trials until none is left, whatever becomes of each."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import StorageInternalError
from optuna.storages import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from pipelines.config import RunConfig
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.space.search_space import SearchSpace
from search.storage.database import open_storage
from search.storage.studies import create
from search.storage.trial_queue import fill_queue
from search.storage.url import storage_url
from search.trials.objective import NotBegun
from search.workers.stopping import Stopping
from search.workers.worker import MOST_FAILURES, Worker, wait_for_others
from tracking.errors import TrainingFailed
from tracking.signals import ENDING

__all__: list[str] = []

Act = Callable[[Trial], float]

# The trials of others are taken without Optuna's loop.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


class FakeObjective:
    """Acts instead of training, trial by trial."""

    def __init__(self, *acts: Act) -> None:
        self._acts = acts
        self.numbers: list[int] = []

    def __call__(self, trial: Trial) -> float:
        self.numbers.append(trial.number)
        return self._acts[min(len(self.numbers), len(self._acts)) - 1](trial)


def good(trial: Trial) -> float:
    return trial.suggest_float("x", 0.0, 1.0)


def prunes(trial: Trial) -> float:
    trial.report(0.1, 1)
    raise TrialPruned("bad")


def fails(trial: Trial) -> float:
    trial.set_user_attr("reason", f"trial {trial.number} broke")
    raise RuntimeError("it broke")


def taken_over(trial: Trial) -> float:
    """This worker was suspended for so long that somebody else has taken it for dead."""
    study = trial.study
    assert study._storage._backend._bury(study._study_id, trial._trial_id)
    return good(trial)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> _CachedStorage:
    """One for all tests, with heartbeats: its tables take a moment to be made."""
    folder = tmp_path_factory.mktemp("worker")
    return open_storage(storage_url(f"sqlite:///{folder}/s.db"), heartbeat=600)


@pytest.fixture
def study(storage: _CachedStorage, request: pytest.FixtureRequest) -> Study:
    """An empty one."""
    options = StudyConfig(name=request.node.name)
    return create(storage, StudyDefinition(RunConfig(), options, SearchSpace.read()), "run")


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    """Entered, with the tests' own handlers after it."""
    before = {number: signal.getsignal(number) for number in ENDING}
    with Stopping() as entered:
        yield entered
    for number, handler in before.items():
        signal.signal(number, handler)


def worker_of(study: Study, stopping: Stopping, objective: Any, **more: Any) -> Worker:
    return Worker(study, objective, 600, stopping, **more)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_a_trial_that_cannot_begin_goes_back_and_ends_the_work(
    study: Study, stopping: Stopping
) -> None:
    def away(trial: Trial) -> float:
        raise NotBegun("MLflow is away")

    fill_queue(study, 2)
    with pytest.raises(NotBegun, match="MLflow is away"):
        worker_of(study, stopping, FakeObjective(good, away)).run()
    assert states(study) == ["COMPLETE", "FAIL", "WAITING"]
    assert study.trials[1].user_attrs["reason"] == "MLflow is away"
    assert study.trials[1].user_attrs["retried_as"] == 2
    worker_of(study, stopping, FakeObjective(good)).run()
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_an_empty_queue_is_the_end(study: Study, stopping: Stopping) -> None:
    objective = FakeObjective(good)
    worker_of(study, stopping, objective).run()
    assert objective.numbers == []
    assert states(study) == []


def test_trials_are_done_in_their_order_and_told(study: Study, stopping: Stopping) -> None:
    fill_queue(study, 3)
    objective = FakeObjective(good, prunes, fails)
    told: list[FrozenTrial] = []
    worker_of(study, stopping, objective, tell=told.append).run()
    assert objective.numbers == [0, 1, 2]
    assert states(study) == ["COMPLETE", "PRUNED", "FAIL"]
    assert [(t.number, t.state.name) for t in told] == list(enumerate(states(study)))
    assert told[0].values == [told[0].params["x"]]


def test_nothing_is_done_that_nobody_has_queued(study: Study, stopping: Stopping) -> None:
    fill_queue(study, 2)
    worker_of(study, stopping, FakeObjective(good)).run()
    worker_of(study, stopping, FakeObjective(good)).run()
    assert len(study.trials) == 2


# -- failures --


def test_failures_in_a_row_end_the_work_with_the_last_reason(
    study: Study, stopping: Stopping
) -> None:
    fill_queue(study, 10)
    with pytest.raises(TrainingFailed) as caught:
        worker_of(study, stopping, FakeObjective(fails)).run()
    assert str(caught.value) == (
        "3 trials failed one after the other, the last one with: trial 2 broke"
    )
    assert states(study) == ["FAIL"] * MOST_FAILURES + ["WAITING"] * 7


@pytest.mark.parametrize("between", [good, prunes])
def test_a_trial_in_between_that_does_not_fail_starts_the_count_again(
    between: Act, study: Study, stopping: Stopping
) -> None:
    fill_queue(study, 5)
    worker_of(study, stopping, FakeObjective(fails, fails, between, fails, fails)).run()
    assert states(study).count("FAIL") == 4


def test_a_failure_that_says_nothing_is_one(study: Study, stopping: Stopping) -> None:
    fill_queue(study, 3)
    with pytest.raises(TrainingFailed, match=r"the last one with: nothing was noted$"):
        worker_of(study, stopping, FakeObjective(lambda trial: float("nan"))).run()


def test_a_storage_that_fails_is_one_line(
    study: Study, stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_queue(study, 2)

    def refuse(*_: object, **__: object) -> None:
        raise StorageInternalError("An exception is raised") from OSError("disk\nfull")

    monkeypatch.setattr(study._storage, "set_trial_state_values", refuse)
    objective = FakeObjective(good)
    with pytest.raises(TrainingFailed, match=r"^the storage of the study failed: disk"):
        worker_of(study, stopping, objective).run()
    assert objective.numbers == []


# -- signals --


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupted_trial_goes_back_into_the_queue_once(
    number: signal.Signals, end: type[BaseException], study: Study, stopping: Stopping
) -> None:
    fill_queue(study, 2)

    def interrupted(trial: Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        with stopping.interruptible():
            os.kill(os.getpid(), number)
        raise AssertionError("not reached")

    objective = FakeObjective(interrupted)
    told: list[FrozenTrial] = []
    with pytest.raises(end):
        worker_of(study, stopping, objective, tell=told.append).run()
    assert objective.numbers == [0]
    assert states(study) == ["FAIL", "WAITING", "WAITING"]
    assert told == []
    first, _, copy = study.trials
    assert first.user_attrs["reason"] == "interrupted"
    assert first.user_attrs["retried_as"] == copy.number == 2
    assert copy.user_attrs["retry_of"] == 0
    assert copy.params == first.params
    assert copy.system_attrs["counted_retries"] == 0


def test_a_signal_between_two_trials_leaves_the_next_one_waiting(
    study: Study, stopping: Stopping
) -> None:
    fill_queue(study, 2)

    def asks(trial: Trial) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return good(trial)

    with pytest.raises(SystemExit) as caught:
        worker_of(study, stopping, FakeObjective(asks)).run()
    assert caught.value.code == 143
    assert states(study) == ["COMPLETE", "WAITING"]


# -- trials of others --


def running(study: Study) -> int:
    """Take the next trial as a worker elsewhere does; its number."""
    return study.ask().number


class Napping(Stopping):
    """Does something else while the worker sleeps."""

    def __init__(self, meanwhile: Callable[[], None], most: int = 5) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.naps: list[float] = []
        self._most = most

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        assert len(self.naps) <= self._most, "the worker would sleep for ever"
        self.meanwhile()


def test_a_worker_waits_for_others_and_picks_the_retry(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    """While somebody else's trial runs, that worker may die: its trial is then this one's."""
    fill_queue(study, 1)
    running(study)

    def dies() -> None:
        if len(stopping.naps) == 2:
            _age_heartbeats(study)

    stopping = Napping(dies)
    objective = FakeObjective(good)
    with caplog.at_level(logging.INFO, "layerscope"):
        worker_of(study, stopping, objective).run()
    assert objective.numbers == [1]
    assert states(study) == ["FAIL", "COMPLETE"]
    assert stopping.naps == [1.0, 1.0]
    dead, copy = study.trials
    assert (dead.user_attrs["retried_as"], copy.user_attrs["retry_of"]) == (1, 0)
    assert dead.user_attrs["reason"].startswith("its worker died")
    waiting = [line for line in caplog.messages if line.startswith("waiting for the trials")]
    expected = (
        "waiting for the trials that run elsewhere (0); if a worker has died, its trial is tried "
        "again after three heartbeats"
    )
    assert waiting == [expected]


def test_a_worker_ends_when_the_others_have_ended(study: Study) -> None:
    fill_queue(study, 1)
    number = running(study)
    stopping = Napping(lambda: study.tell(number, 0.5))
    objective = FakeObjective(good)
    worker_of(study, stopping, objective).run()
    assert objective.numbers == []
    assert stopping.naps == [1.0]


def test_a_trial_that_was_given_to_another_worker_is_only_a_warning(
    study: Study, stopping: Stopping, caplog: pytest.LogCaptureFixture
) -> None:
    fill_queue(study, 2)

    objective = FakeObjective(taken_over, good)
    told: list[FrozenTrial] = []
    worker_of(study, stopping, objective, tell=told.append).run()
    assert (
        caplog.messages.count(
            "trial 0 was given to another worker: this one had shown no sign of life"
        )
        == 1
    )
    assert objective.numbers == [0, 1, 2]
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.number for trial in told] == [1, 2]


def test_trials_that_were_given_to_others_are_no_failures(study: Study, stopping: Stopping) -> None:
    fill_queue(study, 4)
    suspended = [taken_over] * MOST_FAILURES
    objective = FakeObjective(*suspended, good)
    worker_of(study, stopping, objective).run()
    assert states(study) == ["FAIL"] * 3 + ["COMPLETE"] * 4
    # Nor do they say that what failed before has got better.
    fill_queue(study, 7)
    with pytest.raises(TrainingFailed, match=r"^3 trials failed one after the other"):
        worker_of(study, stopping, FakeObjective(fails, fails, taken_over, fails)).run()


def test_waiting_for_others_ends_with_their_last_trial(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_queue(study, 2)
    naps = []

    def nap(_: Stopping, seconds: float) -> None:
        naps.append(seconds)
        study.tell(study.ask(), 0.5)

    monkeypatch.setattr(Stopping, "sleep", nap)
    wait_for_others(study, 600)
    assert naps == [1.0, 1.0]
    assert states(study) == ["COMPLETE", "COMPLETE"]


def test_waiting_for_others_gives_their_dead_workers_trials_back(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_queue(study, 1)
    running(study)
    _age_heartbeats(study)

    def nap(_: Stopping, seconds: float) -> None:
        assert states(study) == ["FAIL", "WAITING"]
        study.tell(study.ask(), 0.5)

    monkeypatch.setattr(Stopping, "sleep", nap)
    wait_for_others(study, 600)
    assert states(study) == ["FAIL", "COMPLETE"]


def test_waiting_for_others_can_be_interrupted(
    study: Study, stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_queue(study, 1)
    monkeypatch.setattr(Stopping, "sleep", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        wait_for_others(study, 600)
    assert states(study) == ["WAITING"]


def _age_heartbeats(study: Study) -> None:
    """As if all signs of life were a day old."""
    with study._storage._backend.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 day')"
        )
    assert TrialState.RUNNING in {trial.state for trial in study.trials}
