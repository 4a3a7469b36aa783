"""Public data sets: where they are found, how they are read, and what happens offline."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import datasets

from pipelines.data import public_sets
from pipelines.data.images import RawData
from pipelines.data.public_sets import IDX_FILES, IDX_SETS, read_archive, read_idx_set
from tracking.errors import BadDataset

__all__: list[str] = []

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no data sets of this machine."""

    def no_network(*args: Any, **kwargs: Any) -> NoReturn:
        raise socket.gaierror("Name or service\nnot known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(public_sets, "SYSTEM_FOLDER", tmp_path / "system")


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, packed: bool = False, value: int = 0) -> None:
    """30 training and 10 test images, the first pixel of which is `value`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("t10k", 10)):
        images = RANDOM.integers(0, 256, (count, 28, 28))
        images[:, 0, 0] = value
        parts = {"images-idx3": images, "labels-idx1": np.arange(count) % 10}
        for kind, values in parts.items():
            name = f"{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / name).write_bytes(idx(values))


def first_pixel(raw: RawData) -> int:
    assert isinstance(raw.train.images, Tensor)
    return int(raw.train.images[0, 0, 0, 0])


# -- MNIST's family --


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", IDX_SETS)
def test_reads_what_is_there(tmp_path: Path, name: str, packed: bool) -> None:
    write_idx_set(tmp_path, packed)
    raw = read_idx_set(name, tmp_path)
    assert (raw.name, raw.source) == (name, str(tmp_path))
    assert len(raw.classes) == 10
    assert raw.train.images.shape == (30, 1, 28, 28)
    assert raw.train.labels.tolist() == [number % 10 for number in range(30)]
    assert raw.test is not None
    assert raw.test.images.shape == (10, 1, 28, 28)


@pytest.mark.parametrize("name", IDX_SETS)
def test_class_names_are_torchvisions(name: str) -> None:
    known = IDX_SETS[name]
    theirs = getattr(datasets, known.torchvision_name).classes
    shortened = [each.split(" - ")[0] if name == "mnist" else each for each in theirs]
    assert list(known.classes) == shortened


def test_the_folder_that_names_the_set_comes_first(tmp_path: Path) -> None:
    # MNIST's files have the names of Fashion-MNIST's: what lies in data_dir itself may be either.
    places = ["data", "system/kmnist", "data/KMNIST/raw", "data/kmnist"]
    for value, place in enumerate(places):
        write_idx_set(tmp_path / place, packed=value % 2 == 0, value=value)
        assert first_pixel(read_idx_set("kmnist", tmp_path / "data")) == value


def test_a_folder_that_lacks_a_file_is_passed_over(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "system" / "mnist", value=1)
    write_idx_set(tmp_path / "data", value=2)
    (tmp_path / "data" / IDX_FILES[3]).unlink()
    assert first_pixel(read_idx_set("mnist", tmp_path / "data")) == 1


def test_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(29)))
    with pytest.raises(BadDataset, match=r"train-images-idx3-ubyte: holds 30 .* holds 29 labels"):
        read_idx_set("mnist", tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_idx_set(tmp_path, packed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadDataset, match=rf"^{path}: cannot be read \(EOFError"):
        read_idx_set("mnist", tmp_path)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_files_are_read_as_torchvision_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_sets, "SYSTEM_FOLDER", DEBIAN.parent)
    raw = read_idx_set("fashion-mnist", tmp_path)
    assert raw.source == str(DEBIAN)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in IDX_FILES:
        (folder / name).write_bytes(gzip.decompress((DEBIAN / f"{name}.gz").read_bytes()))
    for ours, training in ((raw.train, True), (raw.test, False)):
        theirs = datasets.FashionMNIST(tmp_path, train=training)
        assert ours is not None
        assert isinstance(ours.images, Tensor)
        assert torch.equal(ours.images.squeeze(1), theirs.data)
        assert torch.equal(ours.labels, theirs.targets)


# -- downloads --


def refused(read: Callable[[str, Path], RawData], name: str, data_dir: Path) -> str:
    with pytest.raises(BadDataset) as caught:
        read(name, data_dir)
    message = str(caught.value)
    assert message.startswith(f"dataset={name}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("read", "name", "wanted"),
    [
        (read_idx_set, "mnist", "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-"),
        (read_archive, "cifar10", "cifar-10-python.tar.gz into"),
        (read_archive, "cifar100", "cifar-100-python.tar.gz into"),
        (read_archive, "svhn", "train_32x32.mat and test_32x32.mat into"),
    ],
)
def test_offline_says_which_files_to_put_where(
    read: Callable[[str, Path], RawData],
    name: str,
    wanted: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = refused(read, name, tmp_path / "data")
    assert "the download failed (" in message
    assert "Name or service not known" in message
    assert f"put {wanted}" in message
    assert f" into {tmp_path / 'data'}" in message
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/layerscope"])
def test_a_data_dir_that_cannot_be_written(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.MNIST, "download", pytest.fail)
    monkeypatch.setattr(datasets.CIFAR10, "download", pytest.fail)
    read = read_idx_set if name in IDX_SETS else read_archive
    message = refused(read, name, tmp_path / place)
    assert f"data_dir={tmp_path / place} cannot be written (" in message


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**kwargs: Any) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "cannot be written (OSError: [Errno 30] Read-only" in refused(
        read_idx_set, "mnist", tmp_path
    )


def test_downloaded_files_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def download(self: datasets.MNIST) -> None:
        sys.stdout.write("Downloading")
        sys.stderr.write("100%")
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        write_idx_set(Path(self.raw_folder), value=7)

    monkeypatch.setattr(datasets.MNIST, "download", download)
    raw = read_idx_set("mnist", tmp_path)
    assert first_pixel(raw) == 7
    assert raw.source == str(tmp_path / "MNIST" / "raw")
    assert capfd.readouterr() == ("", "")


# -- CIFAR and SVHN --


def write_cifar(folder: Path, files: dict[str, int], labels: str, classes: str) -> np.ndarray:
    """Files in CIFAR's format; returns the images of the first of them."""
    folder.mkdir(parents=True)
    written = []
    for name, count in files.items():
        data = RANDOM.integers(0, 256, (count, 3072)).astype(np.uint8)
        written.append(data)
        entry = {"data": data, labels: [number % 4 for number in range(count)]}
        (folder / name).write_bytes(pickle.dumps(entry))
    meta = "batches.meta" if "10-batches" in folder.name else "meta"
    (folder / meta).write_bytes(pickle.dumps({classes: ["a", "b", "c", "d"]}))
    return written[0].reshape(-1, 3, 32, 32)


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes files of ours for the real ones."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5=None: Path(path).is_file(),
        )


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize(
    ("name", "folder", "files", "labels", "classes"),
    [
        (
            "cifar10",
            "cifar-10-batches-py",
            {**{f"data_batch_{part}": 4 for part in range(1, 6)}, "test_batch": 4},
            "labels",
            "label_names",
        ),
        (
            "cifar100",
            "cifar-100-python",
            {"train": 20, "test": 4},
            "fine_labels",
            "fine_label_names",
        ),
    ],
)
def test_reads_cifar(
    tmp_path: Path, name: str, folder: str, files: dict[str, int], labels: str, classes: str
) -> None:
    first = write_cifar(tmp_path / folder, files, labels, classes)
    raw = read_archive(name, tmp_path)
    assert (raw.name, raw.source) == (name, str(tmp_path))
    assert raw.classes == ("a", "b", "c", "d")
    assert raw.train.images.shape == (20, 3, 32, 32)
    assert isinstance(raw.train.images, Tensor)
    assert np.array_equal(raw.train.images[: len(first)].numpy(), first)
    assert raw.train.labels.dtype == torch.int64
    assert raw.test is not None
    assert raw.test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("any_checksum")
def test_reads_svhn(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    images = RANDOM.integers(0, 256, (12, 3, 32, 32)).astype(np.uint8)
    for part in ("train", "test"):
        content = {"X": images.transpose(2, 3, 1, 0), "y": np.arange(1, 13)[:, None] % 10 + 1}
        savemat(tmp_path / f"{part}_32x32.mat", content)
    raw = read_archive("svhn", tmp_path)
    assert raw.classes == tuple("0123456789")
    assert isinstance(raw.train.images, Tensor)
    assert np.array_equal(raw.train.images.numpy(), images)
    assert raw.train.labels.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]  # 10 stands for 0
    assert raw.test is not None


def test_damaged_archives_count_as_missing(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-100-python", {"train": 4, "test": 4}, "fine_labels", "names")
    message = refused(read_archive, "cifar100", tmp_path)
    assert "no complete copy found" in message


def test_files_in_the_folder_of_another_set_are_not_taken(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "fashion-mnist", packed=True, value=3)
    with pytest.raises(BadDataset, match="kmnist"):
        read_idx_set("kmnist", tmp_path / "fashion-mnist")
