"""Counter-based noise: a normal variate is a pure function of where it is used.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives four 32-bit words
for each counter (block, member, generation, stream) under a key made of the run's seed; Box-Muller makes
four normals of them. So any process can build any part of any member, alone and in any order.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STREAM_NOISE: Final = 0
STREAM_INITIAL: Final = 1
STREAM_SAMPLING: Final = 2

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_CHUNK = 1 << 18  # entries made at once: bounds the temporaries, and never changes a result

Words = NDArray[np.uint32]


def philox4x32(counter: tuple[Words, ...], key: tuple[int, int]) -> tuple[Words, ...]:
    """Ten rounds of Philox4x32.

    counter: four uint32 arrays that broadcast together; key: two 32-bit words.
    Returns four uint32 arrays of the broadcast shape.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
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
    # float64 inside, so that what is rounded to float32 hardly depends on the machine's log, cos and sin
    u = ((x >> np.uint32(8)).astype(np.float64) + 1.0) * 2.0**-24
    angle = 2.0 * np.pi * ((y >> np.uint32(8)).astype(np.float64) * 2.0**-24)
    radius = np.sqrt(-2.0 * np.log(u))
    return (radius * np.cos(angle)).astype(np.float32), (radius * np.sin(angle)).astype(np.float32)


def normals(
    seed: int, generation: int, member: int, stream: int, start: int, stop: int
) -> NDArray[np.float32]:
    """Standard normals of the entries [start, stop) of a flat vector, float32, shape [stop - start].

    seed: 0 to 2**64 - 1; generation, member: 0 to 2**32 - 1; entry i lies in block i // 4, which is 32 bits.
    """
    key = (seed & 0xFFFFFFFF, seed >> 32)
    out = np.empty(stop - start, dtype=np.float32)
    for low in range(start - start % 4, stop, _CHUNK):
        high = min(low + _CHUNK, stop)
        block = np.arange(low // 4, -(-high // 4), dtype=np.uint64)
        words = philox4x32((block, np.uint32(member), np.uint32(generation), np.uint32(stream)), key)  # type: ignore[arg-type]
        quads = np.stack([*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3])], axis=1)
        first = max(low, start)
        out[first - start : high - start] = quads.ravel()[first - low : high - low]
    return out


@dataclass(frozen=True)
class Noise:
    """The run's perturbations: `member(g, i)` is the same array wherever and whenever it is asked for.

    With `antithetic`, members 2k and 2k + 1 share the noise of pair k, and the odd one is negated.
    """

    seed: int
    antithetic: bool = False

    def member(self, generation: int, index: int, start: int, stop: int) -> NDArray[np.float32]:
        """Noise of entries [start, stop) of one member, float32, shape [stop - start]."""
        number = index // 2 if self.antithetic else index
        noise = normals(self.seed, generation, number, STREAM_NOISE, start, stop)
        return -noise if self.antithetic and index % 2 else noise
