"""Print the oldest versions that pyproject.toml allows, as pip requirements: `oldest.py [EXTRA ...]`.

torch is left to constraints.txt: one version of it is what the tests are run with.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

KEPT = {"torch", "es-ray"}


def oldest(requirement: str) -> str | None:
    """`name[extra]==version` of `name[extra]>=version,<other; marker`; None for torch and for no bound."""
    found = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?>=([0-9.]+)", requirement)
    if found is None or found[1] in KEPT:
        return None
    return f"{found[1]}{found[2] or ''}=={found[3]}"


def main() -> None:
    """Print them, one a line."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    for extra in sys.argv[1:]:
        requirements += project["optional-dependencies"][extra]
    print(*filter(None, map(oldest, requirements)), sep="\n")


if __name__ == "__main__":
    main()
