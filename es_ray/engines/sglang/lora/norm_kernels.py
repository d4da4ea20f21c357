"""A Triton kernel for RMSNorm in a population: adapters' products before it and after it, in its one pass.

The inputs of q, k, v and of gate, up are norms, and the outputs of o and down are added to the residual by
the next one. So what is left of an adapter's product when a norm begins, and the products of the norm's
result with the next A, need no reading of a row of their own: of the seven kernels that adapters add to a
layer, two remain. For a row h with residual r, and s = A x of the projection that made h (see `kernels`):

    r += h + scale * B s,    out = r / sqrt(mean(r^2) + eps) * weight,    dots = A_next out

(Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4). In float32, the sum not rounded in between; a row's result
depends on no other row. Import this only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: N803 - Triton's constants are in capitals

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from es_ray.engines.sglang.lora.batch_info import Rows
from es_ray.engines.sglang.lora.kernels import factor_of, is_adapted, product_of, shrunk_like

WIDEST = 16384
"""The longest row that one program holds."""


@triton.jit
def _norm_kernel(
    out, h, residual, weight, eps, slots, scales, s, b, dots, a, h_stride, residual_stride,
    N: tl.constexpr, BLOCK: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    RANK: tl.constexpr, R: tl.constexpr, PARTS: tl.constexpr, P: tl.constexpr,
    NEXT: tl.constexpr, NEXT_R: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    adapted = is_adapted(slot)
    slot = tl.maximum(slot, 0)
    n = tl.arange(0, BLOCK)
    inside = n < N
    # what is read is read first: a program waits for memory once after its slot, not at every step
    x = tl.load(h + row * h_stride + n, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + n, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        at = residual + row * residual_stride + n
        before = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    r = tl.arange(0, NEXT_R)
    if NEXT > 0:
        of_a = a + (slot * NEXT + r[:, None]) * N + n[None, :]
        first_a = tl.load(of_a, mask=inside[None, :] & (r[:, None] < NEXT) & adapted[None, :], other=0.0)
    if RANK > 0:
        factor = factor_of(s, scales, slot, row, 0, RANK, RANK, R, PARTS, P)
        x += product_of(b + slot * (N * RANK), n, N, factor, adapted, RANK, R)
    if HAS_RESIDUAL:
        x += before
        tl.store(at, x.to(residual.dtype.element_ty), mask=inside)
    scaled = x * tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)
    new = (scaled * w).to(out.dtype.element_ty)
    tl.store(out + row * N + n, new, mask=inside)
    if NEXT > 0:
        rounded = new.to(tl.float32)[None, :]
        tl.store(dots + row * NEXT + r, tl.sum(first_a.to(tl.float32) * rounded, axis=1), mask=r < NEXT)
        for first in tl.static_range(NEXT_R, NEXT, NEXT_R):
            r = first + tl.arange(0, NEXT_R)
            of_a = a + (slot * NEXT + r[:, None]) * N + n[None, :]
            more_a = tl.load(of_a, mask=inside[None, :] & (r[:, None] < NEXT) & adapted[None, :], other=0.0)
            tl.store(dots + row * NEXT + r, tl.sum(more_a.to(tl.float32) * rounded, axis=1), mask=r < NEXT)


class Left(NamedTuple):
    """A product that is still to be added to a projection's output.

    s: the products with its A, float32, [rows, parts, rank]; b: its B, [slots, out, rank], contiguous.
    """

    s: Tensor
    b: Tensor


def norm(
    h: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    rows: Rows,
    left: Left | None,
    a: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """RMSNorm of h plus what is left of its product plus the residual; its products with A if one is given.

    h: [rows, n], rows apart by any stride; residual: the same, gets the sum in its own dtype; weight: [n]; a:
    [slots, c * rank, n], contiguous. Returns the norm, [rows, n], and the products, float32, [rows, 1, c *
    rank], zeros for the base model.
    """
    count, size = h.shape
    out = torch.empty(count, size, dtype=h.dtype, device=h.device)
    dots = None if a is None else shrunk_like(h, a)
    rank, parts = (0, 1) if left is None else (left.b.shape[2], left.s.shape[1])
    c_rank = 0 if a is None else a.shape[1]
    block = triton.next_power_of_2(size)
    _norm_kernel[count,](
        out, h, residual, weight, eps, rows.slots, rows.scales,
        None if left is None else left.s, None if left is None else left.b, dots, a,
        h.stride(0), 0 if residual is None else residual.stride(0),
        N=size, BLOCK=block, HAS_RESIDUAL=residual is not None,
        RANK=rank, R=triton.next_power_of_2(max(rank, 1)), PARTS=parts, P=triton.next_power_of_2(parts),
        NEXT=c_rank, NEXT_R=min(triton.next_power_of_2(max(c_rank, 1)), max(1, 16384 // block)),
        num_warps=min(max(block // 512, 1), 16),
    )  # fmt: skip
    return out, dots
