"""Whole runs: what is refused, what is the same by seed, what is handed to the sink."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from torch import Tensor, nn

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.data.loaders import Batch, InMemoryLoader
from pipelines.fit import Fit
from pipelines.run import FitResult, prepare, resolve_device, train
from tracking.diagnosis.files import read_evidence
from tracking.errors import BadModel, BadOption, NonFiniteLoss
from tracking.sink import MemorySink

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]
TrainedMaker = Callable[..., FitResult]

DROPOUT = """
from collections import OrderedDict
from torch import nn

def make(image_shape, classes):
    return nn.Sequential(OrderedDict(
        flat=nn.Flatten(), drop=nn.Dropout(0.5), relu=nn.ReLU(),
        linear=nn.Linear(image_shape[1] * image_shape[2], classes),
    ))
"""


@pytest.fixture
def dropout_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model in the user's own code that draws random numbers in training."""
    (tmp_path / "dropout_net.py").write_text(DROPOUT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "dropout_net:make"
    sys.modules.pop("dropout_net", None)


def state(result: FitResult) -> dict[str, Tensor]:
    return result.model.state_dict()


def same_state(a: FitResult, b: FitResult) -> bool:
    return all(x.equal(state(b)[name]) for name, x in state(a).items())


def steps(result: FitResult) -> pa.Table:
    """Everything but the clock."""
    table = result.recorder.read()
    return table.drop_columns(["time"])


# -- what is refused --


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:x", "meta", "", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadOption) as caught:
        resolve_device(name)
    message = str(caught.value)
    assert message.startswith(f"device={name}: not usable here (")
    assert message.endswith("allowed: auto, cpu, cuda, cuda:1, mps")
    assert "\n" not in message


def test_devices_that_are_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps", "xpu"}


def test_layers_that_match_nothing_are_refused_before_training(small: ConfigMaker) -> None:
    with pytest.raises(BadOption, match=r"layers=conv9: matches no module.*conv1\.relu"):
        prepare(small(layers="conv9"))
    assert prepare(small(layers="conv9", record=False))


def test_a_batch_of_one_sample_and_batch_norm_over_one_value_are_refused(
    small: ConfigMaker,
) -> None:
    deep = (4, 4, 4, 4)  # leave one position of a 16x16 image
    with pytest.raises(BadModel) as caught:
        prepare(small(batch_size=1, widths=deep))
    assert str(caught.value).startswith(
        "model=simple_cnn: cannot train on images of 1x16x16 in batches of 1 (ValueError: "
    )
    assert str(caught.value).endswith("; a larger batch_size or image_size may help")
    assert prepare(small(batch_size=1, widths=deep, image_size=64))
    assert prepare(small(batch_size=1, widths=deep, norm="none"))


def test_options_of_the_machine(small: ConfigMaker) -> None:
    before = torch.get_num_threads()
    try:
        prepare(small(threads=before + 1))
        assert torch.get_num_threads() == before + 1
        prepare(small(threads=0))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


# -- the same by seed --


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": "crop-flip", "erase": 0.5},
        {"optimizer": "sgd", "accumulate": 2, "precision": "bf16"},
    ],
    ids=["plain", "augmented", "accumulated"],
)
def test_a_seed_gives_bit_identical_weights_and_tables(
    trained: TrainedMaker, options: dict[str, object]
) -> None:
    first = trained(**options)
    random.seed(99)  # the state of the process is no part of a run
    np.random.seed(99)  # noqa: NPY002
    torch.rand(7)
    second = trained(**options)
    assert same_state(first, second)
    assert steps(first).equals(steps(second))
    assert first.activation_stats.read().equals(second.activation_stats.read())
    assert (first.valid, first.test) == (second.valid, second.test)


def test_another_seed_gives_another_run(trained: TrainedMaker) -> None:
    first, second = trained(seed=0), trained(seed=1)
    assert not same_state(first, second)
    assert not first.activation_stats.read().equals(second.activation_stats.read())


def test_augmentation_changes_the_run(trained: TrainedMaker) -> None:
    assert not same_state(trained(), trained(augment="flip"))


def test_a_model_with_dropout_is_the_same_by_seed_too(
    trained: TrainedMaker, dropout_net: str
) -> None:
    first, second, other = (trained(model=dropout_net, seed=seed) for seed in (3, 3, 4))
    assert same_state(first, second)
    assert first.activation_stats.read().equals(second.activation_stats.read())
    assert not same_state(first, other)


@pytest.mark.parametrize(
    "options",
    [{"every": "1"}, {"every": "auto:0.5"}, {"record_eval": True, "layers": "all"}],
    ids=str,
)
def test_recording_changes_nothing(
    trained: TrainedMaker, dropout_net: str, options: dict[str, object]
) -> None:
    for model in ("simple_cnn", dropout_net):
        without = trained(model=model, record=False, augment="flip")
        assert without.recorder is None
        assert without.activation_stats is None
        assert same_state(without, trained(model=model, augment="flip", **options))


# -- test data --


class Count(Callback):
    """Counts how often test data has been read by the end of the fit."""

    def __init__(self, reads: list[str]) -> None:
        self.reads = reads

    def after_fit(self, fit: Fit) -> None:
        self.reads.append("fit")


@pytest.mark.parametrize("wanted", [True, False])
def test_test_data_is_read_once_at_the_end_or_never(
    small: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    setup = prepare(small(record=False))
    reads: list[str] = []
    original = InMemoryLoader.__iter__

    def watched(self: InMemoryLoader) -> Iterator[Batch]:
        if self is setup.loaders.test:
            reads.append("test")
        return original(self)

    monkeypatch.setattr(InMemoryLoader, "__iter__", watched)
    sink = MemorySink()
    result = train(setup, tmp_path, [Count(reads)], sink, test=wanted)
    assert reads == (["fit", "test"] if wanted else ["fit"])
    assert (result.test is not None) == wanted
    keys = {metric.key for metric in sink.logged_metrics}
    assert ("test/loss" in keys) == ("test/accuracy" in keys) == wanted


# -- what the sink is given --


def test_everything_of_the_contract_reaches_the_sink(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(schedule="linear")
    setup = prepare(config)
    sink = MemorySink()
    result = train(setup, tmp_path, sink=sink)
    assert sink.logged_params == config.flat()
    assert sink.logged_params["pct_start"] == "0.1"
    (dataset,) = sink.logged_datasets
    assert (dataset.name, dataset.digest) == ("digits", setup.data.digest)
    assert dataset.sizes == {"train": 60, "valid": 144, "test": 359}
    text = sink.logged_artifacts["config.yaml"].read_text(encoding="utf-8")
    assert RunConfig(**yaml.safe_load(text)) == config
    last = {metric.key: metric for metric in sink.logged_metrics}
    assert {key for key in last if not key.startswith("activations/")} == {
        *("train/loss", "train/loss_smooth", "valid/loss", "valid/accuracy"),
        *("test/loss", "test/accuracy", "lr", "momentum", "samples_per_second"),
        "train/loss_epoch",
    }
    layers = [f"activations/{layer}" for layer in result.activation_stats.layers]
    kinds = ("mean", "std", "near_zero", "dead_channels")
    assert {key for key in last if key.startswith("activations/")} == {
        f"{layer}/{kind}" for layer in layers for kind in kinds
    }
    assert last["test/accuracy"].value == result.test.accuracy
    assert last["valid/loss"].value == result.valid.loss
    assert (last["valid/loss"].step, last["train/loss"].step) == (8, 7)


def test_a_run_on_all_training_data_is_recorded_and_tested(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    setup = prepare(small(valid_fraction=0, train_limit=0, record_eval=True))
    assert setup.data.test.labels.equal(prepare(small()).data.test.labels)
    sink = MemorySink()
    result = train(setup, tmp_path, sink=sink)
    assert (len(setup.data.train), setup.loaders.train.samples) == (1438, 1438)
    assert sink.logged_datasets[0].sizes == {"train": 1438, "valid": 0, "test": 359}
    assert sink.logged_params["valid_fraction"] == "0.0"
    keys = {metric.key for metric in sink.logged_metrics}
    assert {"train/loss", "test/loss", "samples_per_second"} <= keys
    assert not any(key.startswith("valid/") for key in keys)
    assert result.valid is None
    assert result.test.accuracy > 0.5
    assert set(result.activation_stats.read()["mode"].to_pylist()) == {"train"}
    evidence = read_evidence(sink.logged_artifacts["evidence.json"])
    assert list(evidence.epochs) == []
    assert evidence.run.data.overlap == 0
    told = {finding.rule for finding in result.findings}
    assert not told & {"worse_than_chance", "constant_predictions", "overfitting"}
    assert not told & {"train_valid_overlap"}


def test_a_diverging_run_leaves_all_it_recorded(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(optimizer="sgd", lr_max=1e30, schedule="constant", norm="none", epochs=5)
    sink = MemorySink()
    with pytest.raises(NonFiniteLoss):
        train(prepare(config), tmp_path, sink=sink)
    assert {"config.yaml", "model_summary.txt", "hyperparameters/steps.parquet"} < set(
        sink.logged_artifacts
    )
    losses = [metric.value for metric in sink.logged_metrics if metric.key == "train/loss"]
    assert losses
    assert not np.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()
    assert not any(metric.key.startswith("test/") for metric in sink.logged_metrics)


def test_result_describes_the_run(trained: TrainedMaker) -> None:
    result = trained()
    assert isinstance(result.model, nn.Module)
    assert result.valid == result.history[-1].valid
    assert [epoch.step for epoch in result.history] == [4, 8]
    assert result.stopped == ""
    assert result.data.num_classes == 10


SPOILT = """
import torch
from torch import nn

class Spoilt(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        scores = self.linear(x.flatten(1))
        return scores if self.training else scores * torch.inf

def make(image_shape, classes):
    return Spoilt(image_shape[1] * image_shape[2], classes)
"""


def test_a_test_loss_that_is_not_finite_is_a_failed_training(
    small: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    """Without validation nothing before it shows what the last step has spoilt."""
    (tmp_path / "spoilt_net.py").write_text(SPOILT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    setup = prepare(small(model="spoilt_net:make", valid_fraction=0, layers="params"))
    with pytest.raises(NonFiniteLoss, match=r"the trained network's test loss is (nan|inf); try"):
        train(setup, tmp_path / "run")
