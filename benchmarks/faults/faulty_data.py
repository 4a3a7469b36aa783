"""Faults of the data, and of what a run makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.faults.variants import Fault, Variant, planted

__all__ = ["DATA_FAULTS"]


def _few_images(ground: str, images: int, epochs: int, **options: Any) -> Variant:
    """Many epochs over few images, without decay; the twin stops after a fifth of them."""
    shared = {"train_limit": images, "weight_decay": 0.0, **options}
    return Variant(ground, {**shared, "epochs": epochs}, twin={**shared, "epochs": epochs // 5})


DATA_FAULTS: Mapping[str, Fault] = {
    "inputs_not_normalised": Fault(
        frozenset({"inputs_not_normalised"}),
        (
            planted("mlp relu digits", "raw_pixels"),
            planted("bare adam digits", "raw_pixels"),
            planted("bare sgd fashion", "raw_pixels"),
            planted("deep relu digits", "raw_pixels"),
            planted("mlp tanh fashion", "shifted_inputs", scale=1, shift=10),
            planted("bare max digits", "shifted_inputs", scale=20, shift=0),
            planted("bare gelu fashion", "shifted_inputs", scale=0.02, shift=0),
            planted("cnn digits", "shifted_inputs", scale=1, shift=50),
        ),
    ),
    "constant_inputs": Fault(
        frozenset({"constant_inputs"}),
        (
            planted("cnn digits", "constant_images", share=1.0),
            planted("bare sgd fashion", "constant_images", share=0.97),
            planted("mlp tanh fashion", "constant_images", share=0.95),
            planted("deep relu digits", "constant_images", share=1.0),
            planted("cnn gelu fashion", "constant_images", share=0.95),
            planted("resnet fashion", "constant_images", share=0.98),
        ),
    ),
    "one_class_batches": Fault(
        frozenset({"one_class_batches"}),
        tuple(
            planted(ground, "sorted_by_class")
            for ground in (
                "cnn digits",
                "bare adam digits",
                "mlp leaky sgd fashion",
                "deep norm fashion",
                "mlp tanh fashion",
                "bare five digits",
            )
        ),
    ),
    "wrong_labels": Fault(
        frozenset({"worse_than_chance", "loss_not_decreasing"}),
        (
            planted("cnn fashion", "random_labels"),
            planted("mlp relu digits", "random_labels"),
            planted("bare sgd fashion", "random_labels"),
            planted("cnn silu digits", "renamed_labels"),
            planted("deep gelu fashion", "renamed_labels"),
            planted("mlp norm fashion", "renamed_labels"),
        ),
    ),
    "overlap": Fault(
        frozenset({"train_valid_overlap"}),
        (
            planted("cnn fashion", "overlapping", share=1.0),
            planted("mlp relu digits", "overlapping", share=0.5),
            planted("bare sgd fashion", "overlapping", share=1.0),
            planted("cnn silu digits", "overlapping", share=0.3),
            planted("deep relu digits", "overlapping", share=0.8),
            planted("mlp norm fashion", "overlapping", share=0.5),
        ),
    ),
    "overfitting": Fault(
        frozenset({"overfitting"}),
        (
            _few_images("bare gelu fashion", 150, 40, batch_size=16),
            _few_images("mlp relu digits", 100, 60, batch_size=20, lr_max=0.005),
            _few_images("mlp tanh fashion", 250, 50, batch_size=50, optimizer="adam"),
            _few_images("mlp leaky sgd fashion", 200, 50, batch_size=20, lr_max=0.02),
            _few_images(
                "bare adam digits", 100, 60, batch_size=20, schedule="constant", lr_max=0.003
            ),
            _few_images(
                "mlp norm fashion", 200, 50, batch_size=40, schedule="constant", lr_max=0.003
            ),
        ),
    ),
}
