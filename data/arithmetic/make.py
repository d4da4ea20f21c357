#!/usr/bin/env python3
"""Sums and differences of two numbers from 2 to 40, half of each.

    python data/arithmetic/make.py      # writes train.jsonl, validation.jsonl and test.jsonl beside this file

No problem is in two files, nor a sum with its numbers exchanged. Differences are never negative.
"""

import json
import random
from pathlib import Path
from typing import Final

SEED: Final = 0
SIZES: Final = {"test": 200, "validation": 100, "train": 1024}
LOWEST, HIGHEST = 2, 40


def problems() -> dict[str, list[dict[str, str]]]:
    """The rows of each file, by its name."""
    draw = random.Random(SEED)
    pairs = [(a, b) for a in range(LOWEST, HIGHEST + 1) for b in range(LOWEST, a + 1)]
    sums = [(f"{a} + {b}" if draw.random() < 0.5 else f"{b} + {a}", a + b) for a, b in pairs]
    differences = [(f"{a} - {b}", a - b) for a, b in pairs]
    draw.shuffle(sums)
    draw.shuffle(differences)
    files = {}
    for name, size in SIZES.items():
        chosen = [kind.pop() for kind in (sums, differences) for _ in range(size // 2)]
        draw.shuffle(chosen)
        files[name] = [
            {"prompt": f"What is {question}? Reply with the number only.", "target": str(answer)}
            for question, answer in chosen
        ]
    return files


def main() -> None:
    """Write the files."""
    for name, rows in problems().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (Path(__file__).parent / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
