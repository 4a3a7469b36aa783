"""No trial is lost when a worker dies, nor done twice where workers share a study."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.storage.database import open_storage
from search.storage.queue_storage import batched_writes
from search.storage.trial_queue import fill_queue, settled, taken_over
from search.storage.url import StorageUrl
from tests.search_tests.storage.queued import (
    Workers,
    count,
    gives_back,
    let_time_pass,
    rescue,
    take,
)

ROOT = Path(__file__).parents[3]


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
            rescue(study)
            assert study.trials[number].state == TrialState.RUNNING
            let_time_pass(tmp_path)
            rescue(study)
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
        take(study)
        let_time_pass(tmp_path)
        rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]

    def test_interrupted_while_queued_again(self, study: optuna.Study, tmp_path: Path) -> None:
        """A worker queues a copy, since it was told to stop, and dies before it ends its trial."""
        gives_back(study, take(study))
        let_time_pass(tmp_path)
        rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        assert settled(study.trials) == []

    def test_two_rescuers_queue_one_copy(
        self, study: optuna.Study, url: StorageUrl, tmp_path: Path
    ) -> None:
        take(study)
        let_time_pass(tmp_path)
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
        take(study)
        let_time_pass(tmp_path)
        rescue(study)
        rescue(study)
        [(name, trial)] = seen
        assert (name, trial.number, trial.state) == ("s", 0, TrialState.FAIL)
        assert trial.user_attrs["retried_as"] == 1

    def test_failing_callback_is_logged(
        self, url: StorageUrl, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(study: optuna.Study, trial: FrozenTrial) -> None:
            raise ConnectionError("MLflow is away")

        study = optuna.create_study(storage=open_storage(url, heartbeat=1, retry=fail))
        take(study)
        let_time_pass(tmp_path)
        with caplog.at_level(logging.WARNING, logger="layerscope"):
            rescue(study)
        assert "ConnectionError: MLflow is away" in caplog.text
        assert count(study, TrialState.WAITING) == 1

    def test_heartbeat_that_fails_is_logged(
        self, study: optuna.Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        trial = take(study)
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
