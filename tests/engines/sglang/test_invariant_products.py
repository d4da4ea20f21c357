"""Which tiles SGLang's batch-invariant kernel is launched with, for a kernel that notes them."""

from types import SimpleNamespace

import pytest
import torch

from es_ray.engines.sglang.invariant_products import TILES, FittingTiles, tile

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


@pytest.mark.parametrize("rows", [1, 60, 64, 128, 512, 4096])
@pytest.mark.parametrize("outputs", [3584, 4608, 37888, 152064])
def test_tiles_of_few_rows_keep_most_multiprocessors_at_work(rows, outputs):
    chosen = tile(rows, outputs, PROCESSORS)
    assert chosen in TILES
    tiles = -(-rows // chosen.rows) * -(-outputs // chosen.outputs)
    assert tiles >= PROCESSORS * 0.8
    if rows >= 512 and outputs >= 37888:
        assert chosen == TILES[-1]


def test_a_launch_has_other_tiles_and_the_grid_that_belongs_to_them():
    kernel = Kernel()
    launch(FittingTiles(kernel, lambda *_: True), 60, 3584)
    (launched,) = kernel.launched
    chosen = tile(60, 3584, PROCESSORS)
    assert chosen.arguments().items() <= launched.items()
    assert launched["grid"] == (3584 // chosen.outputs,)
    assert launched["given"][1:] == ("b", "c", None, 60, 3584, 3584)


def test_tiles_whose_bits_differ_are_left_as_they_are_and_each_dtype_is_asked_about_once():
    kernel, asked = Kernel(), []

    def equal(_, dtype):
        asked.append(dtype)
        return dtype == torch.float16

    fitting = FittingTiles(kernel, equal)
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16, torch.float32):
        launch(fitting, 60, 3584, dtype)
    wide = [launched["BLOCK_SIZE_N"] == SGLANGS["BLOCK_SIZE_N"] for launched in kernel.launched]
    assert wide == [True, False, True, True]
    assert asked == [torch.bfloat16, torch.float16]
