"""What a reward costs the loop: seconds of a generation with rewards that wait, or compute, beside it.

The real loop (`es_ray.run`), bundled model, 30 members x 32 prompts x 16 tokens, with tasks from a file:
- trivial: a reward that takes no time;
- waiting: a coroutine that waits for 0.2 s, as for a judge behind HTTP;
- computing: 20 ms of CPU time, in processes (`task.processes`), as many as there are cores;
- apart: 20 ms in 16 processes that take no CPU time, so as if the rewards had cores of their own.
The ways take turns, round after round, since the machine may not be quiet; a round is a short run of each,
its first generation left out. `times` is the median over rounds of a way's seconds by the trivial one's.

For another model or engine: `--set model.path=... --set engine.kind=sglang --set cluster.workers=1`; with
`--shape` the model has a real one's shape and random weights (SGLang's `load_format: dummy`). The vocabulary
of qwen2.5-1.5b-short is small, so that sampled completions (`--set task.temperature=1`) end at different
times, as a trained model's do.
"""

import json
import os
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import es_ray
from es_ray.config import Config
from es_ray.paths import data_dir
from es_ray.runs.environment import environment
from es_ray.runs.run_dir import RunDir

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput_model import SHAPES, write_model  # noqa: E402

TASKS = """\
import asyncio
import time

import es_ray


class Trivial(es_ray.Task):
    def score(self, example, completion):
        return -float(len(completion))


class Waiting(es_ray.Task):
    def __init__(self, seconds):
        self.seconds = seconds

    async def score(self, example, completion):
        await asyncio.sleep(self.seconds)
        return -float(len(completion))


class Apart(es_ray.Task):
    def __init__(self, seconds):
        self.seconds = seconds

    def score(self, example, completion):
        time.sleep(self.seconds)
        return -float(len(completion))


class Computing(es_ray.Task):
    def __init__(self, seconds):
        self.seconds = seconds

    def score(self, example, completion):
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            sum(range(10_000))
        return -float(len(completion))
"""
CUES = ("", " Be brief.", " Explain.", " Keep it short.", " Answer in detail.", " Tell me more about it.")
WAYS = ("trivial", "waiting", "apart", "computing")
APART = 16
PROMPT_TOKENS = 64  # with --shape


def main(
    members: Annotated[int, typer.Option(help="Members of the population.")] = 30,
    prompts: Annotated[int, typer.Option(help="Training prompts.", max=60)] = 32,
    tokens: Annotated[int, typer.Option(help="New tokens of a completion, at most.")] = 16,
    wait: Annotated[float, typer.Option(help="Seconds that a waiting reward takes.")] = 0.2,
    compute: Annotated[float, typer.Option(help="CPU seconds that a computing reward takes.")] = 0.02,
    processes: Annotated[int, typer.Option(help="task.processes of the computing one.")] = os.cpu_count()
    or 1,
    generations: Annotated[int, typer.Option(help="Generations of a run that are timed.")] = 3,
    rounds: Annotated[int, typer.Option(help="Runs of each way.")] = 3,
    ways: Annotated[list[str], typer.Option("--way", help="Only these, trivial among them.")] = list(WAYS),  # noqa: B006
    shape: Annotated[
        str | None, typer.Option(help=f"Random weights in a shape: {', '.join(SHAPES)}.")
    ] = None,
    sets: Annotated[list[str], typer.Option("--set", help="Keys of the configuration.")] = [],  # noqa: B006
    output: Annotated[Path, typer.Option(help="Where rewards.json and rewards.md go.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure, print a table, and write it down."""
    seconds: dict[str, list[list[float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, prompts)
        flags = {
            "evolution.population": members,
            "evolution.generations": generations + 1,
            "evaluation.every": generations + 1,
            "task.max_new_tokens": tokens,
            "task.train": str(folder / "train.jsonl"),
            "task.test": str(folder / "test.jsonl"),
        }
        if shape is not None:
            (folder / "model").mkdir()
            write_model(folder / "model", SHAPES[shape], prompts, PROMPT_TOKENS)
            rows = str(folder / "model" / "data.jsonl")  # of words that this model's tokenizer has
            flags |= {"model.path": str(folder / "model"), "task.train": rows, "task.test": rows}
        base = es_ray.load(sets=["cluster.workers=0", *sets], flags=flags)
        if shape is not None and base.engine.kind != "transformers":  # which has no such setting
            base = base.replace(engine__sglang=base.engine.sglang | {"load_format": "dummy"})
        options = {
            "waiting": {"seconds": wait},
            "computing": {"seconds": compute},
            "apart": {"seconds": compute},
        }
        in_processes = {"computing": processes, "apart": APART}
        for number in range(rounds):
            for way in ways:
                config = base.replace(
                    task__name=f"{folder}/rewards_to_time.py:{way.capitalize()}",
                    task__options=options.get(way, {}),
                    task__processes=in_processes.get(way, 0),
                    output__dir=str(folder / f"{way}-{number}"),
                )
                seconds[way].append(generation_seconds(config))
    report = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "environment": environment(base.engine.kind),
        "members": members,
        "prompts": prompts,
        "tokens": tokens,
        "wait": wait,
        "compute": compute,
        "processes": processes,
        "shape": shape,
        "sets": sets,
        "seconds": seconds,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "rewards.json").write_text(json.dumps(report, indent=2) + "\n")
    (output / "rewards.md").write_text(markdown(report))
    show(report)


def write_inputs(folder: Path, prompts: int) -> None:
    """The tasks, and prompts: the shipped questions with one request after the other behind them."""
    (folder / "rewards_to_time.py").write_text(TASKS)
    shipped = [data_dir() / "conciseness" / f"{split}.jsonl" for split in ("train", "test")]
    rows = [json.loads(line) for file in shipped for line in file.read_text().splitlines()]
    varied = ({**row, "prompt": row["prompt"] + cue} for cue, row in product(CUES, rows))
    lines = [json.dumps(row) + "\n" for row in islice(varied, prompts)]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text("".join(lines[:2]))


def generation_seconds(config: Config) -> list[float]:
    """Seconds of each generation of a run, but for the first, which warms up."""
    es_ray.run(config)
    assert config.output.dir is not None
    return [line["seconds"]["total"] for line in RunDir(Path(config.output.dir)).metrics()[1:]]


def table_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells under HEADINGS of every way."""
    rows = []
    medians = {way: [statistics.median(run) for run in runs] for way, runs in report["seconds"].items()}
    trivial = medians["trivial"]
    completions = report["members"] * report["prompts"]
    alone = {
        "trivial": "none",
        "waiting": f"{completions * report['wait']:.0f} s one after the other",
        "computing": f"{completions * report['compute'] / report['processes']:.1f} s in "
        f"{report['processes']} processes",
        "apart": f"{completions * report['compute'] / APART:.1f} s in {APART} processes",
    }
    for way, of_runs in medians.items():
        every = [value for run in report["seconds"][way] for value in run]
        times = statistics.median(one / other for one, other in zip(of_runs, trivial, strict=True))
        spread = f"{statistics.median(every):.2f} s ({min(every):.2f}-{max(every):.2f})"
        rows.append((way, alone[way], spread, f"{times:.2f}"))
    return rows


HEADINGS = ("reward", "rewards alone", "seconds of a generation", "times")


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    hardware, versions = report["environment"]["hardware"], report["environment"]["versions"]
    devices = hardware.get("gpus") or f"{hardware['cores']} cores"
    lines = [
        "# Rewards beside generation",
        "",
        f"{report['date']}, {hardware['cpu']}, {devices}; torch {versions['torch']}, transformers "
        f"{versions['transformers']}. {report['members']} members x {report['prompts']} prompts x "
        f"{report['tokens']} tokens through the whole loop; {report['wait']:g} s of waiting, "
        f"{report['compute'] * 1000:g} ms of computing for each completion; median and range of "
        f"{len(report['seconds']['trivial'])} runs that took turns.",
        "",
        f"Command: `python {' '.join(report['environment']['command'])}`",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
        *(f"| {' | '.join(row)} |" for row in table_rows(report)),
        "",
    ]
    return "\n".join(lines)


def show(report: dict[str, Any]) -> None:
    """The report on the terminal."""
    table = Table(*HEADINGS)
    for row in table_rows(report):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
