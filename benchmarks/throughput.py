"""Speed of the SGLang engine on one GPU, against every other way of evaluating a population there.

Random weights in Qwen2.5-7B's shape, rank-1 adapters in layers 0-9, prompts of a fixed length, every row to
its full length, greedy. Each engine runs in its own process, one after the other, with the same settings:
- base: an engine started without LoRA, the same rows (the ceiling), and one member's rows at a time;
- population: our engine, members written in place from their seeds, then one batch; with our LoRA kernels and
  with SGLang's, for each variant (rank and layers);
- one at a time: our engine, one member's rows per call;
- merged: our engine in form `merged`, an update of all weights in each generation, and a replay of many;
- growth: one engine, more and more members;
- stock loading: `load_lora_adapter_from_tensors` for each member, then the batch;
- full parameters: for each member all weights are perturbed in place from a seed, its rows generated, and the
  weights restored (what es-fine-tuning-paper does);
- loop: generations through the driver, one Ray worker for each GPU; with more workers the population grows
  with them (members for each worker), and the table says how much of linear that is.
The slow ways run on 16 members and are extrapolated, which the table says.
"""

import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))  # each engine's processes import it too

from throughput_model import SHAPES, put_weights, write_model  # noqa: E402

SETTINGS = (
    "prompts", "prompt_tokens", "tokens", "rounds", "sglang", "deterministic", "fresh", "tensor_parallel",
)  # fmt: skip
WAYS = ("machine", "base", "population", "one", "stock", "full", "loop", "growth", "merged")


def main(
    members: Annotated[str, typer.Option(help="Population sizes, separated by commas.")] = "30,256",
    prompts: Annotated[int, typer.Option(help="Prompts of each member.")] = 2,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 24,
    tokens: Annotated[int, typer.Option(help="New tokens of every row.")] = 100,
    variant: Annotated[
        list[str], typer.Option(help="RANK:LAYERS of the adapters; all but `population` take the first.")
    ] = ["1:0-9"],  # noqa: B006 - typer's form
    kernels: Annotated[
        str, typer.Option(help="LoRA backends for `population` and `merged`.")
    ] = "es_ray,csgmv",
    rounds: Annotated[int, typer.Option(help="Rounds that are timed, after one that is not.")] = 5,
    slow_members: Annotated[int, typer.Option(help="Members that the slow ways really evaluate.")] = 16,
    generations: Annotated[int, typer.Option(help="Generations of the loop.")] = 10,
    workers: Annotated[
        str, typer.Option(help="Numbers of workers of the loop, one GPU each, separated by commas.")
    ] = "1",
    shape: Annotated[str, typer.Option(help=f"Shape of the model: {', '.join(SHAPES)}.")] = "qwen2.5-7b",
    weights: Annotated[
        Path | None, typer.Option(help="A model's folder of that shape, instead of random weights.")
    ] = None,
    ways: Annotated[str, typer.Option(help=f"Ways, separated by commas: {', '.join(WAYS)}.")] = ",".join(
        WAYS
    ),
    replayed: Annotated[int, typer.Option(help="Updates that `merged` replays at its end.")] = 1000,
    sglang: Annotated[str, typer.Option(help="engine.sglang for all engines, as JSON.")] = "{}",
    deterministic: Annotated[bool, typer.Option(help="engine.deterministic for all engines.")] = False,
    tensor_parallel: Annotated[int, typer.Option(help="engine.tensor_parallel for all engines.")] = 1,
    fresh: Annotated[
        bool, typer.Option(help="The loop with new prompts, sampling, KL and guard in each generation.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where throughput.json and .md go.")] = Path("benchmarks/out"),
) -> None:
    """Measure, print a table, and write it to files."""
    chosen = ways.split(",")
    if not set(chosen) <= set(WAYS):
        raise typer.BadParameter(f"ways are {', '.join(WAYS)}", param_hint="--ways")
    output.mkdir(parents=True, exist_ok=True)
    lines = output / "throughput.jsonl"
    lines.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SHAPES[shape], prompts, prompt_tokens)
        if weights is not None:
            put_weights(Path(folder), weights)
        for way in chosen:
            numbers = [int(text) for text in members.split(",")]
            sizes = {"machine": [0], "growth": [max(numbers)]}.get(way, numbers)
            counts = map(int, workers.split(",")) if way == "loop" else [1]
            variants = variant if way == "population" else variant[:1]
            backends = kernels.split(",") if way in ("population", "merged") else ["es_ray"]
            for size, count, ranked, backend in itertools.product(sizes, counts, variants, backends):
                rank, _, layers = ranked.partition(":")
                given = {"load_format": "dummy" if weights is None else "auto", **json.loads(sglang)}
                spec = {
                    "way": way, "members": size, "prompts": prompts, "prompt_tokens": prompt_tokens,
                    "tokens": tokens, "rank": int(rank), "layers": layers, "kernels": backend,
                    "rounds": rounds, "slow_members": slow_members, "generations": generations,
                    "workers": count, "model": folder, "replayed": replayed, "sglang": given,
                    "lines": str(lines), "sizes": numbers, "deterministic": deterministic, "fresh": fresh,
                    "tensor_parallel": tensor_parallel,
                }  # fmt: skip
                run_child(spec)
    results = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "shape": shape,
        "settings": {k: spec[k] for k in SETTINGS},
        "environment": next((r["environment"] for r in results if "environment" in r), None),
        "results": results,
    }
    growth = [r for r in results if r["way"] == "growth"]
    if growth:
        plot_growth(growth, output / "growth.png")
    (output / "throughput.json").write_text(json.dumps(report, indent=2) + "\n")
    rows = table(results, SHAPES[shape], spec)
    (output / "throughput.md").write_text(markdown(report, rows))
    show(rows)


def run_child(spec: dict[str, Any]) -> None:
    """One engine in a process of its own; its failure is reported, and the others still run."""
    console = Console(stderr=True)
    console.print(
        f"{spec['way']} {spec['members'] or ''} rank {spec['rank']} layers {spec['layers']} {spec['kernels']}"
    )
    child = Path(__file__).with_name("throughput_ways.py")
    done = subprocess.run([sys.executable, str(child), json.dumps(spec)], check=False)
    if done.returncode:
        console.print(f"{spec['way']} {spec['members']}: failed with {done.returncode}")


Rows = list[tuple[str, ...]]
HEAD = (
    "members", "rank", "layers", "way", "generation s", "spread", "tokens/s", "of base", "generations/h",
    "members/s per GPU", "in-place update ms", "roofline",
)  # fmt: skip


def table(results: list[dict[str, Any]], shape: dict[str, Any], spec: dict[str, Any]) -> Rows:
    """A row for each way and population size."""
    machine = next((r for r in results if r["way"] == "machine"), None)
    base = {r["members"]: statistics.median(r["seconds"]) for r in results if r["way"] == "base"}
    alone = {
        r["members"]: statistics.median(r["seconds"])
        for r in results
        if r["way"] == "loop" and r["workers"] == 1
    }
    rows = []
    for r in results:
        if "seconds" not in r:
            continue
        median = statistics.median(r["seconds"])
        workers = r.get("workers", 1)
        count = r["members"] * workers * spec["prompts"] * spec["tokens"]
        update = r.get("update_ms")
        bare = r["way"].startswith("base") or r["way"] == "full parameters"
        floor = None if machine is None else floor_seconds(machine, shape, spec, r, not bare)
        rows.append((
            str(r["members"]),
            "" if bare else str(r["rank"]),
            "" if bare else r["layers"],
            label(r, alone),
            f"{median:.3f}",
            f"{min(r['seconds']):.3f}-{max(r['seconds']):.3f}",
            f"{count / median:.0f}",
            f"{base[r['members']] / median:.2f}" if r["members"] in base else "",
            f"{3600 / median:.0f}",
            f"{r['members'] / median:.1f}",
            f"{statistics.median(update):.1f} ({min(update):.1f}-{max(update):.1f})" if update else "",
            f"{floor / median:.2f}" if floor else "",
        ))  # fmt: skip
    return rows


def plot_growth(results: list[dict[str, Any]], file: Path) -> None:
    """Seconds of a generation against the population."""
    from matplotlib.figure import Figure

    members = [r["members"] for r in results]
    seconds = [statistics.median(r["seconds"]) for r in results]
    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).subplots()
    axes.plot(members, seconds, marker="o")
    for x, y in zip(members, seconds, strict=True):
        axes.annotate(f"{y:.2f} s\n{x / y:.0f}/s", (x, y), textcoords="offset points", xytext=(8, -22))
    axes.set(
        xscale="log", yscale="log", xlabel="members (2 prompts each)", ylabel="seconds of a generation",
        title=f"One GPU, rank {results[0]['rank']} in layers {results[0]['layers']}, 100 new tokens a row",
    )  # fmt: skip
    axes.set_xticks(members, [str(number) for number in members])
    axes.minorticks_off()
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def label(result: dict[str, Any], alone: dict[int, float]) -> str:
    """A way's name, with what is needed to read its figures."""
    way, workers = result["way"], result.get("workers", 1)
    if result["kernels"] != "es_ray":
        way += f" ({result['kernels']})"
    if result.get("measured_members"):
        return f"{way} (extrapolated from {result['measured_members']})"
    if workers == 1:
        return way
    linear = alone.get(result["members"])
    share = "" if linear is None else f", {linear / statistics.median(result['seconds']):.3f} of linear"
    return f"{way}, {workers} workers with as many each{share}"


def floor_seconds(
    machine: dict[str, Any],
    shape: dict[str, Any],
    spec: dict[str, Any],
    result: dict[str, Any],
    adapters: bool,
) -> float:
    """The least time of a generation by bytes and FLOPs at the machine's own measured rates.

    Each decode step reads every weight but the embedding's, the adapters and the keys and values once, and
    computes two FLOPs for each weight and row; the larger of the two times counts.
    """
    members = result["members"]
    rows = members * spec["prompts"]
    weights = shape["matrix_parameters"]
    kv = rows * (spec["prompt_tokens"] + spec["tokens"] / 2) * shape["kv_bytes_per_token"]
    entries = result["rank"] * shape["lora_entries_per_layer"] * layer_count(result["layers"], shape)
    lora = 2 * members * entries if adapters else 0
    by_bytes = (2 * weights + kv + lora) / machine["bytes_per_second"]
    by_flops = 2 * rows * weights / machine["flops_per_second"]
    prefill = 2 * rows * spec["prompt_tokens"] * weights / machine["flops_per_second"]
    return prefill + spec["tokens"] * max(by_bytes, by_flops)


def layer_count(layers: str, shape: dict[str, Any]) -> int:
    """How many layers carry adapters."""
    from es_ray.config import layer_numbers

    numbers = layer_numbers(layers)
    return shape["config"]["num_hidden_layers"] if numbers is None else len(numbers)


def markdown(report: dict[str, Any], rows: Rows) -> str:
    """The report for people."""
    environment = report["environment"] or {}
    settings = report["settings"]
    extra = [r for r in report["results"] if "seconds" not in r or r["way"] == "loop"]
    lines = [
        "# The SGLang engine on a GPU",
        "",
        f"{report['date']}, {', '.join(environment.get('hardware', {}).get('gpus', ['no GPU known']))}; "
        + ", ".join(f"{name} {v}" for name, v in environment.get("versions", {}).items() if v)
        + f". {report['shape']}'s shape with random weights, "
        f"{settings['prompts']} prompts of {settings['prompt_tokens']} tokens for each member, "
        f"{settings['tokens']} new tokens, greedy. Median and range of {settings['rounds']} rounds.",
        "",
        f"Command: `{' '.join(report['command'])}`",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {r['way']}: {json.dumps({k: v for k, v in r.items() if k != 'environment'})}" for r in extra),
        "",
    ]
    return "\n".join(lines)


def show(rows: Rows) -> None:
    """The table on the terminal."""
    printed = Table(*HEAD)
    for row in rows:
        printed.add_row(*row)
    Console(width=max(140, math.floor(Console().width))).print(printed)


if __name__ == "__main__":
    typer.run(main)
