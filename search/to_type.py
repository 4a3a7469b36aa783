"""Commands for people to type, as messages, pages and notes show them."""

from __future__ import annotations

import shlex

__all__ = ["study_command", "train_command"]

# As in the README: the project need not be installed.
PROGRAM = ("python", "layerscope.py")


def study_command(verb: str, name: str, storage: str = "") -> str:
    """A command of `layerscope study` for a study; ``storage`` as it was given, where it was."""
    where = ["--storage", storage] if storage else []
    return shlex.join([*PROGRAM, "study", verb, "--name", name, *where])


def train_command(file: str) -> str:
    """The command that repeats a configuration file."""
    return shlex.join([*PROGRAM, "train", "--config", file])
