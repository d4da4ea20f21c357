"""Runs whose folder is a store: copied behind the loop, resumed on another machine, to the same bytes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from es_ray.errors import RunError
from es_ray.runs.remote_copy import RemoteCopy, copying
from es_ray.runs.remote_store import RemoteStore, local_folder
from tests.processes import lose_machine_of
from tests.s3_server import S3
from tests.short_runs import GENERATIONS, SETTINGS, command, evolved, in_process, json_lines

pytest.importorskip("s3fs")
URL = "s3://bucket/runs/first"
LAST = f"generations/{GENERATIONS - 1:04d}/DONE"


@pytest.fixture
def s3(tmp_path) -> Iterator[S3]:
    server = S3(tmp_path / "s3")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def in_this_process(s3, monkeypatch) -> Iterator[None]:
    """Commands in this process find the server too."""
    import s3fs

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def start(s3: S3, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A driver on a machine of its own: in a folder where there is no run."""
    folder.mkdir()
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            command("run", *arguments),
            cwd=folder,
            env=environment(s3),
            stdout=output,
            stderr=output,
            text=True,
        )


def environment(s3: S3) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | s3.environment | {"PYTHONPATH": root}


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names_of(folder: Path) -> set[str]:
    """The files of a local run that belong into the store."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {file.as_posix() for file in files if not file.name.startswith(".") and str(file) != "lock"}


def test_a_head_is_lost_with_its_disk_and_the_run_goes_on_elsewhere_to_the_same_bytes(
    s3, in_this_process, finished, tmp_path, cli, monkeypatch
):
    driver = start(s3, tmp_path / "head", *SETTINGS, "--output", URL)
    wait_for(lambda: "generations/0001/DONE" in s3.names("runs/first"))
    lose_machine_of(driver)  # the process that draws its plots would still write there
    shutil.rmtree(tmp_path / "head")
    (tmp_path / "new head").mkdir()
    monkeypatch.chdir(tmp_path / "new head")
    ended = cli("run", "--resume", "--output", URL)
    assert ended.code == 0, ended.err
    run = tmp_path / "new head" / local_folder(URL)
    assert evolved(run) == evolved(finished.path)
    assert s3.names("runs/first") == names_of(run) | {"owner.json"}
    for name in names_of(run):
        assert s3.content(f"runs/first/{name}") == (run / name).read_bytes(), name


def test_a_store_that_fails_for_a_while_does_not_stop_the_run(s3, finished, tmp_path):
    driver = start(s3, tmp_path / "head", *SETTINGS, "--output", URL)
    wait_for(lambda: "generations/0000/DONE" in s3.names("runs/first"))
    s3.kill()
    run = tmp_path / "head" / local_folder(URL)
    wait_for(lambda: (run / "test_results.json").is_file())
    wait_for(lambda: f"{URL} cannot be written" in (tmp_path / "head/output").read_text())
    assert driver.poll() is None and LAST not in s3.names("runs/first")
    s3.start()
    assert driver.wait(timeout=120) == 0
    assert f"{URL} can be written again" in (tmp_path / "head/output").read_text()
    assert evolved(run) == evolved(finished.path)
    assert s3.names("runs/first") == names_of(run) | {"owner.json"}


def test_what_is_pruned_here_is_pruned_there_and_commands_take_the_url(
    s3, in_this_process, tmp_path, cli, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = [*SETTINGS, "--local", "--output", URL, "--set", "output.keep=1"]
    ended = cli("run", *options)
    assert ended.code == 0, ended.err
    run = tmp_path / local_folder(URL)
    assert s3.names("runs/first") == names_of(run) | {"owner.json"}
    adapters = [name for name in s3.names("runs/first") if name.endswith("/adapter/adapter_config.json")]
    assert 0 < len(adapters) < GENERATIONS
    again = cli("run", *options)
    assert again.code == 2 and "is not empty; give another folder, or --resume" in again.err
    shutil.rmtree(run)
    output = tmp_path / "member"
    rebuilt = cli("member", URL, "--generation", 1, "--index", 2, "--output", output)
    assert rebuilt.code == 0, rebuilt.err
    assert (output / "adapter_model.safetensors").is_file()


def test_resuming_the_local_folder_goes_on_with_its_copy(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/store/run"
    in_process("run", "--local", *SETTINGS, "--generations", 2, "--output", url)
    run = local_folder(url)
    in_process("run", "--resume", "--output", run, "--generations", GENERATIONS)
    assert len(json_lines(tmp_path / "store/run/metrics.jsonl")) == GENERATIONS
    assert evolved(tmp_path / "store/run") == evolved(tmp_path / run) == evolved(finished.path)


def test_a_driver_ends_when_another_one_has_taken_over(tmp_path):
    url = f"file://{tmp_path}/store"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "one/metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="another driver goes on with .*store"):  # noqa: SIM117
        with copying(RemoteStore(url), tmp_path / "one") as is_ours:
            wait_for(lambda: (tmp_path / "store/metrics.jsonl").is_file())
            is_ours()
            with RemoteCopy(RemoteStore(url), tmp_path / "two"):
                (tmp_path / "one/metrics.jsonl").write_text("{}\n{}\n")
                wait_for(lambda: _says_so(is_ours))
            is_ours()
    assert (tmp_path / "store/metrics.jsonl").read_text() == "{}\n"


def _says_so(is_ours: Callable[[], None]) -> bool:
    try:
        is_ours()
    except RunError:
        return True
    return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--output", "nosuch://x/y"], "output.dir: nosuch://x/y: nosuch is no store"),
        (["run", "--resume", "--output", "file:///nonexistent/run"], "not a run directory"),
        (["evaluate", "file:///nonexistent/run"], "not a run directory"),
        (["calibrate", "--output", "s3://bucket/x"], "--output: es-ray calibrate writes into a folder"),
    ],
)
def test_a_bad_url_is_one_line_and_writes_nothing(arguments, said, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = cli(*arguments)
    assert ended.code == 2
    assert said in ended.err and len(ended.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_store_without_its_package_is_refused_with_how_to_install_it(tmp_path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not importable, whether it is installed or not
    monkeypatch.chdir(tmp_path)
    ended = cli("run", "--output", "gs://bucket/run")
    assert ended.code == 2
    assert "gs://bucket/run" in ended.err and "pip install 'es-ray[gcs]'" in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
