"""Variant: a ground with a fault put into it, as the tables of faulty cases write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.grounds import GROUNDS
from benchmarks.faults.plants import Plant

__all__ = ["Fault", "Variant", "changed", "faster", "planted"]


@dataclass(frozen=True)
class Variant:
    """A ground with options changed and, where options cannot do it, a plant."""

    ground: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    plant: Plant | None = None
    onset: int = 0
    """Optimizer step at which the fault sets in."""
    twin: Mapping[str, Any] = field(default_factory=dict)
    """How the healthy twin differs from the ground."""


@dataclass(frozen=True)
class Fault:
    """A fault, the rules that name it, and where it is put."""

    expected: frozenset[str]
    variants: Sequence[Variant]


def changed(ground: str, **changes: Any) -> Variant:
    """Only options are changed."""
    return Variant(ground, changes)


def faster(ground: str, factor: float, **changes: Any) -> Variant:
    """The ground's peak learning rate times a factor."""
    lr_max = float(f"{GROUNDS[ground]['lr_max'] * factor:.3g}")
    return Variant(ground, {"lr_max": lr_max, **changes})


def planted(
    ground: str,
    plant: str,
    *,
    onset: int = 0,
    options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Variant:
    """A plant in a ground; ``options`` change the ground and its twin alike."""
    if onset:
        arguments["step"] = onset
    options = options or {}
    return Variant(ground, options, Plant(plant, arguments), onset, options)
