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
    *(Tile(32, 64, 128, 4, 5, 0), Tile(64, 16, 128, 4, 6, 0), Tile(64, 32, 128, 4, 4, 0)),
    *(Tile(64, 32, 128, 4, 6, 0), Tile(64, 64, 64, 4, 6, 0), Tile(64, 64, 128, 4, 4, 0)),
    *(Tile(64, 128, 64, 4, 6, 0), Tile(64, 256, 64, 8, 4, 0), Tile(128, 32, 128, 8, 4, 0)),
    *(Tile(128, 64, 64, 4, 6, 0), Tile(128, 64, 128, 8, 4, 0), Tile(128, 128, 64, 8, 4, 0)),
    Tile(128, 256, 64, 8, 4, 0),
]
L2_BYTES = 3e8
"""More than any cache holds, in copies of the weights."""


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


def main(
    output: Annotated[Path, typer.Option(help="Where tiles.json goes.")] = Path("benchmarks/out"),
) -> None:
    """Measure, print the sums of a step, and write all times to a file."""
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    kernel = getattr(batch_invariant_ops, KERNEL)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    results, steps = [], {rows: dict.fromkeys(("cublas", "sglang", "es_ray", "best"), 0.0) for rows in ROWS}
    for name, outputs in OUTPUTS.items():
        inner = INNER[name]
        copies = int(L2_BYTES // (2 * inner * outputs)) + 2
        weights = [
            torch.randn(outputs, inner, device="cuda").mul_(0.02).bfloat16().t() for _ in range(copies)
        ]
        for rows in ROWS:
            x = torch.randn(rows, inner, device="cuda").bfloat16()
            right = product(kernel, x, weights[0], REFERENCE)
            times: dict[Tile, float] = {}
            for tile in (*TILES, *OTHERS):
                times[tile] = microseconds(partial(product, kernel, x, tile=tile), weights)
                equal = torch.equal(product(kernel, x, weights[0], tile), right)
                results.append(
                    {"product": name, "rows": rows, "tile": tile[:5], "us": times[tile], "equal": equal}
                )
            cublas = microseconds(partial(torch.mm, x), weights)
            results.append({"product": name, "rows": rows, "tile": "cublas", "us": cublas})
            each = {
                "cublas": cublas,
                "sglang": times[REFERENCE],
                "es_ray": times[best_tile(TILES, rows, outputs, processors)],
                "best": min(times.values()),
            }
            for way, us in each.items():
                steps[rows][way] += us * (1 if name == "head" else LAYERS) / 1000
    for rows, step in steps.items():
        print(f"{rows} rows, ms: " + ", ".join(f"{way} {ms:.2f}" for way, ms in step.items()))
    print("unequal bits:", [each for each in results if each.get("equal") is False])
    output.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name()
    (output / "tiles.json").write_text(
        json.dumps({"gpu": gpu, "ms": steps, "results": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
