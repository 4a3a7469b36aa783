"""Tracking: what happens inside a network while it trains, as exact records.

``Recorder``, ``ActivationStats``, ``GradientStats``, ``UpdateStats`` and, for all of it together,
``RunRecord`` work in any training loop; they are loaded on first use, since torch takes seconds to
import. ``RunContext`` is what a RunRecord may be told of its run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracking.diagnosis.evidence import RunContext
    from tracking.recorders.activations import ActivationStats
    from tracking.recorders.gradients import GradientStats
    from tracking.recorders.hyperparameters import Recorder
    from tracking.recorders.updates import UpdateStats
    from tracking.recording import RunRecord

__all__ = [
    "ActivationStats",
    "GradientStats",
    "Recorder",
    "RunContext",
    "RunRecord",
    "UpdateStats",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "ActivationStats": "tracking.recorders.activations",
    "GradientStats": "tracking.recorders.gradients",
    "Recorder": "tracking.recorders.hyperparameters",
    "RunContext": "tracking.diagnosis.evidence",
    "RunRecord": "tracking.recording",
    "UpdateStats": "tracking.recorders.updates",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
