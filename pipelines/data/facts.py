"""What the diagnosis may know of the data before training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipelines.data.images import Split
from tracking.diagnosis.evidence import DataFacts

__all__ = ["data_facts"]

SEED = 7


def data_facts(train: Split, valid: Split, classes: int) -> DataFacts:
    """Sizes, classes, and how many validation images are training images too.

    Images that are read on demand are not compared: that would read them all.
    """
    overlap = 0
    if len(valid) and isinstance(train.images, Tensor) and isinstance(valid.images, Tensor):
        known = np.isin(_fingerprints(valid.images), _fingerprints(train.images))
        overlap = int(known.sum())
    counts = train.labels.bincount(minlength=classes).tolist()
    return DataFacts(len(train), len(valid), tuple(counts), overlap)


def _fingerprints(images: Tensor) -> npt.NDArray[np.uint64]:
    """A number of 64 bits for each uint8 image (N, ...); equal images have equal ones.

    Multilinear hashing of the image's words by random odd numbers (Lemire and Kaser 2014): two
    different images meet by a chance of about 2^-63.
    """
    flat = images.flatten(1).contiguous().numpy()
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8)))
    words = padded.view(np.uint64)
    generator = np.random.default_rng(SEED)
    factors = generator.integers(0, 2**64, words.shape[1], np.uint64) | np.uint64(1)
    return np.asarray((words * factors).sum(axis=1, dtype=np.uint64))
