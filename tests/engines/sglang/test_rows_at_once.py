"""Rows at once, against what the bundled model's cache really takes."""

import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from es_ray.config import load
from es_ray.engines.sglang.rows_at_once import (
    GRAPHS,
    MOST,
    STATIC,
    beside_rows,
    bytes_of_row,
    in_waves,
    rows_at_once,
)
from es_ray.experiment import Experiment

RELATIVE = {"kind": "relative", "relative": 0.03}


def experiment(**values) -> Experiment:
    config = load(preset="tiny-chat-0.1.0").replace(engine__kind="sglang", model__dtype="float16")
    return Experiment(config.replace(**values))


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(experiment().source.path, dtype=torch.float16)


@pytest.mark.parametrize("new_tokens", [8, 40])
def test_a_row_takes_its_cache_at_full_length(new_tokens, model):
    made = experiment(task__max_new_tokens=new_tokens)
    longest = max(map(len, made.prompt_ids["train"]))
    with torch.inference_mode():
        cache = model(torch.zeros(1, longest + new_tokens, dtype=torch.long)).past_key_values
    kept = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert bytes_of_row(made) == kept + GRAPHS


def test_of_a_model_that_also_reads_images_the_language_model_keeps_rows(tmp_path):
    text = {
        "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config=vision)
    config.save_pretrained(tmp_path)
    for file in experiment().source.folder.glob("*token*"):
        shutil.copy(file, tmp_path)
    made = experiment(model__path=str(tmp_path))
    longest = max(map(len, made.prompt_ids["train"]))
    model = AutoModelForCausalLM.from_config(config)
    with torch.inference_mode():
        length = longest + made.config.task.max_new_tokens
        cache = model(torch.zeros(1, length, dtype=torch.long)).past_key_values
    kept = sum(t.numel() * 2 for layer in cache.layers for t in (layer.keys, layer.values))
    assert bytes_of_row(made) == kept + GRAPHS
    assert rows_at_once(made, 1 << 40) == made.workload.rows


def test_beside_the_rows_lie_weights_and_adapters(model):
    weights = sum(parameter.nbytes for parameter in model.parameters())
    made = experiment(engine__shard=9)
    assert beside_rows(made) == weights + 10 * 2 * made.layout.size


def test_weights_that_wait_in_the_machines_memory_take_none_of_the_gpus():
    made = experiment(engine__sglang={"cpu_offload_gb": 0.001})
    assert beside_rows(made) == beside_rows(experiment()) - int(0.001 * 2**30)
    assert beside_rows(experiment(engine__sglang={"cpu_offload_gb": 10})) == 0


def test_in_form_merged_also_the_updates(model):
    form = {"form": "merged", "rank": 2}
    made = experiment(lora=form, engine__shard=9, evolution__update_scale="sigma", evolution__noise=RELATIVE)
    adapted = [model.get_submodule(module.name).weight for module in made.layout.modules]
    more = sum(
        2 * weight.numel() + 4 * weight.numel() for weight in adapted
    )  # the base's, and float32 changes
    adapters = 10 * 2 * made.layout.size
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert beside_rows(made) == weights + adapters + more


def test_gpus_that_share_a_model_hold_more_rows(model):
    one, two = experiment(), experiment(engine__tensor_parallel=2)
    assert beside_rows(two) == beside_rows(one) // 2
    heads = model.config.num_key_value_heads
    assert bytes_of_row(two) - GRAPHS == (bytes_of_row(one) - GRAPHS) * math.ceil(heads / 2) // heads


def test_as_many_rows_as_fit_and_no_more():
    made = experiment(evolution__population=400, engine__shard=400, task__max_new_tokens=100)
    row, beside, asked = bytes_of_row(made), beside_rows(made), made.workload.rows
    assert asked > 700

    def memory(rows: float) -> int:
        return math.ceil((beside + rows * row) / STATIC)

    assert rows_at_once(made, memory(asked)) == asked
    for fit in (1, 10, 333):
        number = rows_at_once(made, memory(fit + 0.5))
        assert number <= fit
        assert math.ceil(asked / number) == math.ceil(asked / fit), "no more waves than needed"
    assert rows_at_once(made, memory(0)) == 1, "SGLang says what is too little"


def test_the_share_of_the_memory_is_the_users():
    asked = experiment(
        evolution__population=400, engine__shard=400, engine__sglang={"mem_fraction_static": 0.41}
    )
    default = experiment(evolution__population=400, engine__shard=400)
    memory = int((beside_rows(default) + 300.5 * bytes_of_row(default)) / STATIC)
    assert rows_at_once(asked, 2 * memory) == rows_at_once(default, memory) < default.workload.rows


def test_there_is_a_largest_number():
    made = experiment(evolution__population=9000, engine__shard=9000)
    assert MOST / 2 < rows_at_once(made, 1 << 50) <= MOST
    assert rows_at_once(made, None) == rows_at_once(made, 1 << 50)


@pytest.mark.parametrize("most", [1, 7, 512, 2000])
def test_the_last_wave_is_no_tail(most):
    for rows in (1, 6, 7, 8, 511, 513, 2001, 3000, 12345):
        number = in_waves(rows, most)
        waves = math.ceil(rows / number)
        assert number <= most and waves == math.ceil(rows / most)
        assert waves * number - rows < waves, "waves differ by a row at most"
