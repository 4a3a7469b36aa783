"""What is known of the data before training: sizes, classes, images in both splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.config import RunConfig
from pipelines.data.datasets import load_dataset
from pipelines.data.facts import _fingerprints, data_facts
from pipelines.data.images import LazyImages, Split
from pipelines.run import prepare, run_context
from tracking.diagnosis.evidence import DataFacts

__all__: list[str] = []

NONE = torch.zeros(0, dtype=torch.int64)


def split(images: torch.Tensor) -> Split:
    return Split(images, torch.arange(len(images)) % 3)


def pictures(count: int, seed: int, side: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, side, side), generator=generator, dtype=torch.uint8)


def test_images_in_both_splits_are_counted() -> None:
    train, valid = pictures(60, 0), pictures(20, 1)
    valid[[3, 7]] = train[[50, 2]]
    valid[8] = train[2]
    facts = data_facts(split(train), split(valid), 4)
    assert (facts.train, facts.valid, facts.overlap) == (60, 20, 3)
    assert facts.class_counts == (20, 20, 20, 0)


def test_one_changed_pixel_makes_another_image() -> None:
    train = pictures(40, 2)
    valid = train.clone()
    valid.view(40, -1)[torch.arange(40), torch.arange(40)] ^= 1
    assert data_facts(split(train), split(valid), 3).overlap == 0


def test_fingerprints_of_images_of_any_size_tell_them_apart() -> None:
    for side in (1, 2, 3, 8):
        few = torch.cat([pictures(100, 3, side), torch.zeros(1, 1, side, side, dtype=torch.uint8)])
        different = len({image.numpy().tobytes() for image in few})
        assert len(np.unique(_fingerprints(few))) == different


def test_without_validation_there_is_no_overlap() -> None:
    train = pictures(12, 0)
    facts = data_facts(split(train), split(train).subset(NONE), 3)
    assert (facts.train, facts.valid, facts.overlap) == (12, 0, 0)


def test_images_on_demand_are_not_read() -> None:
    def reader(index: torch.Tensor) -> torch.Tensor:
        raise AssertionError("read")

    lazy = LazyImages(reader, torch.arange(5), (1, 7, 7))  # type: ignore[arg-type]
    facts = data_facts(Split(lazy, torch.zeros(5, dtype=torch.int64)), split(pictures(5, 0)), 2)
    assert (facts.train, facts.overlap, facts.class_counts) == (5, 0, (5, 0))


def test_runs_that_share_their_data_share_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(train: Split, valid: Split, classes: int) -> DataFacts:
        looked.append(classes)
        return data_facts(train, valid, classes)

    monkeypatch.setattr("pipelines.data.datasets.data_facts", counted)
    config = RunConfig(train_limit=100, device="cpu")
    data = load_dataset(config)
    setups = [prepare(config.model_copy(update={"seed": seed}), data) for seed in range(3)]
    facts = [run_context(setup).data for setup in setups]
    assert facts == [data_facts(data.train, data.valid, data.num_classes)] * 3
    assert looked == [10]
