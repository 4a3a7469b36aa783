"""Entries of a space from texts and files, before anything in them is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.space.entries import DEFAULT_SPACE, read_entries
from tracking.errors import BadOption

__all__: list[str] = []


def space_file(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lr_max: [1, 2", "cannot be read (ParserError"),
        ("lr_max: \tx: y", "cannot be read ("),
        ("\x00", "cannot be read ("),
        ("", "expected lines such as 'lr_max: log:1e-3:1'"),
        ("- lr_max", "expected lines such as"),
        ("just a text", "expected lines such as"),
        ("? [a, b]\n: 1", "cannot be read (ConstructorError"),
        ("!!python/object/apply:os.system ['false']", "expected lines such as"),
    ],
)
def test_files_that_are_no_space(tmp_path: Path, text: str, problem: str) -> None:
    path = space_file(tmp_path, text)
    with pytest.raises(BadOption) as caught:
        read_entries((), path)
    assert str(caught.value).startswith(f"space {path}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(BadOption, match=r"none\.yaml: cannot be read .*FileNotFoundError"):
        read_entries(["lr_max=1,2"], path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(b"lr_max: \xff\xfe")
    with pytest.raises(BadOption, match=r"space\.yaml: cannot be read .*UnicodeDecodeError"):
        read_entries((), path)


def test_a_file_without_entries(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="nothing to search"):
        read_entries((), space_file(tmp_path, "{}"))


@pytest.mark.parametrize("text", ["lr_max", "=1,2", "", "lr_max:1"])
def test_texts_without_a_name(text: str) -> None:
    with pytest.raises(BadOption, match=f"^space {text}: expected NAME=VALUES"):
        read_entries([text], None)


def test_a_name_that_is_given_twice() -> None:
    with pytest.raises(BadOption, match=r"^space lr_max=3,4: lr_max is given twice"):
        read_entries(["lr_max=1,2", "lr_max=3,4"], None)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("lr_max: 1:2\n\nlr_max: 3:4\n", "lr_max is given twice, in lines 1 and 3"),
        ("div:\n  low: 1\n  high: 2\n  low: 3\n", "low is given twice, in lines 2 and 4"),
    ],
)
def test_a_name_that_a_file_gives_twice(tmp_path: Path, text: str, where: str) -> None:
    path = space_file(tmp_path, text)
    with pytest.raises(BadOption) as caught:
        read_entries((), path)
    assert str(caught.value) == f"space {path}: {where}; give it once"


def test_ranges_in_yaml_are_no_numbers_to_the_base_of_sixty(tmp_path: Path) -> None:
    path = space_file(tmp_path, "cycles: 1:5\nlr_max: 1e-3:1\neps: [1e-3, 1]\nhead: [gap, conv]")
    assert read_entries((), path) == {
        "cycles": "1:5",
        "lr_max": "1e-3:1",
        "eps": ["1e-3", "1"],
        "head": ["gap", "conv"],
    }


def test_a_text_replaces_the_files_entry(tmp_path: Path) -> None:
    path = space_file(tmp_path, "lr_max: 1:2\ndiv: 5:6")
    assert read_entries([" lr_max = 3:4 ", "model=a=b,c"], path) == {
        "lr_max": "3:4",
        "div": "5:6",
        "model": "a=b,c",
    }


def test_texts_alone_leave_the_default_out() -> None:
    assert read_entries(["lr_max=1:2"], None) == {"lr_max": "1:2"}
    assert read_entries((), None) == read_entries((), DEFAULT_SPACE)
