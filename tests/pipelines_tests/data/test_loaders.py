"""Batches: complete, normalised, repeatable, and the same from memory and from a stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import BatchNorm2d

from pipelines.config import RunConfig
from pipelines.data.augment import Augment
from pipelines.data.datasets import load_dataset
from pipelines.data.images import Split, fit
from pipelines.data.loaders import Batch, InMemoryLoader, Loader, StreamLoader, make_loaders

__all__: list[str] = []

CPU = torch.device("cpu")
MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
KINDS = pytest.mark.parametrize("kind", [InMemoryLoader, StreamLoader])
FORMATS = pytest.mark.parametrize("channels_last", [False, True])


def split_of(count: int, channels: int = 3) -> Split:
    """Random images; a sample's label is its number."""
    shape = (count, channels, 6, 6)
    images = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Split(images, torch.arange(count))


def loader_of(
    kind: type[Loader],
    count: int = 50,
    batch_size: int = 8,
    *,
    shuffle: bool = True,
    seed: int = 0,
    channels_last: bool = False,
    augment: Augment | None = None,
) -> Loader:
    return kind(
        split_of(count),
        batch_size,
        MEAN,
        STD,
        CPU,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        channels_last=channels_last,
        augment=augment,
    )


def epoch(loader: Loader) -> tuple[Tensor, Tensor]:
    batches = list(loader)
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


@KINDS
@FORMATS
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_normalised_images_with_their_labels(
    kind: type[Loader], channels_last: bool, shuffle: bool
) -> None:
    batches = list(loader_of(kind, shuffle=shuffle, channels_last=channels_last))
    images = split_of(50).images
    assert isinstance(images, Tensor)
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.x.dtype == torch.float32
        assert batch.y.dtype == torch.int64
        if channels_last:
            assert batch.x.is_contiguous(memory_format=torch.channels_last)
        else:
            assert batch.x.is_contiguous()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        torch.testing.assert_close(batch.x, (images[batch.y] / 255 - mean) / std)
    order = torch.cat([batch.y for batch in batches])
    assert sorted(order.tolist()) == list(range(50))
    assert (order.tolist() == list(range(50))) is not shuffle


@KINDS
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("count", "batch_size"),
    [(48, 8), (50, 8), (49, 8), (8, 8), (9, 8), (5, 8), (7, 1), (1, 1), (2, 2)],
)
def test_the_last_batch_is_kept_unless_it_is_one_training_sample(
    kind: type[Loader], shuffle: bool, count: int, batch_size: int
) -> None:
    loader = loader_of(kind, count, batch_size, shuffle=shuffle)
    sizes = [len(batch.y) for batch in loader]
    dropped = shuffle and batch_size > 1 and count % batch_size == 1
    assert sum(sizes) == loader.samples == count - dropped
    assert len(sizes) == len(loader)
    assert all(size == batch_size for size in sizes[:-1])


def test_batch_norm_can_train_on_every_batch() -> None:
    norm = BatchNorm2d(3)
    for batch in loader_of(InMemoryLoader, 9, 8):
        pooled = torch.nn.functional.adaptive_avg_pool2d(batch.x, 1)
        assert norm(pooled).isfinite().all()  # raises for one sample with one pixel


@KINDS
def test_every_epoch_has_its_own_order(kind: type[Loader]) -> None:
    loader = loader_of(kind)
    first, second = epoch(loader)[1], epoch(loader)[1]
    assert not torch.equal(first, second)
    assert torch.equal(epoch(loader_of(kind))[1], first)
    assert not torch.equal(epoch(loader_of(kind, seed=1))[1], first)


@KINDS
@FORMATS
def test_state_brings_order_and_augmentation_back(kind: type[Loader], channels_last: bool) -> None:
    augment = Augment("crop-flip", 0.5, (3.0,))
    loader = loader_of(kind, channels_last=channels_last, augment=augment)
    epoch(loader)
    state = loader.state_dict()
    wanted = [epoch(loader) for _ in range(2)]
    next(iter(loader))  # an epoch that is broken off
    loader.load_state_dict(state)
    for x, y in wanted:
        again = epoch(loader)
        assert torch.equal(again[0], x)
        assert torch.equal(again[1], y)


@KINDS
def test_state_is_a_copy(kind: type[Loader]) -> None:
    loader = loader_of(kind)
    state = loader.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    epoch(loader)
    assert all(torch.equal(state[name], before[name]) for name in before)


@KINDS
def test_global_random_state_and_images_are_left_alone(kind: type[Loader]) -> None:
    loader = loader_of(kind, augment=Augment("crop-flip", 1.0, (3.0,)))
    before = torch.get_rng_state()
    epoch(loader)
    assert torch.equal(torch.get_rng_state(), before)
    images = loader.split.images
    assert torch.equal(images[torch.arange(50)], torch.as_tensor(split_of(50).images))


@FORMATS
def test_both_kinds_give_the_same_batches(channels_last: bool) -> None:
    augment = Augment("crop-flip", 0.5, (3.0,))
    here, there = (
        epoch(loader_of(kind, channels_last=channels_last, augment=augment))
        for kind in (InMemoryLoader, StreamLoader)
    )
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])


def test_memory_format_does_not_change_the_values() -> None:
    contiguous, last = (
        epoch(loader_of(InMemoryLoader, channels_last=each, augment=Augment("crop-flip")))
        for each in (False, True)
    )
    assert torch.equal(contiguous[0], last[0])


def test_streams_what_is_not_in_memory() -> None:
    split = split_of(20)
    assert isinstance(split.images, Tensor)
    lazy = Split(fit(split.images, 9, memory_limit=0), split.labels)
    now = Split(fit(split.images, 9), split.labels)
    streamed = epoch(StreamLoader(lazy, 8, MEAN, STD, CPU))
    held = epoch(InMemoryLoader(now, 8, MEAN, STD, CPU))
    assert streamed[0].shape == (20, 3, 9, 9)
    assert torch.equal(streamed[0], held[0])


def test_worker_processes_change_nothing() -> None:
    alone, helped = loader_of(StreamLoader), loader_of(StreamLoader)
    assert isinstance(helped, StreamLoader)
    helped.workers = 1
    assert torch.equal(epoch(helped)[0], epoch(alone)[0])


@KINDS
@FORMATS
@pytest.mark.parametrize("shuffle", [False, True])
def test_no_samples_are_no_batches(kind: type[Loader], channels_last: bool, shuffle: bool) -> None:
    loader = loader_of(kind, count=0, shuffle=shuffle, channels_last=channels_last)
    assert (len(loader), loader.samples, list(loader)) == (0, 0, [])


# -- the loaders of a run --


def test_only_training_batches_are_shuffled_and_augmented() -> None:
    config = RunConfig(batch_size=100, augment="crop-flip", erase=0.5, valid_fraction=0.4)
    data = load_dataset(config)
    loaders = make_loaders(data, config, CPU)
    assert [type(loader) for loader in loaders] == [InMemoryLoader] * 3
    assert [loader.batch_size for loader in loaders] == [100, 512, 512]
    assert not torch.equal(epoch(loaders.train)[1], data.train.labels)
    for loader, split in ((loaders.valid, data.valid), (loaders.test, data.test)):
        x, y = epoch(loader)
        assert torch.equal(y, split.labels)
        assert isinstance(split.images, Tensor)
        expected = (split.images / 255 - data.mean[0]) / data.std[0]
        torch.testing.assert_close(x, expected)
    augment = loaders.train.augment
    assert augment is not None
    assert augment.fill == (255 * data.mean[0],)


def test_training_images_are_normalised_and_the_seed_decides() -> None:
    config = RunConfig(batch_size=600, seed=1)
    data = load_dataset(config)
    loaders = make_loaders(data, config, CPU)
    assert [loader.batch_size for loader in loaders] == [600, 600, 600]
    assert loaders.train.augment is None
    x, y = epoch(loaders.train)
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(epoch(make_loaders(data, config, CPU).train)[1], y)
    other = config.model_copy(update={"seed": 2})
    assert not torch.equal(epoch(make_loaders(data, other, CPU).train)[1], y)


def test_lazy_splits_are_streamed() -> None:
    config = RunConfig(batch_size=64, train_limit=200)
    data = load_dataset(config, memory_limit=0)
    loaders = make_loaders(data, config, CPU)
    assert [type(loader) for loader in loaders] == [StreamLoader] * 3
    held = make_loaders(load_dataset(config), config, CPU)
    assert torch.equal(epoch(loaders.test)[1], epoch(held.test)[1])
    torch.testing.assert_close(epoch(loaders.train)[0], epoch(held.train)[0])
