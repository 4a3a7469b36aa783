"""Studies in an SQLite database of their own, and worker processes on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from search.storage.database import open_storage
from search.storage.url import StorageUrl, storage_url
from tests.search_tests.storage.queued import Workers

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("queue_worker.py")


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
