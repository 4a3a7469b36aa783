"""Which database holds the studies: where its URL comes from, and how it is shown.

A URL may hold a password. It comes from the environment or from a file, goes to child processes in
their environment, and is shown with `***` in the password's place everywhere else.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from tracking.errors import BadOption, BadTracking
from tracking.reasons import masked

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["DEFAULT_STORAGE", "StorageUrl", "mask_password", "storage_url"]

log = logging.getLogger("layerscope")

FILE_NAME = "layerscope.db"
DEFAULT_STORAGE = f"sqlite:///{FILE_NAME}"
VARIABLE = "OPTUNA_STORAGE"
FILE = "file:"

# psycopg 3 is the driver that this project installs; SQLAlchemy's own choice may be another one.
DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}

# Parts of names of query parameters that hold a secret: password, sslpassword, passwd, pwd, ...
SECRETS = ("passw", "pwd", "secret", "token", "odbc_connect")

ALLOWED = (
    "allowed are sqlite:///FILE, postgresql://HOST/DATABASE and mysql://HOST/DATABASE; "
    f"try {DEFAULT_STORAGE}"
)


@dataclass(frozen=True)
class StorageUrl:
    """A database's URL that shows no password when it is printed."""

    secret: str = field(repr=False)
    """The URL itself, for the driver."""
    given: str = field(default="", repr=False, compare=False)
    """What commands have to say as --storage to find it again: what was said, or where MLflow's
    file decided; empty for the default and the environment's. There is no password in it."""

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"StorageUrl({self.shown!r})"

    @property
    def shown(self) -> str:
        """For people: `***` stands for every password."""
        url = _parsed(self.secret)
        hidden = {name: "***" for name in url.query if _is_secret(name)}
        text = url.update_query_dict(hidden).render_as_string(hide_password=True)
        return text.replace(quote_plus("***"), "***")

    @property
    def missing_file(self) -> bool:
        """Whether this is a SQLite file that does not exist yet."""
        return _parsed(self.secret).get_backend_name() == "sqlite" and not self._file.exists()

    @property
    def _file(self) -> Path:
        # SQLite's own URIs, as in sqlite:///file:studies.db?uri=true, begin with this.
        return Path(str(_parsed(self.secret).database).removeprefix("file:"))

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: their environment is not in process lists."""
        return {VARIABLE: self.secret}

    @property
    def passwords(self) -> list[str]:
        """Every password in it, decoded; the longest first."""
        return _passwords(_parsed(self.secret))


def storage_url(given: str = "") -> StorageUrl:
    """The option's database, else that of OPTUNA_STORAGE, else layerscope.db in this folder.

    `mlflow run` of a Git URI works in a clone that nobody keeps. So in a run that MLflow began,
    layerscope.db lies beside MLflow's own SQLite file, unless there is one in this folder.

    Each may be a URL, or `file:PATH`: a file whose first line that is not empty is the URL. A
    relative path to a SQLite database is made absolute, since workers may run in other folders.
    Raises BadOption: no database's URL, or a password in `given` itself.
    Raises BadTracking: the file that should hold the URL cannot be read, or is empty.
    """
    option = given.strip()
    source = "--storage" if option else VARIABLE
    text = option or os.environ.get(VARIABLE, "").strip()
    if not text:
        text = option = _beside_mlflow()
    text = text or DEFAULT_STORAGE
    if text.startswith(FILE):
        source, path = text, Path(text.removeprefix(FILE)).expanduser()
        url = _checked(_first_line(path), source)
        if _passwords(url):
            _warn_if_readable(path)
    else:
        url = _checked(text, source)
        if option and _passwords(url):
            raise BadOption(
                "--storage holds a password, which process lists and MLflow would show; "
                f"put the URL into {VARIABLE}, or into a file and give --storage {FILE}PATH"
            )
    return StorageUrl(url.render_as_string(hide_password=False), option)


def _beside_mlflow() -> str:
    """The database beside MLflow's SQLite file, in a run that MLflow began elsewhere; or ''."""
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if "MLFLOW_RUN_ID" not in os.environ or not store.startswith("sqlite:///"):
        return ""
    file, here = Path(_parsed(store).database or ""), Path(FILE_NAME)
    if not file.is_absolute() or file.parent == Path.cwd() or here.exists():
        return ""
    return f"sqlite:///{file.with_name(FILE_NAME)}"


def mask_password(text: str, url: StorageUrl) -> str:
    """A text, such as a driver's message, without the passwords of a URL, encoded or not."""
    text = masked(text.replace(url.secret, url.shown))
    for password in url.passwords:
        encoded = [quote(password, safe=safe) for safe in ("", "/", " +")]
        for form in (password, quote_plus(password), *encoded):
            text = text.replace(form, "***")
    return text


def _checked(text: str, source: str) -> URL:
    """A URL as it is used. Raises BadOption, whose message quotes nothing that may be secret."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = _parsed(text)
        url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise BadOption(f"{_named(text, source)} is no database URL; {ALLOWED}") from None
    except ValueError:
        raise BadOption(f"{source}: the URL's port is no whole number; {ALLOWED}") from None
    except ImportError as error:
        raise BadTracking(f"{source}: the database's dialect cannot be loaded: {error}") from None
    if url.get_backend_name() == "sqlite":
        return _absolute(url, source)
    if text.count("@") > 1:
        raise BadOption(f"{source}: the URL has more than one @; write %40 for one in a password")
    return url


def _parsed(text: str) -> URL:
    # Imported here: SQLAlchemy takes longer to import than `--help` may take.
    from sqlalchemy import make_url

    return make_url(text)


def _named(text: str, source: str) -> str:
    """The text in a message, unless it could hold a password that nobody can recognise."""
    return source if "@" in text or "=" in text or source.startswith(FILE) else f"{source} {text!r}"


def _absolute(url: URL, source: str) -> URL:
    path, marker = url.database or "", ""
    if path.startswith("file:"):
        path, marker = path.removeprefix("file:"), "file:"
    if path in {"", ":memory:"} or url.host or url.query.get("mode") == "memory":
        raise BadOption(
            f"{source} {masked(str(url))!r} names no file on disk, which workers could share; "
            f"try {DEFAULT_STORAGE}"
        )
    return url.set(database=marker + str(Path(path).absolute()))


def _is_secret(name: str) -> bool:
    return any(part in name.lower() for part in SECRETS)


def _passwords(url: URL) -> list[str]:
    found = {str(url.password or "")}
    for name, value in url.query.items():
        if _is_secret(name):
            found.update([value] if isinstance(value, str) else value)
    return sorted(found - {""}, key=len, reverse=True)


def _first_line(path: Path) -> str:
    try:
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise BadTracking(
            f"{FILE}{path}, which should hold the storage's URL, cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise BadTracking(f"{FILE}{path}, which should hold a URL, holds no text") from None
    url = next((line for line in lines if line), "")
    if not url:
        raise BadTracking(f"{FILE}{path} is empty; write the storage's URL into it")
    return url


@lru_cache
def _warn_if_readable(path: Path) -> None:
    """Warn, once for a file, that other users of this machine can read a password."""
    if path.stat().st_mode & 0o077:
        log.warning("%s holds a password and others can read it; run: chmod 600 %s", path, path)
