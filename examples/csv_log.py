"""Your own callback: a CSV file with a line for each generation, for a spreadsheet.

python examples/csv_log.py progress.csv
"""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import es_ray

COLUMNS = ("generation", "reward_mean", "reward_best", "test_reward", "test_correct")


class CsvLog(es_ray.Callback):
    """Writes some keys of metrics.jsonl; path: the file, which a new run overwrites."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def on_run_start(self, run: es_ray.RunInfo) -> None:
        """Open the file: for a resumed run, at its end."""
        self._file = self._path.open("a" if run.first else "w", newline="")
        if not run.first:
            csv.writer(self._file).writerow(COLUMNS)

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Write a row."""
        assert self._file is not None
        csv.writer(self._file).writerow([metrics[column] for column in COLUMNS])
        self._file.flush()

    def close(self) -> None:
        """Close the file; called however the run ended."""
        if self._file is not None:
            self._file.close()


def main(path: Path, *sets: str) -> None:
    """Evolve the bundled model, with the log; sets: `section.key=value`, as for `es-ray run --set`."""
    config = es_ray.load(preset="tiny-chat", sets=sets)
    result = es_ray.run(config, callbacks=[CsvLog(path)])
    print(f"wrote {path} and {result.path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
