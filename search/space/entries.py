"""The entries of a search space as they are given: texts of the command line, and YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.yaml_files import read_mapping
from tracking.errors import BadOption

__all__ = ["DEFAULT_SPACE", "check_not_empty", "read_entries"]

DEFAULT_SPACE = Path(__file__).with_name("default.yaml")


def read_entries(texts: Sequence[str], path: Path | None) -> dict[str, Any]:
    """Option -> text, list or mapping, not yet judged; a text replaces the file's entry.

    With neither texts nor a file, these are the shipped default's. Raises BadOption: a text has no
    name, or one that was given before; the file cannot be read, or gives a name twice; there are
    no entries.
    """
    if path is None and not texts:
        path = DEFAULT_SPACE
    entries = (_read_file(path) if path else {}) | _split(texts)
    check_not_empty(entries)
    return entries


def check_not_empty(entries: Mapping[str, Any]) -> None:
    """Raise BadOption where a space has no dimensions."""
    if not entries:
        raise BadOption("space: there is nothing to search; add a line such as lr_max=log:1e-3:1")


def _split(texts: Sequence[str]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for text in texts:
        name, equals, given = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise BadOption(f"space {text}: expected NAME=VALUES, such as lr_max=log:1e-3:1")
        if name in entries:
            raise BadOption(f"space {text}: {name} is given twice; give it once")
        entries[name] = given
    return entries


def _read_file(path: Path) -> dict[str, Any]:
    """A space file's entries, in which every number is still a text.

    YAML 1.1 would read the range 1:5 as a number to the base of sixty, and 1e-3 as a text.
    """
    return read_mapping(path, "space", "lr_max: log:1e-3:1", texts=True)
