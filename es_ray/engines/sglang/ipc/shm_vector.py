"""The centre in shared memory, for the scheduler's process: it is large, and new in every generation."""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_ray.engines.sglang.ipc.shm_channel import BLOCK, DamagedMessage, block_sums
from es_ray.evolution.perturbation import Vector

THREADS = min(8, os.cpu_count() or 1)
PART = 1 << 20
"""Entries below which another thread is not worth starting; a multiple of a block."""


class ShmVector:
    """Shared memory for one vector, created by the writer and opened by the reader.

    Its checksum is CRC-32 of the sums of every 4 KiB; the reader sums on the device, after the copy.
    size: entries of the vector.
    """

    def __init__(self, memory: SharedMemory, size: int, owner: bool) -> None:
        self._memory = memory
        self._size = size
        self._owner = owner
        self._pinning_tried = False
        self._checksum: int | None = None
        self._last: Vector | None = None
        # one core cannot saturate the memory's bandwidth
        self._threads = ThreadPoolExecutor(THREADS, "theta") if owner else None
        self.version = 0
        """Incremented whenever another vector is written."""

    @classmethod
    def create(cls, size: int) -> "ShmVector":
        """New shared memory."""
        return cls(SharedMemory(create=True, size=_bytes(size)), size, owner=True)

    @classmethod
    def open(cls, name: str, size: int) -> "ShmVector":
        """The shared memory of that name, created by another process."""
        return cls(SharedMemory(name=name), size, owner=False)

    @property
    def name(self) -> str:
        """The name that the other process opens."""
        return self._memory.name

    def write(self, theta: Vector) -> int:
        """Write a vector, float32, shape [P], unless it is the current one; returns its checksum.

        Raises ValueError for another shape.
        """
        if self._checksum is not None and _same_memory(theta, self._last):
            return self._checksum
        stored, words = self._words(np.int32)[: self._size], self._words(np.int64)
        bits = np.ascontiguousarray(theta, dtype=np.float32).view(np.int32)
        if bits.shape != stored.shape:
            raise ValueError(f"theta of shape {bits.shape} for shared memory of {stored.shape}")
        sums = np.empty(words.nbytes // BLOCK, dtype=np.int64)

        def equal(part: slice) -> bool:
            return np.array_equal(stored[part], bits[part])

        def copy(part: slice) -> None:
            stored[part] = bits[part]
            first, last = part.start * 4 // BLOCK, -(-part.stop * 4 // BLOCK)
            sums[first:last] = block_sums(words[first * BLOCK // 8 : last * BLOCK // 8])

        # another vector differs early, which is found quickly
        if self._checksum is None or not equal(slice(0, BLOCK)) or not all(self._in_parts(equal)):
            for _ in self._in_parts(copy):
                pass
            self._checksum = zlib.crc32(sums.tobytes())
            self.version += 1
        self._last = theta  # kept alive, so that its memory is not reused
        return self._checksum

    def read(self, checksum: int, device: torch.device) -> Tensor:
        """The vector on a device; raises DamagedMessage unless it has that checksum."""
        words = torch.from_numpy(self._words(np.int64))
        if device.type == "cuda" and not self._pinning_tried:
            # pinned memory is copied faster; where pinning fails, everything else works the same
            if int(torch.cuda.cudart().cudaHostRegister(words.data_ptr(), words.nbytes, 0)):
                with contextlib.suppress(RuntimeError):
                    torch.ones(1, device=device)  # the next kernel reports the error, which clears it
            self._pinning_tried = True
        copied = words.to(device, copy=True)
        found = zlib.crc32(copied.view(-1, BLOCK // 8).sum(dim=1).cpu().numpy().tobytes())
        if found != checksum:
            raise DamagedMessage(f"theta's checksum is {found:08x}, not {checksum:08x}")
        return copied.view(torch.float32)[: self._size]

    def close(self) -> None:
        """Close the memory; its creator also frees it."""
        if self._threads is not None:
            self._threads.shutdown()
        self._memory.close()
        if self._owner:
            self._memory.unlink()

    def _in_parts(self, work: Callable[[slice], Any]) -> Iterable[Any]:
        """The results of the work on each part of the vector, in order; the parts run in parallel."""
        each = max(PART, BLOCK * -(-self._size // (THREADS * BLOCK)))
        parts = [slice(low, min(low + each, self._size)) for low in range(0, self._size, each)]
        if self._threads is None or len(parts) == 1:
            return map(work, parts)
        return self._threads.map(work, parts)

    def _words(self, dtype: Any) -> NDArray[Any]:
        assert self._memory.buf is not None
        return np.frombuffer(self._memory.buf[: _bytes(self._size)], dtype=dtype)


def _same_memory(one: Vector, other: Vector | None) -> bool:
    """Whether two vectors are the same read-only memory, as when Ray passes one object to several calls.

    Owners of read-only memory are trusted not to write it.
    """
    if other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    same = one.ctypes.data == other.ctypes.data and one.strides == other.strides
    return same and _is_read_only(one) and _is_read_only(other)


def _is_read_only(vector: Vector) -> bool:
    owner: Any = vector.base  # the memory's owner: an array, or another library's object
    try:
        return not vector.flags.writeable and (owner is None or memoryview(owner).readonly)
    except TypeError:  # no buffer protocol
        return False


def _bytes(size: int) -> int:
    """Bytes for that many entries, rounded up to blocks; the memory itself may be longer."""
    return BLOCK * -(-4 * size // BLOCK)
