"""Every SGLang name that es-ray relies on, and a check that the installed version has it.

What only speeds an engine up and is left out where the source is another (`decode_results`, `lora.fusing`) is
not among them.

The check reads SGLang's source and imports nothing of it: it takes a second, needs no GPU, and works on
an unpacked wheel. es-ray was run on a GPU with 0.5.17; the source of 0.5.23 was read. They differ in this:

- 0.5.23 asks the model's `should_apply_lora(module name)` before it wraps a module. 0.5.17 wraps the modules
  of all layers, so `LoRAManager.update_lora_info` is wrapped to switch `set_lora` off in the others.
  Both hooks are installed in both versions; each does nothing where the other did it.
- 0.5.17 calls `run_scheduler_process` with more ranks (attention CP, MoE DP and EP) than 0.5.23. They are
  passed through unchanged; only `tp_rank`, the tensor parallel rank, is read, by name.
- In 0.5.17 `ServerArgs` is a dataclass in `server_args.py`; 0.5.23 assembles it from
  `arg_groups/fields`, with all names in `arg_groups/field_order.py`. Those that es-ray sets are in both.
- 0.5.23 moved max_loras_per_batch and other settings to `get_lora()`; es-ray does not read them.
- A LoRA backend's `init_cuda_graph_batch_info` is `init_decode_cuda_graph_batch_info` in 0.5.23, which passes
  some of a batch's arguments by position; ours has both names, and the same parameter names.
- `TokenizerManager._wait_one_response` is an asynchronous generator in 0.5.17; in 0.5.23 it looks up the
  request's state and returns one.
- Both sample with a request's `sampling_seed` only with `enable_deterministic_inference`.
"""

import ast
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from es_ray.engines.sglang.python_source import defined_names, field_names, parameter_names
from es_ray.engines.spec import parsed
from es_ray.errors import UserError

log = logging.getLogger(__name__)

OLDEST = (0, 5, 17)
"""Older ones lack some of NAMES; and before 0.5.15 SGLang's kernels could skip adapters in a CUDA graph."""
NEWEST = (0, 5, 23)
"""The newest whose source was checked."""
SUPPORTED = "es-ray supports sglang 0.5.17 to 0.5.23 (0.5.17 was run, the source of 0.5.23 was checked)"
UNCHECKED = "ES_RAY_SGLANG_UNCHECKED"
"""Environment variable; 1 turns errors of `check` into warnings, except for versions that are too old."""

NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("srt/entrypoints/engine.py", "Engine"): (
        "run_scheduler_process_func",
        "collective_rpc",
        "load_lora_adapter_from_tensors",
        "async_generate",
        "loop",
        "freeze_gc",
        "get_all_child_pids",
        "shutdown",
        "tokenizer_manager",
    ),
    ("srt/entrypoints/engine.py", ""): ("kill_process_tree",),
    ("srt/managers/tokenizer_manager.py", "TokenizerManager"): ("_wait_one_response",),
    ("srt/managers/scheduler.py", ""): ("run_scheduler_process",),
    ("srt/managers/scheduler.py", "Scheduler"): (
        "handle_rpc_request",
        "flush_cache",
        "model_config",
        "tp_worker",
        "get_new_batch_prefill",
        "min_free_slots_delayer",
        "waiting_queue",
        "server_args",
    ),
    ("srt/managers/min_free_slots_delayer.py", "MinFreeSlotsDelayer"): ("should_delay",),
    ("srt/managers/schedule_batch.py", "ScheduleBatch"): ("batch_is_full",),
    ("srt/managers/tp_worker.py", "TpModelWorker"): ("model_runner",),
    ("srt/model_executor/model_runner.py", "ModelRunner"): ("init_lora_manager", "lora_manager", "model"),
    ("srt/configs/model_config.py", "ModelConfig"): ("hf_eos_token_id",),
    ("srt/lora/lora_manager.py", "LoRAManager"): (
        "init_lora_modules",
        "update_lora_info",
        "prepare_lora_batch",
        "fetch_new_loras",
        "lora_backend",
        "lora_modules",
        "lora_refs",
        "memory_pool",
        "base_model",
        "dtype",
    ),
    ("srt/lora/mem_pool.py", "LoRAMemoryPool"): (
        "get_lora_A_shape",
        "get_lora_B_shape",
        "A_buffer",
        "B_buffer",
        "uid_to_buffer_id",
    ),
    ("srt/lora/layers.py", "BaseLayerWithLoRA"): (
        "set_lora",
        "base_layer",
        "slice_lora_a_weights",
        "slice_lora_b_weights",
        "lora_backend",
    ),
    ("srt/lora/layers.py", "QKVParallelLinearWithLoRA"): ("A_buffer_qkv",),
    ("srt/lora/layers.py", "ColumnParallelLinearWithLoRA"): ("A_buffer",),
    ("srt/lora/layers.py", "MergedColumnParallelLinearWithLoRA"): ("B_buffer", "use_gate_up_lora"),
    ("srt/lora/layers.py", "RowParallelLinearWithLoRA"): ("A_buffer",),
    ("srt/lora/backend/lora_registry.py", ""): ("register_lora_backend",),
    ("srt/lora/backend/base_backend.py", "BaseLoRABackend"): (
        "prepare_lora_batch",
        "run_lora_a_sgemm",
        "run_lora_b_sgemm",
        "run_qkv_lora",
        "run_gate_up_lora",
        "batch_info",
    ),
    ("srt/lora/lora_registry.py", "LoRARef"): ("lora_name", "lora_id"),
    ("srt/layers/activation.py", ""): ("SiluAndMul",),
    ("srt/layers/layernorm.py", "RMSNorm"): (
        "has_weight",
        "variance_size_override",
        "cast_x_before_out_mul",
        "fp32_residual",
        "hidden_size",
        "variance_epsilon",
        "weight",
    ),
    ("srt/layers/sampler.py", ""): ("SGLANG_RETURN_ORIGINAL_LOGPROB",),
    ("srt/layers/sampler.py", "Sampler"): ("forward",),
    ("srt/sampling/sampling_batch_info.py", "SamplingBatchInfo"): ("is_all_greedy",),
    ("srt/layers/logits_processor.py", "LogitsProcessorOutput"): ("next_token_logits",),
    ("srt/layers/utils/common.py", ""): ("get_layer_id",),
}
"""What must exist: methods and attributes, by file in the package and class (or none)."""

PARAMETERS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("srt/managers/scheduler.py", "", "run_scheduler_process"): ("tp_rank",),
    ("srt/managers/min_free_slots_delayer.py", "MinFreeSlotsDelayer", "should_delay"): (
        "running_bs",
        "num_allocatable_reqs",
    ),
    ("srt/layers/sampler.py", "Sampler", "forward"): ("logits_output", "sampling_info"),
    ("srt/entrypoints/engine.py", "Engine", "async_generate"): ("rid",),
}
"""Parameters that must exist, by file, class (or none) and function."""


def installed() -> Path | None:
    """The folder of the installed sglang package, None if there is none. Imports nothing."""
    spec = importlib.util.find_spec("sglang")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def package() -> Path:
    """The folder of the installed sglang package; raises UserError if there is none."""
    root = installed()
    if root is None:
        raise UserError(
            "engine.kind: sglang is not installed; pip install 'es-ray[sglang]', or use transformers"
        )
    return root


def version(root: Path) -> str:
    """The version of an sglang package, from its files."""
    for name in ("_version.py", "version.py"):
        file = root / name
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        found = re.search(r"^(?:__version__|version)\b[^\n]*?['\"](\d[^'\"]*)['\"]", text, re.MULTILINE)
        if found:
            return found.group(1)
    for folder in sorted(root.parent.glob("sglang-*.dist-info")):
        return folder.name.removeprefix("sglang-").removesuffix(".dist-info")
    return "of unknown version"


def check(root: Path) -> None:
    """Raise UserError for an sglang package that is too old, too new, or lacks a name that es-ray needs.

    With ES_RAY_SGLANG_UNCHECKED=1 in the environment the last two are logged as a warning, once.
    """
    found = version(root)
    if (0,) <= parsed(found) < OLDEST:
        raise UserError(f"engine.kind: sglang {found} is too old: {SUPPORTED}")
    problems = list(_problems(root, found))
    if problems and os.environ.get(UNCHECKED) != "1":
        raise UserError(f"engine.kind: {problems[0]}: {SUPPORTED}; set {UNCHECKED}=1 to run it anyway")
    if problems:
        _warn_once(f"{'; '.join(problems)}: {SUPPORTED}; continuing, as {UNCHECKED}=1")
    argument_names(root)


def _problems(root: Path, found: str) -> Iterator[str]:
    """What es-ray needs and an sglang package of that version lacks."""
    if parsed(found) > NEWEST:
        yield f"sglang {found} is newer than any that was checked"
    for (file, owner), names in NAMES.items():
        available = defined_names(root / file, owner)
        for name in names:
            if name not in available:
                yield f"SGLang {found} has no {f'{owner}.{name}' if owner else f'{file}: {name}'}"
    for (file, owner, function), parameters in PARAMETERS.items():
        available = parameter_names(root / file, owner, function)
        for name in parameters:
            if name not in available:
                full = f"{owner}.{function}" if owner else f"{file}: {function}"
                yield f"SGLang {found} has no parameter {name} of {full}"


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


@cache
def argument_names(root: Path) -> frozenset[str]:
    """The names of ServerArgs' fields; raises UserError if they are not found in the known places."""
    fields = field_names(root / "srt/server_args.py", "ServerArgs")
    order = root / "srt/arg_groups/field_order.py"
    if not fields and order.is_file():
        for node in ast.parse(order.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                fields = {str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)}
    if "model_path" not in fields:
        raise UserError(
            f"engine.kind: SGLang {version(root)} does not list its arguments where it should: {SUPPORTED}"
        )
    return frozenset(fields)
