"""A LoRA backend for populations: `kernels`, behind SGLang's interface.

Only for the scheduler's process, as it imports SGLang. It relies on what is true of populations: adapters of
one rank, in slots that never change, each row with one of them or none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from sglang.srt.lora.backend.base_backend import BaseLoRABackend
from sglang.srt.lora.backend.lora_registry import register_lora_backend
from torch import Tensor

from es_ray.engines.sglang.arguments import BACKEND
from es_ray.engines.sglang.lora import kernels, norm_kernels
from es_ray.engines.sglang.lora.batch_info import LoraBatches, SlotOf
from es_ray.engines.sglang.lora.norm_kernels import Left

BESIDE_ROWS = 128
"""Most rows for which A's products overlap the base product; with more, that needs all of the GPU."""
MOST_IN_NORM = 8
"""Most rows of the next A that a norm multiplies with where A's products can overlap the base product: of
higher ranks one program for each row of a batch reads so much that it takes longer (benchmarks/NOTES.md)."""
_REMEDY = "es-ray's LoRA kernels do not fit this model; set engine.sglang.lora_backend=csgmv for SGLang's"


class Begun(NamedTuple):
    """Products of x with A that were computed before they are asked for; beside: on a stream of their own."""

    x: Tensor
    a: Tensor
    products: Tensor
    beside: bool


class PopulationBackend(BaseLoRABackend):
    """Adds B (A x) to the base model's products, in place or in the activation that follows.

    A's products need only the input, as does the base product: `begin` starts them on their own stream before
    the base product, and their consumers wait for them. Without it, they run in order. In both cases the same
    kernels compute the same bits. What is named by `leave_to_activation` is not added by `run_gate_up_lora`
    but by the activation that follows, through `activated`; what is named by `leave_to_norm` by the norm that
    follows, through `normed`. Both may compute the products of their result with the next A as well.
    """

    name = BACKEND

    def __init__(
        self, max_loras_per_batch: int, device: torch.device, server_args: Any = None, **_: Any
    ) -> None:
        super().__init__(max_loras_per_batch, device)
        # their sums have another order than the norm's, so a row's bits would depend on how many rows run
        self._all_in_norm = server_args is None or server_args.enable_deterministic_inference
        self._batches = LoraBatches(max_loras_per_batch, device)
        self._rows_per_request = 1
        self._stream = torch.cuda.Stream(device)
        self._begun: Begun | None = None
        self._for_activation: set[int] = set()
        self._left: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._for_norm: set[int] = set()
        self._left_to_norm: tuple[Tensor, Left] | None = None

    def init_cuda_graph_batch_info(self, max_bs_in_cuda_graph: int, num_tokens_per_req: int) -> None:
        """Allocate for the largest decode graph."""
        self._rows_per_request = num_tokens_per_req
        self._batches.reserve(max_bs_in_cuda_graph * num_tokens_per_req)

    init_decode_cuda_graph_batch_info = init_cuda_graph_batch_info  # its name from 0.5.23 on

    def prepare_lora_batch(
        self,
        forward_batch: Any,
        weight_indices: Sequence[int],
        lora_ranks: Sequence[int],
        scalings: Sequence[float],
        use_cuda_graph: bool,
        use_prefill_cuda_graph: bool = False,
    ) -> None:
        """Set which slot each row of the next batch belongs to."""
        self._check_none_left()
        if use_cuda_graph:
            each = self._rows_per_request
            lengths = None if each == 1 else [each] * len(weight_indices)
        else:
            extends = forward_batch.forward_mode.is_extend()
            lengths = forward_batch.extend_seq_lens_cpu if extends else None
        self.batch_info = self._batches.rows(
            weight_indices, lora_ranks, scalings, lengths, graph=use_cuda_graph
        )

    def repeats(self, forward_batch: Any, slot_of: SlotOf) -> bool:
        """Whether the CUDA graphs already have a batch's rows, so that nothing needs preparing.

        slot_of: the slot of each adapter's id. As long as no request ends, no step changes anything about
        adapters, but SGLang would look each of them up again.
        """
        if not forward_batch.forward_mode.is_cuda_graph():
            return False
        rows = self._batches.repeated(forward_batch.lora_ids, slot_of)
        if rows is None:
            return False
        self.batch_info = rows
        return True

    def begin(self, x: Tensor, a: Tensor) -> None:
        """Start the products of x with A, for `run_lora_a_sgemm` with the same tensors."""
        if self.batch_info is None or x.shape[0] > BESIDE_ROWS or self._has(x, a):
            return
        out = kernels.shrunk_like(x, a)
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            kernels.shrink(x, a, self.batch_info, out)
        self._begun = Begun(x, a, out, beside=True)

    def _has(self, x: Tensor, a: Tensor) -> bool:
        """Whether the products of x with A have been begun."""
        begun = self._begun
        return begun is not None and begun.x.data_ptr() == x.data_ptr() and begun.a is a

    def run_lora_a_sgemm(self, x: Tensor, weights: Tensor, *_: Any, **__: Any) -> Tensor:
        """Each row's products with its A, float32, shape [rows, parts, c * rank]."""
        has, begun, self._begun = self._has(x, weights), self._begun, None
        if begun is not None and begun.beside:
            torch.cuda.current_stream().wait_stream(self._stream)
        if begun is not None and has:
            return begun.products
        out = kernels.shrunk_like(x, weights)
        kernels.shrink(x, weights, self.batch_info, out)
        return out

    def run_lora_b_sgemm(self, x: Tensor, weights: Tensor, *_: Any, base_output: Tensor, **__: Any) -> Tensor:
        """Add each row's product of its B with x to base_output, right away or in the norm that follows."""
        if weights.data_ptr() in self._for_norm:
            self._check_none_left()
            self._left_to_norm = (base_output, Left(x, weights))
            return base_output
        kernels.expand_(base_output, x, weights, self.batch_info, (weights.shape[-2],))
        return base_output

    def run_qkv_lora(
        self,
        x: Tensor,
        qkv_lora_a: Tensor,
        qkv_lora_b: Tensor,
        *_: Any,
        output_offset_cpu: Tensor,
        base_output: Tensor,
        **__: Any,
    ) -> Tensor:
        """Add the products of several projections on one input, q, k and v, to base_output."""
        ends = output_offset_cpu.tolist()
        outputs = tuple(end - start for start, end in zip(ends, ends[1:], strict=False))
        kernels.expand_(
            base_output, self.run_lora_a_sgemm(x, qkv_lora_a), qkv_lora_b, self.batch_info, outputs
        )
        return base_output

    def run_gate_up_lora(
        self, x: Tensor, gate_up_lora_a: Tensor, gate_up_lora_b: Tensor, *_: Any, **named: Any
    ) -> Tensor:
        """The same for gate and up, right away or in the activation."""
        if gate_up_lora_b.data_ptr() not in self._for_activation:
            return self.run_qkv_lora(x, gate_up_lora_a, gate_up_lora_b, **named)
        self._check_none_left()
        base_output: Tensor = named["base_output"]
        self._left = (base_output, x, gate_up_lora_a, gate_up_lora_b)
        return base_output

    def leave_to_activation(self, b: Tensor) -> None:
        """Leave the products with this B of gate and up to `activated`, which is then called every time."""
        self._for_activation.add(b.data_ptr())

    def activated(self, gate_up: Tensor, next_a: Tensor | None = None) -> Tensor | None:
        """silu(gate) * up with the adapters' products that were left; None if none were.

        next_a: A of the projection that reads the result.
        """
        if self._left is None:
            return None
        base_output, x, a, b = self._left
        if base_output is not gate_up:
            raise RuntimeError(f"an activation did not receive gate and up unchanged; {_REMEDY}")
        self._left = None
        out, products = kernels.silu_and_mul(gate_up, self.run_lora_a_sgemm(x, a), b, self.batch_info, next_a)
        self._begin_with(out, next_a, products)
        return out

    def leave_to_norm(self, b: Tensor) -> None:
        """Leave the products with this B to `normed`, which is then called every time."""
        self._for_norm.add(b.data_ptr())

    def normed(
        self, h: Tensor, residual: Tensor | None, weight: Tensor, eps: float, next_a: Tensor | None
    ) -> Tensor | None:
        """RMSNorm of h and the residual, which gets their sum, with the product that was left; None if none.

        next_a: A of the projection that reads the result; its products are computed unless `begin` does it
        as fast.
        """
        left, self._left_to_norm = self._left_to_norm, None
        if left is not None and left[0] is not h:
            raise RuntimeError(f"a norm did not receive a projection's output unchanged; {_REMEDY}")
        if next_a is not None and not self._all_in_norm and h.shape[0] <= BESIDE_ROWS:
            next_a = next_a if next_a.shape[1] <= MOST_IN_NORM else None  # `begin` starts the others
        if self.batch_info is None or (left is None and next_a is None) or h.shape[0] == 0:
            return None
        out, products = norm_kernels.norm(
            h, residual, weight, eps, self.batch_info, None if left is None else left[1], next_a
        )
        self._begin_with(out, next_a, products)
        return out

    def _begin_with(self, x: Tensor, a: Tensor | None, products: Tensor | None) -> None:
        """Keep products that a kernel computed beside its own result, for `run_lora_a_sgemm`."""
        if a is not None and products is not None:
            self._begun = Begun(x, a, products, beside=False)

    def _check_none_left(self) -> None:
        if self._left is not None:  # a member would be evaluated without its gate and up adapters
            raise RuntimeError(f"no activation took gate and up with their adapters; {_REMEDY}")
        if self._left_to_norm is not None:
            raise RuntimeError(f"no norm took a projection's output with its adapters; {_REMEDY}")


def register() -> None:
    """Register the backend with SGLang, in this process."""
    register_lora_backend(BACKEND)(lambda: PopulationBackend)
