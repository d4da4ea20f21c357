"""Freed memory stays with the process: each layer of a model allocates and frees the same megabytes."""

import ctypes
import os
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST: Final = 32 << 20
"""Bytes of the largest block that is kept: more was never allowed before glibc 2.35."""
_KEPT: Final = 64 << 20
"""Bytes at the end of the heap that are not given back."""
_OWN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MiB that are free; what the environment says of it counts more.

    By default it gives large blocks back when they are freed, and at the next layer the system has to clear
    each page again: 12,000 page faults for 46 prompts of the bundled model (benchmarks/NOTES.md).
    Other C libraries have other allocators, which stay as they are.
    """
    if any(name in os.environ for name in _OWN):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGEST)
        set_option(_TRIM_THRESHOLD, _KEPT)
