"""Allocator setting for CPU training under glibc."""

import ctypes

M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX = -4, -1, -8


def keep_freed_memory() -> bool:
    """Make glibc keep large freed blocks; return True if it accepted the setting.

    XLA allocates a program's scratch memory at every call. Otherwise the kernel takes such blocks
    back and faults in and zeroes each page again: about a fifth of the CPU time of a training step
    at batch 64 (`python -m eval.bench`, with and without --return-memory). There is one arena for
    all threads, since the others hold blocks of at most 64 MB and map larger ones in any case. So
    call it before JAX starts its threads.
    """
    try:
        libc = ctypes.CDLL(None)
        settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
        return all([libc.mallopt(*pair) for pair in settings.items()])
    except (OSError, AttributeError):  # not glibc
        return False
