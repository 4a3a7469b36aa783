"""Folders of images: classes, modes, sizes, and everything that may be wrong with them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.data.folders import read_folder
from pipelines.data.images import LazyImages, RawData
from tracking.errors import BadDataset

__all__: list[str] = []


def save(path: Path, pixels: np.ndarray | None = None, mode: str = "RGB", side: int = 8) -> Path:
    """An image whose pixels follow from its name, unless they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        seed = sum(path.name.encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one of them with a folder inside."""
    for name in ("dog/2.png", "dog/inner/1.png", "cat/a.png", "cat/b.bmp", "cat/C.PNG"):
        save(tmp_path / "pets" / name)
    return tmp_path / "pets"


def in_memory(raw: RawData) -> Tensor:
    assert isinstance(raw.train.images, Tensor)
    return raw.train.images


def test_sub_folders_are_classes(folder: Path) -> None:
    (folder / "readme.txt").write_text("not a class")
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / "cat" / "._a.png").write_text("not an image, but named like one")
    (folder / ".thumbnails").mkdir()
    raw = read_folder(folder, 0)
    assert (raw.name, raw.source, raw.classes) == ("folder:pets", str(folder), ("cat", "dog"))
    assert raw.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert raw.test is None
    names = ("cat/C.PNG", "cat/a.png", "cat/b.bmp", "dog/2.png", "dog/inner/1.png")
    expected = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    assert np.array_equal(in_memory(raw).permute(0, 2, 3, 1).numpy(), expected)


def test_all_grey_images_have_one_channel(tmp_path: Path) -> None:
    for name, mode in (("a/1.png", "L"), ("a/2.png", "1"), ("b/1.png", "LA")):
        save(tmp_path / name, mode=mode)
    sixteen = np.full((8, 8), 300, np.uint16)
    sixteen[0, 0] = 65535
    save(tmp_path / "b/2.png", sixteen, mode="I;16")
    images = in_memory(read_folder(tmp_path, 0))
    assert images.shape == (4, 1, 8, 8)
    assert images[3, 0, 0, :2].tolist() == [255, 1]


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    save(tmp_path / "a/grey.png", mode="L")
    save(tmp_path / "a/palette.png", mode="P")
    save(tmp_path / "b/cmyk.jpg", mode="CMYK")
    save(tmp_path / "b/alpha.png", mode="RGBA")
    images = in_memory(read_folder(tmp_path, 0))
    assert images.shape == (4, 3, 8, 8)
    grey = images[0]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png")
    (tmp_path / "b").mkdir()
    with Image.open(tmp_path / "a/1.png") as image:
        image.convert("P").save(tmp_path / "b/1.png", transparency=bytes(range(256)))
    assert in_memory(read_folder(tmp_path, 0)).shape == (2, 3, 8, 8)


def test_images_are_resized(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png", side=8)
    save(tmp_path / "b/1.png", np.full((6, 12, 3), 200, np.uint8))
    images = in_memory(read_folder(tmp_path, 10))
    assert images.shape == (2, 3, 10, 10)
    assert (images[1] == 200).all()


def test_images_need_not_be_square(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", np.zeros((6, 12, 3), np.uint8))
    assert in_memory(read_folder(tmp_path, 0)).shape == (2, 3, 6, 12)


@pytest.mark.parametrize("size", [0, 12])
def test_what_does_not_fit_into_memory_is_read_on_demand(folder: Path, size: int) -> None:
    side = size or 8
    now = in_memory(read_folder(folder, size, memory_limit=5 * 3 * side * side))
    lazy = read_folder(folder, size, memory_limit=5 * 3 * side * side - 1).train.images
    assert isinstance(lazy, LazyImages)
    assert lazy.shape == now.shape
    lazy = pickle.loads(pickle.dumps(lazy))
    assert torch.equal(lazy[torch.tensor([3, 0])], now[[3, 0]])


def test_identity_follows_the_files(folder: Path) -> None:
    def identity() -> bytes:
        images = read_folder(folder, 0, memory_limit=0).train.images
        assert isinstance(images, LazyImages)
        return images.reader.identity()

    before = identity()
    assert identity() == before
    save(folder / "cat" / "a.png", np.zeros((8, 8, 3), np.uint8))
    changed = identity()
    assert changed != before
    (folder / "cat" / "a.png").rename(folder / "cat" / "z.png")
    assert identity() not in (before, changed)


def refused(path: Path, size: int = 0) -> str:
    with pytest.raises(BadDataset) as caught:
        read_folder(path, size)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_folder(tmp_path: Path) -> None:
    assert re.match(r"folder .*/nowhere: does not exist", refused(tmp_path / "nowhere"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; expected a folder" in refused(tmp_path / "file")


def test_a_folder_without_classes(tmp_path: Path) -> None:
    assert "has no sub-folders; expected one per class" in refused(tmp_path)
    save(tmp_path / "1.png")
    assert "has no sub-folders" in refused(tmp_path)


def test_one_class(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png")
    assert "has one class, 'cat'; at least 2" in refused(tmp_path)


def test_a_class_without_images_is_named(folder: Path) -> None:
    (folder / "eel").mkdir()
    (folder / "eel" / "1.txt").write_text("")
    assert f"folder {folder / 'eel'}: holds no images" in refused(folder)


def test_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("train", "Test"):
        save(tmp_path / part / "cat" / "1.png")
    assert f"look like parts of a data set, not like classes; give folder:{tmp_path}" in refused(
        tmp_path
    )


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | None) -> None:
    bad = folder / "dog" / "bad.png"
    whole = save(bad).read_bytes()
    bad.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert re.match(
        rf"image {bad}: cannot be read \(\w+: .*\); repair or remove it", refused(folder)
    )


def test_an_unreadable_image_is_named_when_it_is_read_on_demand(folder: Path) -> None:
    images = read_folder(folder, 0, memory_limit=0).train.images
    (folder / "cat" / "a.png").unlink()
    with pytest.raises(BadDataset, match=r"image .*a\.png: cannot be read"):
        images[torch.arange(5)]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bits_a_pixel_are_refused(folder: Path, kind: type) -> None:
    bad = folder / "dog" / "bad.tiff"
    Image.fromarray(np.zeros((8, 8), kind)).save(bad)
    message = refused(folder)
    assert f"image {bad}" in message
    assert "expected 8 or 16 bits a channel" in message


def test_different_sizes_are_both_given(folder: Path) -> None:
    save(folder / "dog" / "9.png", np.zeros((6, 12, 3), np.uint8))
    message = refused(folder)
    assert "has 8x8 pixels" in message
    assert f"{folder / 'dog' / '9.png'} 12x6; give image_size" in message
