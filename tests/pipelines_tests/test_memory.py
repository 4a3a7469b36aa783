"""What running out of memory looks like, and what does not."""

from __future__ import annotations

import weakref

import pytest
import torch

from pipelines.memory import free_memory, is_out_of_memory

__all__: list[str] = []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.10 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUBLAS: Out Of Memory"),
    ],
)
def test_out_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
        OSError(12, "Cannot allocate memory"),
        KeyboardInterrupt("out of memory"),
        RuntimeError(),
    ],
)
def test_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_hosts_allocator_is_understood() -> None:
    """What this machine's own PyTorch says of far too much."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


class Large:
    """Stands for what a run still holds, in a circle as a module and its hooks are."""

    def __init__(self) -> None:
        self.itself = self


def test_what_refers_to_itself_is_given_back() -> None:
    large = Large()
    seen = weakref.ref(large)
    del large
    free_memory()
    assert seen() is None
