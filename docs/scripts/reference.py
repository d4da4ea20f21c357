"""Writes docs/reference/: commands, keys, metrics and the Python API as Markdown, from the code.

    python docs/scripts/reference.py            # write the pages
    python docs/scripts/reference.py --check    # exit code 1 if one of them is not what the code says

The pages are in the repository, so that they can be read without building the site.
"""

import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # the scripts beside this one, and the package of this checkout
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from api_page import api_page
from commands_page import commands_page
from configuration_page import configuration_page
from metrics_page import metrics_page

FOLDER = Path(__file__).parents[1] / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "metrics.md": metrics_page,
    "python.md": api_page,
}


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the pages that are missing or not what the code says."""
    return [name for name, page in PAGES.items() if _read(folder / name) != page()]


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


if __name__ == "__main__":
    if "--check" in sys.argv:
        if names := stale():
            sys.exit(f"docs/reference: {', '.join(names)} differ from the code; run `make reference`")
    else:
        write()
