"""The run directory: where things lie, atomic writes, what is whole, and how to go on from there."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from es_ray.config import Config, load
from es_ray.errors import RunError, UserError
from es_ray.evolution.strategy import Vector

DONE, STATE, POPULATION = "DONE", "state.safetensors", "population.jsonl"


class RunDir:
    """Paths of a run, and reading and writing of what is kept in them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """An existing run; raises UserError if there is none."""
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path}: not a run directory (it has no config.yaml)")
        return cls(path)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """A line for each generation."""
        return self.path / "metrics.jsonl"

    @property
    def test_results_file(self) -> Path:
        """Base, centre and best member on the test split."""
        return self.path / "test_results.json"

    @property
    def plots(self) -> Path:
        """The folder of plots."""
        return self.path / "plots"

    def generation(self, generation: int) -> Path:
        """The folder of a generation."""
        return self.path / "generations" / f"{generation:04d}"

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return load(file=self.config_file)

    def create(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Make the folders and write config.yaml and environment.json."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "generations").mkdir()  # one of two runs that want the same folder gets it
            self.plots.mkdir(exist_ok=True)
            (self.path / "logs").mkdir(exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"output.dir: {self.path} was taken by another run meanwhile") from error
        except OSError as error:
            raise UserError(f"output.dir: {self.path} cannot be written: {error.strerror}") from error
        self.write_config(config)
        write_json(self.path / "environment.json", environment)

    def write_config(self, config: Config) -> None:
        """Write config.yaml, without output.dir: so it repeats the run elsewhere, or resumes it here."""
        write_text(self.config_file, config.replace(output__dir=None).to_yaml())

    def whole_generations(self) -> list[int]:
        """Generations that were written to the end, ascending."""
        folders = (self.path / "generations").glob("[0-9]*")
        return sorted(int(f.name) for f in folders if f.name.isdecimal() and (f / DONE).is_file())

    def last_whole(self) -> int:
        """The last whole generation, -1 if there is none."""
        return max(self.whole_generations(), default=-1)

    def metrics(self, upto: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to a generation; raises RunError for one that is torn."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        text = self.metrics_file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(text[: None if upto is None else upto + 1], start=1):
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise RunError(f"{self.metrics_file}, line {number}: torn or edited ({error.msg})") from error
        return lines

    def cut(self, generation: int) -> None:
        """Forget everything after that generation: folders, metrics, and what a dead writer left behind."""
        for folder in (self.path / "generations").glob("*"):
            number = folder.name.removeprefix(".")  # with the dot: written aside by a process that died
            if number.isdecimal() and (number != folder.name or int(number) > generation):
                shutil.rmtree(folder)
        self.test_results_file.unlink(missing_ok=True)  # they are those of an earlier end
        if self.metrics_file.is_file():
            kept = self.metrics_file.read_text(encoding="utf-8").splitlines()[: generation + 1]
            write_text(self.metrics_file, "".join(f"{line}\n" for line in kept))
            if [line["generation"] for line in self.metrics()] != list(range(generation + 1)):
                raise RunError(f"{self.metrics_file}: does not have one line for each finished generation")
        elif generation >= 0:
            raise RunError(f"{self.metrics_file}: missing")

    def write_state(
        self,
        folder: Path,
        generation: int,
        theta: Vector,
        advantages: NDArray[np.float64],
        mean_abs: Sequence[float],
        examples: Mapping[str, str],
        base: Mapping[str, Any] | None,
    ) -> None:
        """Write the centre after a generation's update, with checksums of what resuming and replaying read.

        mean_abs: of the adapted base weights, from which the noise's scale follows; examples: their
        fingerprints by split; base: the base model's rewards by split, where the generation measured them.
        """
        save_file({"theta": theta}, folder / STATE)
        state = {
            "format": 1,
            "generation": generation,
            "size": len(theta),
            "sha256": {"theta": _sha256(theta), "advantages": _sha256(advantages)},
            "mean_abs": list(mean_abs),
            "examples": dict(examples),
            "base": base,
        }
        write_json(folder / "state.json", state)

    def read_state(self, generation: int) -> Vector:
        """The centre after that generation, shape [P]; raises RunError if it is missing or damaged."""
        file = self.generation(generation) / STATE
        try:
            theta = load_file(file)["theta"]
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from error
        self._check(generation, "theta", theta, file)
        return theta

    def has_state(self, generation: int) -> bool:
        """Whether the centre after that generation is stored, and not pruned."""
        return (self.generation(generation) / STATE).is_file()

    def mean_abs(self, generation: int) -> tuple[float, ...]:
        """mean|W| of the adapted base weights, as recorded with that generation."""
        return tuple(self._state_json(generation)["mean_abs"])

    def fingerprints(self, generation: int) -> dict[str, str]:
        """Hashes of the examples that the generation was evaluated on, by split."""
        return self._state_json(generation)["examples"]

    def _check(self, generation: int, name: str, values: NDArray[Any], file: Path) -> None:
        if _sha256(values) != self._state_json(generation)["sha256"].get(name):
            raise RunError(f"{file}: torn or edited: the checksum of {name} is not the one in state.json")

    def base(self) -> dict[str, Any] | None:
        """The base model's {reward, correct, exact} by split, measured with generation 0."""
        return self._state_json(0)["base"] if (self.generation(0) / DONE).is_file() else None

    def _state_json(self, generation: int) -> dict[str, Any]:
        file = self.generation(generation) / "state.json"
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from error
        lacking = {"sha256", "mean_abs", "examples", "base"} - set(state)
        if lacking:
            raise RunError(f"{file}: lacks {', '.join(sorted(lacking))}")
        if not isinstance(state["sha256"], dict):
            raise RunError(f"{file}: sha256 does not name the files")
        return state

    def advantages(self, generation: int) -> NDArray[np.float64]:
        """The recorded Z of a generation's members, shape [N]; raises RunError if they are not as written."""
        file = self.generation(generation) / POPULATION
        try:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            values = np.array([line["advantage"] for line in lines], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from error
        self._check(generation, "advantages", values, file)
        return values

    def publish(self, aside: Path, generation: int) -> None:
        """Give a generation that was written aside its name, and mark it whole."""
        folder = self.generation(generation)
        _sync_tree(aside)
        aside.rename(folder)
        write_text(folder / DONE, "")
        _sync(folder.parent)

    def prune(self, keep: int, best: int) -> None:
        """Drop adapters and states of all but the last `keep` generations and the best one.

        Completions and advantages stay, so that any member can still be rebuilt.
        """
        for generation in self.whole_generations()[:-keep]:
            # the best member is made from the centre before its generation: that state stays too
            kept = (
                ("adapter", "best", STATE)
                if generation == best
                else (STATE,)
                if generation == best - 1
                else ()
            )
            for name in ("adapter", "best", STATE):
                path = self.generation(generation) / name
                if name not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def best_of(metrics: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """(generation, index) of the best member of a run: highest training reward, the earliest on ties."""
    line = min(metrics, key=lambda line: (-line["reward_best"], line["generation"]))
    return line["generation"], line["best_index"]


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that no reader sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[object]) -> None:
    """Write records as JSON lines, atomically."""
    write_text(path, "".join(f"{json.dumps(r, ensure_ascii=False, allow_nan=False)}\n" for r in records))


def append_json_line(path: Path, value: object) -> None:
    """Append one JSON line and see that it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
