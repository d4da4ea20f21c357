"""How small updates of bfloat16 weights are kept: three ways against float64, over a thousand updates.

    python benchmarks/merged_rounding.py [--size 1024] [--updates 1000] [--learning-rate 1.0]

master: a float32 copy of the weights takes the updates, and is rounded to what is served. change: the
file's weights are kept, and the sum of all changes in float32 beside them. stochastic: the served weights
alone, rounded up or down at random, so that the mean is right. The updates are those of form merged:
members of rank 1 and relative noise 0.03. Errors are medians, in units in the last place of each weight:
`served` of what the model computes with, of which a quarter of a unit is rounding alone; `kept` of what
later updates are added to.
"""

import argparse
import time

import torch


def ulp(weights: torch.Tensor) -> torch.Tensor:
    """Distance of neighbouring bfloat16 numbers at each weight."""
    return torch.exp2(torch.floor(torch.log2(weights.abs().clamp(min=1e-30)))) * 2.0**-7


def rounded_at_random(wide: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 to bfloat16: the 16 bits that go away are the chance of going up."""
    bits = wide.view(torch.int32)
    drawn = torch.randint(0, 1 << 16, bits.shape, generator=generator, dtype=torch.int32)
    return ((bits + drawn) & -(1 << 16)).view(torch.float32).bfloat16()


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the matrix")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.0, help="in units of sigma")
    options = parser.parse_args()
    size, population = options.size, options.population
    generator = torch.Generator().manual_seed(0)
    start = (0.02 * torch.randn(size, size, generator=generator)).bfloat16()
    sigma = 0.03 * float(start.double().norm()) / size
    exact = start.double()
    kept = {"master": start.float(), "change": torch.zeros(size, size), "stochastic": start.clone()}
    served = dict.fromkeys(kept, start)
    seconds = dict.fromkeys(kept, 0.0)
    for _ in range(options.updates):
        a = torch.randn(population, size, generator=generator)
        b = torch.randn(population, size, generator=generator)
        z = torch.randn(population, generator=generator)
        weights = (options.learning_rate * sigma / population) * (z - z.mean()) / z.std()
        exact += b.double().T @ (a.double() * weights.double()[:, None])
        step = b.T @ (a * weights[:, None])
        for way in kept:
            began = time.perf_counter()
            if way == "master":
                served[way] = kept[way].add_(step).bfloat16()
            elif way == "change":
                served[way] = (start.float() + kept[way].add_(step)).bfloat16()
            else:
                served[way] = kept[way] = rounded_at_random(kept[way].float() + step, generator)
            seconds[way] += time.perf_counter() - began
    unit = ulp(exact)
    extra = {"master": 4, "change": 6, "stochastic": 0}
    moved = float((exact - start.double()).norm() / start.double().norm())
    print(f"{options.updates} updates of {size} x {size}, drift {moved:.3f}")
    print("way         bytes beside a weight   ms an update   error served   error kept")
    for way in kept:
        whole = start.double() + kept[way].double() if way == "change" else kept[way].double()
        errors = [float(((each - exact) / unit).abs().median()) for each in (served[way].double(), whole)]
        ms = 1000 * seconds[way] / options.updates
        print(f"{way:<12}{extra[way]:>20}{ms:>15.2f}{errors[0]:>15.3f}{errors[1]:>13.5f}")


if __name__ == "__main__":
    main()
