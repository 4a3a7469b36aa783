"""The served model: raw pixels in, probabilities out, equal to the trained model's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipelines.config import RunConfig
from pipelines.run import FitResult, prepare
from pipelines.serving import serving_model

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]
TrainedMaker = Callable[..., FitResult]


@pytest.mark.parametrize("channels_last", [False, True])
def test_probabilities_are_those_of_the_trained_model(
    trained: TrainedMaker, small: ConfigMaker, channels_last: bool
) -> None:
    result = trained(channels_last=channels_last)
    serving, example = serving_model(result.model, result.data)
    assert example.dtype == np.float32
    assert example.shape == (2, 1, 16, 16)
    assert 15 < example.max() <= 255
    x, _ = next(iter(prepare(small(channels_last=channels_last)).loaders.valid))
    with torch.no_grad():
        expected = result.model.eval()(x[:2]).softmax(dim=1)
        served = serving(torch.from_numpy(example))
    torch.testing.assert_close(served, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(served.sum(dim=1), torch.ones(2))


def test_the_served_model_is_a_copy_in_evaluation_mode(trained: TrainedMaker) -> None:
    result = trained()
    result.model.train()
    serving, example = serving_model(result.model, result.data)
    assert not any(module.training for module in serving.modules())
    assert all(module.training for module in result.model.modules())
    before = serving(torch.from_numpy(example))
    torch.nn.init.zeros_(result.model.head.conv.weight)
    assert serving(torch.from_numpy(example)).equal(before)
    conv = serving.model.conv2.conv.weight
    assert conv.is_contiguous()
    assert result.model.conv2.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_single_validation_image_still_makes_a_batch(trained: TrainedMaker) -> None:
    result = trained(valid_fraction=1e-6)
    assert len(result.data.valid) == 1
    _, example = serving_model(result.model, result.data)
    assert example.shape[0] == 2


def test_without_validation_the_example_is_of_training_images(trained: TrainedMaker) -> None:
    result = trained(valid_fraction=0)
    serving, example = serving_model(result.model, result.data)
    assert torch.from_numpy(example).equal(result.data.train.images[:2].float())
    torch.testing.assert_close(serving(torch.from_numpy(example)).sum(dim=1), torch.ones(2))
