"""The public data sets: MNIST's family as IDX files, CIFAR and SVHN through torchvision.

What lies on disk already is used; the rest is downloaded by torchvision into ``data_dir``.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.idx import read_idx
from pipelines.data.images import RawData, Split
from tracking.errors import BadDataset
from tracking.reasons import one_line

__all__ = ["ARCHIVES", "IDX_SETS", "read_archive", "read_idx_set"]

log = logging.getLogger("layerscope")

DIGITS = tuple("0123456789")
SYSTEM_FOLDER = Path("/usr/share/datasets")  # Debian's packages dataset-* put their files there
IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
SILENCE = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True)
class _IdxSet:
    torchvision_name: str
    classes: tuple[str, ...]


IDX_SETS = {
    "fashion-mnist": _IdxSet(
        "FashionMNIST",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "mnist": _IdxSet("MNIST", DIGITS),
    "kmnist": _IdxSet("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
}


@dataclass(frozen=True)
class _Archive:
    torchvision_name: str
    wanted: str
    """What to put into data_dir by hand."""
    labels: str
    """Name of torchvision's attribute that holds the labels."""


ARCHIVES = {
    "cifar10": _Archive("CIFAR10", "cifar-10-python.tar.gz", "targets"),
    "cifar100": _Archive("CIFAR100", "cifar-100-python.tar.gz", "targets"),
    "svhn": _Archive("SVHN", "train_32x32.mat and test_32x32.mat", "labels"),
}


def read_idx_set(name: str, data_dir: Path) -> RawData:
    """fashion-mnist, mnist or kmnist, plain or gzipped.

    Looked for in ``data_dir/<name>``, torchvision's ``data_dir/<Name>/raw``,
    ``/usr/share/datasets/<name>`` and ``data_dir`` itself, then downloaded. The three sets share
    their files' names, so files in ``data_dir`` itself do not count where its name is that of
    another set.

    Raises BadDataset: a file is damaged, or is missing and cannot be downloaded.
    """
    known = IDX_SETS[name]
    raw = data_dir / known.torchvision_name / "raw"
    folders = [data_dir / name, raw, SYSTEM_FOLDER / name]
    if data_dir.name not in IDX_SETS.keys() - {name}:
        folders.append(data_dir)
    files = next(filter(None, map(_idx_files, folders)), None)
    if files is None:
        wanted = f"{', '.join(IDX_FILES)} (plain or .gz)"
        _download(
            name,
            data_dir,
            data_dir / name,
            wanted,
            lambda: _torchvision(known)(data_dir, download=True),
        )
        files = _idx_files(raw)
    if files is None:
        raise BadDataset(f"dataset={name}: downloaded, but {raw} lacks some of its files")
    return RawData(
        name, str(files[0].parent), known.classes, _idx_split(*files[:2]), _idx_split(*files[2:])
    )


def _idx_files(folder: Path) -> tuple[Path, ...] | None:
    """The four files of a set in a folder, each plain or gzipped; None unless all are there."""
    found = []
    for stem in IDX_FILES:
        plain = folder / stem
        file = plain if plain.is_file() else plain.with_name(f"{stem}.gz")
        if not file.is_file():
            return None
        found.append(file)
    return tuple(found)


def _idx_split(images_file: Path, labels_file: Path) -> Split:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise BadDataset(
            f"{images_file}: holds {len(images)} images, but {labels_file.name} holds "
            f"{len(labels)} labels; fetch both again"
        )
    return Split(images.unsqueeze(1), labels.long())


def read_archive(name: str, data_dir: Path) -> RawData:
    """cifar10, cifar100 or svhn (colour, 32 x 32 pixels), through torchvision.

    Raises BadDataset: the files are missing or damaged and cannot be downloaded.
    """
    known = ARCHIVES[name]

    def load(download: bool) -> tuple[Any, Any]:
        return tuple(_part(known, data_dir, part, download) for part in ("train", "test"))

    try:
        with _quiet():
            train, test = load(download=False)
    except (RuntimeError, OSError):  # torchvision's word for files that are missing or damaged
        train, test = _download(name, data_dir, data_dir, known.wanted, lambda: load(download=True))
    classes = tuple(getattr(train, "classes", DIGITS))
    return RawData(
        name, str(data_dir), classes, _archive_split(train, known), _archive_split(test, known)
    )


def _part(known: _Archive, data_dir: Path, part: str, download: bool) -> Any:
    which = {"split": part} if known.torchvision_name == "SVHN" else {"train": part == "train"}
    return _torchvision(known)(data_dir, download=download, **which)


def _archive_split(part: Any, known: _Archive) -> Split:
    images = np.asarray(part.data, dtype=np.uint8)
    if known.torchvision_name != "SVHN":
        images = images.transpose(0, 3, 1, 2)  # CIFAR's are kept for PIL: (N, H, W, C)
    labels = torch.tensor(getattr(part, known.labels), dtype=torch.int64)
    return Split(torch.from_numpy(np.ascontiguousarray(images)), labels)


def _torchvision(known: _IdxSet | _Archive) -> Callable[..., Any]:
    from torchvision import (
        datasets,
    )  # seconds to import, and needed for downloads and archives only

    return getattr(datasets, known.torchvision_name)  # type: ignore[no-any-return]


def _download(
    name: str, data_dir: Path, folder: Path, wanted: str, fetch: Callable[[], Any]
) -> Any:
    """What `fetch` returns, or a BadDataset that says which files to put into which folder."""
    _require_writable(name, data_dir)
    log.info("downloading %s into %s", name, data_dir)
    try:
        with _quiet():
            return fetch()
    except Exception as error:  # network, archive and checksum errors share no base class
        raise BadDataset(
            f"dataset={name}: no complete copy found, and the download failed "
            f"({one_line(error)}); put {wanted} into {folder}"
        ) from error


def _require_writable(name: str, data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        raise BadDataset(
            f"dataset={name}: must be downloaded, but data_dir={data_dir} cannot be written "
            f"({one_line(error)}); give a data_dir that can be written"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torchvision without its progress bars, prints and warnings, and without endless waiting."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
