"""Tiles of SGLang's batch-invariant product (`engine.deterministic`) on a GPU: times, and equal bits or not.

The products of one decoding step in Qwen2.5-7B's shape, bfloat16, random values. Each time is that of a CUDA
graph over copies of the weights that do not fit the cache, the lowest of three. Beside them: cuBLAS, SGLang's
own tile, and the one that es-ray chooses.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from es_ray.engines.sglang.deterministic import KERNEL, REFERENCE, TILES, Tile, best_tile, product

OUTPUTS = {"qkv": 4608, "o": 3584, "gate_up": 37888, "down": 3584, "head": 152064}
INNER = {"qkv": 3584, "o": 3584, "gate_up": 3584, "down": 18944, "head": 3584}
LAYERS = 28
ROWS = (8, 64, 128, 256, 512, 2048)
OTHERS = [
    Tile(*sizes, cost=0)
    for sizes in (
        *((32, 64, 128, 4, 5), (64, 16, 128, 4, 6), (64, 32, 64, 4, 4)),
        *((64, 32, 64, 4, 6), (64, 32, 128, 4, 4), (64, 32, 128, 4, 6)),
        *((64, 64, 64, 4, 4), (64, 64, 64, 4, 6), (64, 64, 128, 4, 4)),
        *((64, 128, 64, 4, 4), (64, 128, 64, 4, 6), (64, 128, 64, 8, 4)),
        *((64, 256, 64, 8, 4), (128, 32, 64, 4, 4), (128, 32, 128, 8, 4)),
        *((128, 64, 64, 4, 4), (128, 64, 64, 4, 6), (128, 64, 64, 8, 4)),
        *((128, 64, 128, 8, 4), (128, 128, 64, 8, 4), (128, 256, 64, 8, 4)),
    )
]
L2_BYTES = 3e8
"""More bytes than any cache holds, in copies of the weights."""


def microseconds(multiply: Any, weights: list[torch.Tensor]) -> float:
    """The time of one product, of a graph of one with each of the weights."""
    multiply(weights[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            multiply(weight)
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(weights))
    return min(times)


def measure(
    kernel: Any, weights: list[torch.Tensor], rows: int, processors: int
) -> tuple[list[dict], dict[str, float]]:
    """The times and bits of one product with each tile, and the times of four ways to choose, in us."""
    from triton.runtime.errors import OutOfResources

    inner, outputs = weights[0].shape
    x = torch.randn(rows, inner, device="cuda").bfloat16()
    right = product(kernel, x, weights[0], REFERENCE)
    results: list[dict] = []
    times: dict[Tile, float] = {}
    for tile in (*TILES, *OTHERS):
        try:
            equal = torch.equal(product(kernel, x, weights[0], tile), right)
        except OutOfResources as error:
            results.append({"tile": tile[:5], "error": str(error)})
            continue
        times[tile] = microseconds(partial(product, kernel, x, tile=tile), weights)
        results.append({"tile": tile[:5], "us": times[tile], "equal": equal})
    cublas = microseconds(partial(torch.mm, x), weights)
    results.append({"tile": "cublas", "us": cublas})
    usable = [tile for tile in TILES if tile in times]
    chosen = best_tile(usable, rows, outputs, processors)
    ways = {
        "cublas": cublas,
        "sglang": times[REFERENCE],
        "es_ray": times[chosen],
        "best": min(times.values()),
    }
    return results, ways


def main(
    output: Annotated[Path, typer.Option(help="Where tiles.json goes.")] = Path("benchmarks/out"),
) -> None:
    """Measure, print the sums of a step, and write all times to a file after each product."""
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    kernel = getattr(batch_invariant_ops, KERNEL)
    gpu = torch.cuda.get_device_properties(0)
    steps = {rows: dict.fromkeys(("cublas", "sglang", "es_ray", "best"), 0.0) for rows in ROWS}
    results: list[dict] = []
    output.mkdir(parents=True, exist_ok=True)
    for name, outputs in OUTPUTS.items():
        inner = INNER[name]
        copies = int(L2_BYTES // (2 * inner * outputs)) + 2
        weights = [
            torch.randn(outputs, inner, device="cuda").mul_(0.02).bfloat16().t() for _ in range(copies)
        ]
        for rows in ROWS:
            found, ways = measure(kernel, weights, rows, gpu.multi_processor_count)
            results += [{"product": name, "rows": rows, **each} for each in found]
            for way, us in ways.items():
                steps[rows][way] += us * (1 if name == "head" else LAYERS) / 1000
        found_so_far = {"gpu": gpu.name, "ms": steps, "results": results}
        (output / "tiles.json").write_text(json.dumps(found_so_far, indent=1) + "\n")
    for rows, step in steps.items():
        print(f"{rows} rows, ms: " + ", ".join(f"{way} {ms:.2f}" for way, ms in step.items()))
    print(
        "without room or with unequal bits:",
        [each for each in results if not each.get("equal", True) or "error" in each],
    )


if __name__ == "__main__":
    typer.run(main)
