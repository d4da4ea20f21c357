"""The kernel of norms with adapters' products before and after, in Triton's interpreter, against float64."""

import pytest
import torch

from tests.engines.sglang.lora_products import QKV, case, normed, wanted

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles here: tests/gpu checks the kernels", allow_module_level=True)
from es_ray.engines.sglang.lora import kernels, norm_kernels  # noqa: E402
from es_ray.engines.sglang.lora.norm_kernels import Left  # noqa: E402

SLOTS, EPS = [3, -1, 0, 4, 3, -1, 2], 1e-6


def given(rank, size, dtype, projections=3, slots=SLOTS):
    """A projection's output h of rows x with its A and B, a residual, a norm's weight and the A after it."""
    x, h, a, b, rows = case(rank, (size,), 50, slots, 5, dtype)
    generator = torch.Generator().manual_seed(7)
    residual = torch.randn(len(slots), size, generator=generator).to(dtype)
    weight = torch.rand(size, generator=generator).to(dtype)
    next_a = torch.randn(5, projections * rank, size, generator=generator).to(dtype)
    a *= 0.1
    dots = kernels.shrunk_like(x, a)
    kernels.shrink(x, a, rows, dots)
    return (x, h, a, b, rows), Left(dots, b), residual, weight, next_a


def near(found, right, dtype, more=1.0):
    # the interpreter cuts off where a GPU rounds
    return ((found.double() - right).abs() <= more * torch.finfo(dtype).eps * right.abs() + 1e-3).all()


@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize(("rank", "dtype"), [(1, torch.bfloat16), (2, torch.float16), (3, torch.bfloat16)])
@pytest.mark.parametrize("has_residual", [True, False])
def test_the_norm_is_that_of_float64(rank, size, dtype, has_residual):
    products, left, residual, weight, next_a = given(rank, size, dtype)
    before = residual.clone()
    summed, right = normed(products, before if has_residual else None, weight, EPS)
    h, rows = products[1], products[4]
    found, dots = norm_kernels.norm(h, residual if has_residual else None, weight, EPS, rows, left, next_a)
    assert near(found, right, dtype, 2)
    assert near(residual, summed, dtype) if has_residual else torch.equal(residual, before)
    _, exact = wanted(found, found[:, :0], next_a, torch.zeros(5, 0, rank), rows, (0, 0, 0))
    assert (dots[:, 0].double() - exact).abs().max() < 1e-3


@pytest.mark.parametrize("parts", [2, 5, 19])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_left_may_be_in_parts(rank, parts):
    products, left, residual, weight, _ = given(rank, 40, torch.float16)
    shares = torch.rand(parts)
    shares /= shares.sum()
    split = Left(left.s * shares[None, :, None], left.b)
    h, rows = products[1], products[4]
    whole, _ = norm_kernels.norm(h, residual.clone(), weight, EPS, rows, left, None)
    found, dots = norm_kernels.norm(h, residual.clone(), weight, EPS, rows, split, None)
    assert dots is None
    assert near(found, whole.double(), torch.float16, 2)


def test_a_norm_with_nothing_left_is_the_plain_one():
    products, _, residual, weight, next_a = given(1, 300, torch.bfloat16)
    h, rows = products[1], products[4]
    summed = h.double() + residual.double()
    right = summed * (summed.square().mean(1, keepdim=True) + EPS).rsqrt() * weight.double()
    found, dots = norm_kernels.norm(h, residual, weight, EPS, rows, None, next_a)
    assert near(found, right, torch.bfloat16, 2)
    assert (dots[rows.slots < 0] == 0).all() and (dots[rows.slots >= 0] != 0).all()


def test_rows_of_the_base_model_are_left_as_they_are():
    products, left, residual, weight, next_a = given(2, 40, torch.float16)
    h, rows = products[1], products[4]
    base = rows.slots < 0
    plain, _ = norm_kernels.norm(h, residual.clone(), weight, EPS, rows, None, None)
    left.b[:] = float("nan")  # whatever the adapters hold
    next_a[:] = float("nan")
    found, dots = norm_kernels.norm(h, residual, weight, EPS, rows, left, next_a)
    assert torch.equal(found[base], plain[base]) and (dots[base] == 0).all()
    assert found[~base].isnan().all()


def test_a_row_has_the_same_bits_in_every_batch_and_in_wider_tensors():
    products, left, residual, weight, next_a = given(3, 300, torch.bfloat16)
    h, rows = products[1], products[4]
    together, sums = residual.clone(), residual.clone()
    found, dots = norm_kernels.norm(h, together, weight, EPS, rows, left, next_a)
    for row in range(len(SLOTS)):
        alone, rows_alone = slice(row, row + 1), type(rows)(rows.slots[row : row + 1], rows.scales)
        mine = Left(left.s[alone], left.b)
        one, dot = norm_kernels.norm(h[alone], sums[alone], weight, EPS, rows_alone, mine, next_a)
        assert torch.equal(one[0], found[row]) and torch.equal(dot[0], dots[row])
    assert torch.equal(sums, together)
    wide = torch.full((len(SLOTS), 700), float("nan"), dtype=torch.bfloat16)
    inside, beside = wide[:, 10:310], wide[:, 350:650]
    inside.copy_(h), beside.copy_(residual)
    assert torch.equal(norm_kernels.norm(inside, beside, weight, EPS, rows, left, next_a)[0], found)
    assert torch.equal(beside, together) and wide[:, 310:350].isnan().all()


def test_what_is_left_and_the_next_a_may_have_other_sizes():
    products, left, residual, weight, _ = given(2, sum(QKV), torch.float16)
    h, rows = products[1], products[4]
    next_a = torch.randn(5, 5, sum(QKV)).half()
    found, dots = norm_kernels.norm(h, residual, weight, EPS, rows, left, next_a)
    _, exact = wanted(found, found[:, :0], next_a, torch.zeros(5, 0, 5), rows, (0,))
    assert dots.shape == (len(SLOTS), 1, 5) and (dots[:, 0].double() - exact).abs().max() < 1e-3
