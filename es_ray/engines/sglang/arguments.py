"""SGLang's arguments for a population: ours from the configuration, the rest from the user."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

from es_ray.config import Config
from es_ray.engines.sglang.compat import SUPPORTED
from es_ray.errors import UserError
from es_ray.models import ModelSource

BACKEND: Final = "es_ray"
"""The name of es-ray's own LoRA backend; engine.sglang.lora_backend may name another."""

OURS: Final[dict[str, str]] = {
    "model_path": "model.path",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "tp_size": "engine.tensor_parallel",
    "random_seed": "evolution.seed",
    "enable_deterministic_inference": "engine.deterministic",
    "max_lora_rank": "lora.rank",
    "lora_target_modules": "lora.target_modules",
    "max_loras_per_batch": "engine.shard",
    "max_loaded_loras": "engine.shard",
} | dict.fromkeys(
    (
        "enable_lora", "lora_paths", "enable_lora_overlap_loading", "skip_tokenizer_init", "tokenizer_path",
        "schedule_policy", "sampling_defaults", "preferred_sampling_params", "custom_sigquit_handler",
        "dp_size", "pp_size", "nnodes", "node_rank", "speculative_algorithm",
    ),
    "",
)  # fmt: skip
"""Arguments not allowed in engine.sglang, with the key that sets each; "" if es-ray sets it itself."""


def check_passed_through(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise UserError for an engine.sglang key that es-ray sets, or that SGLang does not have.

    known: the names of the installed version's arguments.
    """
    for key in given:
        if key in OURS:
            where = f"set {OURS[key]} instead" if OURS[key] else "es-ray sets it itself"
            raise UserError(f"engine.sglang.{key}: {where}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
            hint = f"did you mean {', '.join(near)}?" if near else "see sglang.launch_server --help"
            raise UserError(f"engine.sglang.{key}: SGLang has no such argument; {hint}")


def server_arguments(
    config: Config, source: ModelSource, rows: int, known: Collection[str], lora: bool = True
) -> dict[str, Any]:
    """The keyword arguments of `sglang.Engine`.

    rows: how many run at once, unless engine.sglang.max_running_requests is set. known: the names of the
    installed version's arguments. lora: False starts the base model alone, with everything else the same.
    Raises UserError.
    """
    given = config.engine.sglang
    check_passed_through(given, known)
    if config.model.dtype == "float32":
        raise UserError(
            "model.dtype: SGLang has no float32; use float16 or bfloat16, or the transformers engine"
        )
    running = int(given.get("max_running_requests") or rows)
    arguments: dict[str, Any] = {
        "model_path": source.path,
        "revision": source.revision,
        "dtype": config.model.dtype,
        "tp_size": config.engine.tensor_parallel,
        "random_seed": config.evolution.seed % 2**31,
        "enable_deterministic_inference": config.engine.deterministic,
        "skip_tokenizer_init": True,
        "sampling_defaults": "openai",  # ignores the model's generation_config
        "schedule_policy": "fcfs",
        "pp_max_micro_batch_size": running,  # rows at once; without pipeline parallelism there is one batch
        "cuda_graph_bs_decode": graph_sizes(running),
        "disable_prefill_cuda_graph": True,  # takes most of the start-up time, and prompts are short
        "disable_radix_cache": True,  # an adapter sees each prompt once
        "log_level": "error",  # otherwise each adapter slot warns about all others
    }
    if lora:
        arguments |= lora_arguments(config)
    if _largest_graph_given(given):  # which the list would override
        del arguments["cuda_graph_bs_decode"]
    arguments |= given
    # one more: 0.5.17 counts a prompt that it splits twice, and the last row would wait for the others
    arguments["max_running_requests"] = running + 1
    missing = [key for key in arguments if key not in known]
    if missing:
        raise UserError(f"engine.kind: this SGLang has no argument {missing[0]}: {SUPPORTED}")
    return arguments


def _largest_graph_given(given: Mapping[str, Any]) -> bool:
    """Whether the user says which decoding batch is the largest with a graph; SGLang has two ways."""
    phases = given.get("cuda_graph_config")
    decode = phases.get("decode") if isinstance(phases, Mapping) else None
    return "cuda_graph_max_bs_decode" in given or (isinstance(decode, Mapping) and "max_bs" in decode)


def graph_sizes(most: int) -> list[int]:
    """Batch sizes of which CUDA graphs are made: up to the largest, as others would run without one.

    A batch runs in the next larger one, at most an eighth larger from 64 on. SGLang's own list is up to twice
    as long, and each graph takes 50 to 140 ms at the start.
    """
    sizes = [1, 2, 4, *range(8, 64, 8)]
    step = 8
    while sizes[-1] < most:
        sizes += range(8 * step, 16 * step, step)
        step *= 2
    return [*(size for size in sizes if size < most), most]


def lora_arguments(config: Config) -> dict[str, Any]:
    """Arguments for as many adapters as a shard has candidates; the base model takes one more slot."""
    slots = config.engine.shard + 1  # nothing is ever evicted: SGLang has no weights to reload it from
    return {
        "enable_lora": True,
        "max_loras_per_batch": slots,
        "max_loaded_loras": slots,
        "max_lora_rank": config.lora.rank,
        "lora_target_modules": list(config.lora.target_modules),
        "lora_backend": BACKEND,
    }


def adapter_config(config: Config, scaling: float) -> dict[str, Any]:
    """Each adapter's config for SGLang; with the pool's rank, so that A's rows are as in pool_layout.

    scaling: of B A; SGLang takes it from lora_alpha / r.
    """
    return {
        "peft_type": "LORA",
        "r": config.lora.rank,
        "lora_alpha": scaling * config.lora.rank,
        "target_modules": list(config.lora.target_modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def adapter_name(slot: int) -> str:
    """The name under which an adapter slot is registered."""
    return f"es-ray-{slot}"
