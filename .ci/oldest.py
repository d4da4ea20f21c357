"""Print the oldest versions that pyproject.toml allows, as pip requirements: `oldest.py [EXTRA ...]`.

Of two bounds for a package, the newer one. torch is left to constraints.txt: one version of it is what the
tests are run with.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

KEPT = {"torch", "es-ray"}


def oldest(requirements: list[str]) -> list[str]:
    """`name[extra]==version` of each `name[extra]>=version,<other; marker`; not of torch."""
    bounds: dict[str, tuple[str, str]] = {}
    for requirement in requirements:
        found = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?>=([0-9.]+)", requirement)
        if found is None or found[1] in KEPT:
            continue
        extra, version = bounds.get(found[1], ("", "0"))
        bounds[found[1]] = (found[2] or extra, max(version, found[3], key=_numbers))
    return [f"{name}{extra}=={version}" for name, (extra, version) in bounds.items()]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def main() -> None:
    """Print them, one a line."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    for extra in sys.argv[1:]:
        requirements += project["optional-dependencies"][extra]
    print(*oldest(requirements), sep="\n")


if __name__ == "__main__":
    main()
