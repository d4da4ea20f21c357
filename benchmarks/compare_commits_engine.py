"""An engine of compare_commits.py: `compare_commits_engine.py CHECKOUT SPEC`; each line of stdin asks once.

A line is MEMBERS TOKENS. It runs with the package and the benchmarks of its checkout, of this version's
interface or of 0.1.0's.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(sys.argv[1]) / "benchmarks"))  # before this file's own folder

import numpy as np  # noqa: E402
import throughput_ways as ways  # noqa: E402
from throughput_model import SHAPES, write_model  # noqa: E402

PROMPTS, PROMPT_TOKENS = 2, 24


def main(given: dict[str, Any]) -> None:
    """Start the engine, then evaluate a population for each line."""
    members = given["members"]
    write_model(Path(given["model"]), SHAPES["qwen2.5-7b"], PROMPTS, PROMPT_TOKENS)
    spec = {
        "way": "population", "members": members, "prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS,
        "tokens": given["tokens"], "rank": 1, "layers": "0-9", "kernels": "es_ray", "generations": 2,
        "workers": 1, "model": given["model"], "sglang": {"load_format": "dummy"} | given["sglang"],
    }  # fmt: skip
    engine, experiment, strategy, _ = ways.our_engine(spec)
    prompts = experiment.prompt_ids["train"]
    state = strategy.initial()
    in_0_1_0 = not isinstance(state, dict)
    theta = state if in_0_1_0 else state["theta"]
    print("es-ray-ready 1", flush=True)
    for generation, line in enumerate(sys.stdin):
        count, engine.max_new_tokens = map(int, line.split())
        theta = theta + np.float32(1e-6)  # as after every update, theta is new
        if in_0_1_0:
            rows = [ways.Row(index, prompt) for index in range(count) for prompt in prompts]
            arguments = (theta, strategy, generation, rows)
        else:
            arguments = ([theta], strategy.perturbation, ways.rows_of(count, generation, prompts))
        began = time.perf_counter()
        engine.generate(*arguments)
        print(f"es-ray-seconds {time.perf_counter() - began}", flush=True)
    engine.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[2]))
