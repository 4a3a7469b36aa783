"""Optimizers: which parameters decay, and how a schedule's values reach the optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipelines.config import RunConfig
from pipelines.schedules import ScheduleValues
from tracking.errors import BadModel

__all__ = ["apply_values", "make_optimizer", "parameter_groups"]

# Normalisation modules whose parameters may have several dimensions; all others have one.
NORMS = (nn.LayerNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """Trainable parameters in up to two groups, ``weights`` and ``norms_and_biases``.

    Parameters with at most one dimension and all parameters of normalisation modules are in
    ``norms_and_biases``, which does not decay unless ``decay_norm_bias`` is set: decay would pull
    a scale to zero, and a bias has too few values to overfit (He et al. 2018, arXiv:1812.01187,
    section 3.1). A parameter that several modules share appears once; a group without parameters
    is left out.

    Raises BadModel: no parameter is trainable.
    """
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise BadModel(
            f"{type(model).__name__} has no trainable parameters; an optimizer needs at least one: "
            "add a layer that has parameters, or set requires_grad=True on those that are frozen"
        )
    weights = [p for p in trainable if p.ndim > 1 and id(p) not in norms]
    others = [p for p in trainable if p.ndim <= 1 or id(p) in norms]
    decay = config.weight_decay
    groups = [
        {"name": "weights", "params": weights, "weight_decay": decay},
        {
            "name": "norms_and_biases",
            "params": others,
            "weight_decay": decay if config.decay_norm_bias else 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer that a configuration names, over the groups of ``parameter_groups``.

    Its learning rate and momentum are ``lr_max`` and ``momentum_max`` until ``apply_values``
    writes a schedule's. The implementation is PyTorch's default: ``fused=True`` is faster on CPU,
    but it pairs weight, gradient and state by their place in memory, and without any error gives
    wrong results where memory formats differ (torch 2.14.1).

    Raises BadModel: no parameter is trainable.
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        # At momentum 0 Nesterov's formula and the plain one agree, but PyTorch refuses the former.
        nesterov = config.nesterov and config.momentum_max > 0
        return torch.optim.SGD(
            groups, lr=config.lr_max, momentum=config.momentum_max, nesterov=nesterov
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    betas = (config.momentum_max, config.beta2)
    return kind(groups, lr=config.lr_max, betas=betas, eps=config.eps)


def apply_values(optimizer: torch.optim.Optimizer, values: ScheduleValues) -> None:
    """Write a step's values into every parameter group of SGD, Adam or AdamW.

    Momentum is SGD's ``momentum``, or Adam's beta1. Where it is exactly 0, PyTorch's SGD takes a
    plain step and leaves its momentum buffer as it was.
    """
    for group in optimizer.param_groups:
        group["lr"] = values.lr
        if "betas" in group:
            group["betas"] = (values.momentum, *group["betas"][1:])
        else:
            group["momentum"] = values.momentum
