"""A second form of the noise, in plain Python integers and float64, written from the paper alone."""

import math

MASK = 0xFFFFFFFF


def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds (Salmon et al. 2011, section 3.3)."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for number in range(10):
        if number:
            k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
        high0, low0 = divmod(0xD2511F53 * x0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 1 << 32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    return x0, x1, x2, x3


def normal(seed: int, generation: int, member: int, stream: int, entry: int) -> float:
    """One standard normal: word pairs of the entry's block through Box-Muller."""
    words = philox4x32_10((entry // 4, member, generation, stream), (seed & MASK, seed >> 32))
    x, y = words[:2] if entry % 4 < 2 else words[2:]
    u, v = ((x >> 8) + 1) / 2**24, (y >> 8) / 2**24
    radius = math.sqrt(-2 * math.log(u))
    return radius * (math.cos(2 * math.pi * v) if entry % 2 == 0 else math.sin(2 * math.pi * v))


def normals(seed: int, generation: int, member: int, stream: int, count: int) -> list[float]:
    """The first `count` standard normals of a flat vector."""
    return [normal(seed, generation, member, stream, entry) for entry in range(count)]
