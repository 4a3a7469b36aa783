"""Plants: each does what it says to data, weights or batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.faults.plants import Plant, plant_into
from pipelines.config import RunConfig
from pipelines.run import Setup, prepare, train
from tracking.errors import NonFiniteLoss

__all__: list[str] = []

OPTIONS = {
    "image_size": 8,
    "widths": (4,),
    "train_limit": 48,
    "batch_size": 16,
    "epochs": 1,
    "norm": "none",
    "head": "linear",
    "device": "cpu",
    "report": False,
    "record": False,
}


def prepared(**options: Any) -> Setup:
    return prepare(RunConfig(**{**OPTIONS, **options}))


def planted(name: str, **arguments: Any) -> Setup:
    return plant_into(prepared(), Plant(name, arguments))[0]


def inputs(setup: Setup) -> torch.Tensor:
    return torch.cat([batch.x for batch in setup.loaders.train])


def test_without_a_plant_nothing_changes() -> None:
    setup = prepared()
    assert plant_into(setup, None) == (setup, [])


def test_weights_are_scaled_and_biases_are_not() -> None:
    before, after = prepared(), planted("scaled_weights", factor=10.0)
    for own, scaled in zip(before.model.parameters(), after.model.parameters(), strict=True):
        torch.testing.assert_close(scaled, own * (10 if own.ndim > 1 else 1))


def test_pushed_biases_kill_channels_at_their_step_and_not_before(tmp_path: Path) -> None:
    setup, callbacks = plant_into(
        prepared(), Plant("pushed_bias", {"module": "conv1.conv", "share": 0.5, "step": 2})
    )
    bias = setup.model.get_submodule("conv1.conv").bias
    assert isinstance(bias, torch.Tensor)
    train(setup, tmp_path, callbacks, test=False)
    assert (bias[:2] < -30).all()
    assert (bias[2:] > -1).all()


@pytest.mark.parametrize(
    "plant",
    [
        Plant("spoilt_weight", {"module": "conv1.conv", "value": "nan", "step": 1}),
        Plant("spoilt_image", {"value": "inf", "step": 1}),
    ],
    ids=lambda plant: plant.name,
)
def test_numbers_are_spoilt_at_their_step(plant: Plant, tmp_path: Path) -> None:
    setup, callbacks = plant_into(prepared(), plant)
    with pytest.raises(NonFiniteLoss, match="by step 1,"):
        train(setup, tmp_path, callbacks, test=False)


def test_raw_pixels_are_whole_numbers_up_to_255() -> None:
    values = inputs(planted("raw_pixels"))
    assert values.max() > 200
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)


def test_shifted_inputs_are_a_linear_function_of_normalised_ones() -> None:
    before, after = inputs(prepared()), inputs(planted("shifted_inputs", scale=3.0, shift=7.0))
    torch.testing.assert_close(after, 3 * before + 7, atol=1e-4, rtol=1e-4)


def test_constant_images_have_one_value_each() -> None:
    flat = inputs(planted("constant_images", share=0.5)).flatten(1).std(dim=1) == 0
    assert 0.25 < flat.float().mean() < 0.75


def test_labels_are_mixed_up_or_renamed() -> None:
    own = prepared().data.train.labels
    mixed = planted("random_labels").data.train.labels
    assert mixed.sort().values.tolist() == own.sort().values.tolist()
    assert (mixed == own).float().mean() < 0.5
    assert planted("renamed_labels").data.train.labels.tolist() == ((own + 1) % 10).tolist()


def test_sorted_batches_hold_one_or_two_classes() -> None:
    labels = torch.cat([batch.y for batch in planted("sorted_by_class").loaders.train])
    assert labels.tolist() == labels.sort().values.tolist()


def test_overlapping_puts_training_images_into_the_validation_set() -> None:
    setup = planted("overlapping", share=0.1)
    known = {image.numpy().tobytes() for image in setup.data.train.images}
    found = [image.numpy().tobytes() in known for image in setup.data.valid.images]
    assert math.isclose(sum(found) / len(found), 0.1, abs_tol=0.02)
    assert len(found) == len(prepared().data.valid)
