"""How many rows run at once: as many as the GPU's memory holds, in waves of equal size.

A row needs its keys and values at full length, and its part of the CUDA graphs and of the logits. Beside the
rows lie the weights, the adapters and, in form `merged`, the updates. More rows wait until others end.
"""

import math
from typing import Final

from es_ray.experiment import Experiment

MOST: Final = 2048
"""More gave fewer tokens per second: in a 1.5B model's shape 62, 70, 71, 72 and 69 thousand with 500, 1,000,
1,500, 2,000 and 3,000 rows on an H200 (benchmarks/results/throughput.md)."""
STATIC: Final = 0.82
"""Share of the memory that SGLang fills with weights and cache; the rest is for what comes and goes."""
GRAPHS: Final = 2 << 20
"""Bytes a row that SGLang expects its CUDA graphs to take."""
LOGITS: Final = 10
"""Bytes of each row and token of the vocabulary: the scores in half precision, in float32 and once copied."""
HALF: Final = 2
"""Bytes of a number in float16 or bfloat16, all that SGLang serves here."""


def rows_at_once(experiment: Experiment, gpu_memory: int | None) -> int:
    """Of as many rows as a generation has, so many run at once.

    gpu_memory: bytes of each GPU; None where it is not known, and does not count.
    """
    given = experiment.config.engine.sglang
    if gpu_memory is None:
        return in_waves(experiment.workload.rows, MOST)
    static = float(given.get("mem_fraction_static") or STATIC) * gpu_memory
    room = int((static - beside_rows(experiment)) / bytes_of_row(experiment))
    return in_waves(experiment.workload.rows, max(min(room, MOST), 1))


def in_waves(rows: int, most: int) -> int:
    """Rows at once, at most so many, with which the last wave is no smaller than the others."""
    return math.ceil(rows / math.ceil(rows / most))


def bytes_of_row(experiment: Experiment) -> int:
    """GPU memory of a row of full length, on each of the GPUs that share the model."""
    model, config = experiment.source.architecture.get_text_config(), experiment.config
    heads = model.num_attention_heads
    size = getattr(model, "head_dim", None) or model.hidden_size // heads
    kept = getattr(model, "num_key_value_heads", None) or heads
    ranks = config.engine.tensor_parallel
    here = math.ceil(kept / ranks)  # with more ranks than heads, each has one
    tokens = experiment.workload.prompt_tokens + config.task.max_new_tokens
    cache = 2 * HALF * model.num_hidden_layers * here * size * tokens
    return int(cache + max(GRAPHS, LOGITS * model.vocab_size // ranks))


def beside_rows(experiment: Experiment) -> int:
    """GPU memory of weights, adapters and updates, on each of the GPUs that share the model."""
    layout, ranks = experiment.layout, experiment.config.engine.tensor_parallel
    weights = HALF * experiment.source.parameters
    adapters = HALF * (experiment.config.engine.shard + 1) * layout.size
    updates = 0
    if layout.form == "merged":  # the base model's weights, and all changes in float32
        updates = (HALF + 4) * sum(module.in_features * module.out_features for module in layout.modules)
    elsewhere = int(float(experiment.config.engine.sglang.get("cpu_offload_gb") or 0) * (1 << 30))  # of each
    return max((weights + adapters + updates) // ranks - elsewhere, 0)
