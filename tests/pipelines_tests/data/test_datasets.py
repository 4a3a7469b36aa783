"""Splits, statistics, digests, and data that cannot be trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, channel_statistics, load_dataset, seeded
from pipelines.data.images import Images, LazyImages, Split, fit
from tracking.errors import BadDataset, BadOption

__all__: list[str] = []


def numbered(count: int, classes: int = 4, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, 2, 2) whose first two pixels are their number, and labels in turn."""
    numbers = np.arange(first, first + count)
    images = np.zeros((count, 1, 2, 2), np.uint8)
    images[:, 0, 0] = np.stack([numbers // 256, numbers % 256], axis=1)
    return images, numbers % classes


def numbers(split: Split) -> list[int]:
    """The numbers of a split's images, checked against their labels."""
    images = split.images[torch.arange(len(split))]
    assert images.dtype == torch.uint8
    result = (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1]).tolist()
    assert split.labels.tolist() == [number % 4 for number in result]
    return list(result)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module whose ``make`` returns its ``values``."""
    module = ModuleType("own_numbers")
    vars(module).update(values=numbered(400), make=lambda: vars(module)["values"])
    monkeypatch.setitem(sys.modules, "own_numbers", module)
    return module


def load(memory_limit: int = 2**31, **options: Any) -> ImageData:
    options = {"dataset": "own_numbers:make", "batch_size": 2, **options}
    return load_dataset(RunConfig(**options), memory_limit=memory_limit)


def parts(data: ImageData) -> tuple[list[int], list[int], list[int]]:
    return numbers(data.train), numbers(data.valid), numbers(data.test)


# -- splits --


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize("memory_limit", [0, 2**31])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_parts_are_disjoint_and_complete(seed: int, memory_limit: int) -> None:
    train, valid, test = parts(load(memory_limit, seed=seed))
    assert sorted(train + valid + test) == list(range(400))
    assert (len(train), len(valid), len(test)) == (288, 32, 80)


@pytest.mark.usefixtures("factory")
def test_test_data_never_gets_into_another_seeds_training() -> None:
    first, second = parts(load(seed=1)), parts(load(seed=2))
    assert first[2] == second[2]
    assert first[1] != second[1]
    assert not set(first[2]) & set(second[0] + second[1])


@pytest.mark.usefixtures("factory")
def test_the_same_seed_gives_the_same_parts() -> None:
    assert parts(load(seed=3, train_limit=50)) == parts(load(seed=3, train_limit=50))


@pytest.mark.usefixtures("factory")
def test_every_class_gives_its_share() -> None:
    data = load(valid_fraction=0.25, test_fraction=0.1)
    assert data.test.labels.bincount().tolist() == [10] * 4
    assert sum(data.valid.labels.bincount().tolist()) == 90
    assert set(data.valid.labels.bincount().tolist()) <= {22, 23}


def test_a_test_part_of_its_own_is_kept(factory: ModuleType) -> None:
    vars(factory)["values"] = (*numbered(100), *numbered(30, first=1000))
    train, valid, test = parts(load(test_fraction=0.5))
    assert sorted(train + valid) == list(range(100))
    assert test == list(range(1000, 1030))


@given(
    count=st.integers(3, 60),
    valid=st.floats(0.001, 0.999),
    test=st.floats(0.001, 0.999),
    seed=st.integers(0, 9),
)
def test_no_part_is_ever_empty(count: int, valid: float, test: float, seed: int) -> None:
    module = ModuleType("own_counts")
    vars(module)["make"] = lambda: numbered(count)
    sys.modules["own_counts"] = module
    data = load(
        dataset="own_counts:make",
        valid_fraction=valid,
        test_fraction=test,
        seed=seed,
        batch_size=1,
    )
    assert all(parts(data))
    train, valid_, test_ = parts(data)
    assert sorted(train + valid_ + test_) == list(range(count))


@pytest.mark.parametrize("memory_limit", [0, 2**31])
@pytest.mark.parametrize("brings_test", [False, True])
def test_without_validation_all_but_the_same_test_data_is_for_training(
    factory: ModuleType, brings_test: bool, memory_limit: int
) -> None:
    if brings_test:
        vars(factory)["values"] = (*numbered(100), *numbered(30, first=1000))
    usual = parts(load(memory_limit, valid_fraction=0.3, seed=1))
    for seed in (1, 2):
        data = load(memory_limit, valid_fraction=0, seed=seed)
        train, valid, test = parts(data)
        assert (valid, test) == ([], usual[2])
        assert train == sorted(usual[0] + usual[1])
        assert data.valid.images.shape == (0, 1, 2, 2)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_test_data_of_few_images_is_the_same_without_validation(
    factory: ModuleType, count: int
) -> None:
    vars(factory)["values"] = numbered(count)
    options = {"test_fraction": 0.9, "batch_size": 1}
    assert parts(load(valid_fraction=0, **options))[2] == parts(load(**options))[2]


@pytest.mark.usefixtures("factory")
def test_train_limit_holds_without_validation_too() -> None:
    train, valid, _ = parts(load(valid_fraction=0, train_limit=7))
    assert (len(set(train)), valid) == (7, [])
    with pytest.raises(BadOption, match="of 320 images; allowed: 1 to 320"):
        load(valid_fraction=0, batch_size=321)


@pytest.mark.usefixtures("factory")
def test_train_limit_takes_the_first_of_a_shuffle() -> None:
    whole, ten, twenty = (load(train_limit=limit) for limit in (0, 10, 20))
    assert numbers(twenty.train)[:10] == numbers(ten.train) != sorted(numbers(ten.train))
    assert set(numbers(twenty.train)) < set(numbers(whole.train))
    assert parts(whole)[1:] == parts(ten)[1:]
    assert numbers(ten.train) != numbers(load(train_limit=10, seed=1).train)


@pytest.mark.usefixtures("factory")
def test_train_limit_may_exceed_what_is_there() -> None:
    assert sorted(numbers(load(train_limit=10_000).train)) == numbers(load().train)


@pytest.mark.usefixtures("factory")
def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    load(train_limit=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_purposes_and_seeds_have_streams_of_their_own() -> None:
    pairs = [(0, "a"), (0, "b"), (1, "a"), (2**32 - 1, "a")]
    draws = {tuple(torch.rand(3, generator=seeded(*pair)).tolist()) for pair in pairs}
    assert len(draws) == 4
    again = torch.rand(3, generator=seeded(0, "a"))
    assert tuple(again.tolist()) in draws


# -- description --


def test_digits() -> None:
    data = load_dataset(RunConfig())
    assert (data.name, data.num_classes, data.image_shape) == ("digits", 10, (1, 28, 28))
    assert (len(data.train), len(data.valid), len(data.test)) == (1294, 144, 359)
    for split in (data.train, data.valid, data.test):
        assert split.labels.bincount().count_nonzero() == 10


def test_digest_is_of_the_data_and_not_of_the_split(factory: ModuleType) -> None:
    digest = load().digest
    assert 8 <= len(digest) <= 36
    assert int(digest, 16) >= 0
    assert load(seed=5, train_limit=9, valid_fraction=0.5).digest == digest
    images, labels = numbered(400)
    vars(factory)["values"] = (images, np.roll(labels, 1))
    other_labels = load().digest
    images[17, 0, 1, 1] ^= 1
    vars(factory)["values"] = (images, labels)
    other_pixel = load().digest
    vars(factory)["values"] = (images.reshape(400, 1, 1, 4), labels)
    assert len({digest, other_labels, other_pixel, load().digest}) == 4


def test_digest_of_images_on_disk_follows_the_files(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (number, 0, 0)).save(path)

    def digest() -> str:
        data = load(0, dataset=f"folder:{tmp_path}")
        assert isinstance(data.train.images, LazyImages)
        return data.digest

    before = digest()
    assert digest() == before
    Image.new("RGB", (6, 6), (99, 9, 9)).save(tmp_path / "a" / "0.png")
    assert digest() != before


def test_statistics_are_of_the_limited_training_split(factory: ModuleType) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 3, 4, 4)).astype(np.uint8)
    vars(factory)["values"] = (images, np.arange(60) % 4)
    data = load(train_limit=12)
    assert isinstance(data.train.images, Tensor)
    scaled = data.train.images.numpy() / 255
    assert len(scaled) == 12
    assert data.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), rel=1e-12)
    assert data.std == pytest.approx(scaled.std(axis=(0, 2, 3)), rel=1e-12)
    assert all(isinstance(value, float) for value in data.mean + data.std)


def test_a_channel_that_never_varies_can_be_divided_by() -> None:
    images = torch.full((5, 2, 3, 3), 51, dtype=torch.uint8)
    images[:, 1, 0] = 102
    mean, std = channel_statistics(images)
    assert mean[0] == pytest.approx(0.2)
    assert std[0] == 1.0
    assert 0 < std[1] < 1


@pytest.mark.parametrize("count", [70, 3000])
def test_statistics_of_lazy_images_come_from_a_sample(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 3, 3), dtype=torch.uint8, generator=generator)
    lazy: Images = fit(images, 4, memory_limit=0)
    assert isinstance(lazy, LazyImages)
    estimate = channel_statistics(lazy)
    exact = channel_statistics(lazy[torch.arange(count)])
    tolerance = 1e-12 if count == 70 else 0.01
    assert estimate[0] == pytest.approx(exact[0], abs=tolerance)
    assert estimate[1] == pytest.approx(exact[1], abs=tolerance)


# -- what cannot be trained on --


@pytest.mark.usefixtures("factory")
def test_a_batch_larger_than_the_training_split() -> None:
    assert len(load(batch_size=288).train) == 288
    with pytest.raises(
        BadOption, match=r"^batch_size=289 is larger than .* of 288 images; allowed"
    ):
        load(batch_size=289)
    with pytest.raises(BadOption, match=r"^batch_size=11 is larger than .* of 10 images"):
        load(batch_size=11, train_limit=10)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((numbered(9)[0], np.zeros(9, int)), "show 1 of the classes; at least 2 are needed"),
        ((numbered(9)[0], np.arange(9) - 1), "label -1 is out of range; allowed for the 8 classes"),
        ((*numbered(9, 2), *numbered(9, 3)), "label 2 is out of range; .* 2 classes: 0 to 1"),
        (numbered(2), "2 images are too few to split; at least 3"),
        ((*numbered(1), *numbered(5)), "1 of the classes|out of range"),
    ],
)
def test_one_line_about_unfit_data(factory: ModuleType, values: object, reason: str) -> None:
    vars(factory)["values"] = values
    with pytest.raises(BadDataset, match=rf"^own_numbers:make: .*{reason}") as caught:
        load(batch_size=1)
    assert "\n" not in str(caught.value)
