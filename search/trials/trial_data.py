"""The images of a worker's trials, which most have in common."""

from __future__ import annotations

from typing import Any

from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset

__all__ = ["TrialData"]

OPTIONS = (
    *("dataset", "data_dir", "image_size", "valid_fraction", "test_fraction", "train_limit"),
    "seed",  # of the splits, which differ from seed to seed in a comparison
)
"""What the images of a run depend on."""


class TrialData:
    """Gives a trial's images: those of the trial before, or freshly loaded where it has others."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        self._key, self._data = _key(config), data

    def of(self, config: RunConfig) -> ImageData:
        """The images for a configuration. Raises BadDataset: they cannot be had."""
        if _key(config) != self._key:
            self._data = load_dataset(config)
            self._key = _key(config)
        return self._data


def _key(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in OPTIONS}
