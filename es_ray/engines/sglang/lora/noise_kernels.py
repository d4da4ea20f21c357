"""Triton kernels: members written straight into the LoRA memory pool, their digests, and sums over members.

A complete member never exists: each program draws the noise of one tile of the flat vector for one member,
adds it to theta and stores the result, in the pool's dtype, at the entries' addresses. Import this module
only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: N803 - Triton's constants are in capitals

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE: Final = 1024
"""Entries of a tile; its first entry is a multiple of 4, as one Philox block gives four."""


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _box_muller(x, y):
    top = (x >> 8).to(tl.int32)
    u = (top + 1).to(tl.float32) * 5.9604644775390625e-08
    # near 1 a fast logarithm has no correct digit left: the series in 1 - u, which is exact
    w = (16777215 - top).to(tl.float32) * 5.9604644775390625e-08
    series = w * (1.0 + w * (0.5 + w * (0.3333333333 + w * (0.25 + w * 0.2))))
    radius = tl.sqrt(2.0 * tl.where(w < 0.015625, series, -tl.log(u)))
    angle = (y >> 8).to(tl.int32).to(tl.float32) * 3.7450702829239726e-07
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def _normals(first, member, generation, k0, k1, TILE: tl.constexpr):
    """Noise of the entries [first, first + TILE), first a multiple of 4."""
    block = (first // 4 + tl.arange(0, TILE // 4)).to(tl.uint32)
    zero = tl.zeros_like(block)
    member, generation = zero + member.to(tl.uint32), zero + generation.to(tl.uint32)
    x0, x1, x2, x3 = _philox(
        block, member, generation, zero, zero + k0.to(tl.uint32), zero + k1.to(tl.uint32)
    )
    n0, n1 = _box_muller(x0, x1)
    n2, n3 = _box_muller(x2, x3)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@triton.jit
def _write_kernel(
    like, theta, sigma, tile_run, tile_first, run_source, run_stop, run_address, run_stride,
    slots, numbers, signs, words, FRESH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    run = tl.load(tile_run + tl.program_id(0))
    first = tl.load(tile_first + tl.program_id(0))
    source, stop = tl.load(run_source + run), tl.load(run_stop + run)
    slot = tl.load(slots + tl.program_id(1))
    sign = tl.load(signs + tl.program_id(1))
    entry = first + tl.arange(0, TILE)
    inside = (entry >= source) & (entry < stop)
    number = tl.load(numbers + tl.program_id(1))
    if FRESH:  # no centre; where sigma is 0, the noise as it is
        noise = _normals(first, number, tl.load(words), tl.load(words + 1), tl.load(words + 2), TILE)
        scale = tl.load(sigma + entry, mask=inside, other=0.0)
        value = tl.where(scale == 0.0, noise, scale * (sign * noise))
    else:
        value = tl.load(theta + entry, mask=inside, other=0.0)
        if sign != 0.0:
            noise = _normals(first, number, tl.load(words), tl.load(words + 1), tl.load(words + 2), TILE)
            value += tl.load(sigma + entry, mask=inside, other=0.0) * (sign * noise)
    start = tl.load(run_address + run).to(tl.pointer_type(like.dtype.element_ty))
    tl.store(
        start + slot * tl.load(run_stride + run) + (entry - source),
        value.to(like.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def _digest_kernel(
    like, tile_run, tile_first, run_source, run_stop, run_address, run_stride, slots, digests,
    TILE: tl.constexpr,
):  # fmt: skip
    run = tl.load(tile_run + tl.program_id(0))
    first = tl.load(tile_first + tl.program_id(0))
    source, stop = tl.load(run_source + run), tl.load(run_stop + run)
    entry = first + tl.arange(0, TILE)
    inside = (entry >= source) & (entry < stop)
    start = tl.load(run_address + run).to(tl.pointer_type(like.dtype.element_ty))
    slot = tl.load(slots + tl.program_id(1))
    value = tl.load(start + slot * tl.load(run_stride + run) + (entry - source), mask=inside, other=0.0)
    bits = value.to(tl.uint16, bitcast=True).to(tl.uint32)
    factor = (entry * 2 + 1).to(tl.uint32) * 2654435761
    tl.atomic_add(digests + tl.program_id(1), tl.sum(((bits + 1) * factor).to(tl.int32) * inside, axis=0))


# not specialised: equal bytes for all slices must not depend on two compilations being equal
@triton.jit(do_not_specialize=["start", "stop"])
def _sum_kernel(
    out,
    numbers,
    weights,
    words,
    start,
    stop,
    count,
    TILE: tl.constexpr,
):
    first = (start // 4) * 4 + tl.program_id(0) * TILE
    entry = first + tl.arange(0, TILE)
    generation, k0, k1 = tl.load(words), tl.load(words + 1), tl.load(words + 2)
    total = tl.zeros([TILE], dtype=tl.float32)
    for index in range(count):  # in member order: the bits do not depend on how entries are split
        noise = _normals(first, tl.load(numbers + index), generation, k0, k1, TILE)
        total += tl.load(weights + index) * noise
    tl.store(out + (entry - start), total, mask=(entry >= start) & (entry < stop))


EXACT: Final[dict[str, Any]] = {"enable_fp_fusion": False}
"""For a launch: products are rounded before they are added, as in NumPy, and in every compilation alike."""


def words_of(seed: int, generation: int, device: torch.device | str) -> Tensor:
    """Generation and key as the kernels read them: three words, int64."""
    return torch.tensor([generation, seed & 0xFFFFFFFF, seed >> 32], dtype=torch.int64).to(device)


class TileTable:
    """The extents of a pool as tensors on its device, cut into tiles.

    sources, stops: entries of the flat vector; addresses: of each extent's first entry in slot 0; strides:
    elements from slot to slot.
    """

    def __init__(
        self, sources: list[int], stops: list[int], addresses: list[int], strides: list[int], like: Tensor
    ) -> None:
        tiles = [
            (number, first)
            for number, (source, stop) in enumerate(zip(sources, stops, strict=True))
            for first in range(source - source % 4, stop, TILE)
        ]
        self.like = like
        columns = (
            [tile[0] for tile in tiles],
            [tile[1] for tile in tiles],
            sources,
            stops,
            addresses,
            strides,
        )
        self._columns = [torch.tensor(column, dtype=torch.int64, device=like.device) for column in columns]

    def write_adapters(
        self,
        theta: Tensor | None,
        sigma: Tensor,
        words: Tensor,
        slots: Tensor,
        numbers: Tensor,
        signs: Tensor,
    ) -> None:
        """Write members into their slots: theta + sigma * sign * noise, rounded to the pool's dtype.

        theta, sigma: float32, shape [P]; theta None: fresh members (see Perturbation); slots, numbers: int64,
        signs: float32, shape [members], multiplied by the factors on sigma; sign 0 is theta itself.
        """
        fresh = theta is None
        _write_kernel[(len(self._columns[0]), len(slots))](
            self.like, sigma if theta is None else theta, sigma, *self._columns, slots, numbers, signs, words,
            FRESH=fresh, TILE=TILE, **EXACT,
        )  # fmt: skip

    def digests(self, slots: Tensor) -> Tensor:
        """A number for each slot that depends on every entry there and its place, int32, shape [members]."""
        digests = torch.zeros(len(slots), dtype=torch.int32, device=slots.device)
        grid = (len(self._columns[0]), len(slots))
        _digest_kernel[grid](self.like, *self._columns, slots, digests, TILE=TILE)
        return digests


def weighted_sum(words: Tensor, numbers: Tensor, weights: Tensor, start: int, stop: int) -> Tensor:
    """Sum over members of weight * noise at the entries [start, stop), float32, in member order.

    numbers: int64, weights: float32 with the members' signs, shape [N].
    """
    out = torch.empty(stop - start, dtype=torch.float32, device=weights.device)
    grid = (triton.cdiv(stop - start + start % 4, TILE),)
    _sum_kernel[grid](out, numbers, weights, words, start, stop, len(weights), TILE=TILE, **EXACT)
    return out
