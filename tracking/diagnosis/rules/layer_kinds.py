"""What rules must know of modules: their kinds, by the name of the class."""

from __future__ import annotations

__all__ = ["BOUNDS", "POSITIVE", "RECTIFIERS"]

RECTIFIERS = frozenset({"ReLU", "ReLU6", "GELU", "SiLU", "Hardswish", "Mish", "Threshold"})
"""Non-linearities behind which a unit that is never positive passes (nearly) no gradient on."""
BOUNDS = {
    "Tanh": (-1.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Hardtanh": (-1.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Softsign": (-1.0, 1.0),
}
"""Of the non-linearities that have two."""
POSITIVE = frozenset({"Sigmoid", "Hardsigmoid"})
"""Those whose outputs have a mean far from 0, which no initialisation of the weights mends."""
