"""What was measured so far, and the run that is not finished: a few small files that travel between machines.

evidence.jsonl has a line for each generation and each end of a run, written as it happens. The directory of
the run in the middle of which a call ran out of time goes into unfinished.tar, in parts of PART bytes, with
the states that continuing needs. So a call that is killed loses the run that it was in, and nothing else.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from es_ray.runs.generation_folder import ADAPTER, BEST
from es_ray.runs.lock import LOCK
from es_ray.runs.run_dir import RunDir

LINES: Final = "evidence.jsonl"
UNFINISHED: Final = "unfinished.tar"
PART: Final = 15 << 20
FOLDER: Final = ".run"
"""Ends the run's name in the archive."""
DIGITS: Final = 6
"""Significant digits of a number in evidence.jsonl."""

Record = dict[str, Any]
"""kind: `call` (what it ran on), `start`, `generation` or `end` of a run, or `calibration`; run: its name."""


def read(folder: Path) -> list[Record]:
    """The records of a folder, of all its .jsonl and .jsonl.gz files; none if it is not there."""
    found: list[Record] = []
    for file in sorted(folder.glob("*.jsonl*")):
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be torn
    return found


def ended(records: Iterable[Record]) -> set[str]:
    """The names of the runs that have ended."""
    return {record["run"] for record in records if record["kind"] == "end"}


class Store:
    """A folder that results are appended to; what an earlier call left is taken over first."""

    def __init__(self, folder: Path, earlier: Path | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        before = [] if earlier is None else read(earlier)
        packed = [] if earlier is None else sorted(earlier.glob(f"{UNFINISHED}*"))
        self._packed = b"".join(part.read_bytes() for part in packed)
        name, generation = unfinished(self._packed)
        done = ended(before)

        def counts(record: Record) -> bool:
            """Not those of a run whose end and state are lost: it starts again."""
            if record["kind"] not in ("start", "generation") or record["run"] in done:
                return True
            return record["run"] == name and record.get("generation", -1) <= generation

        self.records = [record for record in before if counts(record)]
        self.unfinished = None if name in done else name
        if self.unfinished is not None:  # this call may run something else, or be killed
            self._write_parts(self._packed)
        self._file = (folder / LINES).open("w", encoding="utf-8")
        for record in self.records:
            self._write(record)

    def append(self, kind: str, **values: Any) -> Record:
        """Write a record at once, with rounded numbers and without what is None."""
        record: Record = {"kind": kind, **rounded(values)}
        self.records.append(record)
        self._write(record)
        if kind == "end" and values["run"] == self.unfinished:
            self.unfinished = None
            self._write_parts(b"")
        return record

    def unpack(self, folder: Path) -> None:
        """Put the unfinished run's directory back, as that folder."""
        with tarfile.open(fileobj=io.BytesIO(self._packed)) as tar:
            for member in tar.getmembers():
                member.name = f"./{member.name.partition(FOLDER)[2]}"
                tar.extract(member, folder, filter="data")

    def pack(self, run: Path, name: str) -> None:
        """Keep a run's directory, with the states that continuing it can need; all the others are dropped.

        name: the run's. These are the last ones, those of the selected and of the best so far, and the one
        before the best: none is computed again, which NumPy would do with other bits than a GPU.
        """
        RunDir(run).prune(1, states=True)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(run, arcname=f"{name}{FOLDER}", filter=_needed)
        self._write_parts(buffer.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_parts(self, content: bytes) -> None:
        """Write the archive in parts, instead of an earlier one."""
        for part in self._folder.glob(f"{UNFINISHED}*"):
            part.unlink()
        for number, low in enumerate(range(0, len(content), PART)):
            (self._folder / f"{UNFINISHED}{number}").write_bytes(content[low : low + PART])

    def _write(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()


def unfinished(packed: bytes) -> tuple[str | None, int]:
    """The run's name and its last complete generation; (None, -1) for nothing."""
    if not packed:
        return None, -1
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        names = tar.getnames()
    complete = [name.split("/")[-2] for name in names if name.endswith("/DONE")]
    return names[0].removesuffix(FOLDER), max(map(int, complete), default=-1)


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Not adapters, which are rebuilt from states, nor the lock of a driver that has ended."""
    name = Path(member.name).name
    return None if name in (ADAPTER, BEST, LOCK) else member


def rounded(value: Any) -> Any:
    """Numbers to DIGITS significant digits, mappings without None."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items() if each is not None}
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value


def generations(records: Iterable[Record], run: str) -> Iterator[Record]:
    """A run's lines in their order."""
    return (each for each in records if each["kind"] == "generation" and each["run"] == run)
