"""The kernels of a population's products on a GPU, against float64."""

import pytest
import torch

from tests.engines.sglang.lora_products import case, computed, normed, wanted

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


def before_a_norm(rank, parts, size, rows):
    """A projection's output h, a residual, and what a norm needs; the products with A are in parts."""
    slots = batch(rows, 9, seed=rows)
    x, h, a, b, given = case(rank, (size,), 512, slots, 9, torch.bfloat16, "cuda", seed=rank)
    generator = torch.Generator("cuda").manual_seed(rank)
    residual, weight = (
        torch.randn(*shape, size, generator=generator, device="cuda").to(torch.bfloat16)
        for shape in ((rows,), ())
    )
    next_a = (
        torch.randn(9, 3 * rank, size, generator=generator, device="cuda").to(torch.bfloat16) * size**-0.5
    )
    a *= 512**-0.5
    shares = torch.rand(parts, generator=generator, device="cuda")
    return (x, h, a, b, given), shares / shares.sum(), residual, weight, next_a


@pytest.mark.parametrize(
    ("size", "parts"), [(3584, 1), (3584, 19), (1536, 9), (576, 2), (8192, 28), (100, 1)]
)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_norms_are_those_of_float64(rank, size, parts, report):
    from es_ray.engines.sglang.lora import kernels, norm_kernels

    for rows in (1, 60, 300):
        products, shares, residual, weight, next_a = before_a_norm(rank, parts, size, rows)
        x, h, a, _, given = products
        summed, right = normed(products, residual, weight, 1e-6)
        s = kernels.shrunk_like(x, a)
        kernels.shrink(x, a, given, s)
        left = norm_kernels.Left((s * shares[None, :, None]).contiguous(), products[3])
        sums = residual.clone()
        found, dots = norm_kernels.norm(h, sums, weight, 1e-6, given, left, next_a)
        assert ((sums.double() - summed).abs() <= summed.abs() * 2**-8 + 1e-4).all()
        assert ((found.double() - right).abs() <= right.abs() * 2**-8 + 1e-4).all()
        _, exact = wanted(found, found[:, :0], next_a, next_a[:, :0, :rank], given, (0, 0, 0))
        assert (dots[:, 0].double() - exact).abs().max() < 1e-4
        alone = slice(rows // 2, rows // 2 + 1)
        again = residual[alone].clone()
        row = type(given)(given.slots[alone].clone(), given.scales)
        mine = norm_kernels.Left(left.s[alone].contiguous(), left.b)
        one, dot = norm_kernels.norm(h[alone].clone(), again, weight, 1e-6, row, mine, next_a)
        assert torch.equal(one[0], found[alone][0]) and torch.equal(dot[0], dots[alone][0])


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("size", [18944, 8960, 1536, 100])
def test_the_activation_multiplies_with_the_next_a(rank, size):
    from es_ray.engines.sglang.lora import kernels

    for rows in (1, 60, 300):
        x, y, a, b, given = case(
            rank, (size, size), 512, batch(rows, 9, seed=rows), 9, torch.bfloat16, "cuda"
        )
        a *= 512**-0.5
        next_a = torch.randn(9, rank, size, device="cuda").to(torch.bfloat16) * size**-0.5
        s = kernels.shrunk_like(x, a)
        kernels.shrink(x, a, given, s)
        plain, _ = kernels.silu_and_mul(y, s, b, given)
        found, parts = kernels.silu_and_mul(y, s, b, given, next_a)
        assert torch.equal(found, plain)
        _, exact = wanted(found, found[:, :0], next_a, next_a[:, :0, :rank], given, (0,))
        assert (parts.double().sum(1) - exact).abs().max() < 1e-4 * exact.abs().max().clamp(min=1)
