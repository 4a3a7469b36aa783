"""Studies in SQLite: one worker's trial is nobody else's, and none is lost when a worker dies."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from search.storage.database import NoStudies, answering, open_storage
from search.storage.queue_storage import QueueEmpty, QueueStorage, batched_writes, give_back
from search.storage.trial_queue import MAX_RETRIES, fill_queue, settled, taken_over
from search.storage.url import StorageUrl, storage_url
from tracking.errors import BadTracking

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("queue_worker.py")

Workers = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(level)


@pytest.fixture
def url(tmp_path: Path) -> StorageUrl:
    return storage_url(f"sqlite:///{tmp_path}/studies.db")


@pytest.fixture
def study(url: StorageUrl) -> optuna.Study:
    storage = open_storage(url, heartbeat=1)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(storage=storage, study_name="s", sampler=sampler)


@pytest.fixture
def worker(url: StorageUrl) -> Iterator[Workers]:
    """Starts worker processes, and ends those that a test leaves."""
    started: list[subprocess.Popen[str]] = []

    def start(task: str) -> subprocess.Popen[str]:
        environment = os.environ | url.environment | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(WORKER), task, "s"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def _count(study: optuna.Study, state: TrialState) -> int:
    return len(study.get_trials(states=(state,)))


def _rescue(study: optuna.Study) -> None:
    """What a worker does before each trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def _let_time_pass(tmp_path: Path) -> None:
    """Make all heartbeats an hour old."""
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    database.close()


def _take(study: optuna.Study, lr: float = 0.1) -> FrozenTrial:
    """A trial that runs, as a worker has it that was killed."""
    fill_queue(study, len(study.trials) + 1)
    return _next(study, lr)


def _next(study: optuna.Study, lr: float = 0.1) -> FrozenTrial:
    """The first trial that waits, running."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.ask({"lr": FloatDistribution(lr, lr)})
    return study.trials[trial.number]


def _give_back(study: optuna.Study, trial: FrozenTrial) -> None:
    study._storage._backend.give_back(study._study_id, trial._trial_id, "interrupted")


class TestOpen:
    def test_works_without_warnings(self, url: StorageUrl, tmp_path: Path) -> None:
        with warnings.catch_warnings(record=True) as caught:
            storage = open_storage(url)
        assert not caught
        assert storage.get_all_studies() == []
        with sqlite3.connect(tmp_path / "studies.db") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        database.close()

    def test_stale_after_three_heartbeats(self, url: StorageUrl) -> None:
        backend = open_storage(url, heartbeat=7)._backend
        assert (backend.heartbeat_interval, backend.grace_period) == (7, 21)

    @pytest.mark.parametrize("name", ["a{b}.db", "a b%20c.db", "ü@.db"])
    def test_odd_names(self, tmp_path: Path, name: str) -> None:
        from sqlalchemy import URL

        given = URL.create("sqlite", database=str(tmp_path / name)).render_as_string()
        optuna.create_study(storage=open_storage(storage_url(given)), study_name="s")
        assert [path.name for path in tmp_path.glob("*.db")] == [name]

    def test_pickled_storage_locks_too(self, study: optuna.Study) -> None:
        fill_queue(study, 1)
        copy = pickle.loads(pickle.dumps(study._storage))
        with copy._backend.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            assert connection.connection.dbapi_connection.in_transaction

    @staticmethod
    def _error(url: str, **options: Any) -> str:
        with pytest.raises(BadTracking) as caught:
            open_storage(StorageUrl(url), **options)
        error = caught.value
        assert error.__cause__ is None
        assert error.__context__ is None
        assert "\n" not in str(error)
        return str(error)

    def test_missing_folder(self, tmp_path: Path) -> None:
        text = self._error(f"sqlite:///{tmp_path}/none/studies.db")
        assert f"file {tmp_path}/none/studies.db" in text
        assert "folder does not exist" in text
        assert list(tmp_path.iterdir()) == []

    def test_missing_file_is_not_made_on_request(self, tmp_path: Path) -> None:
        assert "no such file" in self._error(f"sqlite:///{tmp_path}/studies.db", create=False)
        assert list(tmp_path.iterdir()) == []

    def test_empty_database_is_not_filled_on_request(self, url: StorageUrl, tmp_path: Path) -> None:
        sqlite3.connect(tmp_path / "studies.db").close()
        (tmp_path / "studies.db").touch()
        with pytest.raises(NoStudies, match="it has no studies; check --storage"):
            open_storage(url, create=False)
        with sqlite3.connect(tmp_path / "studies.db") as database:
            assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
        database.close()
        open_storage(url)
        open_storage(url, create=False)

    def test_database_that_goes_away(self, url: StorageUrl, tmp_path: Path) -> None:
        storage = open_storage(url)
        with sqlite3.connect(tmp_path / "studies.db") as database:
            database.execute("DROP TABLE study_directions")
            database.execute("DROP TABLE studies")
        database.close()
        with pytest.raises(BadTracking) as caught, answering(url):
            storage.get_all_studies()
        assert "answers no more: " in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_folder(self, tmp_path: Path) -> None:
        assert "it is a folder" in self._error(f"sqlite:///{tmp_path}")

    def test_folder_that_cannot_be_written(self) -> None:
        if not Path("/proc/self").is_dir():
            pytest.skip("no /proc, a folder that nobody can write")
        assert "unable to open database file" in self._error("sqlite:////proc/studies.db")

    def test_file_that_cannot_be_written(self, url: StorageUrl, tmp_path: Path) -> None:
        open_storage(url)
        text = self._error(f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true")
        assert "readonly database" in text

    def test_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("Once upon a time there was a file that is no database.\n" * 50)
        before = path.read_bytes()
        assert "file is not a database" in self._error(f"sqlite:///{path}")
        assert path.read_bytes() == before

    def test_database_of_another_program(self, tmp_path: Path) -> None:
        path = tmp_path / "mlflow.db"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            database.execute("INSERT INTO alembic_version VALUES ('of-mlflow')")
        database.close()
        before = path.read_bytes()
        assert "database of another program, such as MLflow" in self._error(f"sqlite:///{path}")
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("version", "says"), [("v2.6.0.a", "storage upgrade"), ("v99.0.0.a", "updating optuna")]
    )
    def test_other_versions(self, url: StorageUrl, tmp_path: Path, version: str, says: str) -> None:
        open_storage(url)
        with sqlite3.connect(tmp_path / "studies.db") as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        database.close()
        text = self._error(url.secret)
        assert "no longer compatible with the table schema" in text
        assert says in text

    def test_locked(self, url: StorageUrl, tmp_path: Path) -> None:
        holder = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        text = self._error(f"{url.secret}?timeout=0.1")
        holder.close()
        assert "another program holds it" in text

    def test_missing_driver(self) -> None:
        text = self._error("oracle+cx_oracle://ann:s3cr3t@db.example/studies")
        assert 'pip install "cx-oracle"' in text
        assert "host db.example, port 1521" in text
        assert "s3cr3t" not in text

    def test_traceback_shows_no_password(self) -> None:
        url = StorageUrl("postgresql+psycopg://ann:s3cr3t@127.0.0.1:1/studies")
        try:
            open_storage(url)
        except BadTracking as error:
            text = "".join(traceback.format_exception(error))
        assert "host 127.0.0.1, port 1" in text
        assert "s3cr3t" not in text


class TestQueue:
    def test_no_trial_without_a_waiting_one(self, study: optuna.Study) -> None:
        with pytest.raises(QueueEmpty):
            study.optimize(lambda trial: 0.0, n_trials=1)
        assert study.trials == []

    def test_filled_to_the_target(self, study: optuna.Study) -> None:
        assert fill_queue(study, 3) == 3
        assert fill_queue(study, 3) == 3
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert fill_queue(study, 3) == 1
        assert fill_queue(study, 5) == 3
        assert len(study.trials) == 5

    def test_running_trials_count(self, study: optuna.Study) -> None:
        _take(study)
        assert fill_queue(study, 3) == 2

    def test_surplus_is_taken_out_newest_first(self, study: optuna.Study) -> None:
        fill_queue(study, 5)
        study.optimize(lambda trial: 0.0, n_trials=1)
        assert fill_queue(study, 3) == 2
        states = [trial.state.name for trial in study.trials]
        assert states == ["COMPLETE", "WAITING", "WAITING", "FAIL", "FAIL"]
        assert study.trials[4].user_attrs == {
            "reason": "not wanted any more (trials=3)",
            "surplus": True,
        }
        assert len(settled(study.trials)) == 1
        assert fill_queue(study, 4) == 3

    def test_one_that_dies_while_it_is_taken_out_does_not_come_back(
        self, study: optuna.Study, tmp_path: Path
    ) -> None:
        trial = _take(study)
        study._storage.set_trial_user_attr(trial._trial_id, "surplus", True)
        study._storage.record_heartbeat(trial._trial_id)
        _let_time_pass(tmp_path)
        _rescue(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL]

    def test_target_below_what_is_done(self, study: optuna.Study) -> None:
        fill_queue(study, 3)
        study.optimize(lambda trial: 0.0, n_trials=2)
        assert fill_queue(study, 1) == 0
        assert len(settled(study.trials)) == 2

    def test_own_failures_settle(self, study: optuna.Study) -> None:
        fill_queue(study, 2)
        study.optimize(lambda trial: float("nan"), n_trials=1)
        assert [trial.state for trial in settled(study.trials)] == [TrialState.FAIL]
        assert fill_queue(study, 2) == 1


class TestGiveBack:
    def test_copy_starts_anew_with_the_parameters(self, study: optuna.Study) -> None:
        distributions = {
            "lr": FloatDistribution(1e-3, 1.0, log=True),
            "schedule": CategoricalDistribution(["one_cycle", "linear"]),
        }
        study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params={"lr": 0.1, "schedule": "linear"},
                distributions=distributions,
                user_attrs={"run_id": "dead"},
                system_attrs={
                    "grid_id": 4,
                    "search_space": {"lr": [0.1]},
                    "fixed_params": {"lr": 0.1},
                    "constraints:memory": 1.0,
                    "completed_rung_0": 0.5,
                },
                intermediate_values={0: 0.5},
            )
        )
        _give_back(study, study.trials[0])
        dead, copy = study.trials
        assert copy.state == TrialState.WAITING
        assert copy.params == dead.params
        assert copy.distributions == distributions
        assert copy.intermediate_values == {}
        assert copy.user_attrs == {"retry_of": 0}
        assert copy.system_attrs == {
            "grid_id": 4,
            "search_space": {"lr": [0.1]},
            "fixed_params": {"lr": 0.1},
            "failed_trial": 0,
            "retry_history": [0],
            "counted_retries": 0,
        }
        # The trial itself is for its worker to end.
        assert dead.state == TrialState.RUNNING
        assert dead.user_attrs == {"run_id": "dead", "reason": "interrupted", "retried_as": 1}

    def test_copy_keeps_its_parameters_when_it_runs(self, study: optuna.Study) -> None:
        _give_back(study, _take(study, 0.3))
        study.optimize(lambda trial: trial.suggest_float("lr", 0.3, 0.3), n_trials=1)
        assert study.trials[1].params == {"lr": 0.3}
        assert study.trials[1].state == TrialState.COMPLETE

    def test_twice_is_once(self, study: optuna.Study) -> None:
        dead = _take(study)
        _give_back(study, dead)
        _give_back(study, dead)
        assert len(study.trials) == 2

    def test_killed_meanwhile_is_queued_once(
        self, study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker is killed after the copy, and before the trial says that it has one."""
        note = QueueStorage._note

        def killed(storage: QueueStorage, session: Session, *given: Any) -> None:
            if "retried_as" in given:
                raise SystemExit("killed")
            note(storage, session, *given)

        dead = _take(study)
        with monkeypatch.context() as patch:
            patch.setattr(QueueStorage, "_note", killed)
            with pytest.raises(SystemExit):
                _give_back(study, dead)
        assert [trial.state.name for trial in study.trials] == ["RUNNING"]
        _let_time_pass(tmp_path)
        _rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        assert fill_queue(study, 1) == 1

    def test_a_trial_that_somebody_has_ended(self, study: optuna.Study) -> None:
        dead = _take(study)
        assert study._storage._backend._bury(study._study_id, dead._trial_id)
        with pytest.raises(UpdateFinishedTrialError):
            _give_back(study, dead)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]

    def test_interruptions_are_no_retries(self, study: optuna.Study, tmp_path: Path) -> None:
        fill_queue(study, 1)
        for _ in range(4):
            _give_back(study, _next(study))
            _let_time_pass(tmp_path)
            _rescue(study)
        assert study.trials[4].system_attrs["counted_retries"] == 0
        for _ in range(MAX_RETRIES + 1):
            _next(study)
            _let_time_pass(tmp_path)
            _rescue(study)
        last = study.trials[-1]
        assert (last.state, last.number) == (TrialState.FAIL, 4 + MAX_RETRIES)
        assert last.system_attrs["counted_retries"] == MAX_RETRIES
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            history = RetryHeartbeatStaleTrialCallback.retry_history(last)
            assert history == list(range(last.number))
            assert RetryHeartbeatStaleTrialCallback.retried_trial_number(last) == 0

    def test_enqueued_value_out_of_range(self, study: optuna.Study) -> None:
        study.enqueue_trial({"lr": 5.0})

        def objective(trial: optuna.Trial) -> float:
            with pytest.warns(UserWarning, match="out of range"):
                trial.suggest_float("lr", 0, 1)
            if trial.number == 0:
                give_back(study, trial, "interrupted")
            return 0.0

        study.optimize(objective, n_trials=2)
        assert study.trials[1].params == {"lr": 5.0}


class TestSettled:
    def test_each_state(self) -> None:
        states = list(TrialState)
        trials = []
        for number, state in enumerate(states):
            value = 1.0 if state == TrialState.COMPLETE else None
            trial = optuna.create_trial(state=state, value=value)
            trial.number = number
            trials.append(trial)
        kept = {trial.state for trial in settled(trials)}
        assert kept == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}

    def test_failed_ones_with_a_retry_or_too_many(self) -> None:
        notes: list[dict[str, Any]] = [{"retried_as": 0}, {"surplus": True}, {"reason": "x"}]
        trials = [optuna.create_trial(state=TrialState.FAIL, user_attrs=note) for note in notes]
        for number, trial in enumerate(trials):
            trial.number = number
        assert settled(trials) == [trials[2]]
        assert settled(iter(trials)) == [trials[2]]


class TestDeadWorkers:
    def test_retried_twice_then_failed(
        self, study: optuna.Study, worker: Workers, tmp_path: Path
    ) -> None:
        fill_queue(study, 2)
        first: dict[str, Any] = {}
        for number in (0, 2, 3):
            if number:
                # The copies wait behind the trial that was in the queue before them.
                study.optimize(lambda trial: 0.0, n_trials=1 if number == 2 else 0)
            process = worker("hold")
            assert process.stdout is not None
            assert process.stdout.readline() == f"{number}\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
            _rescue(study)
            assert study.trials[number].state == TrialState.RUNNING
            _let_time_pass(tmp_path)
            _rescue(study)
            first = first or study.trials[0].params
            assert study.trials[number].params == first
        trials = study.trials
        assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "FAIL", "FAIL"]
        reason = "its worker died (no sign of life for 3 s)"
        assert [trial.user_attrs.get("reason") for trial in trials] == [
            reason,
            None,
            reason,
            reason,
        ]
        assert [trial.user_attrs.get("retried_as") for trial in trials] == [2, None, 3, None]
        assert [trial.number for trial in settled(trials)] == [1, 3]
        assert fill_queue(study, 2) == 0

    def test_trial_taken_but_not_begun(self, study: optuna.Study, tmp_path: Path) -> None:
        """A worker killed before its first heartbeat leaves a trial that is found all the same."""
        _take(study)
        _let_time_pass(tmp_path)
        _rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]

    def test_interrupted_while_queued_again(self, study: optuna.Study, tmp_path: Path) -> None:
        """A worker queues a copy, since it was told to stop, and dies before it ends its trial."""
        _give_back(study, _take(study))
        _let_time_pass(tmp_path)
        _rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        assert settled(study.trials) == []

    def test_two_rescuers_queue_one_copy(
        self, study: optuna.Study, url: StorageUrl, tmp_path: Path
    ) -> None:
        _take(study)
        _let_time_pass(tmp_path)
        other = optuna.load_study(study_name="s", storage=open_storage(url, heartbeat=1))
        ids = study._study_id, study.trials[0]._trial_id
        backends = [study._storage._backend, other._storage._backend]
        assert [backend._bury(*ids) for backend in backends] == [True, False]
        assert len(study.trials) == 2

    def test_callback_gets_the_dead_trial(self, url: StorageUrl, tmp_path: Path) -> None:
        seen: list[tuple[str, FrozenTrial]] = []
        storage = open_storage(
            url, heartbeat=1, retry=lambda study, trial: seen.append((study.study_name, trial))
        )
        study = optuna.create_study(storage=storage, study_name="s")
        _take(study)
        _let_time_pass(tmp_path)
        _rescue(study)
        _rescue(study)
        [(name, trial)] = seen
        assert (name, trial.number, trial.state) == ("s", 0, TrialState.FAIL)
        assert trial.user_attrs["retried_as"] == 1

    def test_failing_callback_is_logged(
        self, url: StorageUrl, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(study: optuna.Study, trial: FrozenTrial) -> None:
            raise ConnectionError("MLflow is away")

        study = optuna.create_study(storage=open_storage(url, heartbeat=1, retry=fail))
        _take(study)
        _let_time_pass(tmp_path)
        with caplog.at_level(logging.WARNING, logger="layerscope"):
            _rescue(study)
        assert "ConnectionError: MLflow is away" in caplog.text
        assert _count(study, TrialState.WAITING) == 1

    def test_heartbeat_that_fails_is_logged(
        self, study: optuna.Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        trial = _take(study)
        with sqlite3.connect(tmp_path / "studies.db") as database:
            database.execute("ALTER TABLE trial_heartbeats RENAME TO gone")
        database.close()
        with caplog.at_level(logging.WARNING, logger="layerscope"):
            study._storage.record_heartbeat(trial._trial_id)
        assert "heartbeat could not be stored" in caplog.text


class TestTakenOver:
    @pytest.mark.parametrize(
        "how", ["returns", "reports", "prunes", "suggests", "notes", "notes later"]
    )
    def test_worker_that_wakes_up_late(self, study: optuna.Study, how: str) -> None:
        fill_queue(study, 1)

        def objective(trial: optuna.Trial) -> float:
            # It is suspended here, and another worker finds no sign of life.
            assert study._storage._backend._bury(study._study_id, trial._trial_id)
            if how == "reports":
                trial.report(1.0, 0)
            elif how == "prunes":
                raise optuna.TrialPruned
            elif how == "suggests":
                trial.suggest_float("lr", 0, 1)
            elif how == "notes":
                trial.set_user_attr("run_id", "x")
            elif how == "notes later":
                with batched_writes():
                    trial.set_user_attr("run_id", "x")
            return 1.0

        with pytest.raises((ValueError, AssertionError)) as caught:
            study.optimize(objective, n_trials=1)
        assert taken_over(caught.value)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        assert study.trials[0].values is None

    @pytest.mark.parametrize(
        "error", [ValueError("Cannot tell"), AssertionError("Should not reach."), KeyError("x")]
    )
    def test_other_errors(self, error: Exception) -> None:
        assert not taken_over(error)


class TestProcesses:
    @pytest.mark.slow
    def test_four_workers(self, study: optuna.Study, worker: Workers) -> None:
        fill_queue(study, 100)
        processes = [worker("drain") for _ in range(4)]
        outputs = [process.communicate("\n")[0] for process in self._together(processes)]
        assert [process.returncode for process in processes] == [0, 0, 0, 0]
        numbers = [int(number) for output in outputs for number in output.split()]
        assert sorted(numbers) == list(range(100))
        assert all(len(output.split()) > 1 for output in outputs)
        for trial in study.trials:
            assert trial.state == TrialState.COMPLETE
            assert set(trial.params) == {"lr", "schedule"}
            assert trial.user_attrs == {"run_id": f"run-{trial.number}"}
            assert len(trial.intermediate_values) == 3
        assert len(settled(study.trials)) == 100

    @staticmethod
    def _together(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return processes

    def test_first_contact_of_several_at_once(self, url: StorageUrl) -> None:
        code = (
            "from search.storage.database import open_storage;"
            "from search.storage.url import storage_url; import sys;"
            "sys.stdin.readline(); open_storage(storage_url())"
        )
        environment = os.environ | url.environment | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        processes = [
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        self._together(processes)
        for process in processes:
            process.communicate()
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert open_storage(url, create=False).get_all_studies() == []

    def test_plain_optuna_reads_while_a_worker_writes(
        self, study: optuna.Study, url: StorageUrl, worker: Workers
    ) -> None:
        fill_queue(study, 30)
        process = worker("drain")
        self._together([process])
        seen = []
        while process.poll() is None:
            time.sleep(0.2)
            plain = optuna.load_study(study_name="s", storage=url.secret)
            seen.append(len(plain.get_trials(states=(TrialState.COMPLETE,))))
            plain._storage._backend.engine.dispose()
        process.communicate()
        assert process.returncode == 0
        assert seen == sorted(seen)
        assert len(settled(study.trials)) == 30


class TestDashboard:
    @pytest.mark.parametrize("plain", [True, False])
    def test_lists_the_studies(self, study: optuna.Study, url: StorageUrl, plain: bool) -> None:
        dashboard = pytest.importorskip("optuna_dashboard")
        fill_queue(study, 1)
        study.optimize(lambda trial: 0.5, n_trials=1)
        storage: str | BaseStorage = url.secret if plain else study._storage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            app = dashboard.wsgi(storage)
            status, body = self._get(app, "/api/studies")
        assert status == "200 OK"
        assert [summary["study_name"] for summary in body["study_summaries"]] == ["s"]

    @staticmethod
    def _get(app: Any, path: str) -> tuple[str, Any]:
        environment: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": BytesIO()}
        setup_testing_defaults(environment)
        answers: list[str] = []
        parts = app(environment, lambda status, headers, info=None: answers.append(status))
        return answers[0], json.loads(b"".join(parts))
