"""The kernels of a population's products in Triton's interpreter, against float64."""

import pytest
import torch

from tests.engines.sglang.lora_products import GATE_UP, PLAIN, QKV, activated, case, computed, wanted

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles here: tests/gpu checks the kernels", allow_module_level=True)
from es_ray.engines.sglang.lora import kernels  # noqa: E402

SLOTS = [3, -1, 0, 4, 3, -1, 2]


@pytest.mark.parametrize("outputs", [PLAIN, GATE_UP, QKV])
@pytest.mark.parametrize(
    ("rank", "dtype"),
    [(1, torch.float16), (1, torch.bfloat16), (2, torch.float16), (3, torch.bfloat16), (8, torch.float16)],
)
def test_products_are_those_of_float64(rank, outputs, dtype):
    given = case(rank, outputs, 100, SLOTS, 5, dtype)
    out, middle = computed(kernels, *given, outputs)
    right, dots = wanted(*given, outputs)
    assert (middle.double() - dots).abs().max() < 1e-4
    # the interpreter cuts off where a GPU rounds
    assert ((out.double() - right).abs() <= right.abs() * torch.finfo(dtype).eps + 1e-4).all()


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 24), (torch.bfloat16, 24), (torch.float16, 1300)]
)
def test_gate_and_up_are_added_in_the_activation(rank, dtype, size):
    x, y, a, b, rows = case(rank, (size, size), 100, SLOTS, 5, dtype)
    a *= 0.1
    right = activated(x, y, a, b, rows, (size, size))
    before = y.clone()
    middle = kernels.shrunk_like(x, a)
    kernels.shrink(x, a, rows, middle)
    found, nothing = kernels.silu_and_mul(y, middle, b, rows)
    assert nothing is None
    assert ((found.double() - right).abs() <= right.abs() * torch.finfo(dtype).eps + 1e-4).all()
    assert torch.equal(y, before)
    for row in (1, 4):
        alone, _ = kernels.silu_and_mul(
            y[row : row + 1], middle[row : row + 1], b, type(rows)(rows.slots[row : row + 1], rows.scales)
        )
        assert torch.equal(alone[0], found[row])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("size", [24, 1300])
def test_the_activation_multiplies_with_the_next_a(rank, size):
    x, y, a, b, rows = case(rank, (size, size), 100, SLOTS, 5, torch.bfloat16)
    a *= 0.1
    next_a = torch.randn(5, rank, size).to(torch.bfloat16)
    middle = kernels.shrunk_like(x, a)
    kernels.shrink(x, a, rows, middle)
    plain, _ = kernels.silu_and_mul(y, middle, b, rows)
    found, parts = kernels.silu_and_mul(y, middle, b, rows, next_a)
    assert torch.equal(found, plain)
    outputs = torch.randn(len(SLOTS), *PLAIN).to(torch.bfloat16)
    next_b = torch.randn(5, *PLAIN, rank).to(torch.bfloat16)
    right, dots = wanted(found, outputs, next_a, next_b, rows, PLAIN)
    assert (parts.double().sum(1) - dots).abs().max() < 1e-3
    kernels.expand_(outputs, parts, next_b, rows, PLAIN)
    assert ((outputs.double() - right).abs() <= right.abs() * 2**-7 + 1e-3).all()
    row = SLOTS.index(4)
    rows_alone = type(rows)(rows.slots[row : row + 1], rows.scales)
    _, alone = kernels.silu_and_mul(y[row : row + 1], middle[row : row + 1], b, rows_alone, next_a)
    assert torch.equal(alone[0], parts[row])


def test_rows_of_the_base_model_are_left_as_they_are():
    x, y, a, b, rows = case(2, QKV, 64, SLOTS, 5, torch.float16)
    a[:] = float("nan")  # whatever the adapters hold
    out, middle = computed(kernels, x, y, a, b, rows, QKV)
    base = rows.slots < 0
    assert torch.equal(out[base], y[base]) and (middle[base] == 0).all()
    assert out[~base].isnan().all()
    x, y, a, b, rows = case(2, GATE_UP, 64, SLOTS, 5, torch.float16)
    b[:] = float("nan")
    found, _ = kernels.silu_and_mul(y, torch.zeros(len(SLOTS), 1, 4), b, rows)
    gate, up = y[base].double().split(GATE_UP, dim=1)
    right = torch.nn.functional.silu(gate) * up
    assert ((found[base].double() - right).abs() <= right.abs() * 2**-10 + 1e-6).all()
    assert found[~base].isnan().all()


def test_a_wide_input_takes_several_blocks_and_tiles():
    outputs = (2500, 2048, 7)
    given = case(1, outputs, 5000, [1, 0], 2, torch.bfloat16)
    out, _ = computed(kernels, *given, outputs)
    right, _ = wanted(*given, outputs)
    assert ((out.double() - right).abs() <= right.abs() * 2**-7 + 1e-3).all()


def test_a_row_has_the_same_bits_in_every_batch():
    x, y, a, b, rows = case(3, QKV, 100, SLOTS, 5, torch.bfloat16)
    together, _ = computed(kernels, x, y, a, b, rows, QKV)
    for row in range(len(SLOTS)):
        rows_alone = type(rows)(rows.slots[row : row + 1], rows.scales)
        alone, _ = computed(kernels, x[row : row + 1], y[row : row + 1], a, b, rows_alone, QKV)
        assert torch.equal(alone[0], together[row])


def test_rows_may_be_parts_of_wider_tensors():
    x, y, a, b, rows = case(1, PLAIN, 64, SLOTS, 5, torch.float16)
    wide = torch.full((len(SLOTS), 200), float("nan"), dtype=torch.float16)
    inside, outside = wide[:, 10:74], wide[:, 100:140]
    inside.copy_(x), outside.copy_(y)
    middle = kernels.shrunk_like(inside, a)
    kernels.shrink(inside, a, rows, middle)
    kernels.expand_(outside, middle, b, rows, PLAIN)
    assert torch.equal(outside, computed(kernels, x, y, a, b, rows, PLAIN)[0])
    halves = case(1, (20, 20), 64, SLOTS, 5, torch.float16)[1]
    outside.copy_(halves)
    middle = torch.randn(len(SLOTS), 1, 2)
    assert torch.equal(
        kernels.silu_and_mul(outside, middle, b, rows)[0], kernels.silu_and_mul(halves, middle, b, rows)[0]
    )


def test_four_projections_are_refused():
    x, y, a, b, rows = case(1, (8, 8, 8, 8), 16, [0], 1, torch.float16)
    with pytest.raises(ValueError, match="three at most"):
        computed(kernels, x, y, a, b, rows, (8, 8, 8, 8))
