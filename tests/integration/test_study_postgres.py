"""A study in PostgreSQL, done by a worker that joins; its password is nowhere to be seen."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from search.storage.url import storage_url
from search.workers.pool import WorkerPool
from tests.integration.command import Command, command_here
from tests.integration.postgres import PASSWORD, serve
from tests.integration.study_commands import TINY, children, start, states, stored, unfinished
from tests.mlflow_stores import sqlite_store

__all__: list[str] = []

pytestmark = [
    pytest.mark.slow,
    # The command leaves it to the end of its process to close its connections.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ENCODED = quote(PASSWORD, safe="")
FORMS = [PASSWORD.encode(), ENCODED.encode()]
WAIT = "layerscope: waiting for records to arrive in MLflow; Ctrl-C ends the wait\n"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a database in a server of its own."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with serve() as port:
        yield f"postgresql://postgres:{ENCODED}@127.0.0.1:{port}/postgres"
        gc.collect()  # here, where it is no error


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    with command_here(tmp_path, monkeypatch, capfd) as run:
        yield run


def command_lines() -> bytes:
    """Of every process of this machine that can be looked at."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return b"\n".join(found)


def assert_hidden(content: bytes, what: str) -> None:
    assert not any(form in content for form in FORMS), what


def test_a_worker_joins_and_nobody_sees_the_password(
    command: Command, url: str, tmp_path: Path, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "url.txt"
    secret.write_text(url + "\n", encoding="utf-8")
    secret.chmod(0o600)
    workers: list[subprocess.Popen[str]] = []
    lines: list[bytes] = []
    over = threading.Event()

    def join() -> None:
        workers.append(start("study", "worker", "--name", "P", folder=tmp_path, environment=mine))
        while not over.wait(0.5):
            lines.append(command_lines())

    # The command reads the URL from a file, the worker has it in its environment.
    mine = {"OPTUNA_STORAGE": url}
    thread = threading.Thread(target=_after, args=(url, patience, join))
    thread.start()
    try:
        code, out, err = command(
            *("study", "run", "--name", "P", *TINY, "--storage", f"file:{secret}"),
            *("--space", "lr_max=log:1e-3:0.1", "--trials", "3", "--workers", "0"),
        )
    finally:
        over.set()
        thread.join()
    said, complained = workers[0].communicate(timeout=patience)
    assert (code, err) == (0, "")
    assert "waiting for workers: python layerscope.py study worker --name P" in out
    assert sum(line.startswith("trial   ") for line in out.splitlines()) == 3
    assert workers[0].returncode == 0
    assert complained in {"", WAIT}  # the latter where the machine is slow
    assert sum(line.startswith("trial   ") for line in said.splitlines()) == 3
    assert said.endswith("no trial is left\n")
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    assert len(states("P")) == 3
    parent = str(stored("P").user_attrs["layerscope.mlflow_run_id"])
    assert unfinished("P", parent) == []
    workers_seen = {trial.user_attrs["worker"] for trial in stored("P").trials}
    assert [name.rpartition(":")[2] for name in workers_seen] == [str(workers[0].pid)]

    # A password that is wrong or a server that goes away is told without it, too.
    monkeypatch.setenv("OPTUNA_STORAGE", url.replace(ENCODED, f"{ENCODED}x"))
    wrong, nothing, refusal = command("study", "status", "--name", "P")
    assert (wrong, nothing) == (2, "")
    assert "password authentication failed" in refusal

    for text in (out, err, said, complained, refusal, *_everything(parent, tmp_path)):
        assert_hidden(text if isinstance(text, bytes) else text.encode(), str(text[:200]))
    # The list of processes was looked at while the worker was in it.
    assert any(b"study\x00worker" in content for content in lines)
    for content in lines:
        assert_hidden(content, "process list")
    database = Path(sqlite_store().removeprefix("sqlite:///"))
    for path in (database, *database.parent.glob("*.db-*")):
        assert_hidden(path.read_bytes(), str(path))


def test_the_workers_of_a_crew_have_it_in_their_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"postgresql://ann:{ENCODED}@db/studies")
    pool = WorkerPool("S", storage_url(), 2, {})
    assert_hidden("\n".join(pool._command).encode(), "command")
    assert ENCODED in pool._environment["OPTUNA_STORAGE"]


def _after(url: str, patience: float, act: object) -> None:
    """Act when the study is there."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        os.environ["OPTUNA_STORAGE"] = url
        try:
            stored("P")
            break
        except Exception:
            time.sleep(0.2)
        finally:
            os.environ.pop("OPTUNA_STORAGE")
    act()  # type: ignore[operator]


def _everything(parent: str, folder: Path) -> Iterator[str | bytes]:
    """All that MLflow knows of a study: parameters, tags, artifacts."""
    client = MlflowClient(sqlite_store())
    for run in [client.get_run(parent), *children(parent)]:
        yield str(run.to_dictionary())
        place = folder / "artifacts" / run.info.run_id
        place.mkdir(parents=True)
        root = download_artifacts(
            run_id=run.info.run_id, tracking_uri=sqlite_store(), dst_path=str(place)
        )
        for path in Path(root).rglob("*"):
            if path.is_file():
                yield path.read_bytes()
