"""The driver's own cost: real generations on Ray actors whose engine answers at once.

The actors hold no model and no torch; they answer a shard, or a slice of the update, without computing
anything. What is left is the driver: splitting, handing out, taking back, rewards, advantages, metrics. Each
point is `es_ray.driver.step`, the loop's body, on a pool of light actors.

- wall: seconds of a generation, in which the actors share this machine's cores with the driver;
- driver: CPU seconds of the driver's own thread in it, which is what grows on a machine of its own too;
- record: seconds of writing it, which runs beside the next generation but shares the interpreter.

`--wide` adds a case with many prompts to a member, drawn anew for each generation, and long completions.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console as RichConsole
from rich.table import Table

import es_ray
from es_ray.callbacks.base import CallbackList
from es_ray.config import Config
from es_ray.driver import step
from es_ray.engines.base import EngineInfo
from es_ray.evaluation import Sample, Shard, ShardOutcome
from es_ray.evolution.noise import Noise
from es_ray.evolution.optimizers import OPTIMIZERS
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant, Vector
from es_ray.evolution.strategy import State, Strategy
from es_ray.experiment import Experiment
from es_ray.runs.environment import environment
from es_ray.runs.generation_folder import Inputs
from es_ray.runs.recorder import Recorder
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.batches import Batch, Workload
from es_ray.workers.actor import WorkerActor
from es_ray.workers.local import LocalPool
from es_ray.workers.ray_pool import RayPool

GPU_MEMBERS_PER_SECOND = 30 / 0.724
"""One H100 in Qwen2.5-7B's shape: 30 members x 2 prompts x 100 tokens (benchmarks/results/throughput.md)."""
GPUS = 1000
TEXT = "The capital of France is Paris, as everybody knows who has been there once. " * 2
LONG = TEXT * 13  # 2 kB
PROMPTS = 2
"""Training prompts of the bundled task."""
METRICS = {"correct": True, "exact": False}

LIGHT = EngineInfo(mean_abs=(1.0,), parameters=0, device="none", dtype="none")


class LightWorker:
    """Answers like a Worker, without a model."""

    info = LIGHT
    beside = 0

    def evaluate(
        self,
        centres: Mapping[int, Vector],
        perturbation: Perturbation,
        batch: Batch,
        generation: int,
        candidates: list[Any],
    ) -> ShardOutcome:
        """Texts of the usual length, and rewards that differ."""
        shard = Shard.of(generation, candidates)
        answered = {
            (c.index, split): answers(c.index, len(batch.asked(c.index, split)))
            for c in shard.candidates
            for split in c.splits
        }
        return ShardOutcome.of("light/0", generation, answered)

    def noise_sum(
        self, perturbation: Perturbation, advantages: Any, generation: int, start: int, stop: int
    ) -> Vector:
        """A slice of the right size."""
        return np.full(stop - start, 1e-3, dtype=np.float32)

    def close(self) -> None:
        """Nothing to close."""


class LightActor(WorkerActor):
    """The pool's actor with that worker."""

    def load(self, config: Config, workload: Workload) -> LightWorker:
        """No engine to load."""
        return LightWorker()


class LightRayPool(RayPool):
    """The real pool with light actors; calls: how many Ray calls it has made."""

    actor_class = LightActor
    calls = 0

    def start(self) -> EngineInfo:
        """Count what the actors are given from now on."""
        info = super().start()
        actors: Any = self._actors
        submit = actors.submit

        def counted(*arguments: Any) -> None:
            self.calls += 1
            submit(*arguments)

        actors.submit = counted
        return info


def answers(index: int, count: int) -> list[Sample]:
    """So many answers, with a reward of their own; long ones where there are many."""
    text, reward = TEXT if count <= PROMPTS else LONG, -float(index % 97)
    sample = Sample("What is the capital of France?", "Paris", text, reward, METRICS, 30, "stop")
    return [sample] * count


def with_prompts(config: Config, count: int, folder: Path) -> Config:
    """The configuration with so many training prompts in each generation, drawn from ten times as many."""
    if count == PROMPTS:
        return config
    file = folder / f"{10 * count}.jsonl"
    row = json.dumps({"prompt": "How far is it from here to there? " * 16, "target": "Far"})
    file.write_text(f"{row}\n" * (10 * count))
    return config.replace(task__train=str(file), task__batch=count)


def main(
    populations: Annotated[str, typer.Option(help="Members of a generation.")] = "30,128,512,2048,4096,8192",
    workers: Annotated[str, typer.Option(help="Light actors.")] = "1,2,4,8,16,32,64",
    parameters: Annotated[
        int, typer.Option(help="Entries of theta; default: rank 1 in 10 of 7B's layers.")
    ] = 901_120,
    larger: Annotated[int, typer.Option(help="Times as many entries, at the largest population.")] = 8,
    optimizer: Annotated[str, typer.Option(help="The update rule.")] = "sgd",
    wide: Annotated[
        str, typer.Option(help="Also members x prompts, with completions of 2 kB; empty: none.")
    ] = "256x100",
    rounds: Annotated[int, typer.Option(help="Generations that are timed, after one that is not.")] = 5,
    output: Annotated[Path, typer.Option(help="Where scale.json and scale.md go.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure, fit, print a table, and write it down."""
    sizes = [int(text) for text in populations.split(",")]
    counts = [int(text) for text in workers.split(",")]
    cases = [(size, PROMPTS, parameters) for size in sizes]
    cases.append((max(sizes), PROMPTS, parameters * larger))
    if wide:
        members, _, prompts = wide.partition("x")
        cases.append((int(members), int(prompts), parameters))
    points = [point for count in counts for point in measure(count, cases, optimizer, rounds)]
    report = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "environment": environment(),
        "parameters": parameters,
        "optimizer": optimizer,
        "shard": Config().engine.shard,
        "rounds": rounds,
        "points": points,
        "record": {  # the first one imports
            f"{size}x{prompts}": record_seconds(size, prompts)
            for size, prompts in [(2, PROMPTS), *dict.fromkeys(case[:2] for case in cases)]
        },
    }
    same = [p for p in points if p["parameters"] == parameters and p["prompts"] == PROMPTS]
    report["fit"] = {what: fit(same, what) for what in ("driver", "wall")}
    report["limit"] = limit(report["fit"]["driver"], report["shard"])
    output.mkdir(parents=True, exist_ok=True)
    (output / "scale.json").write_text(json.dumps(report, indent=2) + "\n")
    (output / "scale.md").write_text(markdown(report))
    show(report)


def measure(
    workers: int, cases: list[tuple[int, int, int]], optimizer: str, rounds: int
) -> list[dict[str, Any]]:
    """A point for each (population, prompts, parameters) on that many actors."""
    config = es_ray.load(preset="tiny-chat-0.1.0").replace(
        cluster__workers=workers, cluster__address="local", engine__kind="transformers"
    )
    with LightRayPool(config, Experiment(config).workload) as pool:
        pool.start()
        deadline = time.monotonic() + config.cluster.wait_timeout
        while pool.workers < workers:  # a pool begins with those that are ready, and takes in others
            timed(pool, config, 2 * workers, PROMPTS, 1, optimizer, 1)
            if time.monotonic() > deadline:
                raise SystemExit(f"only {pool.workers} of {workers} actors started")
        return [timed(pool, config, *case, optimizer, rounds) | {"workers": workers} for case in cases]


def timed(
    pool: Any, config: Config, population: int, prompts: int, parameters: int, optimizer: str, rounds: int
) -> dict[str, Any]:
    """Seconds of `rounds` generations, after one that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        config = with_prompts(config, prompts, Path(folder))
        experiment = Experiment(config.replace(evolution__population=population, evaluation__every=10**6))
        _ = experiment.examples
    strategy = strategy_of(population, parameters, optimizer)
    state: State = strategy.initial()
    wall, driver, calls = [], [], []
    for generation in range(1, rounds + 2):
        started, cpu, before = time.perf_counter(), time.thread_time(), pool.calls
        state = step(pool, strategy, experiment, generation, state, CallbackList([])).after
        wall.append(round(time.perf_counter() - started, 5))
        driver.append(round(time.thread_time() - cpu, 5))
        calls.append(pool.calls - before)
    return {"population": population, "prompts": prompts, "parameters": parameters} | {
        "wall": wall[1:], "driver": driver[1:], "calls": calls[1:],
    }  # fmt: skip


def strategy_of(population: int, parameters: int, optimizer: str) -> Strategy:
    """Any strategy of that size with that rule."""
    sigma = PiecewiseConstant((parameters,), (0.01,))
    rule = OPTIMIZERS[optimizer]()
    return Strategy(Perturbation(Noise(0), sigma), population, sigma, learning_rate=1.0, optimizer=rule)


class LightPool(LocalPool):
    """One light worker in this process."""

    def start(self) -> EngineInfo:
        """No engine to load."""
        self._worker: Any = LightWorker()
        return LIGHT


def record_seconds(population: int, prompts: int) -> float:
    """Seconds of writing one generation, on the bundled model's layout: texts and JSON above all."""
    config = es_ray.load(preset="tiny-chat-0.1.0").replace(
        evolution__population=population, evolution__generations=9, output__plots_every=10**6
    )
    with tempfile.TemporaryDirectory() as folder, LightPool(config, Experiment(config).workload) as pool:
        config = with_prompts(config, prompts, Path(folder))
        experiment = Experiment(config)
        mean_abs = (1.0,) * len(experiment.layout.modules)
        strategy = experiment.strategy(mean_abs)
        pool.start()
        run = RunDir(Path(folder) / "run")
        run.create(config, {})
        record = step(pool, strategy, experiment, 0, strategy.initial(), CallbackList([]))
        inputs = Inputs(mean_abs, "float32", {}, experiment.fingerprints)
        with Recorder(run, experiment, strategy, inputs) as recorder:
            recorder.submit(record)
            recorder.flush()
    return float(record.metrics["seconds"]["record"])


def fit(points: list[dict[str, Any]], what: str) -> dict[str, float]:
    """Least squares of t = fixed + member x N + call x C, with relative errors, over the points' medians.

    N: members; C: Ray calls, which are as many as shards at most, and fewer where those are short. A term
    that would come out below zero is left out.
    """
    n, c, t = np.array(
        [(p["population"], statistics.median(p["calls"]), statistics.median(p[what])) for p in points],
        dtype=np.float64,
    ).T
    columns = np.stack([np.ones_like(n), n, c], axis=1)
    solved, kept = np.zeros(3), [0, 1, 2]
    while True:
        found, *_ = np.linalg.lstsq(columns[:, kept] / t[:, None], np.ones_like(t), rcond=None)
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    solved[kept] = found
    off = np.abs(columns @ solved / t - 1)
    return dict(zip(("fixed", "member", "call"), map(float, solved), strict=True)) | {
        "median_error": float(np.median(off)),
        "largest_error": float(off.max()),
    }


def limit(fitted: dict[str, float], shard: int) -> dict[str, float]:
    """Extrapolated: members/s that the driver can hand out, a shard in each call, and to how many GPUs."""
    most = 1 / (fitted["member"] + fitted["call"] / shard)
    rate = GPU_MEMBERS_PER_SECOND
    return {"members_per_second": most, "wanted": GPUS * rate, "gpus": most / rate}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    hardware, versions = report["environment"]["hardware"], report["environment"]["versions"]
    limits = report["limit"]
    lines = [
        "# The driver's own cost",
        "",
        f"{report['date']}, {hardware['cpu']}, {hardware['cores']} cores for driver and actors together; ray "
        f"{versions['ray']}. Real generations (`es_ray.driver.step`) on actors that answer at once, shards "
        f"of {report['shard']}, theta of {report['parameters']:,} entries unless said; medians of "
        f"{report['rounds']} generations.",
        "",
        f"Command: `python {' '.join(report['environment']['command'])}`",
        "",
        "`driver`: CPU time of the driver's own thread; `wall`: the whole generation, in which the actors "
        "want the same cores; `record`: writing it, which runs beside the next generation.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows(report)),
        "",
        "Fitted to these points (N members, C Ray calls), relative errors weighted alike:",
        "",
        *(f"- {what}: {formula(fitted)}" for what, fitted in report["fit"].items()),
        "",
        f"**Extrapolation, not measured** (the fit of `driver`, and {GPU_MEMBERS_PER_SECOND:.1f} members/s "
        f"for one H100 in Qwen2.5-7B's shape, a shard of {report['shard']} in each call): {GPUS} GPUs would "
        f"take {limits['wanted']:,.0f} members/s, the "
        f"driver could hand out {limits['members_per_second']:,.0f}; {limits['gpus']:,.0f} GPUs would keep "
        "it busy all the time.",
        "",
    ]
    return "\n".join(lines)


def formula(fitted: dict[str, float]) -> str:
    """A fit in words."""
    return (
        f"{fitted['fixed'] * 1e3:.2f} ms + {fitted['member'] * 1e6:.2f} µs x N + "
        f"{fitted['call'] * 1e6:.0f} µs x C; off by {fitted['median_error']:.0%} in the median, "
        f"{fitted['largest_error']:.0%} at most"
    )


COLUMNS = ("actors", "population", "calls", "wall", "driver", "record", "generations/s", "members/s")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each point."""
    table = []
    for point in report["points"]:
        size, wall = point["population"], statistics.median(point["wall"])
        longer, prompts = point["parameters"] // report["parameters"], point["prompts"]
        label = f"{size}" + (f", theta x {longer}" if longer > 1 else "")
        label += f", {prompts} prompts" if prompts != PROMPTS else ""
        table.append(
            (
                str(point["workers"]),
                label,
                f"{statistics.median(point['calls']):.0f}",
                f"{wall * 1e3:.1f} ms",
                f"{statistics.median(point['driver']) * 1e3:.1f} ms",
                f"{report['record'][f'{size}x{prompts}'] * 1e3:.0f} ms" if longer == 1 else "",
                f"{1 / wall:.2f}",
                f"{size / wall:.0f}",
            )
        )
    return table


def show(report: dict[str, Any]) -> None:
    """The report on the terminal."""
    table = Table(*COLUMNS)
    for row in rows(report):
        table.add_row(*row)
    RichConsole().print(table)


if __name__ == "__main__":
    typer.run(main)
