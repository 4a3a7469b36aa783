"""Hooks of modules: copies of a module do without them, and a compiled module calls them too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting
from torch.utils.hooks import RemovableHandle

from tracking.hooks.graph_operators import enlist, is_enlisted, pass_on, tell
from tracking.hooks.outputs import tensors_in

__all__ = ["GradientHook", "Hook", "HookHandle", "ValuesHook"]

PLAIN = (Tensor, nn.Parameter)
"""Tensors with memory of their own; those of other classes are made of several."""


class Hook:
    """A hook of a module that a copy of the module (deepcopy, pickle) does not take along.

    Weights are often averaged in a copy of the model; its outputs are not the model's, and what
    the hook holds (files, threads) cannot be copied. The copy's hook does nothing.

    ``call`` is given what torch gives a hook. A compiled model is interrupted for it.
    """

    def __init__(self, call: Callable[..., None] | None) -> None:
        self._call = call

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any) -> None:
        if self._call is not None:
            self._call(*args)

    def disarm(self) -> None:
        """Do nothing from now on; compiled code calls a hook also after its removal."""
        self._call = None

    def __reduce__(self) -> tuple[type[Hook], tuple[None]]:
        return type(self), (None,)


class HookHandle:
    """Removes a hook from its module, where compiled code may still know of it."""

    def __init__(self, hook: _CompiledHook, handle: RemovableHandle) -> None:
        self._hook = hook
        self._handle = handle

    def remove(self) -> None:
        """Remove it. May be called twice."""
        self._handle.remove()
        self._hook.listening = False


class _CompiledHook(Hook, ABC):
    """A hook that compiled code can call, by a number that it has from when it is registered on."""

    def __init__(self, call: Callable[..., None] | None) -> None:
        super().__init__(call)
        self.listening = False
        self._number = -1

    @abstractmethod
    def told(self, tensors: Sequence[Tensor]) -> None:
        """Take what compiled code has computed."""

    def before(self, module: nn.Module) -> HookHandle:
        """Register it as forward pre-hook."""
        return self._registered(module.register_forward_pre_hook(self))

    def after(self, module: nn.Module) -> HookHandle:
        """Register it as forward hook."""
        return self._registered(module.register_forward_hook(self))

    def _registered(self, handle: RemovableHandle) -> HookHandle:
        if not is_enlisted(self._number, self):
            self._number = enlist(self)
        self.listening = True
        return HookHandle(self, handle)


class ValuesHook(_CompiledHook):
    """Tells ``call`` what a module is given (as forward pre-hook) or gives (as forward hook).

    In a compiled model it is an operator of the graph (``graph_operators.tell``), and ``call`` is
    given the tensors that are in those values, in their order. Where they are not plain tensors on
    the CPU the model is interrupted for it, as for any other hook.
    """

    def __init__(self, call: Callable[[Any], None] | None) -> None:
        super().__init__(call)
        self.compiled = False
        """Whether it has been called from compiled code."""

    def __call__(self, module: nn.Module, *values: Any) -> None:
        if is_compiling():
            self._trace(module, values[-1])
        elif self._call is not None:
            self._call(values[-1])

    def told(self, tensors: Sequence[Tensor]) -> None:
        """Compiled code is where the hook stands."""
        self.compiled = True
        if self._call is not None:
            self._call(tuple(tensors))

    def _trace(self, module: nn.Module, values: Any) -> None:
        if _left_out():
            return
        tensors = list(tensors_in(values))
        if _on_host(tensors or module.parameters()):
            tell(self._number, tensors)
        else:
            self._interrupt(values)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _interrupt(self, values: Any) -> None:
        if self._call is not None:
            self._call(values)


class GradientHook(_CompiledHook):
    """A forward hook that sees to it that the gradient at a module's output can be told.

    ``call`` is given what torch gives a forward hook. In a compiled model, where the output is a
    plain tensor on the CPU, the graph goes on with a copy of it (``graph_operators.pass_on``), and
    ``tell_gradient`` is given the gradient when that has come.
    """

    def __init__(
        self,
        call: Callable[[nn.Module, Any, Any], None] | None,
        tell_gradient: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__(call)
        self._tell_gradient = tell_gradient

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        if is_compiling():
            return self._trace(module, inputs, output)
        if self._call is not None:
            self._call(module, inputs, output)
        return None

    def told(self, tensors: Sequence[Tensor]) -> None:
        """Compiled code has computed the gradient."""
        if self._call is not None and self._tell_gradient is not None:
            self._tell_gradient(*tensors)

    def _trace(self, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        if _left_out() or not torch.is_grad_enabled():
            return None
        if isinstance(output, Tensor) and _on_host([output]):
            return pass_on(self._number, output) if output.requires_grad else None
        self._interrupt(module, inputs, output)
        return None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _interrupt(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._call is not None:
            self._call(module, inputs, output)


def _left_out() -> bool:
    """Whether what is being compiled is not a training's own pass: an exported program, or values
    that stand for others inside torch.func's transformations.
    """
    # torch.func has no public way to ask.
    return is_exporting() or torch._C._are_functorch_transforms_active()  # noqa: SLF001


def _on_host(tensors: Iterable[Tensor]) -> bool:
    """Whether operators may take them. On a GPU, CUDA graphs could be replayed without them."""
    return all(type(x) in PLAIN and x.device.type == "cpu" for x in tensors)
