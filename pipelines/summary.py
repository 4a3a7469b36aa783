"""What a model is made of: layers, output shapes, trainable and frozen parameters, buffers.

Batch normalisation trains its scale and shift (gamma, beta); its running mean and variance are
buffers, which no gradient reaches.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tracking.hooks.layers import named_layers
from tracking.hooks.outputs import float_tensors

__all__ = ["LayerSummary", "ModelSummary", "summarize"]


ROLES = ("trainable", "frozen", "buffers")


@dataclass(frozen=True)
class LayerSummary:
    """One module that has parameters or buffers of its own, or no children."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    """Without the batch dimension; None where the module was not called."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of each parameter and buffer by name."""
    roles: dict[str, str]
    """What each of them is: trainable, frozen (a parameter without gradient) or buffers."""
    trainable: int
    frozen: int
    buffers: int

    def listing(self, role: str) -> str:
        """Names and shapes of one role, such as ``buffers: running_mean 8``; may be empty."""
        named = [f"{name} {_times(self.shapes[name])}" for name in self._with(role)]
        return f"{role}: {', '.join(named)}" if named else ""

    def _with(self, role: str) -> list[str]:
        return [name for name, own in self.roles.items() if own == role]


@dataclass(frozen=True)
class ModelSummary:
    """The layers in the model's order, and totals that count shared parameters once."""

    layers: tuple[LayerSummary, ...]
    trainable: int
    frozen: int
    buffers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """A table for people."""
        table = Table("layer", "kind", "output", "parameters and buffers")
        for heading in ("trainable", "frozen", "buffers"):
            table.add_column(heading, justify="right")
        for layer in self.layers:
            shapes = "; ".join(filter(None, (layer.listing(role) for role in ROLES)))
            numbers = (layer.trainable, layer.frozen, layer.buffers)
            output = "not called" if layer.output_shape is None else _times(layer.output_shape)
            table.add_row(layer.name, layer.kind, output, shapes, *(f"{n:,}" for n in numbers))
        table.add_section()
        totals = (self.trainable, self.frozen, self.buffers)
        table.add_row("total", "", "", "", *(f"{n:,}" for n in totals))
        text = io.StringIO()
        # A file, whatever FORCE_COLOR says of the terminal; and a name is no markup.
        Console(width=140, file=text, force_terminal=False, markup=False, emoji=False).print(table)
        return text.getvalue()


def summarize(model: nn.Module, example: Tensor) -> ModelSummary:
    """Summarise a model by passing ``example`` (a batch) through it, without gradients.

    The model is left as it was: evaluation mode is used, so batch normalisation learns nothing.
    """
    shapes = _output_shapes(model, example)
    seen: set[int] = set()
    layers = tuple(
        _layer(name, module, shapes.get(module))
        for name, module in named_layers(model).items()
        if _is_leaf(module) or any(True for _ in _own(module))
    )
    totals = {"trainable": 0, "frozen": 0, "buffers": 0}
    for _, module in model.named_modules():
        for _, tensor, kind in _own(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                totals[kind] += tensor.numel()
    return ModelSummary(layers, **totals)


def _layer(name: str, module: nn.Module, shape: tuple[int, ...] | None) -> LayerSummary:
    totals = {"trainable": 0, "frozen": 0, "buffers": 0}
    shapes = {}
    roles = {}
    for own, tensor, role in _own(module):
        totals[role] += tensor.numel()
        shapes[own], roles[own] = tuple(tensor.shape), role
    return LayerSummary(name, type(module).__name__, shape, shapes, roles, **totals)


def _is_leaf(module: nn.Module) -> bool:
    # Not any(): an empty Sequential among the children is false.
    return next(module.children(), None) is None


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter, "trainable" if parameter.requires_grad else "frozen"
    for name, buffer in module.named_buffers(recurse=False):
        yield name, buffer, "buffers"


def _output_shapes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        for tensor in float_tensors(output):
            shapes.setdefault(module, tuple(tensor.shape[1:]))

    modes = {module: module.training for module in model.modules()}
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return shapes


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
