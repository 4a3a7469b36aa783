"""Operators by which a compiled model tells its hooks what it computes.

``torch.compile`` ends its graph at a hook that it cannot look into, and begins another behind it,
so layers are no longer fused with their neighbours. An operator instead is a node of the graph,
which the compiler leaves where it is: it calls the hook when the graph runs. Both are registered
with torch when this module is imported (torch.library, "Custom operators").
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor

__all__ = ["Listener", "enlist", "forget_graphs", "is_enlisted", "pass_on", "tell"]


class Listener(Protocol):
    """Whom the operators call."""

    listening: bool
    """Whether it is to be called."""

    def told(self, tensors: Sequence[Tensor]) -> None:
        """Take the values (``tell``), or the gradient (``pass_on``)."""


_listeners: dict[int, ReferenceType[Listener]] = {}
# ``tell`` says that it changes this tensor. So it is neither dropped nor computed before another.
_order = torch.zeros(1, dtype=torch.int8, device="cpu")


def enlist(listener: Listener) -> int:
    """The number by which compiled code knows ``listener``, until graphs are forgotten.

    It stands in the graph. So it is the smallest that is free: the next training of the same
    network then has the same graph, which torch finds compiled on the disk.
    """
    number = next(free for free in itertools.count() if free not in _listeners)
    _listeners[number] = ref(listener)
    return number


def forget_graphs() -> None:
    """Have torch compile everything anew: what it has compiled by now has no new hooks in it.

    It still has old ones. Only now may their numbers be given to others.
    """
    torch.compiler.reset()
    for number, known in list(_listeners.items()):
        listener = known()
        if listener is None or not listener.listening:
            del _listeners[number]


def is_enlisted(number: int, listener: Listener) -> bool:
    """Whether the number still stands for the listener."""
    return _known_by(number) is listener


def _known_by(number: int) -> Listener | None:
    return _listeners[number]() if number in _listeners else None


def tell(number: int, tensors: Sequence[Tensor]) -> None:
    """In code that is being compiled: tell listener ``number`` these values when it runs."""
    torch.ops.layerscope.tell(_order, number, [x.detach() for x in tensors])


def pass_on(number: int, x: Tensor) -> Tensor:
    """In code that is being compiled: a copy of ``x`` whose gradient listener ``number`` is told.

    It is a copy since an operator must not return what it was given, and since the next layer may
    change it in place.
    """
    copy: Tensor = _pass_on(x, _order, number)
    return copy


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _call_listener(number: int, tensors: Sequence[Tensor]) -> None:
    listener = _known_by(number)
    if listener is not None and listener.listening:  # compiled code outlives recordings
        listener.told(tensors)


# torch.library.custom_op would be shorter, but what it wraps a call in takes 7 us of each 9.
_library = torch.library.Library("layerscope", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "tell(Tensor(a!) order, int number, Tensor[] tensors) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)
_library.impl(  # type: ignore[no-untyped-call]
    "tell", lambda _, number, tensors: _call_listener(number, tensors), "CompositeExplicitAutograd"
)
torch.library.register_fake("layerscope::tell", lambda *_: None, lib=_library)


@torch.library.custom_op("layerscope::pass_on", mutates_args=())
def _pass_on(x: Tensor, order: Tensor, number: int) -> Tensor:  # noqa: ARG001 - for its backward
    return x.clone()


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:  # noqa: ARG001
    _, ctx.order, ctx.number = inputs


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    torch.ops.layerscope.tell(ctx.order, ctx.number, [gradient.detach()])
    return gradient, None, None


_pass_on.register_fake(lambda x, *_: torch.empty_like(x))
_pass_on.register_autograd(_backward, setup_context=_keep)
