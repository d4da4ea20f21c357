import pytest

from es_ray.config import Config
from es_ray.engines.sglang import arguments
from es_ray.errors import UserError
from es_ray.models import ModelSource

BASE = Config()
KNOWN = {
    *arguments.server_arguments(
        BASE, ModelSource.of(BASE.model), 60, type("All", (), {"__contains__": lambda *_: True})()
    ),
    "mem_fraction_static", "attention_backend", "context_length", "load_format", "cuda_graph_max_bs_decode",
    "cuda_graph_config", *arguments.OURS,
}  # fmt: skip


def made(rows: int = 60, adapters: bool = True, **values):
    config = BASE.replace(engine__kind="sglang", **values)
    return arguments.server_arguments(config, ModelSource.of(config.model), rows, KNOWN, adapters)


def test_what_the_configuration_says_is_what_sglang_gets():
    got = made(
        model__dtype="bfloat16",
        engine__shard=32,
        engine__tensor_parallel=2,
        engine__deterministic=True,
        evolution__seed=2**33 + 5,
        lora={"rank": 4, "target_modules": ["q_proj", "v_proj"]},
    )
    assert got["model_path"] == ModelSource.of(BASE.model).path
    assert got["dtype"] == "bfloat16"
    assert got["tp_size"] == 2
    assert got["enable_deterministic_inference"] is True
    assert got["random_seed"] == 5
    assert got["max_lora_rank"] == 4
    assert got["lora_target_modules"] == ["q_proj", "v_proj"]
    assert got["max_loras_per_batch"] == got["max_loaded_loras"] == 33  # the base model takes one
    assert got["pp_max_micro_batch_size"] == max(got["cuda_graph_bs_decode"]) == 60
    assert got["max_running_requests"] == 61
    assert got["skip_tokenizer_init"] is True


def test_arguments_are_passed_through_and_override_the_defaults():
    got = made(
        engine__sglang={
            "mem_fraction_static": 0.7, "attention_backend": "triton", "disable_radix_cache": False,
            "max_running_requests": 8,
        }
    )  # fmt: skip
    assert got["mem_fraction_static"] == 0.7
    assert got["attention_backend"] == "triton"
    assert got["disable_radix_cache"] is False
    assert got["pp_max_micro_batch_size"] == max(got["cuda_graph_bs_decode"]) == 8
    assert got["max_running_requests"] == 9


def test_prefixes_are_not_cached_and_the_kernels_are_ours():
    got = made()
    assert got["disable_radix_cache"] is True
    assert got["lora_backend"] == arguments.BACKEND
    assert made(engine__sglang={"lora_backend": "csgmv"})["lora_backend"] == "csgmv"


@pytest.mark.parametrize("most", [1, 2, 3, 8, 60, 64, 65, 512, 1000, 3000, 4096])
def test_no_batch_runs_in_a_graph_much_larger_than_itself(most):
    sizes = arguments.graph_sizes(most)
    assert sizes == sorted(set(sizes)) and sizes[-1] == most
    for rows in range(1, most + 1):
        graph = min(size for size in sizes if size >= rows)
        assert graph - rows < max(8, rows / 8)
    assert len(sizes) <= 60


def test_ones_own_graph_sizes_are_kept():
    own = made(engine__sglang={"cuda_graph_bs_decode": [4, 8]})
    assert own["cuda_graph_bs_decode"] == [4, 8]
    largest = made(engine__sglang={"cuda_graph_max_bs_decode": 32})
    assert largest["cuda_graph_max_bs_decode"] == 32
    assert "cuda_graph_bs_decode" not in largest
    phases = made(engine__sglang={"cuda_graph_config": {"decode": {"max_bs": 32}}})
    assert "cuda_graph_bs_decode" not in phases
    other = made(engine__sglang={"cuda_graph_config": {"prefill": {"max_bs": 32}}})
    assert max(other["cuda_graph_bs_decode"]) == 60


def test_without_lora_no_adapter_is_mentioned():
    assert not [key for key in made(adapters=False) if "lora" in key]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mem_fraction": 0.7}, ["engine.sglang.mem_fraction", "mem_fraction_static"]),
        ({"atention_backend": "x"}, ["engine.sglang.atention_backend", "attention_backend"]),
        ({"zzz": 1}, ["engine.sglang.zzz", "no such argument"]),
        ({"tp_size": 2}, ["engine.sglang.tp_size", "engine.tensor_parallel"]),
        ({"dtype": "half"}, ["engine.sglang.dtype", "model.dtype"]),
        ({"enable_lora": False}, ["engine.sglang.enable_lora", "es-ray sets it"]),
    ],
)
def test_unknown_and_reserved_arguments_are_errors(given, words):
    with pytest.raises(UserError) as error:
        made(engine__sglang=given)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_float32_is_refused():
    with pytest.raises(UserError, match="model.dtype.*float32"):
        made(model__dtype="float32")


def test_an_argument_of_ours_that_sglang_lost_is_reported():
    with pytest.raises(UserError, match="no argument schedule_policy"):
        arguments.server_arguments(BASE, ModelSource.of(BASE.model), 60, KNOWN - {"schedule_policy"})
