"""Commands for people to type, as messages, pages and notes show them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "compare_command",
    "replay_command",
    "report_command",
    "resume_command",
    "study_command",
    "train_command",
]

# As in the README: the project need not be installed.
PROGRAM = ("python", "layerscope.py")


def train_command(file: str) -> str:
    """The command that repeats a configuration file."""
    return _shown("train", "--config", file)


def resume_command(run_id: str) -> str:
    """The command that goes on with a run that was stopped."""
    return _shown("resume", run_id)


def report_command(run_id: str) -> str:
    """The command that makes a run's report again."""
    return _shown("report", run_id)


def replay_command(folder: Path | None = None) -> str:
    """The command that sends what waits in a run's folder, or everything that waits here."""
    return _shown("replay", *([] if folder is None else [str(folder)]))


def compare_command(given: Mapping[str, Any]) -> str:
    """The command that repeats a comparison or goes on with it, with the options it was given."""
    flags = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return _shown("compare", *(word for pair in flags for word in pair))


def study_command(verb: str, name: str, storage: str = "") -> str:
    """A command of `layerscope study` for a study; ``storage`` as it was given, where it was."""
    return _shown("study", verb, "--name", name, *(["--storage", storage] if storage else []))


def _shown(*words: str) -> str:
    return shlex.join([*PROGRAM, *words])
