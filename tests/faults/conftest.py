"""Small runs of real drivers that are quick enough to be broken at every step."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.drivers import Drivers
from tests.short_runs import evolved
from tests.small_models import small_model

GENERATIONS = 3


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options of a run that takes less than a second."""
    return (
        "--local",
        "--model", small_model(tmp_path_factory.mktemp("small") / "model"),
        "--population", 4,
        "--generations", GENERATIONS,
        "--set", "evolution.noise.multiplier=40",
        "--set", "evolution.learning_rate=0.05",
        "--set", "task.max_new_tokens=4",
        "--set", "engine.shard=4",
    )  # fmt: skip


class Reference(SimpleNamespace):
    """An undisturbed run: its path, what must be equal in others, and the steps that it took on its files."""

    path: Path
    evolved: dict[str, object]
    steps: list[str]

    def assert_equal(self, run: Path) -> None:
        """The run has the same bytes, and nothing that a dead driver left lies about."""
        assert evolved(run) == self.evolved
        assert not [p for p in run.rglob("*") if p.name.startswith(".") or p.name == "lock"]

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.path, to))


def undisturbed(drivers: Drivers, path: Path, *arguments: object) -> Reference:
    trace = path.with_name("trace")
    ended = drivers("run", *arguments, "--output", path, folder=path, trace=trace)
    assert ended.code == 0, ended.err
    return Reference(path=path, evolved=evolved(path), steps=trace.read_text().splitlines())


@pytest.fixture(scope="session")
def reference(drivers, settings, tmp_path_factory) -> Reference:
    """The run that the broken ones must come to equal."""
    return undisturbed(drivers, tmp_path_factory.mktemp("reference") / "run", *settings)


@pytest.fixture(scope="session")
def pruned(drivers, settings, tmp_path_factory) -> Reference:
    """The same, with `output.keep=1`."""
    path = tmp_path_factory.mktemp("pruned") / "run"
    return undisturbed(drivers, path, *settings, "--set", "output.keep=1")
