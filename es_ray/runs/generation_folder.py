"""The folder of one generation: what is in it, and whether it is unchanged."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from es_ray.config.format import FORMAT, checked_format
from es_ray.errors import RunError, UserError
from es_ray.evaluation.base_samples import BaseSample, of_lines
from es_ray.evolution.strategy import THETA, State
from es_ray.lora.checkpoints import CHANGES
from es_ray.runs.atomic_io import sync, sync_tree, write_json, write_text

DONE, STATE, DESCRIPTION, POPULATION = "DONE", "state.safetensors", "state.json", "population.jsonl"
COMPRESSED = f"{POPULATION}.gz"
COMPRESS_ABOVE = 1 << 20
"""Bytes of population.jsonl above which it is written compressed, as population.jsonl.gz."""
ADAPTER, BEST = "adapter", "best"
BASE_SAMPLES = "base_samples.jsonl"
DROPPABLE = (ADAPTER, BEST, STATE, CHANGES)
"""What `output.keep` may drop: all of it can be rebuilt from the rest."""


class GenerationFolder:
    """A generation that was written completely. What is read from it is checked against the sums in DONE.

    DONE lists the checksum of every file in the folder in the format of `sha256sum` (`sha256sum -c DONE`
    checks them), and in a comment that of the generation's line in metrics.jsonl. All readers raise RunError
    with the name of the file that is missing, torn or edited.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def complete(self) -> bool:
        """Whether it was written completely."""
        return (self.path / DONE).is_file()

    @property
    def has_state(self) -> bool:
        """Whether the state is stored, not pruned."""
        return (self.path / STATE).is_file()

    def check(self) -> None:
        """Raise RunError unless everything is as written, except for what may have been pruned.

        A checkpoint is left to its readers: it may be large, and nothing is lost with it.
        """
        for name in self._sums:
            there = (self.path / name).exists() and name != CHANGES
            if there or Path(name).parts[0] not in DROPPABLE:
                self._read(name)

    def has_line(self, line: bytes | None) -> bool:
        """Whether this is, byte for byte, the generation's line in metrics.jsonl."""
        return line is not None and _sha256(line) == self._done[1]

    def state(self) -> dict[str, NDArray[Any]]:
        """The evolution's state after the generation's update, as `Strategy.step` returned it."""
        return load(self._read(STATE))

    @property
    def format(self) -> int:
        """The number of the format it was written in."""
        number: int = self._description["format"]
        return number

    def advantages(self) -> NDArray[np.float64]:
        """Z of the generation's members, shape [N]."""
        return np.array([member["advantage"] for member in self.population()], dtype=np.float64)

    def population(self) -> Iterator[dict[str, Any]]:
        """The members' lines of population.jsonl in their order; some generations have no examples there."""
        yield from map(json.loads, self.population_lines())

    def population_lines(self) -> list[bytes]:
        """The same lines, not parsed: most of a large one is completions."""
        name = COMPRESSED if COMPRESSED in self._sums else POPULATION
        content = self._read(name)
        return (gzip.decompress(content) if name == COMPRESSED else content).splitlines()

    def population_size(self) -> int:
        """Bytes of population.jsonl as it was written, about: text is a fifth of its size when compressed."""
        for name, factor in ((POPULATION, 1), (COMPRESSED, 5)):
            if (self.path / name).is_file():
                return factor * (self.path / name).stat().st_size
        return 0

    @property
    def mean_abs(self) -> tuple[float, ...]:
        """mean|W| of the adapted base weights, from which the noise's scale follows."""
        return tuple(self._description["mean_abs"])

    @property
    def frobenius(self) -> tuple[float, ...]:
        """||W||_F of the adapted base weights; none in runs from before there was relative noise."""
        return tuple(self._description.get("frobenius", ()))

    @property
    def dtype(self) -> str | None:
        """What the engines computed in; None in runs of 0.1.0."""
        found: str | None = self._description.get("dtype")
        return found

    @property
    def weights(self) -> dict[str, str]:
        """Digests of the model's weight files by name; none where they were not on the driver's machine."""
        found: dict[str, str] = self._description.get("weights", {})  # 0.1.0 had none
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the examples that the generation was evaluated on, by split."""
        return self._description["examples"]

    @property
    def base(self) -> dict[str, Any] | None:
        """The base model's reward and metrics by split, where the generation measured them."""
        return self._description["base"]

    def base_samples(self) -> list[BaseSample] | None:
        """The base model's samples by which `kl_forward` is measured; None where they were not made."""
        return of_lines(self._read(BASE_SAMPLES)) if BASE_SAMPLES in self._sums else None

    @property
    def guard_reference(self) -> dict[str, Any] | None:
        """The base model's answers, by which the guard judges; None in runs without a guard."""
        found: dict[str, Any] | None = self._description.get("guard", {}).get("reference")
        return found

    @property
    def rollback(self) -> int | None:
        """The generation to whose centre this one went back, instead of an update; None if it did not."""
        found: int | None = self._description.get("guard", {}).get("rollback")
        return found

    @cached_property
    def _description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._read(DESCRIPTION))
        try:
            checked_format(found["format"], self.path / DESCRIPTION)
        except UserError as error:
            raise RunError(str(error)) from error
        return found

    @property
    def _sums(self) -> dict[str, str]:
        return self._done[0]

    @cached_property
    def _done(self) -> tuple[dict[str, str], str]:
        """Sums by file name, and that of the line in metrics.jsonl."""
        file = self.path / DONE
        try:
            *listed, last = [line.split("  ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
            sums, line = {name: digest for digest, name in listed}, last[0].removeprefix("# ")
        except OSError as error:
            raise RunError(f"{file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise RunError(f"{file}: torn or edited: not a list of checksums") from error
        names = {POPULATION if name == COMPRESSED else name for name in sums}
        # no state in a run of form merged, whose advantages say all
        if not {POPULATION, DESCRIPTION} <= names or not (last[0][0] == "#" and len(line) == 64):
            raise RunError(f"{file}: torn or edited: it does not list every file")
        return sums, line

    def _read(self, name: str) -> bytes:
        file = self.path / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RunError(f"{file}: cannot be read: {error.strerror}") from error
        if _sha256(content) != self._sums.get(name):
            raise RunError(f"{file}: torn or edited: its checksum is not the one in {DONE}")
        return content


@dataclass(frozen=True)
class Inputs:
    """What a run was made from, the same in each of its generations.

    mean_abs, frobenius: mean|W| and ||W||_F of the adapted base weights, from which the noise's scale
    follows; dtype: what the engines computed in; weights: digests of the model's weight files by name;
    examples: hashes by split.
    """

    mean_abs: tuple[float, ...]
    dtype: str
    weights: Mapping[str, str]
    examples: Mapping[str, str]
    frobenius: tuple[float, ...] = ()


def write_state(
    folder: Path,
    generation: int,
    state: State | None,
    inputs: Inputs,
    base: Mapping[str, Any] | None,
    guard: Mapping[str, Any] | None = None,
) -> None:
    """Write the state after a generation's update, with what else resuming and replaying need.

    state: as `Strategy.updated` returned it, None where advantages alone make it; base: as GenerationFolder
    returns it; guard: its reference and rollback, likewise, None in a run without one. Raises OSError.
    """
    if state is not None:
        save_file(dict(state), folder / STATE)
    description = {
        "format": FORMAT,
        "generation": generation,
        **({} if state is None else {"size": len(state[THETA])}),
        "mean_abs": list(inputs.mean_abs),
        "frobenius": list(inputs.frobenius),
        "dtype": inputs.dtype,
        "weights": dict(inputs.weights),
        "examples": dict(inputs.examples),
        "base": base,
        **({} if guard is None else {"guard": dict(guard)}),
    }
    write_json(folder / DESCRIPTION, description)


def write_population(folder: Path, lines: Iterable[str]) -> None:
    """Write population.jsonl, compressed if it is large: 256 members' answers to 100 prompts are 50 MB."""
    content = "".join(lines).encode()
    if len(content) > COMPRESS_ABOVE:
        # without the time, so that the same content has the same bytes
        (folder / COMPRESSED).write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
    else:
        (folder / POPULATION).write_bytes(content)


def publish(tmp: Path, folder: Path, line: str) -> None:
    """Move a generation to its final name and mark it complete; line: its line in metrics.jsonl.

    Each step is on disk before the next: a reader that sees DONE finds everything it lists.
    """
    listed = "".join(f"{digest}  {name}\n" for name, digest in _sums(tmp))
    sync_tree(tmp)
    tmp.rename(folder)
    sync(folder.parent)
    write_text(folder / DONE, f"{listed}# {_sha256(line.encode())}  its line in ../../metrics.jsonl\n")


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), _sha256_of(file)


def _sha256_of(file: Path) -> str:
    """Of a file that may be larger than the memory."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
