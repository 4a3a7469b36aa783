"""Faults of weights, units and normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.faults.grounds import GROUNDS, MODELS
from benchmarks.faults.plants import Plant
from benchmarks.faults.variants import Fault, Variant, changed, planted

__all__ = ["NETWORK_FAULTS"]

GRADIENTS: Mapping[str, Any] = {"gradients": True}
TANH: Mapping[str, Any] = {"activation": "tanh", "init": "default"}


def _scaled(ground: str, factor: float, **options: Any) -> Variant:
    """Weights as by He's initialisation times a factor, in a run that does not ask for that one."""
    he = math.sqrt(6) if GROUNDS[ground].get("init") == "kaiming" and "init" not in options else 1.0
    return Variant(
        ground,
        {**options, "init": "default"},
        # PyTorch's default draws with a deviation that is smaller by the root of 6.
        Plant("scaled_weights", {"factor": round(factor * he, 4)}),
        twin=options,
    )


def _dead(ground: str, module: str, onset: int, share: float = 1.0) -> Variant:
    return planted(ground, "pushed_bias", onset=onset, module=module, share=share)


def _spoilt(ground: str, module: str, onset: int, value: str = "nan") -> Variant:
    return planted(ground, "spoilt_weight", onset=onset, module=module, value=value)


def _pairs(ground: str, lr_max: float, images: int, model: str = "", **options: Any) -> Variant:
    """Batches of two; the twin has batches of 32."""
    shared: dict[str, Any] = {"lr_max": lr_max, "train_limit": images, "epochs": 2, **options}
    if model:
        shared["model"] = MODELS + model
    return Variant(ground, {**shared, "batch_size": 2}, twin={**shared, "batch_size": 32})


def _squashed(ground: str, model: str = "", **options: Any) -> Variant:
    """Sigmoids in every layer, without normalisation."""
    network: dict[str, Any] = {"model": MODELS + model} if model else {"activation": "sigmoid"}
    shared = {**GRADIENTS, **options}
    return Variant(ground, {**network, **shared, "init": "default"}, twin=shared)


NETWORK_FAULTS: Mapping[str, Fault] = {
    "large_init": Fault(
        frozenset({"poor_initialisation", "exploding_activations"}),
        (
            _scaled("bare adam digits", 10),
            _scaled("bare sgd fashion", 5),
            _scaled("deep relu digits", 5),
            _scaled("mlp relu digits", 20),
            _scaled("bare gelu fashion", 20),
            _scaled("mlp deep digits", 6),
            _scaled("bare max digits", 10),
            _scaled("deep gelu fashion", 8),
        ),
    ),
    "small_init": Fault(
        frozenset({"vanishing_start", "poor_initialisation"}),
        (
            _scaled("deep relu digits", 0.1),
            _scaled("deeper relu fashion", 0.3),
            _scaled("mlp deep digits", 0.2),
            _scaled("deep gelu fashion", 0.1),
            _scaled("deep leaky sgd digits", 0.3),
            _scaled("bare five digits", 0.1),
            changed("deeper relu fashion", init="default"),
            changed("deep relu digits", init="default"),
        ),
    ),
    "dead_layer": Fault(
        frozenset({"dead_layer"}),
        (
            _dead("cnn digits", "conv2.conv", 50),
            _dead("bare sgd fashion", "conv1.conv", 100),
            _dead("deep relu digits", "conv4.conv", 70),
            _dead("mlp relu digits", "full2.linear", 120),
            _dead("deep norm fashion", "conv5.norm", 60),
            _dead("bare five digits", "conv3.conv", 90),
            _dead("mlp norm fashion", "full2.norm", 40),
            _dead("bare max digits", "conv3.conv", 30),
        ),
    ),
    "dead_units": Fault(
        frozenset({"dead_units"}),
        (
            _dead("cnn fashion", "conv3.conv", 40, share=0.6),
            _dead("bare adam digits", "conv2.conv", 60, share=0.8),
            _dead("deep relu digits", "conv5.conv", 80, share=0.5),
            _dead("mlp norm fashion", "full1.norm", 50, share=0.7),
            _dead("resnet digits", "block3.norm1", 40, share=0.6),
            _dead("deep norm fashion", "conv3.norm", 100, share=0.8),
            _dead("mlp relu digits", "full1.linear", 70, share=0.75),
            _dead("bare sgd fashion", "conv2.conv", 90, share=0.7),
        ),
    ),
    "saturated": Fault(
        frozenset({"saturated"}),
        (
            _scaled("deep tanh digits", 10),
            _scaled("mlp tanh fashion", 20),
            _scaled("mlp sigmoid digits", 30),
            _scaled("mlp tanh fashion", 40, seed=1),
            _scaled("mlp sigmoid digits", 60, seed=1),
            _scaled("bare adam digits", 15, **TANH),
            _scaled("bare gelu fashion", 20, **TANH),
        ),
    ),
    "non_finite": Fault(
        frozenset({"non_finite"}),
        (
            _spoilt("cnn digits", "conv2.conv", 45),
            _spoilt("mlp leaky sgd fashion", "full1.linear", 60, "inf"),
            _spoilt("deep gelu fashion", "conv6.conv", 100),
            planted("bare sgd fashion", "spoilt_image", onset=30, value="nan"),
            planted("mlp norm fashion", "spoilt_image", onset=75, value="inf"),
            planted("deep relu digits", "spoilt_image", onset=90, value="nan"),
        ),
    ),
    "small_batch_norm": Fault(
        frozenset({"small_batch_norm"}),
        (
            _pairs("cnn digits", 0.01, 500),
            _pairs("cnn sgd digits", 0.03, 500),
            _pairs("cnn fashion", 0.01, 400),
            _pairs("cnn gelu fashion", 0.005, 500, "late_norm"),
            _pairs("cnn digits", 0.01, 500, "late_norm", optimizer="adam"),
            _pairs("mlp norm fashion", 0.005, 700),
        ),
    ),
    "vanishing_gradients": Fault(
        frozenset({"vanishing_gradients", "vanishing_start"}),
        (
            _squashed("bare five digits"),
            _squashed("bare adam digits", widths=(8, 16, 16, 16)),
            _squashed("bare sgd fashion", widths=(8, 16, 16, 16)),
            _squashed("deep relu digits", "deep_sigmoid"),
            _squashed("deep gelu fashion", "deep_sigmoid", lr_max=0.005),
            _squashed(
                "bare gelu fashion", image_size=32, widths=(8, 16, 16, 32, 32), train_limit=2000
            ),
            _squashed("bare max digits", widths=(8, 16, 16, 16)),
            _scaled("deep tanh digits", 0.3, **GRADIENTS),
        ),
    ),
    "exploding_gradients": Fault(
        frozenset({"exploding_gradients", "poor_initialisation", "exploding_activations"}),
        (
            _scaled("deep relu digits", 2.0, **GRADIENTS),
            _scaled("deeper relu fashion", 1.7, **GRADIENTS),
            _scaled("mlp deep digits", 2.0, **GRADIENTS),
            _scaled("deep gelu fashion", 2.2, **GRADIENTS),
            _scaled("deep leaky sgd digits", 1.6, **GRADIENTS),
            _scaled("bare five digits", 3.0, **GRADIENTS),
        ),
    ),
}
