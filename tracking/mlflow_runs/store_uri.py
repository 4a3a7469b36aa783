"""Where an MLflow store is, by its tracking URI."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

__all__ = ["absolute_uri", "sqlite_file", "store_kind"]


def store_kind(uri: str) -> str:
    """The URI's scheme, without a database's driver."""
    return uri.partition(":")[0].partition("+")[0]


def sqlite_file(uri: str) -> str:
    """The path of a SQLite store's file; empty for other stores, and for one in memory."""
    file = unquote(_quoted_path(uri))  # as SQLAlchemy does; MLflow's own default is quoted
    return file if store_kind(uri) == "sqlite" and file != ":memory:" else ""


def absolute_uri(uri: str) -> str:
    """A relative path to a SQLite file, or to a folder that is a store, made absolute.

    Records may be sent from another folder.
    """
    folder = re.fullmatch(r"(?:file:)?([^/:][^:]*)", uri)
    if folder and not uri.startswith("databricks"):
        path = Path(unquote(folder[1]) if store_kind(uri) == "file" else uri).absolute()
        return path.as_uri() if store_kind(uri) == "file" else str(path)
    file = sqlite_file(uri)
    if not file:
        return uri
    return uri.replace(f":///{_quoted_path(uri)}", f":///{quote(str(Path(file).absolute()))}", 1)


def _quoted_path(uri: str) -> str:
    return uri.partition(":///")[2].partition("?")[0]
