"""Reading the YAML files that users write: one mapping of names, each of them given once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tracking.errors import BadOption
from tracking.reasons import one_line

__all__ = ["read_mapping"]


def read_mapping(path: Path, what: str, example: str, *, texts: bool = False) -> dict[str, Any]:
    """The names and values in a YAML file.

    ``what`` the file is and an ``example`` of a line are for errors. With ``texts`` every number
    stays the text that it is in the file.

    Raises BadOption: the file is missing, is no YAML, is not a mapping of names to values, or gives
    a name twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, Loader=_TextLoader if texts else _Loader)
    except _GivenTwice as error:
        raise BadOption(f"{what} {path}: {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadOption(f"{what} {path}: cannot be read ({one_line(error)})") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise BadOption(f"{what} {path}: expected lines such as '{example}'")
    return values


class _GivenTwice(yaml.YAMLError):
    """A mapping has two entries of one name."""


class _Once:
    """Of a loader: refuses what YAML forbids and PyYAML passes over, the last entry winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise _GivenTwice(
                    f"{key.value} is given twice, in lines {lines[name]} and {line}; give it once"
                )
            lines[name] = line
        return super().construct_mapping(node, deep)  # type: ignore[misc,no-any-return]


class _Loader(_Once, yaml.SafeLoader):
    """Numbers and truth values as such."""


class _TextLoader(_Once, yaml.BaseLoader):
    """Every value as its text."""
