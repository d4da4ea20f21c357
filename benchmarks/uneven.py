"""What rows of unequal lengths cost: `uneven.py MODEL`, a real model on one GPU with the SGLang engine.

When fewer rows are left than can run at once, steps take little less time and give fewer tokens. That part of
a generation is its tail. Its cost is the time that it took beyond that of its tokens at the rate before. For
each number of rows at once, a generation of the given members and questions is timed after one that is not.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from es_ray.config import Config
from es_ray.engines.base import Completion, Row, Variant
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment


def main(
    model: Annotated[str, typer.Argument(help="A model's folder or name.")],
    data: Annotated[str, typer.Option(help="A JSONL file of questions.")] = "data/arithmetic/train.jsonl",
    members: Annotated[int, typer.Option(help="Members.")] = 64,
    prompts: Annotated[int, typer.Option(help="Questions of each.")] = 32,
    tokens: Annotated[int, typer.Option(help="Most new tokens of a row.")] = 256,
    at_once: Annotated[
        str, typer.Option(help="Rows at once, separated by commas; 0: es-ray's choice.")
    ] = "0",
    rounds: Annotated[int, typer.Option(help="Generations that are timed.")] = 3,
    sglang: Annotated[str, typer.Option(help="engine.sglang as JSON.")] = "{}",
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print a JSON line for each number of rows at once."""
    if not one:
        for number in at_once.split(","):
            arguments = [*sys.argv[1:], "--one", "--at-once", number]
            subprocess.run([sys.executable, __file__, *arguments], check=False)
        return
    given = json.loads(sglang) | ({"max_running_requests": int(at_once)} if int(at_once) else {})
    experiment = Experiment(
        Config.parse(
            {
                "model": {"path": model},
                "lora": {"rank": 1, "form": "b", "layers": "all"},
                "evolution": {"population": members, "noise": {"kind": "relative", "relative": 0.03}},
                "task": {"batch": None, "max_new_tokens": tokens, "train": data, "test": data},
                "engine": {"kind": "sglang", "shard": members, "sglang": given},
            }
        )
    )
    measure(experiment, prompts, rounds, int(at_once))


def measure(experiment: Experiment, prompts: int, rounds: int, at_once: int) -> None:
    """Time generations in an engine of their own."""
    from es_ray.engines.sglang.engine import SGLangEngine

    engine = SGLangEngine(experiment)
    strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    theta = strategy.initial()[THETA]
    known = experiment.prompt_ids["train"]
    asked = [known[number % len(known)] for number in range(prompts)]
    found = []
    for generation in range(rounds + 1):
        rows = [
            Row(Variant(member, generation), ids) for member in range(strategy.population) for ids in asked
        ]
        ended: list[tuple[float, int]] = []
        started = time.perf_counter()

        def note(row: int, completion: Completion, ended: list[tuple[float, int]] = ended) -> None:
            ended.append((time.perf_counter() - started, len(completion.token_ids)))  # noqa: B023

        engine.generate([theta], strategy.perturbation, rows, on_completion=note)
        found.append(summary(ended, at_once or len(rows), time.perf_counter() - started))
    engine.close()
    middle = {key: statistics.median(each[key] for each in found[1:]) for key in found[0]}
    spread = [min(each["seconds"] for each in found[1:]), max(each["seconds"] for each in found[1:])]
    print(json.dumps({"at_once": at_once, "rows": len(rows), **middle, "spread": spread}), flush=True)


def summary(ended: list[tuple[float, int]], at_once: int, seconds: float) -> dict[str, Any]:
    """Tokens, their rate, and the tail of a generation whose rows ended at these times with these lengths."""
    times, lengths = [at for at, _ in ended], sorted(length for _, length in ended)
    total = sum(lengths)
    left = {
        f"seconds_until_{share}_%_left": times[len(times) - 1 - len(times) * share // 100]
        for share in (50, 25, 10, 5, 1)
    }
    waited = max(len(ended) - at_once, 0)  # rows that started when others ended
    begins = times[waited - 1] if waited else 0.0
    return {
        "seconds": seconds, "tokens": total, "tokens_per_second": total / seconds, "tail_begins": begins,
        "length_median": statistics.median(lengths), "length_90_%": lengths[len(lengths) * 9 // 10],
        "longest": lengths[-1], **left,
    }  # fmt: skip


if __name__ == "__main__":
    assert Path("data").is_dir(), "run it from the project's root"
    typer.run(main)
