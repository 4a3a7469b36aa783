"""Forward hooks on those modules of a model that are recorded, while the model changes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tracking.hooks.graph_operators import forget_graphs
from tracking.hooks.layers import Membership, matching_layers, select_layers
from tracking.hooks.module_hooks import GradientHook, HookHandle, ValuesHook

__all__ = ["LayerHooks"]

MakeHook = Callable[[str], ValuesHook | GradientHook]


class LayerHooks:
    """Keeps one forward hook on each module that ``layers`` means (see ``select_layers``).

    ``make`` gives the hook of a layer, by its name. ``order`` maps the names of all layers that are
    or were hooked to their places: the model's order, those that joined later last. A layer that is
    lost is hooked no more, whatever module takes its place.
    """

    def __init__(self, model: nn.Module, layers: str, make: MakeHook) -> None:
        self.order: dict[str, int] = {}
        self._model = model
        self._layers = layers
        self._make = make
        self._membership = Membership(model)
        self._lost: set[str] = set()
        self._unknown = False
        self._hooked: dict[str, tuple[nn.Module, ValuesHook | GradientHook, HookHandle]] = {}

    def attach(self) -> None:
        """Hook the layers; raises BadOption, see ``select_layers``."""
        select_layers(self._model, self._layers)
        forget_graphs()
        self.update()

    def update(self, *, compiled: bool = False) -> None:
        """Hook what is selected now: modules that joined the model, not those that left it.

        ``compiled``: it is called from compiled code, which knows nothing of those that joined.
        """
        if not self._membership.changed():
            return
        chosen = matching_layers(self._model, self._layers)
        for name, (module, _, handle) in list(self._hooked.items()):
            if chosen.get(name) is not module:
                handle.remove()
                del self._hooked[name]
        for name, module in chosen.items():
            if name not in self._hooked and name not in self._lost:
                hook = self._make(name)
                self._hooked[name] = module, hook, hook.after(module)
                self.order.setdefault(name, len(self.order))
                self._unknown |= compiled

    def end_step(self) -> None:
        """No compiled code is running now: have it compiled anew where it lacks a hook."""
        if self._unknown:
            self._unknown = False
            forget_graphs()

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
