"""The run directory: its paths, who may write there, which generations are complete, and resuming."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from es_ray.config import Config, load
from es_ray.errors import RunError, UserError
from es_ray.lora.checkpoints import CHANGES
from es_ray.runs import metrics_file, version_0_1_0
from es_ray.runs.atomic_io import write_json, write_text, writing
from es_ray.runs.generation_folder import ADAPTER, BEST, DONE, DROPPABLE, STATE, GenerationFolder
from es_ray.runs.lock import LOCK, RunLock
from es_ray.runs.plot_files import remove_plots_after

log = logging.getLogger(__name__)

_TMP = re.compile(
    r"\.(config\.yaml|environment\.json|metrics\.jsonl|selected\.json|test_results\.json|report\.html)\.\d+"
)
"""Names under which the run directory's own files are written, before they get theirs."""

STATES_KEPT = 2
"""Number of latest states, and of checkpoints, that are always kept: one is left if the last is damaged."""


class RunDir:
    """Paths of a run, and reading and writing of what is kept in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: RunLock | None = None
        self._bare: set[int] = set()
        """Generations in which `prune` left nothing: of thousands only the latest are looked at again."""

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
    def environment_file(self) -> Path:
        """What the run ran on: its first start, and under `resumed` a record for each later one."""
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        """A line for each generation."""
        return self.path / "metrics.jsonl"

    @property
    def test_results_file(self) -> Path:
        """Base, centre, best member and selected centre on the test split."""
        return self.path / "test_results.json"

    @property
    def selected_file(self) -> Path:
        """Which centre is the one to use, and why."""
        return self.path / "selected.json"

    @property
    def report_file(self) -> Path:
        """The run's report, a page of its own."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """The folder of plots."""
        return self.path / "plots"

    @property
    def generations(self) -> Path:
        """The folder of the generations' folders, absolute: workers run elsewhere."""
        return (self.path / "generations").absolute()

    def generation(self, generation: int) -> Path:
        """The path of a generation's folder."""
        return self.path / "generations" / f"{generation:04d}"

    def unfinished(self, generation: int) -> Path:
        """A new folder for a generation's files, until all of them are there; raises OSError."""
        tmp = self.generation(generation).with_name(f".{generation:04d}")
        if tmp.exists():
            shutil.rmtree(tmp)
        tmp.mkdir()
        return tmp

    def generation_folder(self, generation: int) -> GenerationFolder:
        """A generation's folder, read with its checksums."""
        return GenerationFolder(self.generation(generation))

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return load(file=self.config_file)

    def is_empty(self) -> bool:
        """Whether a new run may use the folder: it holds at most the leftovers of a failed start."""
        return not self.path.exists() or all(
            path.name == LOCK or _TMP.fullmatch(path.name) for path in self.path.iterdir()
        )

    def lock(self) -> None:
        """Keep other drivers out until `release`; raises UserError with the host and pid of a current one."""
        self._lock = RunLock(self.path)

    def release(self) -> None:
        """Let other drivers in."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def create(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Make the folder, lock it, and write config.yaml and environment.json; raises UserError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if not self.is_empty():  # two runs may have found it empty
                raise UserError(f"output.dir: {self.path} was taken by another run meanwhile")
            self._sweep()
            self.write_config(config)  # first: from here on the run can be resumed
            self._complete(environment)
        except OSError as error:
            raise UserError(f"output.dir: {self.path} cannot be written: {error.strerror}") from error

    def resume(self, config: Config, environment: Mapping[str, Any], generation: int) -> None:
        """Remove everything after a generation that `check_upto` found intact (-1: everything).

        Raises RunError if it cannot be written.
        """
        with writing(self.path):
            self._complete(environment)
            self._add_start(environment, generation + 1)
            self._cut(generation)
            self.write_config(config)

    def is_in_form_of_0_1_0(self) -> bool:
        """Whether lines of metrics.jsonl are, and must remain, in the form of version 0.1.0."""
        lines = self._lines()
        first = metrics_file.parsed(lines[0], 0) if lines else None
        if first is not None:  # else nothing was finished
            return version_0_1_0.wrote(first)
        return self.config_file.is_file() and not self.config_file.read_text(encoding="utf-8").startswith(
            "format"
        )

    def write_config(self, config: Config) -> None:
        """Write config.yaml, without output.dir: so it repeats the run elsewhere, or resumes it here."""
        write_text(self.config_file, config.replace(output__dir=None).to_yaml())

    def _complete(self, environment: Mapping[str, Any]) -> None:
        """Create missing folders, and environment.json if it is missing."""
        for name in ("generations", "plots", "logs"):
            (self.path / name).mkdir(exist_ok=True)
        if not self.environment_file.exists():
            write_json(self.environment_file, environment)

    def _add_start(self, environment: Mapping[str, Any], generation: int) -> None:
        """Add to environment.json what the run is resumed on, from that generation."""
        try:
            record = json.loads(self.environment_file.read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.setdefault("resumed", []), list):
            # a record for people: no reason to refuse the run
            log.warning("%s: torn or edited; a record of this start replaces it", self.environment_file)
            record = {**environment, "resumed": []}
        record["resumed"].append({"from_generation": generation, **environment})
        write_json(self.environment_file, record)

    def complete_generations(self) -> list[int]:
        """Generations that were written to the end, ascending."""
        return [number for number, folder in self._numbered() if self._is_complete(folder)]

    def last_complete(self) -> int:
        """The last complete generation, -1 if there is none."""
        numbered = reversed(self._numbered())  # of thousands only the latest are looked at
        return next((number for number, folder in numbered if self._is_complete(folder)), -1)

    def _numbered(self) -> list[tuple[int, str]]:
        """Number and path of each generation's folder, complete or not, ascending."""
        with suppress(FileNotFoundError), os.scandir(self.path / "generations") as found:
            return sorted((int(folder.name), folder.path) for folder in found if folder.name.isdecimal())
        return []

    @staticmethod
    def _is_complete(folder: str) -> bool:
        return os.path.isfile(f"{folder}/{DONE}")  # a Path for each of thousands takes ten times as long

    def base(self) -> dict[str, Any] | None:
        """The base model's {reward, correct, exact} by split, measured with generation 0."""
        return self.generation_folder(0).base if self.generation_folder(0).complete else None

    def calibrated(self) -> str | None:
        """Why a run has the noise that it found at its start (`noise.relative: auto`); None without auto."""
        try:
            record = json.loads(self.environment_file.read_text(encoding="utf-8"))
            found = record.get("calibration", {})
            reason = found.get("reason")
        except (OSError, ValueError, AttributeError):
            return None  # torn or edited: a record for people, without which the run is the same
        if reason is not None and found.get("relative") is None:
            return f"nothing to recommend, so the general default: {reason}"
        return None if reason is None else str(reason)

    def selected(self) -> int | None:
        """The generation after which the selected centre came about (-1: the start); None in older runs."""
        try:
            found: int = json.loads(self.selected_file.read_text(encoding="utf-8"))["generation"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.selected_file}: torn or edited: it names no generation") from error
        return found

    def write_selected(self, record: Mapping[str, Any]) -> None:
        """Write selected.json, unless it says the same already; raises OSError."""
        if not self.selected_file.is_file() or json.loads(self.selected_file.read_text()) != record:
            write_json(self.selected_file, record)

    def metrics(self, upto: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one for each generation, up to one of them.

        Raises RunError with the number of a line that is missing or torn.
        """
        return metrics_file.read(self.metrics_file, upto)

    def _lines(self) -> list[bytes]:
        return metrics_file.lines(self.metrics_file)

    def check(self, generation: int) -> None:
        """Raise RunError, with the name of the file, unless a generation is as it was written."""
        folder = self.generation_folder(generation)
        folder.check()
        if not any(map(folder.has_line, self._lines())):
            raise RunError(f"{self.metrics_file}: the line of generation {generation} is missing or edited")

    def check_upto(self, generation: int) -> None:
        """Raise RunError unless metrics.jsonl begins with the lines of all generations up to that one."""
        lines = self._lines()
        for number in range(generation + 1):
            folder = self.generation_folder(number)
            if folder.complete and not folder.has_line(lines[number] if number < len(lines) else None):
                raise RunError(f"{self.metrics_file}, line {number + 1}: missing, torn or edited")
        self.metrics(generation)  # also those of folders that are gone

    def _cut(self, generation: int) -> None:
        """Remove everything newer than that generation, and what dead writers left behind."""
        # of an earlier end of the run
        for file in (self.test_results_file, self.selected_file, self.report_file):
            file.unlink(missing_ok=True)
        for tmp in (self.path / "generations").glob(".[0-9]*"):  # its writer died
            shutil.rmtree(tmp)
        # the newest first, and its DONE before the rest: stopped anywhere, what is left can be resumed
        for number, folder in reversed(self._numbered()):
            if number > generation:
                Path(folder, DONE).unlink(missing_ok=True)
                shutil.rmtree(folder)
        remove_plots_after(self.plots, generation)
        if self.metrics_file.is_file():
            kept = self._lines()[: generation + 1]
            write_text(self.metrics_file, "".join(f"{line.decode()}\n" for line in kept))
        self._sweep()

    def _sweep(self) -> None:
        for path in self.path.iterdir():
            if _TMP.fullmatch(path.name):
                path.unlink()

    def prune(self, keep: int, *, states: bool) -> None:
        """Drop adapters and states of all but the last `keep` generations, the best one and the selected one.

        Checkpoints of form `merged` too, but for those from which a replay of the best member or of the
        selected centre starts. states: whether states are dropped; only where a replay gives their bytes
        again. Completions and advantages stay, so that any member can still be rebuilt.
        """
        complete = self.complete_generations()
        best, selected = metrics_file.best_of(self.metrics())[0], self.selected()
        checkpoints, starts = 0, {best, best if selected is None else selected + 1}
        for place, generation in enumerate(reversed(complete)):
            if generation in self._bare:
                continue
            kept = {STATE} if place < STATES_KEPT or not states else set()
            if place < keep or generation in (best, selected):
                kept = {ADAPTER, BEST, STATE}
            elif generation == best - 1:  # the best member is made from the centre before its generation
                kept = {STATE}
            folder = self.generation(generation)
            names = os.listdir(folder)
            if CHANGES in names:
                checkpoints += 1
                served = {start for start in starts if start >= generation}
                if place < keep or checkpoints <= STATES_KEPT or served:
                    kept = kept | {CHANGES}
                starts -= served
            for name in set(DROPPABLE).difference(kept).intersection(names):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if not kept:
                self._bare.add(generation)
