"""LrRangeConfig: the options that `layerscope lr-find` has beside those of a training run."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.base_options import Options

__all__ = ["LrRangeConfig"]


class LrRangeConfig(Options):
    """Options of the learning-rate range test, beside those of RunConfig."""

    lr_start: float = Field(1e-7, gt=0)
    """First learning rate."""
    lr_end: float = Field(10.0, gt=0)
    """Last learning rate; the test ends earlier when the loss diverges."""
    lr_steps: int = Field(100, ge=10)
    """Steps from the first to the last learning rate, evenly spaced in the logarithm."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.lr_start >= self.lr_end:
            raise ValueError(f"lr_start={self.lr_start} must be below lr_end={self.lr_end}")
        return self
