"""The adapted modules of SGLang's model in a scheduler's process, and what part of them a rank has."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_ray.engines.merged_weights import AdaptedWeight
from es_ray.engines.sglang.lora.pool_layout import TPSlice, fused_name
from es_ray.lora.layout import AdaptedModule, LoraLayout


class AdaptedModules:
    """The layout's modules in a LoRAManager. Raises LookupError for those that it does not wrap.

    slices: this rank's part of each fused module.
    """

    def __init__(self, manager: Any, layout: LoraLayout) -> None:
        self._layout = layout
        self._modules = {}
        for module in layout.modules:
            fused, _ = fused_name(module)
            inside = manager.lora_modules[module.layer]
            matching = [wrapped for name, wrapped in inside.items() if name.rsplit(".", 1)[-1] == fused]
            if len(matching) != 1:
                raise LookupError(
                    f"SGLang has {len(matching)} modules {fused} with LoRA in layer {module.layer}"
                )
            self._modules[fused, module.layer] = matching[0]
        self.slices = {key: _tp_slice(key[0], module) for key, module in self._modules.items()}

    def weights(self) -> list[AdaptedWeight]:
        """Each projection's weight, as far as this rank has it, with its place in the flat vector."""
        parts = iter(self._layout.tensors)  # A and B in turns
        found = []
        for module, a, b in zip(self._layout.modules, parts, parts, strict=True):
            fused, index = fused_name(module)
            tp_slice = self.slices[fused, module.layer]
            before = sum(tp_slice.outputs[:index])
            mine = np.flatnonzero(
                (tp_slice.rows >= before) & (tp_slice.rows < before + tp_slice.outputs[index])
            )
            weight = self._weight(module)[int(mine[0]) : int(mine[-1]) + 1]
            columns = _part(tp_slice.columns, module.in_features, weight)
            rows = _part(tp_slice.rows[mine] - before, module.out_features, weight)
            found.append(AdaptedWeight(weight, a, b, columns, rows))
        return found

    def _weight(self, module: AdaptedModule) -> Tensor:
        """The weight of a projection's fused module on this rank."""
        fused, _ = fused_name(module)
        weight: Tensor = self._modules[fused, module.layer].base_layer.weight
        rows = len(self.slices[fused, module.layer].rows)
        if not weight.is_floating_point() or weight.shape[0] != rows:
            raise TypeError(
                f"the weight of {module.name} is not a plain matrix; quantised models are not supported"
            )
        return weight.detach()


def _part(numbers: Any, size: int, weight: Tensor) -> Tensor | None:
    """The numbers of rows or columns as an index on the weight's device; None for all of them in order."""
    if np.array_equal(numbers, np.arange(size)):
        return None
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(weight.device)


def _tp_slice(fused: str, module: Any) -> TPSlice:
    """A module's slice on this rank, by the module's own slicing."""
    base = module.base_layer
    outputs: tuple[int, ...]
    if fused == "qkv_proj":
        replicas = base.num_kv_head_replicas  # SGLang counts replicated heads in the sizes of k and v
        q, k, v = base.output_sizes
        outputs = (q, k // replicas, v // replicas)
    elif fused == "gate_up_proj":
        outputs = tuple(base.output_sizes[:2])
    else:
        outputs = (base.output_size,)
    rows = module.slice_lora_b_weights(torch.arange(sum(outputs))[:, None])
    columns = module.slice_lora_a_weights(torch.arange(base.input_size)[None])
    return TPSlice(columns.flatten().numpy(), rows.flatten().numpy(), outputs)
