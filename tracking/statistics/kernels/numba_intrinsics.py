"""What compiled code cannot say in Python: addresses, a number that threads share, calls."""
# ruff: noqa: ARG001 - Numba calls with all of these, and the signatures it takes have these names

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

__all__ = ["call", "call_team", "next_number", "to_pointer"]

intrinsic: Any = extending.intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def to_pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def next_number(typing: Any, address: Any) -> Any:
    """The int64 number at an address, which grows by one; each thread is given another one."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        place = builder.inttoptr(arguments[0], number.as_pointer())
        return builder.atomic_rmw("add", place, number(1), "monotonic")

    return types.int64(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def call(typing: Any, work: Any, job: Any) -> Any:
    """``work(job)``; both are addresses."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer])
        function, passed = arguments
        builder.call(
            builder.inttoptr(function, kind.as_pointer()), [builder.inttoptr(passed, pointer)]
        )
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def call_team(typing: Any, team: Any, work: Any, job: Any) -> Any:
    """``GOMP_parallel(work, job, 0, 0)``: each thread of the caller's team calls ``work(job)``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, number, number])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        passed = [builder.inttoptr(argument, pointer) for argument in arguments[1:]]
        builder.call(function, [*passed, number(0), number(0)])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), code
