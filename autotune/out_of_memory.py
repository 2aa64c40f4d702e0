"""Telling an out-of-memory error from others."""

import torch

# As libraries say it, also from inside a compiler's error.
SIGNS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for want of memory, whoever noticed.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in SIGNS)
