"""Trials share their images, where these are the same."""

from __future__ import annotations

import pytest

from pipelines.config import RunConfig
from pipelines.data.datasets import load_dataset
from search.trials import trial_data
from search.trials.trial_data import OPTIONS, TrialData

__all__: list[str] = []


def test_images_are_loaded_where_they_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    base = RunConfig(train_limit=60, batch_size=16)
    images = TrialData(base, load_dataset(base))
    loads: list[int] = []

    def load(config: RunConfig) -> object:
        loads.append(config.seed)
        return load_dataset(config)

    monkeypatch.setattr(trial_data, "load_dataset", load)
    first = images.of(base.model_copy(update={"lr_max": 0.5}))
    assert loads == []
    other = images.of(base.model_copy(update={"seed": 1}))
    assert loads == [1]
    assert not first.valid.labels.equal(other.valid.labels)
    assert images.of(base.model_copy(update={"seed": 1, "norm": "none"})) is other
    assert images.of(base.model_copy(update={"seed": 1, "train_limit": 30})) is not other
    assert loads == [1, 1]


@pytest.mark.parametrize("name", OPTIONS)
def test_what_images_depend_on_is_an_option(name: str) -> None:
    assert name in RunConfig.model_fields
