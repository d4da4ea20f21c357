"""The data of the benchmark's tasks: made by a seed, or from lists in benchmarks/data."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).resolve().parent / "data"
SIZES: Final = {"train": 1024, "test": 200, "validation": 100}
APART: Final = 1_000_000
"""Between the seeds of two splits: chain_sum makes item i of seed s from s + i, so neighbours overlap."""


def chain_sum(**options: Any) -> dict[str, list[dict[str, str]]]:
    """Problems of reasoning-gym's generator, which must be installed; options: the generator's."""
    from reasoning_gym import create_dataset

    found: dict[str, list[dict[str, str]]] = {}
    seen: set[str] = set()
    for number, split in enumerate(("test", "validation", "train")):
        size = SIZES[split]
        items = create_dataset("chain_sum", seed=number * APART, size=2 * size, **options)
        rows = {item["question"]: item["answer"] for item in items}
        new = {question: answer for question, answer in rows.items() if question not in seen}
        seen |= new.keys()
        found[split] = [{"prompt": q, "target": a} for q, a in list(new.items())[:size]]
        assert len(found[split]) == size
    return found


def write(folder: Path, splits: Mapping[str, Iterable[Mapping[str, str]]]) -> None:
    """A .jsonl file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def files(folder: Path) -> dict[str, str]:
    """The settings for the files of a folder: task.train, task.test and, if there is one, task.validation."""
    named = {f"task.{split}": folder / f"{split}.jsonl" for split in SIZES}
    return {key: str(file) for key, file in named.items() if file.is_file()}


if __name__ == "__main__":  # where reasoning-gym is installed; the files are in the repository
    write(DATA / "chain_sum", chain_sum())
    write(DATA / "chain_sum_short", chain_sum(max_terms=3, max_digits=2))
