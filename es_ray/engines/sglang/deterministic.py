"""What makes `engine.deterministic` faster, in the scheduler's process.

So that a row's bits do not depend on how many rows run, SGLang multiplies with a Triton kernel whose tiles
are always 128 rows x 128 outputs, or 256 in float16: with few rows, a projection with 3,584 outputs keeps 28
of an H200's 132 multiprocessors at work. But each entry is summed along the inner dimension in one order
whatever the tile, so that other tiles give the same bits; this is tested on the GPU before they are used.
With DeepGEMM installed, few products of bfloat16 come to this kernel.

Its Triton attention cuts contexts into splits of 256 tokens. For each row it starts as many programs as the
longest context that the engine allows has splits: 128 for Qwen2.5, nearly all with nothing to do. Here a
split is an eighth of that context: without `engine.deterministic` SGLang has eight splits too.
"""

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from es_ray.experiment import Experiment

log = logging.getLogger(__name__)

KERNEL: Final = "matmul_kernel_persistent"
ARGUMENTS: Final = (
    *("a_ptr", "b_ptr", "c_ptr", "bias_ptr", "M", "N", "K"),
    *("stride_am", "stride_ak", "stride_bk", "stride_bn", "stride_cm", "stride_cn"),
    *("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "NUM_SMS"),
    *("A_LARGE", "B_LARGE", "C_LARGE", "HAS_BIAS"),
)
"""Those of SGLang's kernel, which is launched here too."""
TESTED: Final = (255, 512, 1296)
"""Rows, outputs and inner dimension of the product with which tiles are tested. The inner one is a multiple
of ALIGNED as those of models are, and of no tile's, so that the last step is a part of one."""
ALIGNED: Final = 16
"""For sizes that are multiples of this Triton makes another program, which loads the operands of the next
steps ahead: only then does a tile take the memory of all its stages."""
SPLITS: Final = 8
"""In how many parts the attention cuts the longest context, unless the user says otherwise."""
SGLANGS_SPLIT: Final = 256
"""Tokens in one split of SGLang's own: no fewer here."""
_SPLIT_VARIABLE = "SGLANG_TRITON_DECODE_SPLIT_TILE_SIZE"


class Tile(NamedTuple):
    """What one program computes at a time, rows x outputs; `inner` products of each entry in a step.

    cost: the time of one round of such tiles, relative to the others, where memory does not limit it; found
    so that the choice is near the best of a sweep on an H200 in bfloat16 (benchmarks/results/throughput.md).
    """

    rows: int
    outputs: int
    inner: int
    warps: int
    stages: int
    cost: float

    def arguments(self) -> dict[str, int]:
        """As the arguments of SGLang's kernel."""
        return {
            "BLOCK_SIZE_M": self.rows,
            "BLOCK_SIZE_N": self.outputs,
            "BLOCK_SIZE_K": self.inner,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }

    def number(self, rows: int, outputs: int) -> int:
        """How many tiles a product of so many rows and outputs has."""
        return -(-rows // self.rows) * -(-outputs // self.outputs)


REFERENCE: Final = Tile(128, 128, 64, 8, 3, 3.3)
"""SGLang's own for bfloat16, which fits every GPU that it supports."""
TILES: Final = (
    Tile(16, 64, 128, 4, 5, 0.6),
    Tile(64, 64, 128, 4, 5, 1.0),
    Tile(64, 128, 128, 4, 4, 1.45),
    Tile(128, 128, 128, 8, 3, 2.65),
    REFERENCE,
    Tile(128, 256, 64, 8, 3, 4.7),
)


def best_tile(tiles: Sequence[Tile], rows: int, outputs: int, processors: int) -> Tile:
    """The tile with which a product takes the least time, in rounds of one tile for each multiprocessor."""
    return min(tiles, key=lambda tile: -(-tile.number(rows, outputs) // processors) * tile.cost)


class FittingTiles:
    """SGLang's kernel, launched with the tile that fits a product instead of the one it is asked for.

    kernel: SGLang's. usable: which tiles it has in a dtype, all of the same bits.
    """

    def __init__(self, kernel: Any, usable: Callable[[Any, torch.dtype], Sequence[Tile]]) -> None:
        self._kernel = kernel
        self._find = usable
        self._usable: dict[torch.dtype, list[Tile]] = {}

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: Any, *given: Any, **named: Any) -> Any:
        from triton.runtime.errors import OutOfResources

        a, out, rows, outputs, inner = given[0], given[2], *given[4:7]
        # other products compile to programs that were not tested
        tested = a.dtype == out.dtype in (torch.float16, torch.bfloat16) and inner % ALIGNED == 0
        tiles = self._tiles(a.dtype) if tested else []
        while tiles:
            tile = best_tile(tiles, rows, outputs, named["NUM_SMS"])
            try:
                return self._kernel[grid](*given, **named | tile.arguments())
            except OutOfResources as error:  # such as with a bias, where the product without one just fits
                log.warning("products of %s have no room for tiles of %s: %s", a.dtype, tile[:3], error)
                tiles.remove(tile)
        return self._kernel[grid](*given, **named)

    def _tiles(self, dtype: torch.dtype) -> list[Tile]:
        if dtype not in self._usable:
            self._usable[dtype] = list(self._find(self._kernel, dtype))
        return self._usable[dtype]


def same_bits(kernel: Any, dtype: torch.dtype, device: str = "cuda") -> list[Tile]:
    """The tiles with which SGLang's kernel runs on this GPU and computes the reference's bits."""
    from triton.runtime.errors import OutOfResources

    rows, outputs, inner = TESTED
    random = torch.Generator().manual_seed(0)  # of its own: the sampler's stays as it is
    a, b = (torch.randn(size, inner, generator=random).to(device, dtype) for size in (rows, outputs))
    right, same = product(kernel, a, b.t(), REFERENCE), []
    for tile in TILES:
        try:
            found = product(kernel, a, b.t(), tile)
        except OutOfResources:  # all fit an H100; an L40S has less than half of its shared memory
            continue
        if torch.equal(found, right):
            same.append(tile)
        else:
            log.warning("products of %s have other bits here with tiles of %s", dtype, tile[:3])
    return same


def product(kernel: Any, a: Tensor, b: Tensor, tile: Tile) -> Tensor:
    """A times B, [rows, inner] and [inner, outputs], by SGLang's kernel with this tile."""
    (rows, inner), outputs = a.shape, b.shape[1]
    out = torch.empty(rows, outputs, device=a.device, dtype=a.dtype)
    processors = _processors(a.device)
    kernel[(min(processors, tile.number(rows, outputs)),)](
        a, b, out, None, rows, outputs, inner, *a.stride(), *b.stride(), *out.stride(),
        NUM_SMS=processors, A_LARGE=False, B_LARGE=False, C_LARGE=False, HAS_BIAS=False, GROUP_SIZE_M=8,
        **tile.arguments(),
    )  # fmt: skip
    return out


def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def split_tokens(experiment: Experiment) -> int | None:
    """Tokens of a context in one split of the attention; None without `engine.deterministic`.

    It depends on the model and the settings alone, not on the data, as it decides the bits of contexts longer
    than a split.
    """
    if not experiment.config.engine.deterministic:
        return None
    given = experiment.config.engine.sglang
    if own := given.get("triton_attention_split_tile_size"):  # SGLang 0.5.17 to 0.5.23 do not read it here
        return int(own)
    return max(math.ceil((experiment.context_length or 0) / SPLITS), SGLANGS_SPLIT)


def speed_up(split: int) -> None:
    """Give SGLang's attention splits of so many tokens, and its products tiles that fit their rows.

    The environment variable that SGLang reads comes first, if it is set; the products' kernel must be known.
    """
    os.environ.setdefault(_SPLIT_VARIABLE, str(split))
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    kernel = getattr(batch_invariant_ops, KERNEL, None)
    if tuple(getattr(kernel, "arg_names", ())) != ARGUMENTS:
        log.warning("SGLang's batch-invariant product is not the one known: its own tiles are used")
        return
    setattr(batch_invariant_ops, KERNEL, FittingTiles(kernel, same_bits))
