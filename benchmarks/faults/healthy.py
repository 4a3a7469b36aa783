"""Healthy cases: trainings that go well, among them many that look unusual.

Each is a ground with options changed. A case is here only because it was run and reached a good
accuracy for its size; ``python -m benchmarks.faults`` says which do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.faults.grounds import GROUNDS, MODELS

__all__ = ["GOOD", "HEALTHY"]

GOOD = {"digits": 0.9, "fashion-mnist": 0.7}
"""Accuracy that a healthy run reaches, by data set."""

CONSTANT = {"schedule": "constant"}
FLAT_MOMENTUM = {"momentum_min": 0.9, "momentum_max": 0.9}

CHANGES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    # other seeds: other weights, other splits, another order
    ("cnn digits", {"seed": 1, "init": "kaiming"}),
    ("bare adam digits", {"seed": 2}),
    ("deep relu digits", {"seed": 3}),
    ("mlp relu digits", {"seed": 4}),
    ("deep norm fashion", {"seed": 5}),
    ("mlp tanh fashion", {"seed": 6}),
    # augmentation, smoothing, clipping, decay
    ("cnn fashion", {"augment": "crop-flip", "epochs": 4}),
    ("bare sgd fashion", {"augment": "flip", "erase": 0.3}),
    ("cnn gelu fashion", {"erase": 0.5, "label_smoothing": 0.1}),
    ("deep gelu fashion", {"augment": "flip", "label_smoothing": 0.2, "clip_norm": 1.0}),
    ("cnn sgd digits", {"clip_norm": 0.5, "seed": 1}),
    ("mlp leaky sgd fashion", {"weight_decay": 0.005, "decay_norm_bias": True}),
    # constant and unusual learning rates that work
    ("cnn digits", {**CONSTANT, "lr_max": 0.003, "epochs": 5}),
    ("bare adam digits", {**CONSTANT, "lr_max": 0.003}),
    ("mlp relu digits", {**CONSTANT, "lr_max": 0.002}),
    ("mlp tanh fashion", {**CONSTANT, "lr_max": 0.002, "epochs": 9}),
    ("deep relu digits", {**CONSTANT, "lr_max": 0.001, "epochs": 8}),
    ("cnn leaky fashion", {**CONSTANT, "lr_max": 0.003, "batch_size": 128, "epochs": 5}),
    ("bare sgd fashion", {**CONSTANT, "lr_max": 0.01, "epochs": 5, "weight_decay": 0.0}),
    ("mlp norm fashion", {"lr_max": 0.0005, "epochs": 8}),
    ("cnn fashion", {"lr_max": 0.001, "epochs": 6, "batch_size": 32}),
    ("deep tanh digits", {"lr_max": 0.0015, "epochs": 10}),
    ("cnn sgd digits", {"lr_max": 0.3, "seed": 2}),
    ("bare gelu fashion", {"lr_max": 0.01, "schedule": "one_cycle"}),
    # schedules and momentum
    ("cnn digits", {"schedule": "triangular", "epochs": 6, "cycles": 2}),
    ("mlp relu digits", {"schedule": "warm_restarts", "epochs": 9}),
    ("deep norm fashion", {"schedule": "one_cycle_linear", "epochs": 4}),
    ("bare max digits", {"schedule": "cosine", "lr_max": 0.02, "epochs": 6}),
    ("bare five digits", {"schedule": "linear", "seed": 1}),
    ("mlp deep digits", {"schedule": "flat_cos", "lr_max": 0.001}),
    ("deep leaky sgd digits", {**FLAT_MOMENTUM, "lr_max": 0.02}),
    ("mlp leaky sgd fashion", {"momentum_min": 0.0, "momentum_max": 0.0, "lr_max": 0.2}),
    ("cnn sgd digits", {**FLAT_MOMENTUM, "nesterov": False}),
    ("bare sgd fashion", {"momentum_min": 0.0, "momentum_max": 0.0, "lr_max": 0.2, "epochs": 5}),
    # batch sizes
    ("cnn digits", {"batch_size": 8, "epochs": 2, "lr_max": 0.005}),
    ("mlp relu digits", {"batch_size": 8, "epochs": 3, "lr_max": 0.002}),
    ("bare adam digits", {"batch_size": 16, "epochs": 4, "lr_max": 0.003}),
    ("cnn silu digits", {"batch_size": 512, "epochs": 20, "lr_max": 0.05}),
    ("mlp tanh fashion", {"batch_size": 256, "epochs": 10, "lr_max": 0.01}),
    ("bare gelu fashion", {"batch_size": 256, "epochs": 8, "lr_max": 0.01}),
    ("cnn fashion", {"batch_size": 16, "accumulate": 4, "seed": 1}),
    ("deep norm fashion", {"batch_size": 12, "epochs": 2, "lr_max": 0.05}),
    # networks
    ("bare adam digits", {"activation": "tanh", "init": "default"}),
    ("bare adam digits", {"activation": "tanh", "init": "kaiming", "optimizer": "adamw"}),
    ("bare sgd fashion", {"activation": "leaky_relu", "init": "default", "epochs": 5}),
    ("cnn digits", {"activation": "sigmoid", "epochs": 6}),
    ("cnn fashion", {"activation": "tanh", "optimizer": "adam", "weight_decay": 0.0}),
    ("cnn digits", {"widths": (4, 8), "epochs": 8}),
    ("cnn fashion", {"widths": (32, 64), "first_kernel": 3, "image_size": 14}),
    ("cnn sgd digits", {"widths": (12, 12, 24), "head": "gap", "downsample": "avg", "epochs": 6}),
    ("bare max digits", {"activation": "silu", "downsample": "avg", "head": "conv", "epochs": 7}),
    ("mlp relu digits", {"model": MODELS + "mlp_sigmoid", "init": "default", "lr_max": 0.05}),
    ("mlp relu digits", {"model": MODELS + "mlp_tanh", "init": "default", "lr_max": 0.003}),
    ("deep relu digits", {"model": MODELS + "deep_silu", "epochs": 8}),
    ("deep norm fashion", {"model": MODELS + "late_norm", "batch_size": 32}),
    ("deep leaky sgd digits", {"model": MODELS + "deep_norm", "lr_max": 0.1}),
    ("resnet digits", {"optimizer": "sgd", "weight_decay": 5e-4, "lr_max": 0.1, "seed": 1}),
    # what is recorded
    ("deep relu digits", {"gradients": True, "updates": True, "seed": 1}),
    ("bare sgd fashion", {"gradients": True, "updates": True, "seed": 1}),
    ("mlp tanh fashion", {"gradients": True, "updates": True, "seed": 1}),
    ("cnn gelu fashion", {"gradients": True, "seed": 1}),
    ("bare five digits", {"every": 3, "gradients": True, "updates": True}),
    ("mlp norm fashion", {"every": 5, "updates": True}),
    ("cnn sgd digits", {"layers": "all", "record_eval": True, "seed": 3}),
    ("mlp sigmoid digits", {"gradients": True, "updates": True}),
)

HEALTHY: Mapping[str, Mapping[str, Any]] = {
    **GROUNDS,
    **{
        f"{ground} {index:02}": {**GROUNDS[ground], **changes}
        for index, (ground, changes) in enumerate(CHANGES, start=1)
    },
}
