"""The noise of `es_ray.evolution.noise` in torch, on any device: the same words, and normals from float64.

Torch has no 32-bit unsigned product with its high half, so words are int64 and products are assembled
from 16-bit halves. This is the reference on any device; `engines.sglang.lora.noise_kernels` is the fast one.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from es_ray.evolution.noise import STREAM_NOISE, Noise

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on words in int64 tensors, 0 to 2**32 - 1, that broadcast together."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product, no partial product of which exceeds 48 bits."""
    upper, lower = word * (factor >> 16), word * (factor & 0xFFFF)
    high = (upper + (lower >> 16)) >> 16
    return high, (((upper & 0xFFFF) << 16) + lower) & _MASK


def normals(
    seed: int, generation: int, members: Tensor, start: int, stop: int, stream: int = STREAM_NOISE
) -> Tensor:
    """Standard normals of the entries [start, stop) of several members, float32, shape [N, stop - start].

    members: noise numbers, int64, shape [N], on the device to compute on.
    """
    block = torch.arange(start // 4, -(-stop // 4), device=members.device)
    which, where = (torch.tensor(word, device=members.device) for word in (generation, stream))
    counter = (block[None], members[:, None], which, where)
    words = philox4x32(counter, (seed & _MASK, seed >> 32))
    quads = torch.stack([*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3])], dim=-1)
    return quads.flatten(1)[:, start % 4 : start % 4 + stop - start]


def _box_muller(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u = ((x >> 8).double() + 1.0) * 2.0**-24
    angle = 2.0 * torch.pi * ((y >> 8).double() * 2.0**-24)
    radius = torch.sqrt(-2.0 * torch.log(u))
    return (radius * torch.cos(angle)).float(), (radius * torch.sin(angle)).float()


def numbers_and_signs(
    noise: Noise, indices: Sequence[int], factors: Sequence[float] = ()
) -> tuple[list[int], list[float]]:
    """The number of each member's noise, and its sign: pairs share one under `antithetic`.

    Negative indices (the centre) get sign 0. factors: multiply each sigma, folded into the sign; 1 by
    default.
    """
    numbers = [max(index, 0) // 2 if noise.antithetic else max(index, 0) for index in indices]
    signs = [0.0 if i < 0 else -1.0 if noise.antithetic and i % 2 else 1.0 for i in indices]
    if factors:
        signs = [sign * factor for sign, factor in zip(signs, factors, strict=True)]
    return numbers, signs


def members(
    theta: Tensor | None,
    sigma: Tensor,
    noise: Noise,
    generation: int,
    indices: Sequence[int],
    start: int,
    stop: int,
    factors: Sequence[float] = (),
) -> Tensor:
    """Entries [start, stop) of several members, theta + sigma * noise, float32, shape [N, stop - start].

    theta, sigma: complete vectors, shape [P]; an index below 0 is the centre, theta itself; theta None: fresh
    members (see `es_ray.evolution.perturbation.Perturbation`); factors: multiply each sigma, 1 by default.
    """
    numbers, signs = numbers_and_signs(noise, indices, factors)
    drawn = normals(noise.seed, generation, torch.tensor(numbers, device=sigma.device), start, stop)
    signed = drawn * torch.tensor(signs, device=sigma.device)[:, None]
    scale = sigma[start:stop]
    if theta is None:
        return torch.where(scale == 0, drawn, scale * signed)
    return theta[start:stop] + scale * signed


def weighted_sum(
    noise: Noise, generation: int, weights: Tensor, start: int, stop: int, chunk: int = 1 << 16
) -> Tensor:
    """Sum over members of weight * noise at the entries [start, stop), shape [stop - start].

    In float32 and in member order for each entry, however entries are chunked.
    weights: one for each member, float32, shape [N].
    """
    total = torch.zeros(stop - start, device=weights.device)
    numbers, signs = numbers_and_signs(noise, range(len(weights)))
    for low in range(start, stop, chunk):
        high = min(low + chunk, stop)
        part = total[low - start : high - start]
        for index, weight in enumerate(weights):
            number = torch.tensor([numbers[index]], device=weights.device)
            drawn = normals(noise.seed, generation, number, low, high)[0]
            part += weight * (drawn * signs[index])
    return total
