"""IDX files, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from pipelines.data.idx import read_idx
from tracking.errors import BadDataset

__all__: list[str] = []

SHAPE = (2, 3, 4)
CONTENT = struct.pack(">BBBBIII", 0, 0, 8, 3, *SHAPE) + bytes(range(24))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    content = gzip.compress(CONTENT, mtime=0) if name.endswith(".gz") else CONTENT
    images = read_idx(write(tmp_path / name, content), 3)
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.arange(24, dtype=torch.uint8).view(SHAPE))


def test_a_file_may_hold_nothing(tmp_path: Path) -> None:
    empty = struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28)
    assert read_idx(write(tmp_path / "images", empty), 3).shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x", b"", "it begins with nothing"),
        ("x", b"<html>", "it begins with 3c 68 74 6d"),
        ("x", b"\0\0\x0d\3" + CONTENT[4:], "not an IDX file of unsigned bytes"),  # floats
        ("x", b"\0\0\x08\1" + CONTENT[4:], "with 3 dimensions"),  # labels for images
        ("x", CONTENT[:10], "ends within its header"),
        ("x", CONTENT[:-1], "holds 23 values where its header says 2 x 3 x 4 = 24"),
        ("x", CONTENT + b"\0", "holds 25 values where its header says 2 x 3 x 4 = 24"),
        ("x.gz", CONTENT, "cannot be read (BadGzipFile: "),
        ("x.gz", gzip.compress(CONTENT, mtime=0)[:-12], "cannot be read (EOFError: "),
        ("x.gz", gzip.compress(CONTENT, mtime=0)[:10] + b"\xff" * 30, "cannot be read (error: "),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(BadDataset) as caught:
        read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"nowhere: cannot be read \(FileNotFoundError"):
        read_idx(tmp_path / "nowhere", 3)
