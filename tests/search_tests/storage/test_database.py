"""The database of the studies: opened, or one line that says why not; and on the dashboard."""

from __future__ import annotations

import json
import pickle
import sqlite3
import traceback
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.storages import BaseStorage

from search.storage.database import NoStudies, answering, open_storage
from search.storage.trial_queue import fill_queue
from search.storage.url import StorageUrl, storage_url
from tracking.errors import BadTracking


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
