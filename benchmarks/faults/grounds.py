"""Grounds: trainings that go well, from which faulty and other healthy cases are made.

They differ in everything that a rule might mistake for a fault: network, depth, activation,
normalisation, optimizer, batch size, schedule and data set. Each takes a few seconds on one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["GROUNDS"]

MODELS = "benchmarks.faults.models:"
DIGITS: Mapping[str, Any] = {"dataset": "digits", "valid_fraction": 0.25, "image_size": 16}
FASHION: Mapping[str, Any] = {
    "dataset": "fashion-mnist",
    "valid_fraction": 0.02,
    "train_limit": 3000,
}
KAIMING: Mapping[str, Any] = {"norm": "none", "init": "kaiming"}
SGD: Mapping[str, Any] = {"optimizer": "sgd", "weight_decay": 5e-4}


def _on(data: Mapping[str, Any], *parts: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    merged = dict(data)
    for part in (*parts, options):
        merged.update(part)
    return merged


def _digits(*parts: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    return _on(DIGITS, *parts, **({"batch_size": 32} | options))


def _fashion(*parts: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    return _on(FASHION, *parts, **({"batch_size": 32} | options))


def _model(name: str, init: str = "kaiming") -> dict[str, Any]:
    return {"model": MODELS + name, "init": init}


SMALL, THREE, FOUR = (8, 16), (8, 16, 32), (8, 16, 32, 64)

GROUNDS: Mapping[str, Mapping[str, Any]] = {
    # the project's own small CNN with batch norm
    "cnn digits": _digits(widths=THREE, epochs=4, lr_max=0.01),
    "cnn fashion": _fashion(widths=FOUR, epochs=3, batch_size=64, lr_max=0.02),
    "cnn sgd digits": _digits(SGD, widths=THREE, epochs=5, lr_max=0.1),
    "cnn gelu fashion": _fashion(
        widths=(16, 32),
        head="gap",
        activation="gelu",
        downsample="max",
        epochs=3,
        lr_max=0.02,
        image_size=16,
    ),
    "cnn silu digits": _digits(
        widths=SMALL,
        head="linear",
        activation="silu",
        downsample="avg",
        epochs=6,
        batch_size=128,
        lr_max=0.03,
        schedule="flat_cos",
    ),
    "cnn leaky fashion": _fashion(
        widths=THREE,
        activation="leaky_relu",
        epochs=12,
        batch_size=512,
        lr_max=0.03,
        schedule="cosine",
        train_limit=4000,
        image_size=16,
    ),
    # without normalisation
    "bare adam digits": _digits(KAIMING, widths=THREE, epochs=6, lr_max=0.005, optimizer="adam"),
    "bare sgd fashion": _fashion(KAIMING, SGD, widths=THREE, epochs=4, lr_max=0.05, image_size=16),
    "bare five digits": _digits(
        KAIMING, widths=(8, 16, 16, 32, 32), image_size=32, epochs=6, lr_max=0.004
    ),
    "bare gelu fashion": _fashion(
        KAIMING,
        widths=FOUR,
        activation="gelu",
        epochs=4,
        lr_max=0.005,
        image_size=16,
        schedule="linear",
    ),
    "bare max digits": _digits(
        KAIMING,
        SGD,
        widths=THREE,
        downsample="max",
        head="linear",
        epochs=5,
        lr_max=0.05,
    ),
    # residual
    "resnet digits": _digits(model="resnet_small", image_size=8, epochs=3, lr_max=0.01),
    "resnet fashion": _fashion(
        model="resnet_small",
        image_size=8,
        train_limit=1000,
        epochs=4,
        lr_max=0.01,
        activation="silu",
    ),
    # deep plain CNNs
    "deep relu digits": _digits(_model("deep_relu"), epochs=6, lr_max=0.003),
    "deeper relu fashion": _fashion(
        _model("deeper_relu"), epochs=5, lr_max=0.003, train_limit=2000, image_size=16
    ),
    "deep leaky sgd digits": _digits(_model("deep_leaky"), SGD, epochs=6, lr_max=0.03),
    "deep tanh digits": _digits(_model("deep_tanh", "default"), epochs=6, lr_max=0.005),
    "deep gelu fashion": _fashion(_model("deep_gelu"), epochs=4, lr_max=0.003, image_size=16),
    "deep norm fashion": _fashion(_model("deep_norm"), SGD, epochs=3, lr_max=0.1, image_size=16),
    # perceptrons
    "mlp relu digits": _digits(_model("mlp_relu"), epochs=6, lr_max=0.01),
    "mlp tanh fashion": _fashion(
        _model("mlp_tanh", "default"), epochs=4, batch_size=64, lr_max=0.005, image_size=16
    ),
    "mlp sigmoid digits": _digits(_model("mlp_sigmoid", "default"), epochs=8, lr_max=0.02),
    "mlp norm fashion": _fashion(
        _model("mlp_norm", "default"),
        epochs=4,
        batch_size=64,
        lr_max=0.01,
        image_size=16,
        optimizer="adam",
    ),
    "mlp deep digits": _digits(_model("mlp_deep"), epochs=8, lr_max=0.003),
    "mlp leaky sgd fashion": _fashion(
        _model("mlp_leaky"), SGD, epochs=5, lr_max=0.05, image_size=16
    ),
}
