"""The centre on its way to the scheduler's process: it is large, and new in every generation."""

import zlib
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_ray.engines.sglang.mailbox import BLOCK, DamagedMessage, block_sums
from es_ray.evolution.strategy import Vector


class ThetaBox:
    """Shared memory for one vector, made by the one who writes it and opened by the one who reads.

    Its checksum is CRC-32 of the sums of every 4 KiB; on the reader's side the device sums, after the copy.
    size: entries of the vector.
    """

    def __init__(self, memory: SharedMemory, size: int, owner: bool) -> None:
        self._memory = memory
        self._size = size
        self._owner = owner
        self._pinned = False
        self._checksum: int | None = None
        self.version = 0
        """How often another vector was written."""

    @classmethod
    def create(cls, size: int) -> "ThetaBox":
        """A new box."""
        return cls(SharedMemory(create=True, size=_bytes(size)), size, owner=True)

    @classmethod
    def open(cls, name: str, size: int) -> "ThetaBox":
        """The box of that name, made by another process."""
        return cls(SharedMemory(name=name), size, owner=False)

    @property
    def name(self) -> str:
        """What the other process opens it by."""
        return self._memory.name

    def write(self, theta: Vector) -> int:
        """Put a vector in, float32, shape [P], unless it is there already; returns its checksum."""
        there = self._words(np.int32)[: self._size]
        bits = np.ascontiguousarray(theta, dtype=np.float32).view(np.int32)
        # another one differs from the start: that is soon found
        same = np.array_equal(there[:BLOCK], bits[:BLOCK]) and np.array_equal(there, bits)
        if self._checksum is None or not same:
            there[:] = bits
            self._checksum = zlib.crc32(block_sums(self._words(np.int64)).tobytes())
            self.version += 1
        return self._checksum

    def read(self, checksum: int, device: torch.device) -> Tensor:
        """The vector on a device; raises DamagedMessage unless it has that checksum."""
        words = torch.from_numpy(self._words(np.int64))
        if device.type == "cuda" and not self._pinned:
            # what the device may read by itself it copies faster; where it may not, all else is the same
            torch.cuda.cudart().cudaHostRegister(words.data_ptr(), words.nbytes, 0)
            self._pinned = True
        copied = words.to(device, copy=True)
        found = zlib.crc32(copied.view(-1, BLOCK // 8).sum(dim=1).cpu().numpy().tobytes())
        if found != checksum:
            raise DamagedMessage(f"theta's checksum is {found:08x}, not {checksum:08x}")
        return copied.view(torch.float32)[: self._size]

    def close(self) -> None:
        """Let go of the memory; the one who made it also frees it."""
        self._memory.close()
        if self._owner:
            self._memory.unlink()

    def _words(self, dtype: Any) -> NDArray[Any]:
        assert self._memory.buf is not None
        return np.frombuffer(self._memory.buf[: _bytes(self._size)], dtype=dtype)


def _bytes(size: int) -> int:
    """Bytes of whole blocks for that many entries; the memory itself may be longer."""
    return BLOCK * -(-4 * size // BLOCK)
