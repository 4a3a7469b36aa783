"""``folder:PATH``: images in one sub-folder per class, in memory or decoded on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.data.images import MEMORY_LIMIT, Images, LazyImages, RawData, Split, resize
from tracking.errors import BadDataset
from tracking.reasons import one_line

__all__ = ["read_folder"]

T = TypeVar("T")
R = TypeVar("R")

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
PART_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_folder(path: Path, image_size: int, memory_limit: int = MEMORY_LIMIT) -> RawData:
    """Every image below `path`; the sub-folders, sorted by name, are the classes.

    Images are searched for in sub-folders of the classes too; hidden files are passed over. All
    become one channel when every one is grey, else three (RGB, without transparency). They stay on
    disk, to be decoded on demand, when they would take more than `memory_limit` bytes.

    Raises BadDataset: no such folder, no or only one class, a class without images, an image that
    cannot be read, or images of different sizes while `image_size` is 0.
    """
    files, labels, classes = _list(path)
    headers = _in_threads(_header, files)
    channels = 1 if all(mode in GREY_MODES for mode, _ in headers) else 3
    width, height = (image_size, image_size) if image_size else _common_size(files, headers)
    reader = _FolderReader(path, files, channels, image_size)
    images: Images = LazyImages(reader, torch.arange(len(files)), (channels, height, width))
    if len(files) * channels * height * width <= memory_limit:
        images = _read_all(reader, (len(files), channels, height, width))
    train = Split(images, torch.tensor(labels))
    return RawData(f"folder:{path.resolve().name}", str(path.resolve()), classes, train)


@dataclass(frozen=True, eq=False)
class _FolderReader:
    """Decodes image files.

    Raises BadDataset, when it is called: an image is damaged or gone.
    """

    root: Path
    files: tuple[Path, ...]
    channels: int
    size: int

    def __call__(self, index: Tensor) -> Tensor:
        return torch.stack(_in_threads(self.read, index.tolist()))

    def read(self, number: int) -> Tensor:
        """One image: uint8 (C, H, W)."""
        image = _decode(self.files[number], self.channels)
        return resize(image.unsqueeze(0), self.size)[0] if self.size else image

    def identity(self) -> bytes:
        """Names, lengths and times of change of the files."""
        lines = [f"channels {self.channels} size {self.size}"]
        for file in self.files:
            state = file.stat()
            name = file.relative_to(self.root).as_posix()
            lines.append(f"{name} {state.st_size} {state.st_mtime_ns}")
        return "\n".join(lines).encode("utf-8", "surrogateescape")


def _list(path: Path) -> tuple[tuple[Path, ...], list[int], tuple[str, ...]]:
    """Files, their labels, and the classes."""
    names = _class_names(path)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _image_files(path / name)
        if not found:
            raise BadDataset(f"folder {path / name}: holds no images; every class needs some")
        files += found
        labels += [label] * len(found)
    return tuple(files), labels, names


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        raise BadDataset(f"folder {path}: does not exist; give folder:PATH of an existing folder")
    if not path.is_dir():
        raise BadDataset(f"folder {path}: is a file; expected a folder with a sub-folder per class")
    names = sorted(item.name for item in _children(path) if item.is_dir())
    if not names:
        raise BadDataset(f"folder {path}: has no sub-folders; expected one per class")
    if PART_NAMES.issuperset(name.lower() for name in names):
        raise BadDataset(
            f"folder {path}: {', '.join(names)} look like parts of a data set, not like classes; "
            f"give folder:{path / names[-1]}, say"
        )
    if len(names) == 1:
        raise BadDataset(f"folder {path}: has one class, {names[0]!r}; at least 2 are needed")
    return tuple(names)


def _children(folder: Path) -> list[Path]:
    try:
        return [item for item in folder.iterdir() if not item.name.startswith(".")]
    except OSError as error:
        raise BadDataset(f"folder {folder}: cannot be listed ({one_line(error)})") from error


def _image_files(folder: Path) -> list[Path]:
    Image.init()
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in known
        ]
    return sorted(found)


def _header(file: Path) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height), without decoding the pixels."""
    try:
        with Image.open(file) as image:
            return image.mode, image.size
    except Exception as error:  # PIL's plug-ins raise nearly anything when a file is damaged
        raise _unreadable(file, error) from error


def _decode(file: Path, channels: int) -> Tensor:
    """One image: uint8 (C, H, W)."""
    try:
        with Image.open(file) as image:
            pixels = np.array(_convert(image, channels), dtype=np.uint8)
    except Exception as error:  # as above
        raise _unreadable(file, error) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, 32 bits a pixel; expected 8 or 16 bits a channel")
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits, and make most of it white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info:  # PIL warns when a palette with transparency loses it at once
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def _unreadable(file: Path, error: Exception) -> BadDataset:
    return BadDataset(f"image {file}: cannot be read ({one_line(error)}); repair or remove it")


def _common_size(
    files: Sequence[Path], headers: Sequence[tuple[str, tuple[int, int]]]
) -> tuple[int, int]:
    first = headers[0][1]
    for file, (_, size) in zip(files, headers, strict=True):
        if size != first:
            raise BadDataset(
                f"images of different sizes: {files[0]} has {first[0]}x{first[1]} pixels, {file} "
                f"{size[0]}x{size[1]}; give image_size to resize all of them"
            )
    return first


def _read_all(reader: _FolderReader, shape: tuple[int, int, int, int]) -> Tensor:
    images = torch.empty(shape, dtype=torch.uint8)

    def fill(number: int) -> None:
        images[number] = reader.read(number)

    _in_threads(fill, range(shape[0]))
    return images


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results in order. Threads help, because PIL decodes outside Python's lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))
