"""One way of throughput.py, in this process: `throughput_ways.py SPEC` appends JSON lines to a file."""

import functools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.config import Config
from es_ray.engines.base import BASE, Row, Variant
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from es_ray.runs.environment import environment

Spec = dict[str, Any]


def config_of(spec: Spec) -> Config:
    """The configuration of every engine."""
    # the same for all, so that CUDA graphs have the same sizes: members, centre and base on both splits
    running = {"max_running_requests": (spec["members"] + 4) * spec["prompts"]}
    if spec["way"] in ("growth", "loop"):  # as users have it
        running = {}
    if spec["kernels"] != "es_ray":
        running["lora_backend"] = spec["kernels"]
    is_merged = spec["way"] == "merged"
    steps = {"learning_rate": 0.01, "update_scale": "absolute", "antithetic": False}
    noise: dict[str, Any] = {"kind": "constant", "std": 0.02}
    if is_merged:
        steps = {"learning_rate": 1.0, "update_scale": "sigma", "antithetic": True}
        noise = {"kind": "relative", "relative": 0.03}
    return Config.parse(
        {
            "model": {"path": spec["model"]},
            "lora": {
                "rank": spec["rank"],
                "alpha": 2 * spec["rank"],
                "layers": spec["layers"],
                "form": "merged" if is_merged else "both",
            },
            "evolution": {
                "population": max(spec["members"], 2),
                "generations": spec["generations"],
                "noise": noise,
                **steps,
            },
            "task": {
                "batch": None,
                "max_new_tokens": spec["tokens"],
                "train": f"{spec['model']}/data.jsonl",
                "test": f"{spec['model']}/data.jsonl",
            },
            "engine": {
                "kind": "sglang",
                "shard": spec["members"] + 2,
                "deterministic": spec["deterministic"],
                "tensor_parallel": spec["tensor_parallel"],
                "sglang": running | spec["sglang"],
            },
            "cluster": {"workers": spec["workers"]},
        }
    )


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def write(spec: Spec, **values: Any) -> None:
    """Append what a way measured."""
    with open(spec["lines"], "a") as lines:
        known = {key: spec[key] for key in ("members", "rank", "layers", "kernels")}
        lines.write(json.dumps({**known, **values}) + "\n")


def machine(spec: Spec) -> None:
    """The GPU's own copy and matrix product rates."""
    import torch

    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def rate(action: Callable[[], Any], amount: float) -> float:
        seconds = []
        for _ in range(12):
            torch.cuda.synchronize()
            seconds.append(timed(lambda: (action(), torch.cuda.synchronize())))
        return amount / statistics.median(seconds[2:])

    write(
        spec,
        way="machine",
        bytes_per_second=rate(lambda: other.copy_(block), 2.0 * block.numel()),
        flops_per_second=rate(lambda: torch.matmul(a, b), 2.0 * 8192**3),
        environment=environment(),
    )


@functools.cache
def prompts_of(model: str, tokens: int) -> list[tuple[int, ...]]:
    """Token ids of the prompts of one member; made once, before anything is timed."""
    examples = {"train": f"{model}/data.jsonl", "test": f"{model}/data.jsonl"}
    found = Experiment(Config.parse({"model": {"path": model}, "task": examples})).prompt_ids["train"]
    assert all(len(ids) == tokens for ids in found)
    return found


def plain_engine(spec: Spec, lora: bool, run_scheduler: Any = None, **more: Any) -> Any:
    """SGLang's own engine with our settings."""
    from sglang.srt.entrypoints.engine import Engine

    from es_ray.engines.sglang import compat
    from es_ray.engines.sglang.arguments import server_arguments

    experiment = Experiment(config_of(spec))
    rows = spec["members"] * spec["prompts"]
    known = compat.argument_names(compat.package())
    # rows of full length without `ignore_eos`, with which SGLang goes through all rows to admit each
    ends = {"json_model_override_args": json.dumps({"eos_token_id": None})}
    arguments = server_arguments(experiment.config, experiment.source, rows, known, lora) | ends | more
    cls = Engine
    if run_scheduler is not None:
        cls = type("Full", (Engine,), {"run_scheduler_process_func": staticmethod(run_scheduler)})
    engine = cls(**arguments)
    engine.freeze_gc()  # as ours does
    return engine


def generate(engine: Any, spec: Spec, members: int, names: list[str] | None = None) -> None:
    """The rows of some members, to their full length."""
    ids = [
        list(prompt) for _ in range(members) for prompt in prompts_of(spec["model"], spec["prompt_tokens"])
    ]
    per_row = None if names is None else [name for name in names for _ in range(spec["prompts"])]
    sampling = {"temperature": 0.0, "max_new_tokens": spec["tokens"]}  # the model has no end token
    outputs = engine.generate(input_ids=ids, sampling_params=sampling, lora_path=per_row)
    assert all(len(output["output_ids"]) == spec["tokens"] for output in outputs)


def base(spec: Spec) -> None:
    """The ceiling: an engine without LoRA."""
    engine = plain_engine(spec, lora=False)
    prompts_of(spec["model"], spec["prompt_tokens"])
    seconds = [timed(lambda: generate(engine, spec, spec["members"])) for _ in range(spec["rounds"] + 1)]
    write(spec, way="base", seconds=seconds[1:])
    alone = [timed(lambda: generate(engine, spec, 1)) for _ in range(spec["slow_members"] + 1)]
    slow(spec, "base, one member's rows at a time", alone[1:])
    engine.shutdown()


def slow(spec: Spec, way: str, each: list[float], **more: Any) -> None:
    """A way of one member after the other, from seconds for each of some members."""
    members = spec["members"]
    rng = random.Random(0)  # spread: means of resampled members
    means = [statistics.fmean(rng.choices(each, k=len(each))) for _ in range(20)]
    write(
        spec, way=way, seconds=[statistics.fmean(each) * members, *(m * members for m in means)],
        measured_members=len(each), each=each, **more,
    )  # fmt: skip


def our_engine(spec: Spec) -> tuple[Any, Experiment, Any, float]:
    """Our engine with its experiment and strategy, and the seconds that it took to start."""
    from es_ray.engines.sglang.engine import SGLangEngine

    experiment = Experiment(config_of(spec))
    starting = time.perf_counter()
    engine = SGLangEngine(experiment)
    seconds = time.perf_counter() - starting
    engine.ignore_stop = True
    strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    return engine, experiment, strategy, seconds


def rows_of(members: int, generation: int, prompts: list[tuple[int, ...]]) -> list[Row]:
    """Every prompt for every member."""
    return [Row(Variant(index, generation), prompt) for index in range(members) for prompt in prompts]


def population(spec: Spec) -> None:
    """Our engine: the complete population in place."""
    engine, experiment, strategy, start_seconds = our_engine(spec)
    theta, perturbation = strategy.initial()[THETA], strategy.perturbation
    prompts = experiment.prompt_ids["train"]
    update, inside, seconds = [], [], []
    for generation in range(spec["rounds"] + 1):
        rows = rows_of(spec["members"], generation, prompts)
        theta = theta + np.float32(1e-6)  # as after every update, theta is new

        def write_all(rows: list[Row] = rows, theta: Any = theta) -> None:
            engine.write_adapters([theta], perturbation, rows)

        update.append(1000 * timed(write_all))
        inside.append(1000 * engine.write_seconds)
        theta = theta + np.float32(1e-6)

        def evaluate(rows: list[Row] = rows, theta: Any = theta) -> None:
            completions = engine.generate([theta], perturbation, rows)
            assert all(len(completion.token_ids) == spec["tokens"] for completion in completions)

        seconds.append(timed(evaluate))
    advantages = np.random.default_rng(0).normal(size=spec["members"])
    summing = [
        timed(lambda: engine.noise_sum(perturbation, 0, advantages, 0, len(theta)))
        for _ in range(spec["rounds"] + 1)
    ]
    write(
        spec, way="population", seconds=seconds[1:], update_ms=update[1:], update_in_scheduler_ms=inside[1:],
        noise_sum_ms=[1000 * s for s in summing[1:]], start_seconds=start_seconds, entries=len(theta),
    )  # fmt: skip
    with_base = [*rows_of(spec["members"], 0, prompts), *(Row(Variant(BASE), prompt) for prompt in prompts)]
    write(
        spec, way="population and base model",
        seconds=[timed(lambda: engine.generate([theta], perturbation, with_base)) for _ in range(2)][1:],
    )  # fmt: skip
    engine.close()


def merged(spec: Spec) -> None:
    """Our engine in form `merged`: an update of all weights, the members, and their rows."""
    engine, experiment, strategy, start_seconds = our_engine(spec)
    state, prompts = strategy.initial(), experiment.prompt_ids["train"]
    seconds, steps = [], []
    for generation in range(spec["rounds"] + 1):
        rows = rows_of(spec["members"], generation, prompts)
        advantages = np.random.default_rng(generation).normal(size=strategy.population)
        state = strategy.updated(state, generation, advantages, lambda: None)
        engine.merged.seconds.clear()

        def evaluate(rows: list[Row] = rows, history: Any = state[THETA]) -> None:
            completions = engine.generate([history], strategy.perturbation, rows)
            assert all(len(completion.token_ids) == spec["tokens"] for completion in completions)

        seconds.append(timed(evaluate))
        engine.drift(state[THETA], strategy.perturbation)
        engine.checksum()
        steps.append({name: 1000 * s for name, s in engine.merged.seconds.items()})
    writing = [step["add"] for step in steps[1:]]  # which serves as well
    entries = sum(module.in_features * module.out_features for module in experiment.layout.modules)
    write(
        spec, way="merged", seconds=seconds[1:], update_ms=writing, step_ms=steps[1:],
        start_seconds=start_seconds, adapted_parameters=entries, parameters=engine.info.parameters,
    )  # fmt: skip
    again = np.concatenate([state[THETA]] * (spec["replayed"] // len(state[THETA]) + 1))[: spec["replayed"]]
    engine.merged.seconds.clear()
    replay = timed(lambda: engine.generate([again], strategy.perturbation, rows[:1]))
    write(
        spec,
        way="replay",
        generations=len(again),
        replay_seconds=replay,
        step_seconds=dict(engine.merged.seconds),
    )
    engine.close()


def one(spec: Spec) -> None:
    """Our engine, one member at a time."""
    engine, experiment, strategy, _ = our_engine(spec)
    centres, each = [strategy.initial()[THETA]], []
    for index in range(spec["slow_members"] + 1):
        mine = [Row(Variant(index), prompt) for prompt in experiment.prompt_ids["train"]]
        each.append(timed(lambda mine=mine: engine.generate(centres, strategy.perturbation, mine)))
    slow(spec, "one member at a time", each[1:])
    engine.close()


def growth(spec: Spec) -> None:
    """Our engine with room for the largest population, and populations up to it."""
    engine, experiment, strategy, start_seconds = our_engine(spec)
    theta, prompts = strategy.initial()[THETA], experiment.prompt_ids["train"]
    for size in spec["sizes"]:
        seconds = []
        for generation in range(spec["rounds"] + 1):
            theta = theta + np.float32(1e-6)
            rows = rows_of(size, generation, prompts)

            def evaluate(theta: Any = theta, rows: list[Row] = rows) -> None:
                engine.generate([theta], strategy.perturbation, rows)

            seconds.append(timed(evaluate))
        write(spec | {"members": size}, way="growth", seconds=seconds[1:], start_seconds=start_seconds)
    engine.close()


def stock(spec: Spec) -> None:
    """SGLang's own way: an adapter loaded for each member, every generation, then the batch."""
    import torch

    from es_ray.engines.sglang.arguments import adapter_config

    config = config_of(spec)
    experiment = Experiment(config)
    engine = plain_engine(spec, lora=True, lora_backend="csgmv")
    strategy = experiment.strategy([1.0] * len(experiment.layout.modules))
    theta = strategy.initial()[THETA]
    each = []
    for index in range(spec["slow_members"] + 1):
        vector = torch.from_numpy(strategy.perturbation.member(theta, 0, index % strategy.population))
        tensors = {
            f"base_model.model.{name}.lora_{matrix}.weight": part.contiguous()
            for name, pair in experiment.layout.matrices(vector).items()
            for matrix, part in zip("AB", pair, strict=True)
        }
        each.append(
            timed(
                lambda tensors=tensors, index=index: load(
                    engine, f"m{index}", tensors, adapter_config(config)
                )
            )
        )
    loaded = [f"m{index}" for index in range(1, spec["slow_members"] + 1)]
    names = [loaded[index % len(loaded)] for index in range(spec["members"])]
    batch = [timed(lambda: generate(engine, spec, spec["members"], names)) for _ in range(spec["rounds"] + 1)]
    total = [statistics.fmean(each[1:]) * spec["members"] + seconds for seconds in batch[1:]]
    write(
        spec, way="stock loading", seconds=total, measured_members=spec["slow_members"], load_each=each[1:],
        batch_seconds=batch[1:],
    )  # fmt: skip
    engine.shutdown()


def load(engine: Any, name: str, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """Load one adapter through SGLang."""
    result = engine.load_lora_adapter_from_tensors(name, tensors, config)
    assert result.success, result.error_message


def full(spec: Spec) -> None:
    """Full parameters: perturb all weights, generate, restore, for one member after the other."""
    import full_parameter

    engine = plain_engine(spec, lora=False, run_scheduler=full_parameter.run)
    each, moving = [], []
    for member in range(spec["slow_members"] + 1):
        started = time.perf_counter()
        engine.collective_rpc("es_ray_perturb", seed=member, scale=1e-3)
        perturbed = time.perf_counter()
        generate(engine, spec, 1)
        generated = time.perf_counter()
        engine.collective_rpc("es_ray_perturb", seed=member, scale=-1e-3)
        each.append(time.perf_counter() - started)
        moving.append(each[-1] - (generated - perturbed))
    slow(spec, "full parameters", each[1:], perturb_and_restore=moving[1:])
    engine.shutdown()


def loop(spec: Spec) -> None:
    """Generations through the driver, recording and plotting; the population grows with the workers."""
    from es_ray import driver
    from es_ray.runs.run_dir import RunDir

    workers, population = spec["workers"], spec["members"] * spec["workers"]
    # the population and the centre in equal parts; the base model, in generation 0 alone, makes one more
    shard = math.ceil((population + 1) / workers)
    config = config_of(spec).replace(evolution__population=population, engine__shard=shard)
    if spec["fresh"]:
        config = config.replace(
            task__train=f"{spec['model']}/batches.jsonl", task__batch=spec["prompts"], task__temperature=1.0,
            evaluation__kl_every=1, guard={"max_kl": 100.0},
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        driver.run(config.replace(output__dir=f"{folder}/run"))
        lines = RunDir(Path(folder) / "run").metrics()[1:]  # the first one warms up
    phases = {phase: [line["seconds"][phase] for line in lines] for phase in lines[0]["seconds"]}
    shares = [line["seconds"]["evaluate"] / line["seconds"]["total"] for line in lines]
    write(
        spec, way="loop", fresh=spec["fresh"], seconds=phases["total"], phases=phases, evaluate_share=shares,
        median_evaluate_share=statistics.median(shares), workers=spec["workers"],
        zero_variance=[line["zero_variance"] for line in lines], tokens=[line["tokens"] for line in lines],
    )  # fmt: skip


WAYS = {
    "machine": machine, "base": base, "population": population, "one": one, "stock": stock, "full": full,
    "loop": loop, "growth": growth, "merged": merged,
}  # fmt: skip

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    WAYS[given["way"]](given)
