"""Plants: what puts a fault into a run that would be healthy, and what takes it out again.

A plant is given a prepared run and returns it spoilt, with callbacks for what is to happen during
training. ``LIFTED_BY`` names the options that take a plant away when a remedy sets them, because
they undo in a real run what the plant imitates: a layer that one bad update has killed would live
under a lower learning rate or clipped gradients. Any other option leaves the plant in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.callbacks import Callback
from pipelines.data.datasets import ImageData, seeded
from pipelines.data.images import Split
from pipelines.data.loaders import Batch, InMemoryLoader, make_loaders
from pipelines.fit import Fit
from pipelines.run import Setup

__all__ = ["LIFTED_BY", "PLANTS", "Plant", "lifts", "plant_into"]

Planted = tuple[Setup, list[Callback]]


@dataclass(frozen=True)
class Plant:
    """A plant function by name, and its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def plant_into(setup: Setup, plant: Plant | None) -> Planted:
    """The run with the fault in it, and the callbacks that it needs; unchanged without a plant."""
    if plant is None:
        return setup, []
    return PLANTS[plant.name](setup, **plant.arguments)


def lifts(plant: Plant | None, option: str) -> bool:
    """Whether setting an option undoes what a plant imitates."""
    return plant is not None and option in LIFTED_BY[plant.name]


# -- weights --


def scaled_weights(setup: Setup, factor: float, only: str = ".*") -> Planted:
    """Weights of convolutions and fully connected layers, times a factor, before training."""
    with torch.no_grad():
        for name, module in setup.model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and re.fullmatch(only, name):
                module.weight.mul_(factor)
    return setup, []


def pushed_bias(
    setup: Setup, module: str, share: float, step: int, push: float = -1000.0
) -> Planted:
    """The biases of the first channels of a module, pushed far below zero before a step."""
    bias = setup.model.get_submodule(module).bias
    assert isinstance(bias, Tensor)
    channels = round(share * len(bias))

    def push_down() -> None:
        bias.data[:channels] += push

    return setup, [AtStep(step, push_down)]


def crashing(setup: Setup, factor: float, every: int) -> Planted:
    """All weights times a small factor, again and again; training makes them grow in between."""

    def crash() -> None:
        for module in setup.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data.mul_(factor)

    return setup, [EverySteps(every, crash)]


def spoilt_weight(setup: Setup, module: str, value: str, step: int) -> Planted:
    """One weight of a module becomes ``value`` (nan or inf) before a step."""
    weight = setup.model.get_submodule(module).weight
    assert isinstance(weight, Tensor)

    def spoil() -> None:
        weight.data[(0,) * weight.ndim] = float(value)

    return setup, [AtStep(step, spoil)]


class AtStep(Callback):
    """Does something once, before a step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step = step
        self.action = action

    def before_batch(self, fit: Fit) -> None:
        if fit.step == self.step:
            self.action()


class EverySteps(Callback):
    """Does something again and again, but not before the first step."""

    def __init__(self, every: int, action: Callable[[], None]) -> None:
        self.every = every
        self.action = action

    def before_batch(self, fit: Fit) -> None:
        if fit.step and fit.step % self.every == 0:
            self.action()


# -- data --


def shifted_inputs(setup: Setup, scale: float, shift: float) -> Planted:
    """Inputs that are not normalised: ``scale * x + shift`` instead of x, in every split."""
    data = setup.data
    std = tuple(own / scale for own in data.std)
    mean = tuple(own - shift * new for own, new in zip(data.mean, std, strict=True))
    return _with_data(setup, replace(data, mean=mean, std=std)), []


def raw_pixels(setup: Setup) -> Planted:
    """Inputs from 0 to 255, as they are stored."""
    channels = len(setup.data.mean)
    data = replace(setup.data, mean=(0.0,) * channels, std=(1 / 255,) * channels)
    return _with_data(setup, data), []


def constant_images(setup: Setup, share: float) -> Planted:
    """A share of the training images show one grey value each."""
    images, labels = _training(setup)
    chosen = torch.rand(len(images), generator=seeded(0, "constant")) < share
    flat = images.clone()
    flat[chosen] = flat[chosen].float().mean(dim=(1, 2, 3), keepdim=True).to(torch.uint8)
    return _with_data(setup, replace(setup.data, train=Split(flat, labels))), []


def random_labels(setup: Setup) -> Planted:
    """Training labels in another order than the images."""
    images, labels = _training(setup)
    order = torch.randperm(len(labels), generator=seeded(0, "labels"))
    return _with_data(setup, replace(setup.data, train=Split(images, labels[order]))), []


def renamed_labels(setup: Setup) -> Planted:
    """Every class of the training images has the next class's label."""
    images, labels = _training(setup)
    renamed = Split(images, (labels + 1) % setup.data.num_classes)
    return _with_data(setup, replace(setup.data, train=renamed)), []


def overlapping(setup: Setup, share: float) -> Planted:
    """A share of the validation images are replaced with training images."""
    train, valid = setup.data.train, setup.data.valid
    count = min(round(share * len(valid)), len(train))
    kept = valid.subset(torch.arange(count, len(valid)))
    taken = train.subset(torch.randperm(len(train), generator=seeded(0, "overlap"))[:count])
    assert isinstance(kept.images, Tensor)
    assert isinstance(taken.images, Tensor)
    mixed = Split(torch.cat([taken.images, kept.images]), torch.cat([taken.labels, kept.labels]))
    return _with_data(setup, replace(setup.data, valid=mixed)), []


def sorted_by_class(setup: Setup) -> Planted:
    """Training data in the order of its classes, and not shuffled."""
    images, labels = _training(setup)
    order = labels.argsort(stable=True)
    data = replace(setup.data, train=Split(images[order], labels[order]))
    spoilt = _with_data(setup, data)
    spoilt.loaders.train.shuffle = False
    return spoilt, []


def spoilt_image(setup: Setup, value: str, step: int) -> Planted:
    """One pixel of one image is ``value`` (nan or inf) in a step's batch."""
    old, config = setup.loaders.train, setup.config
    loader = SpoiltLoader(
        old.split,
        old.batch_size,
        setup.data.mean,
        setup.data.std,
        setup.device,
        shuffle=True,
        generator=old.generator,
        channels_last=config.channels_last,
        augment=old.augment,
    )
    loader.remaining, loader.value = step, float(value)
    return replace(setup, loaders=setup.loaders._replace(train=loader)), []


class SpoiltLoader(InMemoryLoader):
    """Batches, one of which has a value in it that is no number."""

    remaining: int
    """Batches before the one that is spoilt."""
    value: float

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.remaining == 0:
                batch.x[0, 0, 0, 0] = self.value
            self.remaining -= 1
            yield batch


def _training(setup: Setup) -> tuple[Tensor, Tensor]:
    images = setup.data.train.images
    assert isinstance(images, Tensor)
    return images, setup.data.train.labels


def _with_data(setup: Setup, data: ImageData) -> Setup:
    return replace(setup, data=data, loaders=make_loaders(data, setup.config, setup.device))


PLANTS: dict[str, Callable[..., Planted]] = {
    "scaled_weights": scaled_weights,
    "pushed_bias": pushed_bias,
    "crashing": crashing,
    "spoilt_weight": spoilt_weight,
    "shifted_inputs": shifted_inputs,
    "raw_pixels": raw_pixels,
    "constant_images": constant_images,
    "random_labels": random_labels,
    "renamed_labels": renamed_labels,
    "overlapping": overlapping,
    "sorted_by_class": sorted_by_class,
    "spoilt_image": spoilt_image,
}

_UPDATE = frozenset({"lr_max", "clip_norm"})
LIFTED_BY: dict[str, frozenset[str]] = {name: frozenset({"dataset"}) for name in PLANTS} | {
    "scaled_weights": frozenset({"init"}),
    "pushed_bias": _UPDATE,
    "crashing": _UPDATE | {"schedule"},
    "spoilt_weight": _UPDATE | {"precision"},
}
