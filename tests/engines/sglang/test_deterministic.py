"""Which tiles SGLang's batch-invariant kernel is launched with, for a kernel that notes them."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.errors import OutOfResources

from es_ray.config import load
from es_ray.engines.sglang import deterministic
from es_ray.engines.sglang.deterministic import (
    ALIGNED,
    ARGUMENTS,
    REFERENCE,
    TESTED,
    TILES,
    FittingTiles,
    best_tile,
    same_bits,
    speed_up,
    split_tokens,
)
from es_ray.experiment import Experiment
from tests.small_models import small_model

PROCESSORS = 132
SPLITS = "SGLANG_TRITON_DECODE_SPLIT_TILE_SIZE"
SGLANGS = {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 64, "num_warps": 8, "num_stages": 3}


class Kernel:
    """Takes launches as Triton's kernels do: kernel[grid](arguments), with the grid a function of them.

    too_large: rows x outputs of tiles that the GPU has no room for.
    """

    def __init__(self, too_large=()) -> None:
        self.launched: list[dict] = []
        self.too_large = too_large

    def __getitem__(self, grid):
        def launch(*given, **named):
            if (named["BLOCK_SIZE_M"], named["BLOCK_SIZE_N"]) in self.too_large:
                raise OutOfResources(200_000, 100_000, "shared memory")
            self.launched.append({**named, "grid": grid(named), "given": given})

        return launch


def launch(fitting: FittingTiles, rows: int, outputs: int, dtype=torch.bfloat16, inner=3584, to=None) -> None:
    def grid(chosen):
        return (-(-rows // chosen["BLOCK_SIZE_M"]) * -(-outputs // chosen["BLOCK_SIZE_N"]),)

    a, out = SimpleNamespace(dtype=dtype), SimpleNamespace(dtype=to or dtype)
    fitting[grid](a, "b", out, None, rows, outputs, inner, NUM_SMS=PROCESSORS, **SGLANGS)


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
    assert launched["given"][3:] == (None, 60, 3584, 3584)


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


@pytest.mark.parametrize("other", [{"to": torch.float32}, {"inner": 3584 + ALIGNED // 2}])
def test_products_unlike_those_tested_keep_sglangs_tile(other):
    kernel = Kernel()
    launch(FittingTiles(kernel, lambda *_: TILES), 60, 3584, **other)
    (launched,) = kernel.launched
    assert SGLANGS.items() <= launched.items()


def test_a_tile_without_room_is_replaced_by_the_next_best_and_at_last_by_sglangs(caplog):
    kernel = Kernel(too_large=[(64, 64)])
    fitting = FittingTiles(kernel, lambda *_: TILES)
    launch(fitting, 60, 3584)
    launch(fitting, 60, 3584)
    without = [tile for tile in TILES if tile[:2] != (64, 64)]
    wanted = best_tile(without, 60, 3584, PROCESSORS).arguments()
    assert [wanted.items() <= launched.items() for launched in kernel.launched] == [True, True]
    assert len(caplog.records) == 1
    only = Kernel(too_large=[(64, 64)])
    launch(FittingTiles(only, lambda *_: [tile for tile in TILES if tile[:2] == (64, 64)]), 60, 3584)
    assert SGLANGS.items() <= only.launched[0].items()


def test_the_product_that_tests_tiles_compiles_as_those_of_models_do_and_ends_in_part_of_a_step():
    _, outputs, inner = TESTED
    assert inner % ALIGNED == outputs % ALIGNED == 0
    assert all(inner % tile.inner for tile in TILES)


class Multiplying:
    """Multiplies as SGLang's kernel, but for tiles that are too large for a GPU, or give other bits."""

    def __init__(self, too_large=(), other_order=()) -> None:
        self.too_large, self.other_order = too_large, other_order

    def __getitem__(self, grid):
        def launch(a, b, out, bias, *sizes, **named):
            tile = (named["BLOCK_SIZE_M"], named["BLOCK_SIZE_N"], named["BLOCK_SIZE_K"])
            if tile in self.too_large:
                raise OutOfResources(200_000, 100_000, "shared memory")
            out.copy_(a.double() @ b.double() + (0.1 if tile in self.other_order else 0))

        return launch


@pytest.mark.parametrize(
    "too_large, other_order", [([], []), ([(128, 256, 64), (64, 128, 128)], [(16, 64, 128)])]
)
def test_tiles_that_a_gpu_cannot_run_or_with_other_bits_are_not_used(
    too_large, other_order, monkeypatch, caplog
):
    monkeypatch.setattr(deterministic, "_processors", lambda device: PROCESSORS)
    kernel = Multiplying(too_large, other_order)
    found = same_bits(kernel, torch.bfloat16, device="cpu")
    assert found == [tile for tile in TILES if tile[:3] not in (*too_large, *other_order)]
    assert REFERENCE in found
    assert [record.args[1] for record in caplog.records] == other_order


@pytest.mark.parametrize(
    "deterministic, given, wanted",
    [
        (False, {}, None),
        (True, {}, 1024),  # an eighth of the model's
        (True, {"context_length": 4096}, 512),
        (True, {"context_length": 1000}, 256),  # no shorter than SGLang's
        (True, {"context_length": 4096, "triton_attention_split_tile_size": 2048}, 2048),
    ],
)
def test_a_split_is_an_eighth_of_the_longest_context_or_what_the_user_says(
    deterministic, given, wanted, tmp_path
):
    model = small_model(tmp_path, max_position_embeddings=8192)
    engine = {"kind": "sglang", "deterministic": deterministic, "sglang": given}
    config = load().replace(model__path=str(model), engine=engine)
    assert split_tokens(Experiment(config)) == wanted


def test_sglangs_attention_gets_longer_splits_and_a_users_own_are_left(monkeypatch):
    ops = SimpleNamespace(matmul_kernel_persistent=SimpleNamespace(arg_names=list(ARGUMENTS)))
    package = SimpleNamespace(batch_invariant_ops=ops)
    monkeypatch.setitem(sys.modules, "sglang.srt.batch_invariant_ops", package)
    monkeypatch.setenv(SPLITS, "")
    monkeypatch.delenv(SPLITS)
    speed_up(4096)
    assert isinstance(ops.matmul_kernel_persistent, FittingTiles)
    assert os.environ[SPLITS] == "4096"
    monkeypatch.setenv(SPLITS, "512")
    speed_up(4096)
    assert os.environ[SPLITS] == "512"


@pytest.mark.parametrize("names", [["c_ptr", *ARGUMENTS], [*ARGUMENTS[:-1], "BIAS"], [*ARGUMENTS, "MORE"]])
def test_a_kernel_that_is_not_the_one_known_is_left_alone(names, monkeypatch, caplog):
    other = SimpleNamespace(arg_names=names)
    ops = SimpleNamespace(matmul_kernel_persistent=other)
    monkeypatch.setitem(
        sys.modules, "sglang.srt.batch_invariant_ops", SimpleNamespace(batch_invariant_ops=ops)
    )
    monkeypatch.setenv(SPLITS, "4096")
    speed_up(4096)
    assert ops.matmul_kernel_persistent is other
    assert "not the one known" in caplog.text
