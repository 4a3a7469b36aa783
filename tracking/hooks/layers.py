"""Which modules of a model are recorded, and under which names."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from operator import is_, itemgetter, methodcaller
from typing import Any

import torch
from torch import nn
from torch.nn.modules import activation
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

from tracking.errors import BadOption

__all__ = [
    "Membership",
    "check_layers",
    "inner_model",
    "matching_layers",
    "named_layers",
    "select_layers",
]

# Attention lives in the same module of torch but is a block with parameters, not a non-linearity.
NON_LINEARITIES = tuple(
    kind
    for name in activation.__all__
    if (kind := getattr(activation, name)) is not nn.MultiheadAttention
)


MADE = {"parametrizations"}
"""Below this name torch has what makes a parameter of others (weight_norm), which is no layer."""

_CHILDREN, _PARAMETERS, _VALUES = (
    itemgetter("_modules"),
    itemgetter("_parameters"),
    methodcaller("values"),
)


class Membership:
    """Notices that modules or parameters joined or left a model.

    Asking is done in every step that is recorded, where the training has left nothing of it in the
    processor's caches; so it takes few steps of Python's, however many modules there are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules: list[dict[str, Any]] = []
        self._counts: list[int] = []
        self._members: list[Any] = []

    def changed(self) -> bool:
        """Whether it is another set than at the last call; so it is at the first."""
        counts, members = self._found()
        if self._modules and counts == self._counts and all(map(is_, members, self._members)):
            return False
        # Their own dictionaries: the public iterators take ten times as long.
        self._modules = [vars(module) for module in self._model.modules()]
        self._counts, self._members = self._found()
        return True

    def _found(self) -> tuple[list[int], list[Any]]:
        """Numbers of children, then of parameters, module by module; and all of them."""
        held = [*map(_CHILDREN, self._modules), *map(_PARAMETERS, self._modules)]
        return [*map(len, held)], [*chain.from_iterable(map(_VALUES, held))]


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile and DistributedDataParallel.

    Its layers have the same names in every run, whatever the run is wrapped in.

    Raises BadOption: it takes no hooks.
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise BadOption(
            "model: torch.jit has compiled it, and such models take no hooks; allowed: the model "
            "that it was made of"
        )
    return model


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by the name that it goes by in tables and metrics, in the model's own order.

    The model itself, which has no qualified name, is "model", or "(model)" beside a child of it
    that is called so.
    """
    modules = dict(model.named_modules())
    itself = "(model)" if "model" in modules else "model"
    return {name or itself: module for name, module in modules.items()}


def select_layers(model: nn.Module, layers: str) -> dict[str, nn.Module]:
    """The modules to record, by name and in the model's own order.

    ``layers``: ``activations`` (every non-linearity, and the last module that has parameters of
    its own), ``params`` (every module that has parameters of its own), ``all`` (every module
    without children), or a regular expression that is searched in the qualified names. A module
    that is registered twice goes by its first name. What torch.jit has compiled takes no hooks and
    is left out.

    Raises BadOption: the expression is malformed or matches nothing, or the model has no modules
    of the kind; the message names what is there.
    """
    chosen = matching_layers(model, layers)
    if not chosen:
        names = ", ".join(named_layers(model))
        raise BadOption(f"layers={layers}: matches no module of the model; it has: {names}")
    return chosen


def matching_layers(model: nn.Module, layers: str) -> dict[str, nn.Module]:
    """The modules that ``layers`` means now, as in ``select_layers``; there may be none."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if MADE.isdisjoint(name.split(".")) and not isinstance(module, torch.jit.ScriptModule)
    }
    wanted = _wanted(layers)
    chosen = [module for name, module in modules.items() if wanted(name, module)]
    if layers == "activations":
        chosen += [module for module in modules.values() if _has_parameters(module)][-1:]
    meant = {*map(id, chosen)}
    return {name: module for name, module in named_layers(model).items() if id(module) in meant}


def check_layers(layers: str) -> None:
    """Raise BadOption where ``layers`` is neither a known word nor a regular expression."""
    try:
        re.compile(layers)
    except re.error as error:
        raise BadOption(
            f"layers={layers}: not a regular expression ({error}); "
            "allowed: activations, params, all, or an expression on layer names"
        ) from None


def _wanted(layers: str) -> Callable[[str, nn.Module], bool]:
    check_layers(layers)
    if layers == "activations":
        return lambda name, module: isinstance(module, NON_LINEARITIES)
    if layers == "params":
        return lambda name, module: _has_parameters(module)
    if layers == "all":
        return lambda name, module: bool(name) and {n for n, _ in module.named_children()} <= MADE
    pattern = re.compile(layers)
    return lambda name, module: bool(name) and bool(pattern.search(name))


def _has_parameters(module: nn.Module) -> bool:
    own = any(True for _ in module.parameters(recurse=False))
    return own or is_parametrized(module)
