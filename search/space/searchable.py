"""Which options of RunConfig a study may search, and how a value of one is judged.

RunConfig itself judges and normalises every value, one option at a time: ``"64"`` becomes 64, and
``"true"`` becomes True. A list of widths stays the text ``8,16,32``, since Optuna's categories are
plain JSON values.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from pipelines.base_options import Options
from pipelines.config import RunConfig
from pipelines.options import config_from
from tracking.errors import BadOption, did_you_mean

__all__ = ["REFUSED", "SEARCHABLE", "check_name", "flag", "number_type", "option_value"]

# In the order in which a trial decides them: what others depend on first. The order is fixed, so
# that a seeded sampler repeats a study.
SEARCHABLE = (
    "model",
    "optimizer",
    "schedule",
    "batch_size",
    "accumulate",
    "lr_max",
    "div",
    "final_div",
    "pct_start",
    "cycles",
    "cycle_mult",
    "momentum_max",
    "momentum_min",
    "momentum_drop",
    "weight_decay",
    "decay_norm_bias",
    "nesterov",
    "beta2",
    "eps",
    "label_smoothing",
    "clip_norm",
    "augment",
    "erase",
    "widths",
    "first_kernel",
    "norm",
    "activation",
    "downsample",
    "head",
    "init",
    "precision",
    "channels_last",
)

_EQUAL_SAMPLES = "a study is judged at equal numbers of samples seen"
_SAME_DATA = "it must be the same for all trials, so that they can be compared"
_WHOLE_STUDY = "it belongs to the study, not to a trial"

REFUSED = (
    dict.fromkeys(("epochs", "train_limit", "patience"), _EQUAL_SAMPLES)
    | dict.fromkeys(
        ("dataset", "data_dir", "image_size", "valid_fraction", "test_fraction", "seed"),
        _SAME_DATA,
    )
    | dict.fromkeys(
        (
            "device",
            "compile",
            "threads",
            "record",
            "layers",
            "every",
            "record_eval",
            "near_zero_eps",
            "above_threshold",
            "gradients",
            "updates",
            "experiment",
            "run_name",
            "diagnose",
            "stop_on",
            "thresholds",
            "report",
            "checkpoint",
            "log_model",
        ),
        _WHOLE_STUDY,
    )
)
"""Every other option of RunConfig, and why it is not searched."""


class _Extra(Options):
    """What a space may search beside RunConfig's options."""

    momentum_drop: float = Field(0.1, ge=0, lt=1)
    """momentum_max - momentum_min."""


# Options that RunConfig only takes together with others, and a setting in which it takes any value.
_SETTINGS = {
    "pct_start": {"schedule": "triangular"},
    "cycles": {"schedule": "triangular"},
    "momentum_max": {"schedule": "constant"},
    "momentum_min": {"schedule": "constant"},
}


def flag(name: str) -> str:
    """An option's flag on the command line: ``lr_max`` -> ``--lr-max``."""
    return f"--{name.replace('_', '-')}"


def check_name(name: str) -> None:
    """Raise BadOption where a name is unknown, or is an option that a study does not search."""
    if name in REFUSED:
        raise BadOption(
            f"{name} cannot be searched: {REFUSED[name]}; "
            f"set it for the study as a whole: {flag(name)}"
        )
    if name not in SEARCHABLE:
        raise BadOption(f"unknown option {name!r}.{did_you_mean(name, SEARCHABLE)}")


@cache  # resolving the hints of all options takes two milliseconds
def number_type(name: str) -> type[int] | type[float] | None:
    """int or float for a searchable option that takes a number, None for all others."""
    hint = get_type_hints(_Extra if name in _Extra.model_fields else RunConfig)[name]
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((kind for kind in (int, float) if kind in kinds), None)


def option_value(name: str, value: Any) -> Any:
    """A value as RunConfig understands it, as a plain JSON value.

    Raises BadOption: RunConfig does not allow it.
    """
    kind = _Extra if name in _Extra.model_fields else RunConfig
    config = config_from(kind, _SETTINGS.get(name, {}) | {name: value})
    known = config.model_dump(mode="json")[name]
    if known is None:
        raise BadOption(f"{name}: a value is missing")
    return ",".join(map(str, known)) if isinstance(known, list) else known
