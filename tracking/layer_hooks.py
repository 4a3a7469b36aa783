"""Forward hooks on those modules of a model that are recorded, while the model changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tracking.layers import Hook, Membership, matching_layers

__all__ = ["LayerHooks"]

LayerCall = Callable[[str, nn.Module, Any, Any], None]


class LayerHooks:
    """Keeps one forward hook on each module that ``layers`` means (see ``select_layers``).

    ``call`` is given the layer's name, the module, its positional inputs and its output. ``order``
    maps the names of all layers that are or were hooked to their places: the model's order, those
    that joined later last. Copies of the model do not call. A layer that is lost is hooked no more,
    whatever module takes its place.
    """

    def __init__(self, model: nn.Module, layers: str, call: LayerCall) -> None:
        self.order: dict[str, int] = {}
        self._model = model
        self._layers = layers
        self._call = call
        self._membership = Membership(model)
        self._lost: set[str] = set()
        self._hooked: dict[str, tuple[nn.Module, Hook, RemovableHandle]] = {}

    def update(self) -> None:
        """Hook what is selected now: modules that joined the model, not those that left it."""
        if not self._membership.changed():
            return
        chosen = matching_layers(self._model, self._layers)
        for name, (module, _, handle) in list(self._hooked.items()):
            if chosen.get(name) is not module:
                handle.remove()
                del self._hooked[name]
        for name, module in chosen.items():
            if name not in self._hooked and name not in self._lost:
                hook = Hook(partial(self._call, name))
                self._hooked[name] = module, hook, module.register_forward_hook(hook)
                self.order.setdefault(name, len(self.order))

    def lose(self, name: str) -> None:
        """Call for this layer no more."""
        self._lost.add(name)
        if name in self._hooked:  # compiled code may call for one that has left the model
            _, hook, handle = self._hooked.pop(name)
            hook.disarm()
            handle.remove()

    def remove(self) -> None:
        """Remove every hook. May be called twice."""
        for *_, handle in self._hooked.values():
            handle.remove()
        self._hooked.clear()
