"""Studies in a real PostgreSQL, with workers that are processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect

from search.storage.database import open_storage
from search.storage.trial_queue import fill_queue, settled
from search.storage.url import StorageUrl, storage_url
from tests.integration.postgres import PASSWORD, serve
from tests.search_tests.storage.queued import Workers, queue_workers, rescue
from tracking.errors import BadTracking

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve() as port:
        yield port


@pytest.fixture
def url(port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> StorageUrl:
    """A database of this test's own."""
    server = f"postgresql://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
    name = f"test_{abs(hash(request.node.name))}"
    monkeypatch.setenv("OPTUNA_STORAGE", f"{server}/postgres")
    engine = create_engine(storage_url().secret, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    monkeypatch.setenv("OPTUNA_STORAGE", f"{server}/{name}")
    return storage_url()


@pytest.fixture
def study(url: StorageUrl) -> Iterator[optuna.Study]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url, heartbeat=1)
    sampler = optuna.samplers.RandomSampler(seed=0)
    yield optuna.create_study(storage=storage, study_name="s", sampler=sampler)
    storage._backend.engine.dispose()
    optuna.logging.set_verbosity(level)


@pytest.fixture
def worker(url: StorageUrl) -> Iterator[Workers]:
    with queue_workers(url) as start:
        yield start


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_workers_share_the_queue(study: optuna.Study, worker: Workers) -> None:
    fill_queue(study, 40)
    processes = [worker("drain") for _ in range(2)]
    for process in processes:
        _go(process)
    numbers = [number for process in processes for number in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(int, numbers)) == list(range(40))
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.user_attrs == {"run_id": f"run-{trial.number}"}
        assert len(trial.intermediate_values) == 3
    assert len(settled(study.trials)) == 40


def test_killed_worker_s_trial_is_done_by_another(
    study: optuna.Study, worker: Workers, patience: float
) -> None:
    fill_queue(study, 3)
    victim = worker("hold")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "0\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    deadline = time.monotonic() + patience
    while study.trials[0].state == TrialState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.2)
        rescue(study)
    other = worker("drain")
    assert other.communicate("\n")[0].split() == ["1", "2", "3"]
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "its worker died (no sign of life for 3 s)"
    assert trials[0].user_attrs["retried_as"] == 3
    assert trials[3].params["lr"] == trials[0].params["lr"]
    assert [trial.number for trial in settled(trials)] == [1, 2, 3]


def test_live_worker_keeps_its_trial(study: optuna.Study, worker: Workers) -> None:
    fill_queue(study, 1)
    process = worker("hold")
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    # Longer than its grace period.
    for _ in range(8):
        time.sleep(0.5)
        rescue(study)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]


def test_tables_made_by_two_at_once(url: StorageUrl) -> None:
    code = (
        "from search.storage.database import open_storage;"
        "from search.storage.url import storage_url; import sys;"
        "sys.stdin.readline(); open_storage(storage_url())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | url.environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        _go(process)
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]


def _error(given: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPTUNA_STORAGE", given)
    with pytest.raises(BadTracking) as caught:
        open_storage(storage_url())
    text = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in text
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("form", ["postgres:{}@127.0.0.1:{}/postgres", "127.0.0.1:{1}/x?{0}"])
def test_wrong_password(form: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = quote(f"no-{PASSWORD}", safe="")
    secret = wrong if form.startswith("postgres") else f"user=postgres&password={wrong}"
    text = _error(f"postgresql://{form.format(secret, port)}", monkeypatch)
    assert "password authentication failed" in text
    assert f"host 127.0.0.1, port {port}" in text
    assert "***" in text


def test_no_such_database(url: StorageUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'database "none" does not exist' in _error(
        url.secret.rpartition("/")[0] + "/none", monkeypatch
    )


def test_looking_makes_no_tables(url: StorageUrl) -> None:
    with pytest.raises(BadTracking, match="it has no studies"):
        open_storage(url, create=False)
    engine = create_engine(url.secret)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    text = _error(f"postgresql://ann:s3cr3t@127.0.0.1:{port}/studies", monkeypatch)
    assert "Connection refused" in text
    assert f"host 127.0.0.1, port {port}" in text


def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        given = f"postgresql://ann:s3cr3t@{place}/studies?connect_timeout=2"
        assert "timeout" in _error(given, monkeypatch)
