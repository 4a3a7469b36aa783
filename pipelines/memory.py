"""Running out of memory: how it is recognised, on whatever device, and what is done about it."""

from __future__ import annotations

import gc

import torch

__all__ = ["free_memory", "is_out_of_memory"]

# What allocators without an exception of their own say.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a network or its batch did not fit into the memory of the host or the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)


def free_memory() -> None:
    """Give back what a run that has ended still holds; an exception's traceback holds it too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
