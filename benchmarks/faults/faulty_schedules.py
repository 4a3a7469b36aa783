"""Faults of the learning rate and its schedule, and of how long a run lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.faults.variants import Fault, Variant, faster, planted

__all__ = ["SCHEDULE_FAULTS"]

FASTBOOK: Mapping[str, Any] = {
    "lr_max": 0.06,
    "schedule": "constant",
    "optimizer": "adam",
    "weight_decay": 0.0,
    "norm": "none",
    "init": "default",
    "batch_size": 16,
}
"""Chapter 13's first tries: a high constant learning rate, Adam, no normalisation."""
CONSTANT: Mapping[str, Any] = {"schedule": "constant"}


def _crashing(ground: str, factor: float, every: int, **options: Any) -> Variant:
    """Weights scaled down again and again; the first crash is the onset of a cycle."""
    plant = planted(ground, "crashing", options=options, factor=factor, every=every)
    return replace(plant, onset=every)


def _without_warm_up(ground: str, lr_max: float, **options: Any) -> Variant:
    """At its peak from the first step; the twin rises to the same peak."""
    shared = {"lr_max": lr_max, **options}
    return Variant(
        ground, {**shared, "schedule": "cosine"}, twin={**shared, "schedule": "one_cycle"}
    )


def _never_annealed(ground: str, lr_max: float) -> Variant:
    """High to the end; the twin falls from the same peak."""
    return Variant(
        ground,
        {"lr_max": lr_max, "schedule": "constant"},
        twin={"lr_max": lr_max, "schedule": "one_cycle"},
    )


def _cut_short(ground: str, lr_max: float, epochs: int = 1, **options: Any) -> Variant:
    """A constant learning rate for too few epochs; the twin has five times as many."""
    shared = {"lr_max": lr_max, "schedule": "constant", **options}
    return Variant(ground, {**shared, "epochs": epochs}, twin={**shared, "epochs": 5 * epochs})


SCHEDULE_FAULTS: Mapping[str, Fault] = {
    "lr_too_high": Fault(
        frozenset({"lr_too_high"}),
        (
            faster("bare sgd fashion", 30),
            faster("mlp relu digits", 100),
            faster("deep tanh digits", 100),
            faster("resnet digits", 200),
            faster("deep relu digits", 30),
            faster("mlp norm fashion", 300),
            faster("bare max digits", 30),
            faster("mlp tanh fashion", 200),
            faster("cnn gelu fashion", 200),
            faster("cnn digits", 200, schedule="constant"),
        ),
    ),
    "lr_too_low": Fault(
        frozenset({"lr_too_low"}),
        (
            faster("cnn digits", 1e-3),
            faster("cnn sgd digits", 2e-4),
            faster("bare gelu fashion", 3e-4),
            faster("mlp tanh fashion", 1e-3),
            faster("resnet fashion", 1e-3),
            faster("deep norm fashion", 1e-4),
            faster("mlp deep digits", 1e-3),
            faster("mlp sigmoid digits", 1e-3, schedule="constant"),
        ),
    ),
    "short_warm_up": Fault(
        frozenset({"short_warm_up", "lr_too_high"}),
        (
            _without_warm_up("deep relu digits", 0.03),
            _without_warm_up("deep relu digits", 0.03, seed=1),
            _without_warm_up("deeper relu fashion", 0.02),
            _without_warm_up("mlp deep digits", 0.03),
            _without_warm_up("deep leaky sgd digits", 0.05),
            _without_warm_up("mlp deep digits", 0.02, seed=1),
        ),
    ),
    "high_final_lr": Fault(
        frozenset({"high_final_lr"}),
        (
            _never_annealed("cnn fashion", 0.1),
            _never_annealed("mlp norm fashion", 0.1),
            _never_annealed("bare sgd fashion", 0.05),
            _never_annealed("deep norm fashion", 0.5),
            _never_annealed("cnn gelu fashion", 0.06),
            _never_annealed("mlp relu digits", 0.02),
            _never_annealed("mlp tanh fashion", 0.02),
            _never_annealed("bare gelu fashion", 0.015),
        ),
    ),
    "collapse_cycles": Fault(
        frozenset({"collapse_cycles", "lr_too_high", "short_warm_up"}),
        (
            Variant("bare adam digits", FASTBOOK),
            _crashing("bare max digits", 0.25, 30, **CONSTANT, lr_max=0.012),
            _crashing("deep leaky sgd digits", 0.6, 40, **CONSTANT, lr_max=0.03),
            _crashing("bare adam digits", 0.2, 40),
            _crashing("bare five digits", 0.4, 40, **CONSTANT, lr_max=0.01),
            _crashing("bare sgd fashion", 0.15, 60),
            _crashing("mlp relu digits", 0.1, 45),
            _crashing("bare gelu fashion", 0.4, 60, **CONSTANT, lr_max=0.01),
        ),
    ),
    "stopped_too_early": Fault(
        frozenset({"stopped_too_early"}),
        (
            _cut_short("cnn sgd digits", 0.003),
            _cut_short("bare sgd fashion", 0.005),
            _cut_short("mlp tanh fashion", 0.001),
            _cut_short("deep relu digits", 0.0005, epochs=2),
            _cut_short("mlp sigmoid digits", 0.003, epochs=2),
            _cut_short("deep gelu fashion", 0.0005),
            _cut_short("mlp leaky sgd fashion", 0.003),
            _cut_short("mlp relu digits", 0.0005),
        ),
    ),
}
