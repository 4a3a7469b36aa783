"""Remedies that several rules give."""

from __future__ import annotations

from tracking.diagnosis.evidence import RunContext
from tracking.diagnosis.losses import LossCurve
from tracking.diagnosis.rules.layer_kinds import POSITIVE
from tracking.records import Remedy

__all__ = [
    "clip",
    "gentler_lr",
    "higher_lr",
    "kaiming",
    "known_lr",
    "leaky",
    "lr",
    "rectified",
    "usual_lr",
    "warm_up",
    "with_norm",
]

USUAL = {"sgd": 0.05, "adam": 0.005, "adamw": 0.005}


def known_lr(run: RunContext) -> float | None:
    """The run's peak learning rate, where its options tell."""
    try:
        return float(run.options["lr_max"])
    except (KeyError, ValueError):
        return None


def usual_lr(run: RunContext) -> float | None:
    """A peak learning rate that often works with the run's optimizer."""
    return USUAL.get(run.options.get("optimizer", ""))


def lr(value: float | None, text: str) -> Remedy:
    """Another peak learning rate, rounded as one writes it."""
    return Remedy(text, "lr_max", "" if value is None else f"{value:.1g}")


def gentler_lr(run: RunContext) -> Remedy:
    """A lower peak learning rate: a third, or what is usual where that is lower still."""
    peak = known_lr(run)
    lower = None if peak is None else min(peak / 3, usual_lr(run) or peak)
    return lr(lower, "lower the peak learning rate")


def higher_lr(run: RunContext, times: float, curve: LossCurve) -> Remedy:
    """A peak learning rate so many times as high; the usual one where that is 0."""
    peak = known_lr(run)
    if peak == 0 or curve.lr_is_zero:
        # Where another rate was asked for, it is the schedule that makes it 0.
        return lr(None if peak else usual_lr(run), "take a learning rate that is not 0")
    return lr(None if peak is None else times * peak, f"raise the peak learning rate {times:g}x")


def warm_up() -> Remedy:
    """A schedule that begins low."""
    return Remedy("begin with a low learning rate that rises", "schedule", "one_cycle")


def with_norm() -> Remedy:
    """Batch normalisation."""
    return Remedy("normalise the activations of each layer", "norm", "batch")


def kaiming(run: RunContext) -> Remedy | None:
    """He's initialisation; nothing where it is of no use."""
    if not POSITIVE.isdisjoint(run.kinds.values()):
        return None
    return Remedy("draw the weights for the non-linearity that is used", "init", "kaiming")


def leaky() -> Remedy:
    """A rectifier that lets a little through."""
    return Remedy(
        "use a non-linearity that lets negative inputs through", "activation", "leaky_relu"
    )


def rectified() -> Remedy:
    """A non-linearity without an upper bound."""
    return Remedy("use a non-linearity that does not saturate", "activation", "relu")


def clip(norm: float = 1.0) -> Remedy:
    """Bounded gradients."""
    return Remedy("clip the gradients", "clip_norm", f"{norm:g}")
