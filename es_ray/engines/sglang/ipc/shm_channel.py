"""Arrays between this process and the scheduler's, through shared memory and with a checksum.

SGLang's call into its scheduler takes JSON, which is logged, and returns nothing but success. So a call names
a channel and its content's checksum, and the reply is in another channel.

A message is: the header's length (8 bytes), the header (JSON: values, and names, dtypes and shapes of the
arrays), then the arrays, each at a multiple of 64 bytes.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_SPACE = 1 << 16
_ALIGN = 64
BLOCK = 4096


class DamagedMessage(Exception):  # noqa: N818 - says what was found, not who failed
    """A message that differs from what its writer reported."""


@dataclass(frozen=True)
class Message:
    """Plain values (JSON) and arrays by name."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class ShmChannel:
    """A block of shared memory, created by the caller and opened by the callee."""

    def __init__(self, memory: SharedMemory, owner: bool) -> None:
        self._memory = memory
        self._owner = owner

    @classmethod
    def create(cls, space: int) -> "ShmChannel":
        """A new channel with space for that many bytes of arrays."""
        return cls(SharedMemory(create=True, size=space + HEADER_SPACE), owner=True)

    @classmethod
    def open(cls, name: str) -> "ShmChannel":
        """The channel of that name, created by another process."""
        return cls(SharedMemory(name=name), owner=False)

    @property
    def name(self) -> str:
        """The name that the other process opens."""
        return self._memory.name

    @property
    def size(self) -> int:
        """Total bytes."""
        return self._memory.size

    def write(self, message: Message, start: int = 0, stop: int | None = None) -> int:
        """Write a message to bytes [start, stop), over the last one, and return its checksum.

        Raises ValueError for a message that is too large.
        """
        space = self._bytes(start, stop)
        arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
        header = json.dumps(
            {
                "values": dict(message.values),
                "arrays": [[name, array.dtype.str, array.shape] for name, array in arrays.items()],
            }
        ).encode()
        at = 8 + len(header)
        if _needed(at, [array.nbytes for array in arrays.values()]) > len(space):
            raise ValueError(f"a message of more than {at} bytes for a channel of {len(space)}")
        space[:8] = np.frombuffer(len(header).to_bytes(8, "little"), np.uint8)
        space[8:at] = np.frombuffer(header, np.uint8)
        checksum = zlib.crc32(header)
        for array in arrays.values():
            at = _aligned(at)
            if array.nbytes:
                space[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
            checksum = _checksum(space[at : at + array.nbytes], checksum)
            at += array.nbytes
        return checksum

    def read(self, checksum: int, start: int = 0, stop: int | None = None) -> Message:
        """The message in bytes [start, stop), copied; raises DamagedMessage unless it has that checksum."""
        space = self._bytes(start, stop)
        length = int.from_bytes(space[:8].tobytes(), "little")
        if length > len(space) - 8:
            raise DamagedMessage("its header is longer than the channel")
        header = space[8 : 8 + length].tobytes()
        found = zlib.crc32(header)
        try:
            content = json.loads(header)
            arrays, at = {}, 8 + length
            for name, dtype, shape in content["arrays"]:
                at = _aligned(at)
                count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
                part = space[at : at + count].copy()
                found = _checksum(part, found)
                arrays[name] = part.view(dtype).reshape(shape)
                at += count
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedMessage("its header is not readable") from error
        if found != checksum:
            raise DamagedMessage(f"its checksum is {found:08x}, not {checksum:08x}")
        return Message(content["values"], arrays)

    def close(self) -> None:
        """Close the memory; its creator also frees it."""
        self._memory.close()
        if self._owner:
            self._memory.unlink()

    def _bytes(self, start: int, stop: int | None) -> NDArray[np.uint8]:
        assert self._memory.buf is not None
        return np.frombuffer(self._memory.buf[start : stop or self.size], dtype=np.uint8)


def _checksum(data: NDArray[np.uint8], before: int) -> int:
    """The checksum of bytes that follow those with checksum `before`."""
    blocks = len(data) // BLOCK * BLOCK
    sums = block_sums(data[:blocks].view(np.int64))
    return zlib.crc32(data[blocks:].tobytes(), zlib.crc32(sums.tobytes(), before))


def block_sums(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of each 4 KiB block: CRC-32 of the sums is five times as fast as of the bytes."""
    return words.reshape(-1, BLOCK // 8).sum(axis=1)


def _aligned(at: int) -> int:
    return -(-at // _ALIGN) * _ALIGN


def _needed(at: int, sizes: list[int]) -> int:
    for size in sizes:
        at = _aligned(at) + size
    return at


class ReplyChannel:
    """A channel with a section for each rank: the number of the call, then the reply to it."""

    _MARK = 16

    def __init__(self, channel: ShmChannel, ranks: int) -> None:
        self._channel = channel
        self._ranks = ranks

    @classmethod
    def create(cls, ranks: int, space: int) -> "ReplyChannel":
        """A new channel with space for that many bytes of arrays from each rank."""
        return cls(ShmChannel.create(ranks * (space + HEADER_SPACE + 2 * _ALIGN)), ranks)

    @classmethod
    def open(cls, name: str, ranks: int) -> "ReplyChannel":
        """The channel of that name, created by another process."""
        return cls(ShmChannel.open(name), ranks)

    @property
    def name(self) -> str:
        """The name that the other process opens."""
        return self._channel.name

    def write(self, rank: int, call: int, message: Message) -> None:
        """Write a rank's reply to a call, by the call's number."""
        start, stop = self._section(rank)
        checksum = self._channel.write(message, start + self._MARK, stop)
        mark = self._channel._bytes(start, start + self._MARK)
        mark[:] = np.array([call, checksum], dtype=np.uint64).view(np.uint8)

    def read(self, rank: int, call: int) -> Message:
        """A rank's reply to that call; raises DamagedMessage if there is none, or it is incomplete."""
        start, stop = self._section(rank)
        number, checksum = (
            int(word) for word in self._channel._bytes(start, start + self._MARK).copy().view(np.uint64)
        )
        if number != call:
            raise DamagedMessage(f"rank {rank} answered call {number}, not {call}")
        return self._channel.read(checksum, start + self._MARK, stop)

    def close(self) -> None:
        """Close the memory; its creator also frees it."""
        self._channel.close()

    def _section(self, rank: int) -> tuple[int, int]:
        size = self._channel.size // self._ranks // _ALIGN * _ALIGN
        return rank * size, (rank + 1) * size
