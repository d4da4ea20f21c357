"""Shared fixtures: a temporary home folder, the command in this process, one short run."""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

# before anything reads them: Ray writes a token into the home folder, and no test may reach the network
_HOME = tempfile.mkdtemp(prefix="es-ray-tests-")
os.environ |= {
    "HOME": _HOME,
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
    # a run has a thread for each core, and so has the one beside it: they would spin in each other's time
    "OMP_WAIT_POLICY": "PASSIVE",
}
for _name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "FORCE_COLOR", "RAY_ADDRESS", "TTY_COMPATIBLE"):
    os.environ.pop(_name, None)
if shutil.which("nvidia-smi") is None:  # before Triton is imported: its kernels run on the CPU too
    os.environ["TRITON_INTERPRET"] = "1"

import pytest  # noqa: E402

from tests.drivers import Drivers  # noqa: E402
from tests.short_runs import SETTINGS, es_ray  # noqa: E402

REAL_MODEL = "ES_RAY_REAL_MODEL"


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The references run beside Ray on small machines, and gain nothing from threads at this size."""
    if importlib.util.find_spec("torch") is not None:  # `make test-pythons` has none
        import torch

        torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session", autouse=True)
def no_plots() -> None:
    """Runs in this process draw nothing, unless a test takes `drawn_plots`; commands as processes do."""
    from tests.no_plots import without_plots

    without_plots()


@pytest.fixture
def drawn_plots() -> Iterator[None]:
    """Runs in this process draw plots, as they do for users."""
    from tests.no_plots import with_plots

    with with_plots():
        yield


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """`cli("run", "--seed", 1)`: the command in this process; gives code, out and err."""
    from es_ray.cli.main import main

    def call(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["es-ray", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One short run with the real command (path, out, err). Read-only: use `copied` to change it.

    It runs where Ray cannot be imported: `--local` needs none.
    """
    folder = tmp_path_factory.mktemp("finished")
    (folder / "no-ray").mkdir()
    (folder / "no-ray" / "ray.py").write_text("raise ImportError('a local run imports no Ray')\n")
    paths = os.pathsep.join(filter(None, [str(folder / "no-ray"), os.environ.get("PYTHONPATH")]))
    done = es_ray(
        "run", "--local", *SETTINGS, "--output", folder / "run", env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(path=folder / "run", out=done.stdout, err=done.stderr)


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    """`drivers("run", "--seed", 1, step=..., folder=...)`: a process that runs `es-ray`, and its end."""
    drivers = Drivers(tmp_path_factory.mktemp("drivers"))
    yield drivers
    drivers.close()


@pytest.fixture(scope="session")
def real_model() -> str:
    """The folder of SmolLM2-135M-Instruct, which `make test-real` makes."""
    if REAL_MODEL not in os.environ:
        pytest.skip(f"{REAL_MODEL} names no model folder; make test-real makes one")
    return os.environ[REAL_MODEL]


@pytest.fixture
def copied(finished: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished.path, tmp_path / "copied"))
