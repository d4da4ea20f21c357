"""Wheel and sdist, built as for a release, and used outside the checkout; and the metadata they carry."""

import json
import os
import re
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from es_ray.config import preset_names
from es_ray.engines.sglang import compat

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "sglang",
    "data",
    "math",
    "reasoning-gym",
    "tensorboard",
    "wandb",
    "docs",
    "dev",
    "s3",
    "gcs",
    "metrics",
}


def ran(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; the test fails if the command does."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of an sdist, and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    ran(sys.executable, "-m", "build", "--outdir", folder, CHECKOUT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """`bin` of a virtual environment that has the wheel, and of this one sees all but es-ray."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    ran(sys.executable, "-m", "venv", "--without-pip", folder, cwd=built)
    (wheel,) = built.glob("*.whl")
    python = folder / "bin" / "python"
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=built)
    (packages,) = folder.glob("lib/python*/site-packages")
    # no .pth files are read in a folder that one names: an editable es-ray there stays out
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(installed, tmp_path):
    home, empty = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    place = ran(installed / "python", "-c", "import es_ray; print(es_ray.__file__)", cwd=empty)
    assert place.startswith(str(installed.parent))
    said = ran(installed / "es-ray", "--version", cwd=empty, HOME=str(home))
    assert said == f"es-ray {PROJECT['version']}\n"
    ran(installed / "es-ray", "run", "--generations", 4, "--output", "run", cwd=empty, HOME=str(home))
    assert {"config.yaml", "metrics.jsonl", "test_results.json", "report.html", "plots"} <= {
        path.name for path in (empty / "run").iterdir()
    }
    assert len((empty / "run/metrics.jsonl").read_text().splitlines()) == 4
    recorded = json.loads((empty / "run/environment.json").read_text())
    assert PROJECT["version"] in json.dumps(recorded)
    assert [path.name for path in empty.iterdir()] == ["run"]


@pytest.mark.slow
def test_workers_of_the_wheel_run_outside_the_checkout(installed, tmp_path):
    ran(installed / "es-ray", "run", "--generations", 2, "--workers", 2, "--output", "run", cwd=tmp_path,
        HOME=str(tmp_path))  # fmt: skip
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_wheel_has_the_presets_the_data_and_the_types(built, installed, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for file in (CHECKOUT / "data").rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                packed = f"es_ray/_data/{file.relative_to(CHECKOUT / 'data')}"
                assert archive.read(packed) == file.read_bytes()
    assert {f"es_ray/config/presets/{name}.yaml" for name in preset_names()} <= names
    assert "es_ray/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"es_ray", f"es_ray-{PROJECT['version']}.dist-info"}
    for name in preset_names():
        ran(installed / "es-ray", "run", "--preset", name, "--dry-run", cwd=tmp_path, HOME=str(tmp_path))


@pytest.mark.slow
def test_the_tests_are_in_the_sdist_with_all_that_they_read(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data") if sys.version_info >= (3, 12) else archive.extractall(
            tmp_path
        )
    (unpacked,) = tmp_path.iterdir()
    environment = {"PYTHONPATH": str(unpacked)}
    here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran(*here, "--collect-only", cwd=unpacked, **environment)
    ran(*here, "tests/evolution/test_noise.py", "tests/test_architecture.py", "tests/cluster/test_configs.py",
        "tests/docs/test_links.py", "tests/docs/test_reference.py", cwd=unpacked, **environment)  # fmt: skip


def test_the_extra_takes_the_versions_of_sglang_that_es_ray_takes():
    (text,) = PROJECT["optional-dependencies"]["sglang"]
    allowed = Requirement(text).specifier
    oldest, newest = (".".join(map(str, version)) for version in (compat.OLDEST, compat.NEWEST))
    *_, last = compat.NEWEST
    after = ".".join(map(str, (*compat.NEWEST[:-1], last + 1)))
    assert allowed.contains(oldest) and allowed.contains(newest) and allowed.contains(f"{newest}.post1")
    assert not allowed.contains(after)
    assert not allowed.contains(".".join(map(str, (*compat.OLDEST[:-1], compat.OLDEST[-1] - 1))))


def test_the_extras_are_those_that_the_documentation_names():
    assert set(PROJECT["optional-dependencies"]) == EXTRAS
    named = set()
    for page in (CHECKOUT / "README.md", *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("es_ray/**/*.py")):
        named |= {
            extra
            for group in re.findall(r"(?:es-ray|'\.|\"\.)\[([a-z]{2}[a-z0-9,-]*)\]", page.read_text())
            for extra in group.split(",")
        }
    assert named <= EXTRAS, named


def test_citation_and_changelog_name_the_version():
    import yaml

    cited = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    released = re.findall(
        r"^## \[(\d[^]]*)\]|^## \[Unreleased\]: (\S+)", (CHECKOUT / "CHANGELOG.md").read_text(), re.M
    )
    assert "".join(released[0]) == PROJECT["version"]
