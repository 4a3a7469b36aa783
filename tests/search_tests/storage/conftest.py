"""Studies in an SQLite database of their own, and worker processes on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from search.storage.database import open_storage
from search.storage.url import StorageUrl, storage_url
from tests.search_tests.storage.queued import Workers, queue_workers


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
    with queue_workers(url) as start:
        yield start
