"""The kernels of a population's products on a GPU, against float64."""

import pytest
import torch

from tests.engines.sglang.lora_products import case, computed, wanted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

QWEN_7B = [(3584, (3584, 512, 512)), (3584, (3584,)), (3584, (18944, 18944)), (18944, (3584,))]
ODD = [(100, (56, 8, 8)), (130, (33, 7)), (17, (5,)), (2049, (2049, 1, 1023))]


def batch(rows, adapters, seed):
    """Slots in any order, some rows the base model's, some adapters without a row."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randint(0, adapters + 1, (rows,), generator=g) - 1).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 8, 12, 16])
def test_products_are_those_of_float64(rank, dtype, report):
    from es_ray.engines.sglang.lora import kernels

    worst = 0.0
    for number, (width, outputs) in enumerate([*QWEN_7B, *ODD]):
        for rows in (1, 60, 200):
            slots = batch(rows, 9, seed=number + rows)
            x, y, a, b, given = case(rank, outputs, width, slots, 9, dtype, "cuda", seed=rank)
            a *= width**-0.5
            out, middle = computed(kernels, x, y, a, b, given, outputs)
            right, dots = wanted(x, y, a, b, given, outputs)
            assert (middle.double() - dots).abs().max() < 1e-4
            apart = (out.double() - right).abs() - right.abs() * torch.finfo(dtype).eps / 2
            worst = max(worst, float(apart.max()))
            assert torch.equal(out[given.slots < 0], y[given.slots < 0])
    report(rank=rank, dtype=str(dtype), beyond_rounding=worst)
    assert worst < 1e-4


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_row_has_the_same_bits_in_every_batch(rank):
    from es_ray.engines.sglang.lora import kernels

    for width, outputs in QWEN_7B:
        slots = batch(300, 9, seed=1)
        x, y, a, b, given = case(rank, outputs, width, slots, 9, torch.bfloat16, "cuda")
        together, _ = computed(kernels, x, y, a, b, given, outputs)
        for start, stop in [(0, 1), (7, 67), (250, 300)]:
            rows = type(given)(given.slots[start:stop].clone(), given.scales)
            part, _ = computed(kernels, x[start:stop].clone(), y[start:stop].clone(), a, b, rows, outputs)
            assert torch.equal(part, together[start:stop])
