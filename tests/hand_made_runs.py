"""Run directories whose files are a few bytes: for what copies and fetches them without reading them."""

import hashlib
import json
from pathlib import Path


def write_run(folder: Path, generations: range, machine: str = "one", **others: str) -> Path:
    """A run with these generations, made by a machine; others: further files in it, by name without ending.

    Two machines' files of a generation have the same sizes and other bytes, as those of one run have.
    """
    assert len(machine) == 3
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("format: 6\n")
    (folder / "environment.json").write_text(json.dumps({"date": "2026-01-01", "host": "first"}))
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    for generation in generations:
        lines[generation:] = [json.dumps({"generation": generation, "machine": machine})]
        write_generation(folder, generation, machine)
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name, content in others.items():
        (folder / f"{name}.json").write_text(content)
    return folder


def write_generation(folder: Path, generation: int, machine: str) -> None:
    at = folder / f"generations/{generation:04d}"
    (at / "adapter").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(machine.encode()).hexdigest()
    (at / "population.jsonl").write_text(f"{machine} {generation}\n")
    (at / "state.safetensors").write_text(machine)
    (at / "adapter/adapter_model.safetensors").write_text(machine)
    (at / "DONE").write_text(f"{digest}  population.jsonl\n")


def maker(folder: Path, generation: int) -> str:
    """The machine that made a generation, which all its files and its line must be of."""
    at = folder / f"generations/{generation:04d}"
    found = (at / "state.safetensors").read_text()
    assert (at / "population.jsonl").read_text() == f"{found} {generation}\n"
    assert (at / "DONE").read_text().startswith(hashlib.sha256(found.encode()).hexdigest())
    line = (folder / "metrics.jsonl").read_text().splitlines()[generation]
    assert json.loads(line) == {"generation": generation, "machine": found}
    return found


def generations(folder: Path) -> list[int]:
    """The complete ones."""
    return sorted(int(file.parent.name) for file in folder.glob("generations/*/DONE"))


def files(folder: Path) -> dict[str, bytes]:
    """All that belongs into a store, by name."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in found.items()
        if not file.name.startswith(".") and name not in ("lock", "owner.json")
    }
