"""Allocator setting for CPU training under glibc."""

import ctypes

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1


def keep_freed_memory() -> bool:
    """Make glibc keep large freed blocks; return True if it accepted the setting.

    XLA allocates a program's scratch memory at every call. Otherwise the kernel takes such blocks
    back and faults in and zeroes each page again: about a fifth of the CPU time of a training step
    at batch 64 (`python -m eval.bench`, with and without --return-memory).
    """
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):  # not glibc
        return False
