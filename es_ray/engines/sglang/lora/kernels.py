"""Triton kernels for the products of a population: every row has its own adapter, all of one rank.

For a row x with adapter slot s, and each of the c projections that a fused module holds,

    y += scale[s] * B[s] (A[s] x)        (Hu et al. 2021, arXiv 2106.09685, eq. 3)

A row costs a dot product for each of A's rows and a scaled add for each of B's columns, whatever the number
of adapters: nothing is sorted or grouped, and the host needs no data of the batch. A slot below 0 is
the base model's: nothing is added to such a row. Sums are in float32, in an order that depends on neither the
batch nor the grid, so a row's result doesn't either. The products A x of a row may be in several parts, one
from each tile of x, which are added where they are used. Import this only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: N803 - Triton's constants are in capitals

import torch
import triton
import triton.language as tl
from torch import Tensor

from es_ray.engines.sglang.lora.batch_info import Rows


@triton.jit
def _dots(x, a, first_row, C_RANK: tl.constexpr, K: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr):
    """Products of x [K] with rows first_row, first_row + 1 ... of a [C_RANK, K], float32, shape [R]."""
    k = tl.arange(0, BLOCK)[None, :]
    r = first_row + tl.arange(0, R)[:, None]
    total = tl.zeros([R, BLOCK], dtype=tl.float32)
    for first in tl.static_range(0, K, BLOCK):
        inside = first + k < K
        values = tl.load(x + first + k, mask=inside, other=0.0).to(tl.float32)
        factors = tl.load(a + r * K + first + k, mask=inside & (r < C_RANK), other=0.0).to(tl.float32)
        total += factors * values
    return tl.sum(total, axis=1)


@triton.jit
def _shrink_kernel(
    out, x, a, slots, x_stride,
    C_RANK: tl.constexpr, K: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * R
    slot = tl.load(slots + row).to(tl.int64)
    r = first + tl.arange(0, R)
    found = tl.zeros([R], dtype=tl.float32)
    if slot >= 0:
        found = _dots(x + row * x_stride, a + slot * (C_RANK * K), first, C_RANK, K, R, BLOCK)
    tl.store(out + row * C_RANK + r, found, mask=r < C_RANK)


@triton.jit
def _place(tile, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, TILE: tl.constexpr):
    """The projection that a tile of outputs belongs to, its first output, and the end of the projection's."""
    tiles0: tl.constexpr = (N0 + TILE - 1) // TILE
    tiles1: tl.constexpr = (N1 + TILE - 1) // TILE
    part, begin, end, before = 0, 0, N0, 0
    if tile >= tiles0:
        part, begin, end, before = 1, N0, N0 + N1, tiles0
    if tile >= tiles0 + tiles1:
        part, begin, end, before = 2, N0 + N1, N0 + N1 + N2, tiles0 + tiles1
    return part, begin + (tile - before) * TILE, end


@triton.jit
def is_adapted(slot):
    """Whether a row has an adapter, shape [1]: a mask that leaves whole vectors to be read at once."""
    return slot + tl.zeros([1], dtype=tl.int64) >= 0


@triton.jit
def factor_of(
    s, scales, slot, row, part, RANK: tl.constexpr, C_RANK: tl.constexpr, R: tl.constexpr,
    PARTS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """What B's columns are multiplied by: a row's products with A, times the scale; [R], or a number.

    s: [rows, PARTS, C_RANK], whose parts are added; R, P: powers of two, at least RANK and PARTS.
    """
    scale = tl.load(scales + slot)
    first = s + row * (PARTS * C_RANK) + part * RANK
    if RANK == 1:
        if PARTS == 1:
            return tl.load(first) * scale
        else:
            p = tl.arange(0, P)
            return tl.sum(tl.load(first + p * C_RANK, mask=p < PARTS, other=0.0), axis=0) * scale
    else:
        r = tl.arange(0, R)
        if PARTS == 1:
            return tl.load(first + r, mask=r < RANK, other=0.0) * scale
        else:
            p = tl.arange(0, P)[None, :]
            inside = (p < PARTS) & (r[:, None] < RANK)
            return tl.sum(tl.load(first + p * C_RANK + r[:, None], mask=inside, other=0.0), axis=1) * scale


@triton.jit
def product_of(b, n, end, factor, adapted, RANK: tl.constexpr, R: tl.constexpr):
    """B's columns times their factors at the outputs n below end, float32; 0 unless `adapted`."""
    if RANK == 1:
        return tl.load(b + n, mask=(n < end) & adapted, other=0.0).to(tl.float32) * factor
    else:
        r = tl.arange(0, R)[None, :]
        inside = (n[:, None] < end) & (r < RANK) & adapted[None, :]
        columns = tl.load(b + n[:, None] * RANK + r, mask=inside, other=0.0)
        return tl.sum(columns.to(tl.float32) * factor[None, :], axis=1)


@triton.jit
def _expand_kernel(
    y, s, b, slots, scales, y_stride,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, RANK: tl.constexpr, C_RANK: tl.constexpr,
    R: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        part, start, end = _place(tl.program_id(1), N0, N1, N2, TILE)
        factor = factor_of(s, scales, slot, row, part, RANK, C_RANK, R, PARTS, P)
        n = start + tl.arange(0, TILE)
        at = y + row * y_stride + n
        new = tl.load(at, mask=n < end, other=0.0).to(tl.float32)
        new += product_of(b + slot * ((N0 + N1 + N2) * RANK), n, end, factor, is_adapted(slot), RANK, R)
        tl.store(at, new.to(y.dtype.element_ty), mask=n < end)


@triton.jit
def _silu_and_mul_kernel(
    out, y, s, b, slots, scales, y_stride, dots, a,
    N: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr, TILE: tl.constexpr,
    NEXT_RANK: tl.constexpr, NEXT_R: tl.constexpr,
):  # fmt: skip
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    adapted = is_adapted(slot)
    slot = tl.maximum(slot, 0)
    n = tile * TILE + tl.arange(0, TILE)
    # what is read is read first: a program waits for memory once after its slot, not at every step
    gate = tl.load(y + row * y_stride + n, mask=n < N, other=0.0).to(tl.float32)
    up = tl.load(y + row * y_stride + N + n, mask=n < N, other=0.0).to(tl.float32)
    r = tl.arange(0, NEXT_R)
    if NEXT_RANK > 0:
        inside = (n[None, :] < N) & (r[:, None] < NEXT_RANK) & adapted[None, :]
        factors = tl.load(a + (slot * NEXT_RANK + r[:, None]) * N + n[None, :], mask=inside, other=0.0)
    b_gate = b + slot * (2 * N * RANK)
    b_up = b_gate + N * RANK
    of_gate = factor_of(s, scales, slot, row, 0, RANK, 2 * RANK, R, 1, 1)
    of_up = factor_of(s, scales, slot, row, 1, RANK, 2 * RANK, R, 1, 1)
    gate += product_of(b_gate, n, N, of_gate, adapted, RANK, R)
    up += product_of(b_up, n, N, of_up, adapted, RANK, R)
    new = (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty)
    tl.store(out + row * N + n, new, mask=n < N)
    if NEXT_RANK > 0:
        found = tl.sum(factors.to(tl.float32) * new.to(tl.float32)[None, :], axis=1)
        part = row * tl.num_programs(1) + tile
        tl.store(dots + part * NEXT_RANK + r, found, mask=r < NEXT_RANK)


def shrunk_like(x: Tensor, a: Tensor, parts: int = 1) -> Tensor:
    """An empty tensor for rows' products with A, float32, [rows, parts, c * rank]; `shrink` has one part."""
    return torch.empty(x.shape[0], parts, a.shape[1], dtype=torch.float32, device=x.device)


def shrink(x: Tensor, a: Tensor, rows: Rows, out: Tensor) -> None:
    """Write each row's products with its adapter's A to out; zeros for the base model.

    x: [rows, in], rows apart by any stride; a: [slots, c * rank, in], contiguous; out: float32,
    [rows, 1, c * rank].
    """
    _, c_rank, width = a.shape
    # measured (benchmarks/NOTES.md): fewer rows of A in a program read x more often, more leave processors
    # idle; r, block and warps fix the order of the sums
    r = triton.next_power_of_2(c_rank) if c_rank <= 3 else 2
    _shrink_kernel[x.shape[0], triton.cdiv(c_rank, r)](
        out, x, a, rows.slots, x.stride(0),
        C_RANK=c_rank, K=width, R=r, BLOCK=2048, num_warps=8,
    )  # fmt: skip


def expand_(y: Tensor, s: Tensor, b: Tensor, rows: Rows, outputs: tuple[int, ...]) -> None:
    """Add each row's scaled product of its adapter's B with s to y, in place.

    y: [rows, out], rows apart by any stride; s: float32, [rows, parts, c * rank]; b: [slots, out, rank],
    contiguous; outputs: the sizes of the c projections, which follow each other in out. Raises ValueError for
    more than three.
    """
    if len(outputs) > 3:
        raise ValueError(f"{len(outputs)} projections on one input: three at most")
    rank = b.shape[-1]
    r = triton.next_power_of_2(rank)
    tile = max(2048 // r, 128)
    n0, n1, n2 = (*outputs, 0, 0)[:3]
    _expand_kernel[y.shape[0], sum(triton.cdiv(size, tile) for size in outputs)](
        y, s, b, rows.slots, rows.scales, y.stride(0),
        N0=n0, N1=n1, N2=n2, RANK=rank, C_RANK=s.shape[2], R=r, TILE=tile,
        PARTS=s.shape[1], P=triton.next_power_of_2(s.shape[1]), num_warps=4,
    )  # fmt: skip


def silu_and_mul(
    y: Tensor, s: Tensor, b: Tensor, rows: Rows, a: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The activation of gate and up with their adapters' products: silu(gate + ...) * (up + ...), [rows, n].

    y: the base products, [rows, 2 * n], rows apart by any stride, left as they are; s: float32,
    [rows, 1, 2 * rank]; b: [slots, 2 * n, rank], contiguous; a: A of the projection that reads the result,
    [slots, rank, n], whose products come as well, in as many parts as there are tiles. One pass over y,
    instead of one to add, one for the activation and one for A; the sums are not rounded in between. SGLang's
    own activation, with another exponential, may give a row of the base model another last bit.
    """
    size, rank = y.shape[1] // 2, b.shape[-1]
    out = torch.empty(y.shape[0], size, dtype=y.dtype, device=y.device)
    r = triton.next_power_of_2(rank)
    tile = max(1024 // r, 128)
    tiles = triton.cdiv(size, tile)
    next_rank = 0 if a is None else a.shape[1]
    dots = None if a is None else shrunk_like(y, a, tiles)
    _silu_and_mul_kernel[y.shape[0], tiles](
        out, y, s, b, rows.slots, rows.scales, y.stride(0), dots, a,
        N=size, RANK=rank, R=r, TILE=tile,
        NEXT_RANK=next_rank, NEXT_R=triton.next_power_of_2(max(next_rank, 1)), num_warps=4,
    )  # fmt: skip
    return out, dots
