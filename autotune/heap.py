"""The C library's heap: fast by default, for it keeps what is freed; exact while memory is watched."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameters of mallopt, see malloc.h
# What glibc's own adjustment ends at in a process that has ever freed a large tensor; a call of `mallopt` ends that.
USUAL = (32 << 20, 64 << 20)
# As small as leaves a tensor its own mapping. Not for timing: page faults make a call 4 to 47 % slower (2 cores).
EXACT = (1 << 16, 0)
LARGEST_PLUG = 64 << 20
IS_MMAPPED = 2  # flag of a chunk's size, which lies before the chunk


def settle_heap() -> None:
    """Have the heap work from now on as in a process that has been running for a while, whatever is freed in it."""
    if (glibc := _glibc()) is not None:
        _set_thresholds(glibc, USUAL)


@contextmanager
def clean_heap(*, exact: bool) -> Iterator[None]:
    """Begin with a heap that holds no free pages, so that reusing them counts as growth.

    Args:
        exact: give back what is freed later, too, so that resident memory is what is held. Large blocks get mappings of
            their own then, and none lands in a hole of the heap, which would stay resident with it: the holes are
            filled with blocks that are never touched.
    """
    if (glibc := _glibc()) is None:
        yield
        return
    _set_thresholds(glibc, EXACT if exact else USUAL)
    glibc.malloc_trim(0)
    plugs = _plug(glibc) if exact else []
    try:
        yield
    finally:
        for plug in plugs:
            glibc.free(plug)
        _set_thresholds(glibc, USUAL)


def _plug(glibc: ctypes.CDLL) -> list[int]:
    """Take every hole of the heap that a block of its own mapping would fit into, the largest first."""
    plugs, size = [], LARGEST_PLUG
    while size >= EXACT[0]:
        block = glibc.malloc(size)
        if block and not ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value & IS_MMAPPED:
            plugs.append(block)
            continue
        glibc.free(block)
        size //= 2
    return plugs


def _set_thresholds(glibc: ctypes.CDLL, thresholds: tuple[int, int]) -> None:
    for parameter, size in zip((MMAP_THRESHOLD, TRIM_THRESHOLD), thresholds, strict=True):
        glibc.mallopt(parameter, size)


@lru_cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one that these figures are about."""
    if sys.platform != "linux":
        return None
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    glibc.malloc.argtypes, glibc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    glibc.free.argtypes = [ctypes.c_void_p]
    return glibc
