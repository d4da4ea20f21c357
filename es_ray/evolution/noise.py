"""Counter-based noise: a normal variate is a pure function of its position.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives four 32-bit words
for each counter (block, member, generation, stream) under a key made from the run's seed; Box-Muller turns
them into four normals. So any process can compute any part of any member, in any order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STREAM_NOISE: Final = 0
STREAM_INITIAL: Final = 1
STREAM_PROMPTS: Final = 2
STREAM_SAMPLES: Final = 3
STREAM_ROUNDING: Final = 4
"""What the numbers are for: noise, initial values, prompt order, token sampling, stochastic rounding."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_CHUNK = 1 << 16  # entries computed at once, to fit a core's cache; never changes a result

Words = NDArray[np.uint32]


def philox4x32(counter: tuple[Words, ...], key: tuple[int, int]) -> tuple[Words, ...]:
    """Ten rounds of Philox4x32.

    counter: four uint32 arrays that broadcast together; key: two 32-bit words.
    Returns four uint32 arrays of the broadcast shape.
    """
    # not broadcast beforehand: in the first rounds most words are the same for all blocks or all members
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    shift = np.uint64(32)
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def _box_muller(x: Words, y: Words) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # in float64, so that the float32 result hardly depends on the machine's log, cos and sin
    radius = (x >> np.uint32(8)).astype(np.float64)
    radius += 1.0
    radius *= 2.0**-24
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = (y >> np.uint32(8)).astype(np.float64)
    angle *= 2.0 * np.pi * 2.0**-24
    return (radius * np.cos(angle)).astype(np.float32), (radius * np.sin(angle)).astype(np.float32)


def normals(
    seed: int, generation: int, member: int, stream: int, start: int, stop: int
) -> NDArray[np.float32]:
    """Standard normals of the entries [start, stop) of a flat vector, float32, shape [stop - start].

    seed: 0 to 2**64 - 1; generation, member: 0 to 2**32 - 1; entry i is in block i // 4, which has 32 bits.
    """
    return normals_of(seed, generation, [member], stream, start, stop)[0]


def normals_of(
    seed: int, generation: int, members: Sequence[int], stream: int, start: int, stop: int
) -> NDArray[np.float32]:
    """`normals` of several members, shape [N, stop - start]."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    out = np.empty((len(members), stop - start), dtype=np.float32)
    for low in range(start - start % 4, stop, _CHUNK):
        high, first = min(low + _CHUNK, stop), max(low, start)
        block = np.arange(low // 4, -(-high // 4), dtype=np.uint64)
        for some in member_slices(len(members), high - low):
            member = np.array(members[some], dtype=np.uint64)[:, None]
            words = philox4x32((block, member, np.uint32(generation), np.uint32(stream)), key)  # type: ignore[arg-type]
            quads = np.stack([*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3])], axis=-1)
            quads = quads.reshape(len(member), -1)
            out[some, first - start : high - start] = quads[:, first - low : high - low]
    return out


def member_slices(members: int, entries: int) -> Iterator[slice]:
    """The members in slices whose entries fit a cache."""
    step = max(1, _CHUNK // max(1, entries))
    return (slice(low, min(low + step, members)) for low in range(0, members, step))


@dataclass(frozen=True)
class Noise:
    """The run's perturbations: `member(g, i)` is the same array in any process, at any time.

    With `antithetic`, members 2k and 2k + 1 share the noise of pair k, and the odd one is negated.
    """

    seed: int
    antithetic: bool = False

    def member(self, generation: int, index: int, start: int, stop: int) -> NDArray[np.float32]:
        """Noise of entries [start, stop) of one member, float32, shape [stop - start]."""
        return self.members(generation, [index], start, stop)[0]

    def members(self, generation: int, indices: Sequence[int], start: int, stop: int) -> NDArray[np.float32]:
        """Noise of several members, shape [N, stop - start]."""
        numbers = [index // 2 for index in indices] if self.antithetic else indices
        noise = normals_of(self.seed, generation, numbers, STREAM_NOISE, start, stop)
        if self.antithetic:
            noise[[index % 2 == 1 for index in indices]] *= -1
        return noise
