"""A run whose recorded states are changed, with checksums that fit."""

import hashlib
from pathlib import Path

from tests.small_models import edit_json


def edit_states(run: Path, **values: object) -> None:
    """Change keys of each generation's state.json."""
    for file in run.glob("generations/*/state.json"):
        edit_json(file, **values)
        done, digest = file.parent / "DONE", hashlib.sha256(file.read_bytes()).hexdigest()
        lines = [
            f"{digest}  state.json" if line.endswith("  state.json") else line
            for line in done.read_text().splitlines()
        ]
        done.write_text("\n".join(lines) + "\n")
