"""Where the records of runs lie until they have been sent."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from tracking.errors import BadTracking
from tracking.mlflow_runs.set_aside import REFUSED

__all__ = ["check_records_root", "records_root", "remove_if_empty", "remove_run_folder"]

DEFAULT = ".layerscope"


def records_root() -> Path:
    """The folder of run folders: .layerscope, or LAYERSCOPE_RECORDS."""
    return Path(os.environ.get("LAYERSCOPE_RECORDS", DEFAULT))


def check_records_root() -> None:
    """Make sure that runs can leave records here. Raises BadTracking: they cannot."""
    root = records_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise BadTracking(
            f"records folder {root}: cannot be written ({error.strerror}); "
            "set LAYERSCOPE_RECORDS to a folder that can"
        ) from None


def remove_run_folder(directory: Path) -> None:
    """Remove what a run left, all of which has arrived.

    Where MLflow has refused something, the folder stays with ``refused.jsonl`` in it, and only the
    spool goes, since there is nothing more to send.
    """
    refused = (directory / REFUSED).exists()
    shutil.rmtree(directory / "spool" if refused else directory, ignore_errors=True)
    remove_if_empty(directory.parent)


def remove_if_empty(root: Path) -> None:
    """Leave no empty .layerscope behind; a folder that the user has chosen stays."""
    if root.name == DEFAULT:
        with suppress(OSError):
            root.rmdir()
