"""What options may be: names of data sets and models, and what schedules have by default."""

from __future__ import annotations

import re

from tracking.errors import did_you_mean

__all__ = ["CYCLES", "DATASETS", "MODELS", "PCT_START", "check_name"]

DATASETS = (
    "digits",
    "fashion-mnist",
    "mnist",
    "kmnist",
    "cifar10",
    "cifar100",
    "svhn",
    "synthetic",
)
MODELS = ("simple_cnn", "resnet_small")

# Where a schedule's rise ends (flat_cos: where its fall begins), as a share of the run or cycle.
PCT_START = {
    "one_cycle": 0.25,
    "one_cycle_linear": 0.45,
    "triangular": 0.5,
    "flat_cos": 0.75,
    "linear": 0.1,
}
CYCLES = {"triangular": 3, "warm_restarts": 3}

FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_name(option: str, value: str) -> str:
    """A data set's or a model's name, if it is one. Raises ValueError: it is none."""
    known, prefix = (DATASETS, "folder:") if option == "dataset" else (MODELS, "torchvision:")
    if value in known or (value.startswith(prefix) and value != prefix):
        return value
    if FACTORY.fullmatch(value):
        return value
    raise ValueError(
        f"allowed: {', '.join(known)}, {prefix}{'PATH' if prefix == 'folder:' else 'NAME'}, "
        f"package.module:factory.{did_you_mean(value, known)}"
    )
