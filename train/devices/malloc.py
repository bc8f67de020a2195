"""Keeping freed memory, on a CPU under glibc."""

import ctypes

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1


def keep_freed_memory() -> bool:
    """Tell glibc not to return large blocks to the kernel; returns whether it accepted that.

    XLA allocates a program's scratch memory again at every call. Blocks of that size go to and from
    the kernel each time, and each page is faulted in and zeroed again: about a fifth of the CPU
    time of a training step at batch 64 (`python -m eval.bench`, with and without --return-memory).
    """
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):  # another C library: it has its own ways
        return False
