"""Arrays from a factory: what is accepted and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.arrays import read_factory
from pipelines.data.images import RawData
from tracking.errors import BadDataset

__all__: list[str] = []

IMAGES = np.arange(4 * 2 * 5 * 6, dtype=np.uint8).reshape(4, 2, 5, 6)
LABELS = np.array([0, 1, 2, 1])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], RawData]:
    """Reads what a factory returns, or what it raises."""

    def read_(returned: Any) -> RawData:
        def factory() -> Any:
            if isinstance(returned, Exception):
                raise returned
            return returned

        module = ModuleType("own_arrays")
        vars(module)["make"] = factory
        monkeypatch.setitem(sys.modules, "own_arrays", module)
        return read_factory("own_arrays:make")

    return read_


Read = Callable[[Any], RawData]


def test_two_arrays(read: Read) -> None:
    raw = read((IMAGES, LABELS))
    assert (raw.name, raw.source) == ("own_arrays:make", "own_arrays:make")
    assert raw.classes == ("0", "1", "2")
    assert raw.test is None
    assert torch.equal(torch.as_tensor(raw.train.images), torch.from_numpy(IMAGES))
    assert raw.train.labels.dtype == torch.int64
    assert raw.train.labels.tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_labels_of_any_whole_type(read: Read, kind: type) -> None:
    assert read((IMAGES, LABELS.astype(kind))).train.labels.tolist() == [0, 1, 2, 1]


def test_four_tensors(read: Read) -> None:
    tensors = [torch.from_numpy(values) for values in (IMAGES, LABELS, IMAGES[:2], LABELS[:2])]
    raw = read(tensors)
    assert raw.test is not None
    assert raw.test.images.shape == (2, 2, 5, 6)
    assert raw.test.labels.tolist() == [0, 1]


def test_grey_images_need_no_channel_dimension(read: Read) -> None:
    assert read((IMAGES[:, 0], LABELS)).train.images.shape == (4, 1, 5, 6)


def test_an_object_may_name_its_classes(read: Read) -> None:
    raw = read(SimpleNamespace(images=IMAGES, labels=LABELS, classes=["x", "y", "z", "never"]))
    assert raw.classes == ("x", "y", "z", "never")
    assert raw.test is None
    both = SimpleNamespace(
        images=IMAGES, labels=LABELS, test_images=IMAGES[:1], test_labels=LABELS[:1]
    )
    assert len(read(both).test or ()) == 1


def test_arrays_that_torch_cannot_share_are_copied(read: Read) -> None:
    frozen = IMAGES.copy()
    frozen.flags.writeable = False
    assert torch.equal(torch.as_tensor(read((frozen, LABELS)).train.images), torch.tensor(IMAGES))
    mirrored = read((IMAGES[..., ::-1], LABELS[::-1])).train
    assert torch.equal(torch.as_tensor(mirrored.images), torch.tensor(IMAGES).flip(3))
    assert mirrored.labels.tolist() == [1, 2, 1, 0]


PLAIN = "expected uint8 (N, C, H, W) or (N, H, W), none of them 0"


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (ValueError("no\nluck"), "the factory raised ValueError: no luck"),
        (None, "returned a NoneType; expected (images, labels) or"),
        ((IMAGES,), "returned 1 values; expected (images, labels) or"),
        ((IMAGES, LABELS, IMAGES), "returned 3 values; expected"),
        (SimpleNamespace(images=IMAGES), "a SimpleNamespace with only images; expected"),
        (
            SimpleNamespace(images=IMAGES, labels=LABELS, test_images=IMAGES),
            "a SimpleNamespace with only images, labels, test_images; expected",
        ),
        (([1], LABELS), "images is a list; expected a NumPy array or a tensor"),
        ((IMAGES / 255, LABELS), f"images is float64 (4, 2, 5, 6); {PLAIN}"),
        ((IMAGES[0, 0], LABELS), f"images is uint8 (5, 6); {PLAIN}"),
        ((IMAGES[:0], LABELS[:0]), f"images is uint8 (0, 2, 5, 6); {PLAIN}"),
        ((IMAGES.astype(str), LABELS), "images has type <U3; expected whole numbers"),
        (
            (np.zeros((4, 28, 28, 3), np.uint8), LABELS),
            "images is uint8 (4, 28, 28, 3), which looks like (N, H, W, C); expected (N, C, H, W)",
        ),
        ((IMAGES, LABELS.astype(float)), "labels is float64 (4,); expected whole numbers (N)"),
        ((IMAGES, LABELS > 0), "labels is bool (4,); expected whole numbers (N)"),
        ((IMAGES, np.eye(4, dtype=int)), "labels is int64 (4, 4); expected whole numbers (N)"),
        ((IMAGES, LABELS[:3]), "4 images, but 3 labels; expected one label for each image"),
        ((IMAGES, LABELS, IMAGES, LABELS[:1]), "4 test_images, but 1 test_labels; expected"),
        (
            (IMAGES, LABELS, IMAGES[..., :5], LABELS),
            "images have shape (2, 5, 6), test_images (2, 5, 5); expected the same",
        ),
        ((IMAGES, LABELS + 10**12), "label 1000000000002 is out of range: 4 images cannot show"),
    ],
)
def test_one_line_about_what_came_and_what_is_expected(
    read: Read, returned: Any, reason: str
) -> None:
    with pytest.raises(BadDataset) as caught:
        read(returned)
    assert str(caught.value).startswith("dataset=own_arrays:make: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factory_that_is_not_there() -> None:
    with pytest.raises(BadDataset, match=r"nowhere\.at_all:make: .* cannot be imported"):
        read_factory("nowhere.at_all:make")
