"""Products of a population with its adapters, to check the kernels against, on the CPU and on a GPU."""

import torch

from es_ray.engines.sglang.lora.batch_info import Rows

QKV, GATE_UP, PLAIN = (56, 8, 8), (24, 24), (40,)


def case(rank, outputs, width, slots, adapters, dtype, device="cpu", seed=0):
    """x, y, a, b and the Rows of a batch with these slots; scales differ from adapter to adapter."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=g).to(dtype).to(device)

    rows = Rows(
        torch.tensor(slots, dtype=torch.int32, device=device),
        (0.5 + torch.rand(adapters, generator=g)).to(device),
    )
    x, y = random(len(slots), width), random(len(slots), sum(outputs))
    return x, y, random(adapters, len(outputs) * rank, width), random(adapters, sum(outputs), rank), rows


def wanted(x, y, a, b, rows, outputs):
    """y + scale * B (A x) in float64, row by row and projection by projection; and A x."""
    rank = b.shape[-1]
    out, middle = y.double(), torch.zeros(len(x), a.shape[1], dtype=torch.float64, device=x.device)
    for row, slot in enumerate(rows.slots.tolist()[: len(x)]):
        if slot < 0:
            continue
        middle[row] = a[slot].double() @ x[row].double()
        start = 0
        for number, size in enumerate(outputs):
            mine = middle[row, number * rank : (number + 1) * rank]
            out[row, start : start + size] += rows.scales[slot].double() * (
                b[slot, start : start + size].double() @ mine
            )
            start += size
    return out, middle


def computed(kernels, x, y, a, b, rows, outputs):
    """The same by the kernels, in place of a copy of y; what they should fill is poisoned before."""
    middle = torch.full_like(kernels.shrunk_like(x, a), float("nan"))
    kernels.shrink(x, a, rows, middle)
    out = y.clone()
    kernels.expand_(out, middle, b, rows, outputs)
    return out, middle[:, 0]


def activated(x, y, a, b, rows, outputs):
    """silu(gate) * up of what `wanted` is for two projections, in float64."""
    gate, up = wanted(x, y, a, b, rows, outputs)[0].split(outputs, dim=1)
    return torch.nn.functional.silu(gate) * up


def normed(products, residual, weight, eps):
    """What `wanted` is, plus a residual, and the RMSNorm of that, in float64; products: as `case` gives."""
    summed = wanted(*products, (products[1].shape[1],))[0]
    if residual is not None:
        summed = summed + residual.double()
    return summed, summed * (summed.square().mean(1, keepdim=True) + eps).rsqrt() * weight.double()
