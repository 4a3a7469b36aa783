"""Whether the networks of a space can be built: asked before a study is made, not by its trials."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch

from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData
from pipelines.run import make_model
from pipelines.snapshot import RandomState
from search.definition import StudyDefinition
from search.space.conditions import is_active, possible
from search.space.dimension_text import as_text
from search.space.dimensions import Choice, Dimension
from tracking.errors import BadInput, BadOption

__all__ = ["check_networks"]

SHAPING = (
    "model",
    "widths",
    "first_kernel",
    "norm",
    "activation",
    "downsample",
    "head",
    "init",
)
"""Options that a network is built by."""
MOST = 100
"""Networks that are built, of spaces that have more a sample: each takes a hundredth of a second
or several."""


def check_networks(definition: StudyDefinition, data: ImageData) -> None:
    """Build the network of every combination that the space has, without training any.

    Random states stay as they are. Raises BadOption: some trials would have one that cannot be
    built, take the images, or be recorded.
    """
    combinations = list(_combinations(definition.space.dimensions, definition.base))
    if len(combinations) > MOST:
        combinations = random.Random(0).sample(combinations, MOST)
    before = RandomState()
    try:
        for own in combinations:
            _check(definition, own, data)
    finally:
        before.restore()


def _combinations(dimensions: Mapping[str, Dimension], base: RunConfig) -> Iterator[dict[str, Any]]:
    """What trials may have of the options that matter, each combination once.

    None where these are not searched. The smallest batch is the one that may not do: batch
    normalisation needs more than one value of a channel.
    """
    smallest = min(possible("batch_size", dimensions, base))
    batch = {"batch_size": smallest} if "batch_size" in dimensions and smallest == 1 else {}
    for model in possible("model", dimensions, base):
        names = [
            name for name in SHAPING[1:] if name in dimensions and is_active(name, {"model": model})
        ]
        own = {"model": model} if "model" in dimensions else {}
        if own or names or batch:
            for values in product(*(possible(name, dimensions, base) for name in names)):
                yield own | dict(zip(names, values, strict=True)) | batch


def _check(definition: StudyDefinition, own: Mapping[str, Any], data: ImageData) -> None:
    try:
        _build(definition.with_options(own), data)
    except BadInput as error:
        given = " ".join(f"{name}={as_text(name, Choice((own[name],)))}" for name in own)
        raise BadOption(f"space: trials with {given} could not be run: {error}") from None


def _build(config: RunConfig, data: ImageData) -> None:
    """Raises BadInput: the network cannot be built."""
    if ":" not in config.model or config.model.startswith("torchvision:"):
        try:
            with torch.device("meta"):  # shapes without numbers: ten times as fast
                make_model(config, data)
        except Exception:
            pass  # it may be for want of numbers
        else:
            return
    make_model(config, data)
