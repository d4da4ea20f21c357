"""The centre on its way to the scheduler's process: it is large, and new in every generation."""

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
"""Entries below which another thread is not worth its start; whole blocks."""


class ShmVector:
    """Shared memory for one vector, made by the one who writes it and opened by the one who reads.

    Its checksum is CRC-32 of the sums of every 4 KiB; on the reader's side the device sums, after the copy.
    size: entries of the vector.
    """

    def __init__(self, memory: SharedMemory, size: int, owner: bool) -> None:
        self._memory = memory
        self._size = size
        self._owner = owner
        self._pinning_tried = False
        self._checksum: int | None = None
        self._last: Vector | None = None
        # a core alone cannot use the memory's speed
        self._threads = ThreadPoolExecutor(THREADS, "theta") if owner else None
        self.version = 0
        """How often another vector was written."""

    @classmethod
    def create(cls, size: int) -> "ShmVector":
        """New shared memory."""
        return cls(SharedMemory(create=True, size=_bytes(size)), size, owner=True)

    @classmethod
    def open(cls, name: str, size: int) -> "ShmVector":
        """The shared memory of that name, made by another process."""
        return cls(SharedMemory(name=name), size, owner=False)

    @property
    def name(self) -> str:
        """What the other process opens it by."""
        return self._memory.name

    def write(self, theta: Vector) -> int:
        """Put a vector in, float32, shape [P], unless it is there already; returns its checksum.

        Raises ValueError for another shape.
        """
        if self._checksum is not None and _same_memory(theta, self._last):
            return self._checksum
        there, words = self._words(np.int32)[: self._size], self._words(np.int64)
        bits = np.ascontiguousarray(theta, dtype=np.float32).view(np.int32)
        if bits.shape != there.shape:
            raise ValueError(f"theta of shape {bits.shape} for shared memory of {there.shape}")
        sums = np.empty(words.nbytes // BLOCK, dtype=np.int64)

        def equal(part: slice) -> bool:
            return np.array_equal(there[part], bits[part])

        def copy(part: slice) -> None:
            there[part] = bits[part]
            first, last = part.start * 4 // BLOCK, -(-part.stop * 4 // BLOCK)
            sums[first:last] = block_sums(words[first * BLOCK // 8 : last * BLOCK // 8])

        # another one differs from the start: that is soon found
        if self._checksum is None or not equal(slice(0, BLOCK)) or not all(self._in_parts(equal)):
            for _ in self._in_parts(copy):
                pass
            self._checksum = zlib.crc32(sums.tobytes())
            self.version += 1
        self._last = theta  # held, so that its memory is not another's
        return self._checksum

    def read(self, checksum: int, device: torch.device) -> Tensor:
        """The vector on a device; raises DamagedMessage unless it has that checksum."""
        words = torch.from_numpy(self._words(np.int64))
        if device.type == "cuda" and not self._pinning_tried:
            # what the device may read by itself it copies faster; where it may not, all else is the same
            if int(torch.cuda.cudart().cudaHostRegister(words.data_ptr(), words.nbytes, 0)):
                with contextlib.suppress(RuntimeError):
                    torch.ones(1, device=device)  # the next kernel reports, and so clears, what failed
            self._pinning_tried = True
        copied = words.to(device, copy=True)
        found = zlib.crc32(copied.view(-1, BLOCK // 8).sum(dim=1).cpu().numpy().tobytes())
        if found != checksum:
            raise DamagedMessage(f"theta's checksum is {found:08x}, not {checksum:08x}")
        return copied.view(torch.float32)[: self._size]

    def close(self) -> None:
        """Let go of the memory; the one who made it also frees it."""
        if self._threads is not None:
            self._threads.shutdown()
        self._memory.close()
        if self._owner:
            self._memory.unlink()

    def _in_parts(self, work: Callable[[slice], Any]) -> Iterable[Any]:
        """The work's results for one part of the vector after the other, done side by side."""
        each = max(PART, BLOCK * -(-self._size // (THREADS * BLOCK)))
        parts = [slice(low, min(low + each, self._size)) for low in range(0, self._size, each)]
        if self._threads is None or len(parts) == 1:
            return map(work, parts)
        return self._threads.map(work, parts)

    def _words(self, dtype: Any) -> NDArray[Any]:
        assert self._memory.buf is not None
        return np.frombuffer(self._memory.buf[: _bytes(self._size)], dtype=dtype)


def _same_memory(one: Vector, other: Vector | None) -> bool:
    """Whether two vectors lie in the same memory, which nobody may write, as Ray's do in calls of one put.

    Whoever lent memory as read-only is trusted not to write it.
    """
    if other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    same = one.ctypes.data == other.ctypes.data and one.strides == other.strides
    return same and _is_read_only(one) and _is_read_only(other)


def _is_read_only(vector: Vector) -> bool:
    owner: Any = vector.base  # of the memory: an array, or what another library gave
    try:
        return not vector.flags.writeable and (owner is None or memoryview(owner).readonly)
    except TypeError:  # it does not say
        return False


def _bytes(size: int) -> int:
    """Bytes of whole blocks for that many entries; the memory itself may be longer."""
    return BLOCK * -(-4 * size // BLOCK)
