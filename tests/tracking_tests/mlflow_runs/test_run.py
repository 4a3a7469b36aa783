"""Opening a run: stores that cannot be used are found out at once, in one line without password."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

import tracking
from tests.mlflow_stores import found_run, sqlite_store
from tracking.errors import BadTracking
from tracking.mlflow_runs.run import MlflowRun

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which something listens, but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusal(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BadTracking) as error:
        MlflowRun.open("tests")
    text = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in text
    assert "secret" not in text
    assert text.endswith("; check MLFLOW_TRACKING_URI, and that its server runs")
    return text.removesuffix("; check MLFLOW_TRACKING_URI, and that its server runs")


# -- stores that cannot be used --


def test_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    text = refusal(f"http://me:secret@127.0.0.1:{free}", monkeypatch)
    store = f"MLflow store http://me:***@127.0.0.1:{free}"
    assert text == f"{store} cannot be used: Connection refused"


def test_server_that_never_answers(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    text = refusal(f"http://me:secret@127.0.0.1:{port}", monkeypatch)
    assert text.endswith(": no answer in time")


def test_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal("http://me:secret@host.invalid:5000", monkeypatch)
    assert text.startswith("MLflow store http://me:***@host.invalid:5000 cannot be used: ")


def test_database_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(f"sqlite:///{tmp_path}", monkeypatch)
    assert text.endswith(" unable to open database file")


def test_file_that_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("something else entirely\n" * 100)
    text = refusal(f"sqlite:///{tmp_path}/mlflow.db", monkeypatch)
    assert text.endswith(" file is not a database")


def test_database_without_driver_keeps_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal("mssql+nodriver://me:secret@host/db", monkeypatch)
    assert text.startswith("MLflow store mssql+nodriver://me:***@host/db cannot be used: ")


def test_scheme_that_mlflow_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal("gopher://me:secret@host", monkeypatch)
    assert text.startswith("MLflow store gopher://me:***@host cannot be used: ")


def test_deleted_run_cannot_be_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    run = MlflowRun.open("tests")
    run.client.delete_run(run.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.run_id)
    assert "must be in the 'active' state" in refusal(sqlite_store(), monkeypatch)


# -- a run of its own --


def test_what_the_ui_shows_of_a_new_run() -> None:
    opened = MlflowRun.open("tests", "my name")
    run = found_run(sqlite_store(), opened.run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "my name"
    assert run.data.tags["mlflow.source.name"] == sys.argv[0]
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.user"] == getpass.getuser()


def test_run_without_a_name_gets_one() -> None:
    assert found_run(sqlite_store(), MlflowRun.open("tests").run_id).info.run_name


def test_experiment_is_made_where_there_is_none() -> None:
    first, second = MlflowRun.open("new one"), MlflowRun.open("new one")
    assert first.experiment_id == second.experiment_id
    assert first.client.get_experiment(first.experiment_id).name == "new one"


def test_experiment_that_another_process_makes_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    really = MlflowClient.get_experiment_by_name
    MlflowClient(sqlite_store()).create_experiment("raced for")
    asked: list[str] = []

    def too_early_once(client: MlflowClient, name: str) -> object:
        asked.append(name)
        return really(client, name) if len(asked) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early_once)
    assert MlflowRun.open("raced for").experiment_id


@pytest.mark.parametrize("chosen", [True, False])
def test_experiment_that_the_environment_names(
    chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = MlflowRun.open("given").experiment_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", given)
    run = MlflowRun.open("tests" if chosen else "Default")
    assert (run.experiment_id == given) == (not chosen)


# -- what it tells --


def test_relative_path_of_a_store_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mlflow.db").symlink_to(sqlite_store().removeprefix("sqlite:///"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    run = MlflowRun.open("tests")
    assert run.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert run.shown_uri == run.tracking_uri


@pytest.mark.parametrize("given", ["", "sqlite:///mlflow.db"])
@pytest.mark.parametrize("name", ["a b", "ünï", "50%25", "q?x#h", "at@x:y"])
def test_a_store_in_a_folder_of_any_name_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str
) -> None:
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    if given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    else:  # MLflow's own default
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (place / "mlflow.db").symlink_to(sqlite_store().removeprefix("sqlite:///"))
    run = MlflowRun.open("tests")
    monkeypatch.chdir(tmp_path)
    assert MlflowRun.find(run.tracking_uri, run.run_id).run_id == run.run_id
    # MLflow itself leaves an empty folder of the quoted name beside it.
    assert [path.name for path in place.iterdir()] == ["mlflow.db"]


def test_a_store_with_a_driver_is_made_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite+pysqlite:///made/mlflow.db")
    assert MlflowRun.open("tests").tracking_uri == f"sqlite+pysqlite:///{tmp_path}/made/mlflow.db"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_processes_that_make_a_store_at_once(tmp_path: Path) -> None:
    program = "from tracking.mlflow_runs.run import MlflowRun; MlflowRun.open('tests')"
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PYTHONPATH": str(Path(tracking.__file__).parents[1]),
    }
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0], ended


def test_looking_for_a_run_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(BadTracking, match="No such file or directory; check the run's id and"):
        MlflowRun.known("0" * 32, f"sqlite:///{tmp_path}/away/mlflow.db")
    assert not list(tmp_path.iterdir())


def test_found_run_knows_its_parameters() -> None:
    run = MlflowRun.open("tests")
    assert run.known_params == frozenset()
    run.client.log_param(run.run_id, "lr_max", "1e-2")
    found = MlflowRun.find(sqlite_store(), run.run_id)
    assert found.known_params == {"lr_max"}
    assert (found.run_id, found.experiment_id) == (run.run_id, run.experiment_id)


def test_running_until_it_ends() -> None:
    run = MlflowRun.open("tests")
    assert run.is_running()
    run.end("KILLED", 1_700_000_000.25)
    assert not run.is_running()
    info = found_run(sqlite_store(), run.run_id).info
    assert (info.status, info.end_time) == ("KILLED", 1_700_000_000_250)


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    MlflowRun.open("tests")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
