"""Writes members into the buffers of a LoRA memory pool, on any device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import es_ray.engines.torch_noise as torch_noise
from es_ray.engines.sglang.lora.pool_layout import Buffer, Extent
from es_ray.evolution.noise import Noise

_MEMBERS_AT_ONCE = 4  # in plain torch: bounds its temporaries


class PoolWriter:
    """The buffers of a pool with their extents; Triton on CUDA, plain torch elsewhere.

    buffers: A [slots, c * rank, in] and B [slots, out, rank], contiguous and of one dtype.
    """

    def __init__(self, extents: Sequence[Extent], buffers: Mapping[Buffer, Tensor], triton: bool) -> None:
        self._extents = list(extents)
        self._flat = {key: buffer.flatten(1) for key, buffer in buffers.items()}
        some = next(iter(buffers.values()))
        if any(not b.is_contiguous() or b.dtype != some.dtype for b in buffers.values()):
            raise ValueError("the pool's buffers must be contiguous and of one dtype")
        self._device = some.device
        self._kernels: Any = None
        if triton:
            from es_ray.engines.sglang.lora import noise_kernels

            self._kernels = noise_kernels
            self._table = noise_kernels.TileTable(
                [extent.source for extent in self._extents],
                [extent.source + extent.length for extent in self._extents],
                [
                    buffers[extent.buffer].data_ptr() + extent.offset * some.element_size()
                    for extent in self._extents
                ],
                [buffers[extent.buffer].stride(0) for extent in self._extents],
                some,
            )

    def write_adapters(
        self,
        theta: Tensor | None,
        sigma: Tensor,
        noise: Noise,
        generation: int,
        indices: Sequence[int],
        slots: Sequence[int],
        factors: Sequence[float] = (),
    ) -> None:
        """Write member i of the indices (below 0: the centre), rounded to the pool's dtype.

        theta, sigma: float32, shape [P], on the pool's device; theta None: fresh members (see Perturbation);
        factors: multiply each sigma, 1 by default.
        """
        if not indices:
            return
        if self._kernels is not None:
            numbers, signs = torch_noise.numbers_and_signs(noise, indices, factors)
            self._table.write_adapters(
                theta,
                sigma,
                self._kernels.words_of(noise.seed, generation, self._device),
                torch.tensor(slots, device=self._device),
                torch.tensor(numbers, device=self._device),
                torch.tensor(signs, dtype=torch.float32, device=self._device),
            )
            return
        for low in range(0, len(indices), _MEMBERS_AT_ONCE):
            high = low + _MEMBERS_AT_ONCE
            vectors = torch_noise.members(
                theta,
                sigma,
                noise,
                generation,
                indices[low:high],
                0,
                sigma.shape[-1],
                factors[low:high],
            )
            for vector, slot in zip(vectors, slots[low:high], strict=True):
                self._write(vector, slot)

    def _write(self, vector: Tensor, slot: int) -> None:
        for extent in self._extents:
            self._flat[extent.buffer][slot, extent.offset : extent.offset + extent.length] = vector[
                extent.source : extent.source + extent.length
            ]

    def digests(self, slots: Sequence[int]) -> list[int]:
        """A number for each slot that depends on every entry and its position: 0 to 2**32 - 1."""
        if self._kernels is not None and slots:
            found = self._table.digests(torch.tensor(slots, device=self._device))
            return [value & 0xFFFFFFFF for value in found.tolist()]
        return [self._digest(slot) for slot in slots]

    def _digest(self, slot: int) -> int:
        total = 0
        for extent in self._extents:
            part = self._flat[extent.buffer][slot, extent.offset : extent.offset + extent.length]
            bits = part.view(torch.int16).long() & 0xFFFF
            entries = torch.arange(extent.source, extent.source + extent.length, device=part.device)
            factors = ((2 * entries + 1) * 2654435761) & 0xFFFFFFFF
            total += int((((bits + 1) * factors) & 0xFFFFFFFF).sum())
        return total & 0xFFFFFFFF

    def weighted_sum(self, noise: Noise, generation: int, weights: Tensor, start: int, stop: int) -> Tensor:
        """Sum over members of weight * noise at entries [start, stop), float32, in member order."""
        if self._kernels is None:
            return torch_noise.weighted_sum(noise, generation, weights, start, stop)
        numbers, signs = torch_noise.numbers_and_signs(noise, range(len(weights)))
        return self._kernels.weighted_sum(
            self._kernels.words_of(noise.seed, generation, self._device),
            torch.tensor(numbers, device=self._device),
            weights * torch.tensor(signs, dtype=torch.float32, device=self._device),
            start,
            stop,
        )
