"""Which tiles SGLang's batch-invariant kernel is launched with, for a kernel that notes them."""

from types import SimpleNamespace

import pytest
import torch

from es_ray.engines.sglang.deterministic import REFERENCE, TILES, FittingTiles, best_tile

PROCESSORS = 132
SGLANGS = {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 64, "num_warps": 8, "num_stages": 3}


class Kernel:
    """Takes launches as Triton's kernels do: kernel[grid](arguments), with the grid a function of them."""

    def __init__(self) -> None:
        self.launched: list[dict] = []

    def __getitem__(self, grid):
        def launch(*given, **named):
            self.launched.append({**named, "grid": grid(named), "given": given})

        return launch


def launch(fitting: FittingTiles, rows: int, outputs: int, dtype: torch.dtype = torch.bfloat16) -> None:
    def grid(chosen):
        return (-(-rows // chosen["BLOCK_SIZE_M"]) * -(-outputs // chosen["BLOCK_SIZE_N"]),)

    a = SimpleNamespace(dtype=dtype)
    fitting[grid](a, "b", "c", None, rows, outputs, 3584, NUM_SMS=PROCESSORS, **SGLANGS)


@pytest.mark.parametrize(
    "rows, outputs, wanted",
    [
        (1, 3584, (16, 64)),
        (16, 152064, (16, 64)),
        (60, 3584, (64, 64)),  # 56 tiles; of SGLang's size, 28
        (60, 37888, (64, 128)),
        (128, 3584, (64, 64)),
        (256, 3584, (64, 128)),
        (512, 3584, (128, 128)),
        (512, 37888, (128, 256)),
        (2048, 3584, (128, 256)),
        (8192, 152064, (128, 256)),
    ],
)
def test_the_tile_is_the_one_that_was_fastest_in_the_sweep(rows, outputs, wanted):
    """Or within a few percent of it: benchmarks/results/throughput.md."""
    assert best_tile(TILES, rows, outputs, PROCESSORS)[:2] == wanted


def test_a_launch_has_other_tiles_and_the_grid_that_belongs_to_them():
    kernel = Kernel()
    launch(FittingTiles(kernel, lambda *_: TILES), 60, 3584)
    (launched,) = kernel.launched
    chosen = best_tile(TILES, 60, 3584, PROCESSORS)
    assert chosen.arguments().items() <= launched.items()
    assert launched["grid"] == (3584 // chosen.outputs,)
    assert launched["given"][1:] == ("b", "c", None, 60, 3584, 3584)


def test_each_dtype_has_the_tiles_of_its_own_and_float32_is_left_as_it_is():
    kernel, asked = Kernel(), []

    def usable(_, dtype):
        asked.append(dtype)
        return TILES if dtype == torch.float16 else [REFERENCE]

    fitting = FittingTiles(kernel, usable)
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16, torch.float32):
        launch(fitting, 60, 3584, dtype)
    widths = [launched["BLOCK_SIZE_N"] for launched in kernel.launched]
    assert widths == [REFERENCE.outputs, 64, REFERENCE.outputs, SGLANGS["BLOCK_SIZE_N"]]
    assert asked == [torch.bfloat16, torch.float16]
