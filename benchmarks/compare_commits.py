"""Two commits of the SGLang engine on one GPU, taking turns, as one engine differs from the next by 2 %.

`compare_commits.py OLD NEW`, two checkouts: an engine of each is started, the first one's in `--first-memory`
of the GPU, and a population is evaluated by one, then by the other, in alternating order. Random weights in
Qwen2.5-7B's shape, as in throughput.py. Run it with both orders of the checkouts: the second engine differs
from the first in its place in memory.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

WARM_UP = 2  # rounds that do not count
PLAYER = Path(__file__).with_name("compare_commits_engine.py")


class Player:
    """A process with the engine of one checkout."""

    def __init__(self, checkout: Path, spec: dict[str, object]) -> None:
        path = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(PLAYER), str(checkout), json.dumps(spec)],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def seconds(self, members: int, tokens: int) -> float:
        """Seconds that a population takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{members} {tokens}\n")
        self._process.stdin.flush()
        return float(self._answer("seconds"))

    def close(self) -> None:
        """End the engine."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # SGLang's processes write here too
            if line.startswith(f"es-ray-{word} "):
                return line.split()[1]
        raise typer.Exit(f"an engine ended with {self._process.wait()}")


def main(
    old: Annotated[Path, typer.Argument(help="Checkout of one commit.")],
    new: Annotated[Path, typer.Argument(help="Checkout of the other.")],
    members: Annotated[str, typer.Option(help="Population sizes, separated by commas.")] = "30,256",
    tokens: Annotated[
        str, typer.Option(help="New tokens of a row, likewise: 1 is placing and prompts.")
    ] = "100",
    rounds: Annotated[int, typer.Option(help="Turns of each, after two that are not counted.")] = 20,
    first_memory: Annotated[float, typer.Option(help="mem_fraction_static of the first engine.")] = 0.4,
    second_memory: Annotated[float, typer.Option(help="Of what is then left, of the second.")] = 0.8,
    sglang: Annotated[str, typer.Option(help="engine.sglang, as JSON.")] = "{}",
    output: Annotated[Path, typer.Option(help="Where compare_commits.json goes.")] = Path("benchmarks/out"),
) -> None:
    """Measure, print a table, and write the seconds to a file."""
    sizes = list(product(*([int(text) for text in texts.split(",")] for texts in (members, tokens))))
    with tempfile.TemporaryDirectory() as folder:
        spec = dict(zip(("members", "tokens"), map(max, zip(*sizes, strict=True)), strict=True))
        spec |= {"model": folder}
        players = [
            Player(
                checkout.resolve(), spec | {"sglang": json.loads(sglang) | {"mem_fraction_static": memory}}
            )
            for checkout, memory in ((old, first_memory), (new, second_memory))
        ]
        found: dict[tuple[int, int], list[list[float]]] = {}
        for size in sizes:
            found[size] = [[], []]
            for number in range(rounds + WARM_UP):
                for which in (0, 1) if number % 2 else (1, 0):
                    found[size][which].append(players[which].seconds(*size))
        for player in players:
            player.close()
    output.mkdir(parents=True, exist_ok=True)
    report = {"command": sys.argv, "seconds": [[*size, *timed] for size, timed in found.items()]}
    (output / "compare_commits.json").write_text(json.dumps(report, indent=2) + "\n")
    table = Table("members x tokens", "old s", "new s", "old / new", "quartiles", "range")
    for size, timed in found.items():
        one, other = (seconds[WARM_UP:] for seconds in timed)
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table.add_row(
            "{} x {}".format(*size),
            f"{statistics.median(one):.4f}",
            f"{statistics.median(other):.4f}",
            f"{middle:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{min(ratios):.4f}-{max(ratios):.4f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
