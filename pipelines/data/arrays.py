"""``package.module:factory``: arrays from the user's own code, checked and brought into shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.images import RawData, Split
from pipelines.factories import load_factory
from tracking.errors import BadDataset
from tracking.reasons import one_line

__all__ = ["read_factory"]

FIELDS = ("images", "labels", "test_images", "test_labels")
EXPECTED = (
    "expected (images, labels) or (images, labels, test_images, test_labels), or an object with "
    "attributes of these names"
)
CHANNEL_COUNTS = (1, 3, 4)


def read_factory(spec: str) -> RawData:
    """Call the factory that ``package.module:factory`` names, and check what it returns.

    That is a tuple (images, labels) or (images, labels, test_images, test_labels), or an object
    with attributes of these names and, if it likes, ``classes`` (the names). Images are uint8
    arrays or tensors (N, C, H, W) or (N, H, W); labels are whole numbers (N) from 0.

    Raises BadDataset: the factory cannot be imported, raises, or returns something else.
    """
    factory = load_factory(spec, BadDataset)
    try:
        returned = factory()
    except Exception as cause:  # the user's code may raise anything
        raise BadDataset(f"dataset={spec}: the factory raised {one_line(cause)}") from cause
    values = _fields(spec, returned)
    train = _split(spec, values, "images", "labels")
    test = _split(spec, values, "test_images", "test_labels") if len(values) == 4 else None
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        raise BadDataset(
            f"dataset={spec}: images have shape {tuple(train.images.shape[1:])}, test_images "
            f"{tuple(test.images.shape[1:])}; expected the same"
        )
    return RawData(spec, spec, _classes(spec, returned, train), train, test)


def _fields(spec: str, returned: Any) -> dict[str, Any]:
    """The two or four arrays by name."""
    if isinstance(returned, tuple | list):
        if len(returned) not in (2, 4):
            raise BadDataset(f"dataset={spec}: returned {len(returned)} values; {EXPECTED}")
        return dict(zip(FIELDS, returned, strict=False))
    values = {name: getattr(returned, name, None) for name in FIELDS}
    given = {name: value for name, value in values.items() if value is not None}
    if tuple(given) not in (FIELDS[:2], FIELDS):
        having = f" with only {', '.join(given)}" if given else ""
        raise BadDataset(
            f"dataset={spec}: returned a {type(returned).__name__}{having}; {EXPECTED}"
        )
    return given


def _classes(spec: str, returned: Any, train: Split) -> tuple[str, ...]:
    named = getattr(returned, "classes", None)
    if named is not None:
        return tuple(map(str, named))
    highest = int(train.labels.max())
    if highest >= len(train):
        raise BadDataset(
            f"dataset={spec}: label {highest} is out of range: {len(train)} images cannot show "
            f"so many classes; allowed: 0 to {len(train) - 1}, numbered without gaps"
        )
    return tuple(map(str, range(highest + 1)))


def _split(spec: str, values: dict[str, Any], images_name: str, labels_name: str) -> Split:
    images = _images(f"dataset={spec}: {images_name}", values[images_name])
    labels = _labels(f"dataset={spec}: {labels_name}", values[labels_name])
    if len(images) != len(labels):
        raise BadDataset(
            f"dataset={spec}: {len(images)} {images_name}, but {len(labels)} {labels_name}; "
            "expected one label for each image"
        )
    return Split(images, labels)


def _images(what: str, value: Any) -> Tensor:
    images = _tensor(what, value)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise BadDataset(
            f"{what} is {_kind(images)}; expected uint8 (N, C, H, W) or (N, H, W), none of them 0"
        )
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.shape[1] not in CHANNEL_COUNTS and images.shape[3] in CHANNEL_COUNTS:
        raise BadDataset(
            f"{what} is {_kind(images)}, which looks like (N, H, W, C); expected (N, C, H, W)"
        )
    return images


def _labels(what: str, value: Any) -> Tensor:
    labels = _tensor(what, value)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.ndim != 1:
        raise BadDataset(f"{what} is {_kind(labels)}; expected whole numbers (N)")
    return labels.long()


def _tensor(what: str, value: Any) -> Tensor:
    """A tensor in main memory that shares no memory with a read-only array."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    if not isinstance(value, np.ndarray):
        raise BadDataset(f"{what} is a {type(value).__name__}; expected a NumPy array or a tensor")
    try:
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    except TypeError:  # no torch type for it: text, objects, dates
        raise BadDataset(f"{what} has type {value.dtype}; expected whole numbers") from None


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
