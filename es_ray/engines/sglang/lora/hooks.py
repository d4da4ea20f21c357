"""Patches to SGLang's LoRA for populations, in the scheduler's process.

Layers without adapters cost nothing: no pool memory, and no kernels in the forward pass. In the others A's
products begin before the base product, and what kernels of the model can do beside their own work is left to
them (`fusing`). A step prepares nothing that the last step already did. The hooks cover both SGLang versions
(see `compat`); where there is nothing to change, each calls SGLang's own function.
"""

import functools
from collections.abc import Callable
from typing import Any

from es_ray.engines.sglang.lora.modules import begin_before


def install(layers: frozenset[int]) -> None:
    """Install the hooks, for adapters in these layers."""
    from sglang.srt.layers.activation import SiluAndMul
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.utils.common import get_layer_id
    from sglang.srt.lora.lora_manager import LoRAManager
    from sglang.srt.lora.mem_pool import LoRAMemoryPool

    from es_ray.engines.sglang.lora.backend import PopulationBackend
    from es_ray.engines.sglang.lora.fusing import add_in_activation, add_in_norms

    def rank_0_in_other_layers(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def shape(pool: Any, module_name: str, base_model: Any, rank: int, layer: int) -> Any:
            return original(pool, module_name, base_model, rank if layer in layers else 0, layer)

        return shape

    def only_in_layers(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_lora_modules(manager: Any) -> Any:
            before = getattr(manager.base_model, "should_apply_lora", None)

            def should_apply_lora(name: str) -> bool:
                return get_layer_id(name + ".") in layers and (before is None or before(name))

            manager.base_model.should_apply_lora = should_apply_lora  # called from 0.5.23 on
            return original(manager)

        return init_lora_modules

    def then_prepare_modules(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def update_lora_info(manager: Any) -> None:
            original(manager)
            adapted: dict[str, Any] = {}
            for layer, modules in enumerate(manager.lora_modules):
                for name, module in modules.items():
                    if layer in layers:
                        adapted[name] = module
                    else:
                        module.set_lora = False  # 0.5.17 wrapped the module; now it runs as if unwrapped
            if isinstance(manager.lora_backend, PopulationBackend):
                for name, module in adapted.items():
                    begin_before(module)
                    parent = manager.base_model.get_submodule(name.rpartition(".")[0])
                    add_in_activation(module, parent, SiluAndMul)
                add_in_norms(manager.base_model, adapted, manager.lora_backend, RMSNorm)

        return update_lora_info

    def unless_repeated(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def prepare_lora_batch(manager: Any, forward_batch: Any) -> None:
            backend, slot_of = manager.lora_backend, manager.memory_pool.uid_to_buffer_id
            if not isinstance(backend, PopulationBackend) or not backend.repeats(forward_batch, slot_of):
                original(manager, forward_batch)

        return prepare_lora_batch

    def unless_in_pool(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def fetch_new_loras(manager: Any, new: set[str | None], running: Any = frozenset()) -> None:
            # nothing is ever evicted from the pool, so the order of last use does not matter
            if not manager.memory_pool.uid_to_buffer_id.keys() >= new | running:
                original(manager, new, running)

        return fetch_new_loras

    LoRAMemoryPool.get_lora_A_shape = rank_0_in_other_layers(LoRAMemoryPool.get_lora_A_shape)
    LoRAMemoryPool.get_lora_B_shape = rank_0_in_other_layers(LoRAMemoryPool.get_lora_B_shape)
    LoRAManager.init_lora_modules = only_in_layers(LoRAManager.init_lora_modules)
    LoRAManager.update_lora_info = then_prepare_modules(LoRAManager.update_lora_info)
    LoRAManager.prepare_lora_batch = unless_repeated(LoRAManager.prepare_lora_batch)
    LoRAManager.fetch_new_loras = unless_in_pool(LoRAManager.fetch_new_loras)
