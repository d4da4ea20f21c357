"""Tiles that fit the rows, for SGLang's batch-invariant matrix products (`engine.deterministic`).

So that a row's bits do not depend on how many rows run, SGLang multiplies with a Triton kernel whose tiles
are always 128 rows x 128 outputs, or 256 in float16. With few rows, a projection with 3,584 outputs keeps 28
of an H100's 132 multiprocessors at work. But each entry is summed along the inner dimension in one order,
whatever the tile, so other tiles give the same bits. That is tested on the GPU before they are used; where it
is not so, SGLang's own are left. In the scheduler's process.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

KERNEL: Final = "matmul_kernel_persistent"
ARGUMENTS: Final = ("a_ptr", "b_ptr", "c_ptr", "bias_ptr", "M", "N", "K")
"""The first arguments of SGLang's kernel, which are read here."""


class Tile(NamedTuple):
    """What one program computes at a time: rows x outputs, `inner` products of each in one step."""

    rows: int
    outputs: int
    inner: int
    warps: int
    stages: int

    def arguments(self) -> dict[str, int]:
        """As the arguments of SGLang's kernel."""
        return {
            "BLOCK_SIZE_M": self.rows,
            "BLOCK_SIZE_N": self.outputs,
            "BLOCK_SIZE_K": self.inner,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


NARROW, MIDDLE, WIDE = Tile(64, 32, 128, 4, 4), Tile(64, 64, 64, 4, 4), Tile(128, 128, 64, 8, 4)
TILES: Final = (NARROW, MIDDLE, WIDE)


def tile(rows: int, outputs: int, processors: int) -> Tile:
    """The largest tile with which a product of so many rows and outputs has work for most multiprocessors."""
    for larger in (WIDE, MIDDLE):
        if rows > larger.rows // 2 and _count(rows, outputs, larger) >= processors:
            return larger
    return NARROW


def _count(rows: int, outputs: int, of: Tile) -> int:
    return -(-rows // of.rows) * -(-outputs // of.outputs)


class FittingTiles:
    """SGLang's kernel, launched with other tiles than it is asked for where their bits are the same.

    kernel: SGLang's; equal: whether all tiles give the same bits in a dtype.
    """

    def __init__(self, kernel: Any, equal: Callable[[Any, torch.dtype], bool]) -> None:
        self._kernel = kernel
        self._equal = functools.cache(functools.partial(equal, kernel))

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: Any, *given: Any, **named: Any) -> Any:
        a, rows, outputs = given[0], given[4], given[5]
        if a.dtype in (torch.float16, torch.bfloat16) and self._equal(a.dtype):
            named |= tile(rows, outputs, named["NUM_SMS"]).arguments()
        return self._kernel[grid](*given, **named)


def same_bits(kernel: Any, dtype: torch.dtype) -> bool:
    """Whether SGLang's kernel computes the same bits with all tiles on this GPU; says so if it does not.

    The inner dimension is no multiple of any tile's, so that the last step is a part of one.
    """
    rows, outputs, inner = 2 * WIDE.rows - 1, 2 * WIDE.outputs, 10 * WIDE.inner + 8
    random = torch.Generator().manual_seed(0)  # of its own: the sampler's stays as it is
    a, b = (torch.randn(size, inner, generator=random).to("cuda", dtype) for size in (rows, outputs))
    first, *others = (_product(kernel, a, b.t(), each) for each in TILES)
    equal = all(torch.equal(first, other) for other in others)
    if not equal:
        log.warning("products of %s differ between tiles on this GPU: SGLang's own tiles are used", dtype)
    return equal


def _product(kernel: Any, a: Tensor, b: Tensor, with_tile: Tile) -> Tensor:
    """A times b by SGLang's kernel."""
    (rows, inner), outputs = a.shape, b.shape[1]
    out = torch.empty(rows, outputs, device=a.device, dtype=a.dtype)
    kernel[(_count(rows, outputs, with_tile),)](
        a, b, out, None, rows, outputs, inner, *a.stride(), *b.stride(), *out.stride(),
        NUM_SMS=_count(rows, outputs, with_tile), A_LARGE=False, B_LARGE=False, C_LARGE=False, HAS_BIAS=False,
        GROUP_SIZE_M=8, **with_tile.arguments(),
    )  # fmt: skip
    return out


def fit_tiles() -> None:
    """Let SGLang's batch-invariant products use these tiles, if its kernel is the one known."""
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    kernel = getattr(batch_invariant_ops, KERNEL, None)
    if tuple(getattr(kernel, "arg_names", ())[: len(ARGUMENTS)]) != ARGUMENTS:
        log.warning("SGLang's batch-invariant products are not the ones known: its own tiles are used")
        return
    setattr(batch_invariant_ops, KERNEL, FittingTiles(kernel, same_bits))
