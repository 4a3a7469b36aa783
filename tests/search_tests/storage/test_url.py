"""Where the storage's URL comes from, and that its password is never shown."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.storage.url import DEFAULT_STORAGE, StorageUrl, mask_password, storage_url
from tracking.errors import BadInput, BadOption, BadTracking
from tracking.shown_commands import study_command

PASSWORD = "s3cr3t p/w%"
ENCODED = "s3cr3t%20p%2Fw%25"
WITH_PASSWORD = [
    f"postgresql://ann:{ENCODED}@db.example:5433/studies",
    f"postgres://:{ENCODED}@db.example/studies",
    f"postgresql+psycopg2://ann:{ENCODED}@db.example/studies",
    f"postgresql://db.example/studies?user=ann&password={ENCODED}",
    f"postgresql://db.example/studies?%70assword={ENCODED}",
    f"postgresql://ann@db.example/studies?sslkey=/k.pem&sslpassword={ENCODED}",
    f"mysql+pymysql://ann:{ENCODED}@db.example/studies",
    f"mysql+pymysql://db.example/studies?passwd={ENCODED}",
]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)


def _assert_hidden(text: str) -> None:
    assert "s3cr3t" not in text
    assert "p/w" not in text


class TestSource:
    def test_default_is_a_file_in_this_folder(self, tmp_path: Path) -> None:
        assert DEFAULT_STORAGE == "sqlite:///layerscope.db"
        assert storage_url().secret == f"sqlite:///{tmp_path}/layerscope.db"

    def test_a_run_that_mlflow_began_may_be_in_a_clone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////data/mlflow.db?timeout=5")
        assert storage_url().secret == f"sqlite:///{tmp_path}/layerscope.db"
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        url = storage_url()
        assert url.secret == "sqlite:////data/layerscope.db"
        # Whoever types the command is not in that run.
        command = study_command("best", "S", url.given)
        assert command.endswith("--name S --storage sqlite:////data/layerscope.db")
        (tmp_path / "layerscope.db").touch()
        assert storage_url().secret == f"sqlite:///{tmp_path}/layerscope.db"

    @pytest.mark.parametrize(
        "store",
        [
            *("http://127.0.0.1:5000", "sqlite:///", "sqlite:///:memory:", "sqlite:///mlflow.db"),
            *("sqlite:///file:/data/mlflow.db?uri=true", "sqlite:///{folder}/mlflow.db"),
        ],
    )
    def test_other_stores_and_a_store_in_this_folder_leave_the_default(
        self, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(folder=tmp_path))
        assert storage_url().secret == f"sqlite:///{tmp_path}/layerscope.db"
        assert storage_url().given == ""

    def test_environment_before_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:////data/a.db")
        assert storage_url().secret == "sqlite:////data/a.db"

    def test_option_before_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:////data/a.db")
        assert storage_url("sqlite:////data/b.db").secret == "sqlite:////data/b.db"

    def test_empty_environment_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", " ")
        assert storage_url().secret.endswith("/layerscope.db")

    @pytest.mark.parametrize("by_option", [True, False])
    def test_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_option: bool) -> None:
        (tmp_path / "url.txt").write_text(f"\n  \n {WITH_PASSWORD[0]} \nmore\n")
        monkeypatch.setenv("OPTUNA_STORAGE", "" if by_option else "file:url.txt")
        url = storage_url("file:url.txt" if by_option else "")
        assert url.passwords == [PASSWORD]

    @pytest.mark.parametrize(
        ("content", "says"),
        [(None, "No such file"), (b"", "is empty"), (b" \n\n", "is empty"), (b"\xff\xfe", "text")],
    )
    def test_unusable_file(self, tmp_path: Path, content: bytes | None, says: str) -> None:
        if content is not None:
            (tmp_path / "url.txt").write_bytes(content)
        with pytest.raises(BadTracking, match=says):
            storage_url("file:url.txt")

    def test_folder_instead_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadTracking, match="directory"):
            storage_url(f"file:{tmp_path}")

    def test_file_without_a_url_is_not_quoted(self, tmp_path: Path) -> None:
        (tmp_path / "url.txt").write_text("s3cr3t")
        with pytest.raises(BadOption, match=r"file:url\.txt is no database URL") as caught:
            storage_url("file:url.txt")
        _assert_hidden(str(caught.value))

    def test_readable_file_with_password_warns_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "shared.txt"
        path.write_text(WITH_PASSWORD[0])
        path.chmod(0o644)
        with caplog.at_level(logging.WARNING, logger="layerscope"):
            storage_url(f"file:{path}")
            storage_url(f"file:{path}")
        assert len(caplog.records) == 1
        assert f"chmod 600 {path}" in caplog.text
        _assert_hidden(caplog.text)

    @pytest.mark.parametrize(
        ("mode", "url"), [(0o600, WITH_PASSWORD[0]), (0o644, "postgresql://db.example/studies")]
    )
    def test_no_warning_without_need(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, url: str
    ) -> None:
        path = tmp_path / "mine.txt"
        path.write_text(url)
        path.chmod(mode)
        storage_url(f"file:{path}")
        assert not caplog.records


class TestPassword:
    @pytest.mark.parametrize("given", WITH_PASSWORD)
    def test_refused_on_the_command_line(self, given: str) -> None:
        with pytest.raises(BadOption, match=r"OPTUNA_STORAGE.*--storage file:PATH") as caught:
            storage_url(given)
        _assert_hidden(str(caught.value))
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize("given", WITH_PASSWORD)
    def test_shown_masked(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", given)
        url = storage_url()
        assert url.passwords == [PASSWORD]
        assert "***" in url.shown
        for text in (url.shown, str(url), repr(url), f"{url}", repr([url]), f"{url!r:>300}"):
            _assert_hidden(text)

    @pytest.mark.parametrize("given", WITH_PASSWORD)
    def test_driver_and_children_get_it(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", given)
        url = storage_url()
        monkeypatch.setenv("OPTUNA_STORAGE", url.environment["OPTUNA_STORAGE"])
        assert storage_url() == url
        assert url.passwords == [PASSWORD]

    @pytest.mark.parametrize("given", WITH_PASSWORD)
    def test_masked_in_other_texts(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", given)
        url = storage_url()
        said = f"no {url.secret}: {PASSWORD} ({ENCODED}, s3cr3t+p%2Fw%25)"
        masked = mask_password(said, url)
        _assert_hidden(masked)
        assert masked.endswith("*** (***, ***)")

    def test_empty_password_is_none(self) -> None:
        assert storage_url("postgresql://ann:@db.example/studies").passwords == []

    def test_password_file_of_postgresql_is_allowed(self) -> None:
        url = storage_url("postgresql://ann@db.example/studies?passfile=/home/ann/.pgpass")
        assert url.shown.endswith("passfile=%2Fhome%2Fann%2F.pgpass")

    @pytest.mark.parametrize(
        "given",
        [
            "postgresql://ann:s3cr3t@p/w@db.example/studies",
            "postgresql://ann:x@s3cr3t?p/w@db.example/studies",
            "postgresql://ann:s3cr3t@db.example:p/w/studies",
            "ann:s3cr3t@db.example/p/w",
            "redis://:s3cr3t@db.example/p/w",
            "password=s3cr3t p/w",
        ],
    )
    @pytest.mark.parametrize("by_option", [True, False])
    def test_odd_urls_are_refused_without_it(
        self, given: str, by_option: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPTUNA_STORAGE", "" if by_option else given)
        with pytest.raises(BadOption) as caught:
            storage_url(given if by_option else "")
        _assert_hidden(str(caught.value))
        assert caught.value.__cause__ is None


class TestKinds:
    @pytest.mark.parametrize("name", ["postgres", "postgresql"])
    def test_postgresql_uses_the_installed_driver(self, name: str) -> None:
        given = storage_url(f"{name}://ann@db.example:5433/studies?sslmode=require")
        assert given.secret == "postgresql+psycopg://ann@db.example:5433/studies?sslmode=require"

    @pytest.mark.parametrize(
        "given",
        [
            "postgresql+psycopg2://db.example/studies",
            "mysql+pymysql://db.example/studies",
            "mysql://db.example/studies",
        ],
    )
    def test_others_are_left_as_they_are(self, given: str) -> None:
        assert storage_url(given).secret == given

    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ("sqlite:///a.db", "{here}/a.db"),
            ("sqlite:///sub/a b.db", "{here}/sub/a b.db"),
            ("sqlite:////data/a.db", "/data/a.db"),
            ("sqlite:///file:a.db?mode=ro&uri=true", "file:{here}/a.db"),
        ],
    )
    def test_sqlite_paths_are_absolute(self, given: str, path: str, tmp_path: Path) -> None:
        from sqlalchemy import make_url

        assert make_url(storage_url(given).secret).database == path.format(here=tmp_path)

    @pytest.mark.parametrize(
        "given", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
    )
    def test_memory_cannot_be_shared(self, given: str) -> None:
        with pytest.raises(BadOption, match=r"no file on disk.*layerscope\.db"):
            storage_url(given)

    @pytest.mark.parametrize(
        "given",
        ["layerscope.db", "journal:log", "redis://db.example", "http://db.example", "sqlite:/a.db"],
    )
    def test_no_database_url(self, given: str) -> None:
        with pytest.raises(
            BadOption, match=r"allowed are sqlite:///FILE.*layerscope\.db"
        ) as caught:
            storage_url(given)
        assert given in str(caught.value)

    def test_all_of_it_is_bad_input(self) -> None:
        with pytest.raises(BadInput) as caught:
            storage_url("layerscope.db")
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)

    def test_importing_it_is_quick(self) -> None:
        code = "import sys, search.storage.url; print({'optuna', 'sqlalchemy'} & set(sys.modules))"
        root = Path(__file__).parents[3]
        environment = os.environ | {"PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "set()"

    def test_equal_urls_are_equal(self) -> None:
        assert storage_url("sqlite:////a.db") == StorageUrl("sqlite:////a.db")


def test_what_was_given_is_known_for_commands_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:hush@here/db", encoding="utf-8")
    secret.chmod(0o600)
    given = f"file:{secret}"
    assert storage_url(given).given == given
    assert "hush" not in study_command("worker", "S", storage_url(given).given)
    assert study_command("run", "S", "sqlite:///a b.db").endswith("--storage 'sqlite:///a b.db'")
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///other.db")
    assert storage_url().given == ""
    assert study_command("run", "S", storage_url().given).endswith("study run --name S")
