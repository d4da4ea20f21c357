"""What a copy in a store may lose, and what it must not: small folders, and stores that are folders or S3."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from es_ray.errors import RunError, UserError
from es_ray.runs import file_stamps, remote_copy
from es_ray.runs.remote_copy import RemoteCopy, copying
from es_ray.runs.remote_names import in_order, removable
from es_ray.runs.remote_store import RemoteStore
from tests.hand_made_runs import files, generations, maker, write_generation, write_run


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def copied(store: Path, run: Path) -> None:
    """Copy as a driver does that has nothing to add."""
    with RemoteCopy(RemoteStore(f"file://{store}"), run):
        pass


def wait_for(what, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lose_all(run: Path) -> None:
    shutil.rmtree(run)


def lose_generations(run: Path) -> None:
    shutil.rmtree(run / "generations")


def lose_metrics_and_generations(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "generations")


def lose_one(run: Path) -> None:
    shutil.rmtree(run / "generations/0001")


def lose_a_file(run: Path) -> None:
    (run / "generations/0001/population.jsonl").unlink()


@pytest.mark.parametrize(
    "lose", [lose_all, lose_generations, lose_metrics_and_generations, lose_one, lose_a_file]
)
def test_what_is_lost_here_meanwhile_stays_in_the_store(store, tmp_path, lose, monkeypatch):
    monkeypatch.setattr(remote_copy, "LAST_ATTEMPTS", 0.5)
    run = write_run(tmp_path / "run", range(3))
    before = files(run)

    def lost() -> None:
        with RemoteCopy(RemoteStore(f"file://{store}"), run) as copy:
            wait_for(lambda: generations(store) == [0, 1, 2])
            lose(run)
            monkeypatch.setattr(copy, "_watched", object)  # each look gives a pass
            time.sleep(1.2)

    if lose is lose_all:
        with pytest.raises(RunError, match="config.yaml is gone: nothing is copied"):
            lost()
    else:
        lost()
    assert files(store) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_folder_that_cannot_be_read_empties_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_copy, "LAST_ATTEMPTS", 0.5)
    run = write_run(tmp_path / "run", range(2))
    copied(store, run)
    before = files(store)
    (run / "generations/0001").chmod(0)
    try:
        with pytest.raises((RunError, UserError)):
            copied(store, run)
    finally:
        (run / "generations/0001").chmod(0o755)
    assert files(store) == before


def test_an_error_while_listing_is_no_empty_folder(store, tmp_path, monkeypatch):
    """As on a disk or a network file system that fails: EIO from the system call itself."""
    monkeypatch.setattr(remote_copy, "LAST_ATTEMPTS", 0.5)
    run = write_run(tmp_path / "run", range(2))
    before, scandir = files(run), os.scandir

    def failing(path):
        if str(path).endswith("generations"):
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    with pytest.raises(RunError, match="generations: cannot be read: Input/output error"):  # noqa: SIM117
        with RemoteCopy(RemoteStore(f"file://{store}"), run):
            wait_for(lambda: generations(store) == [0, 1])
            monkeypatch.setattr(os, "scandir", failing)
            (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    monkeypatch.undo()
    assert files(store) == before


def test_what_a_run_removes_itself_is_removed_there(store, tmp_path):
    run = write_run(tmp_path / "run", range(5), test_results="{}", selected="{}")
    (run / "plots/0001.png").write_text("a plot")
    copied(store, run)
    shutil.rmtree(run / "generations/0000/adapter")  # as pruning
    (run / "generations/0000/state.safetensors").unlink()
    (run / "plots/0001.png").unlink()  # as thinning
    for generation in (3, 4):  # as resuming from generation 2
        shutil.rmtree(run / f"generations/{generation:04d}")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "test_results.json").unlink()
    with pytest.raises(UserError, match="up to generation 4, which .*run lacks"):
        copied(store, run)  # without its line being cut it is a folder of an earlier time
    shutil.copytree(store, run, dirs_exist_ok=True)
    (run / "owner.json").unlink()
    with RemoteCopy(RemoteStore(f"file://{store}"), run):
        shutil.rmtree(run / "generations/0000/adapter")
        (run / "generations/0000/state.safetensors").unlink()
        (run / "plots/0001.png").unlink()
        for generation in (4, 3):
            shutil.rmtree(run / f"generations/{generation:04d}")
        (run / "test_results.json").unlink()
        (run / "metrics.jsonl").write_text("".join(lines[:3]))
    assert files(store) == files(run)
    assert generations(store) == [0, 1, 2]


def test_which_files_may_be_removed():
    here = {"config.yaml", "generations/0000/DONE", "generations/0001/DONE"}
    gone = [
        "generations/0000/adapter/README.md",
        "generations/0000/population.jsonl",
        "generations/0001/state.safetensors",
        "generations/0002/DONE",
        "generations/0003/state.json",
        "generations/0003/DONE",
        "metrics.jsonl",
        "notes.txt",
        "plots/0000.png",
        "report.html",
    ]
    pruned = {"generations/0000/adapter/README.md", "generations/0001/state.safetensors"}
    always = pruned | {"plots/0000.png", "report.html"}
    assert set(removable(gone, here, 4)) == set(removable(gone, here, None)) == always
    cut = removable(gone, here, 2)
    assert set(cut) == always | {
        name for name in gone if name[:15] in ("generations/000",) and name[15] in "23"
    }
    assert cut[:2] == ["generations/0003/DONE", "generations/0002/DONE"]


def test_a_generation_is_marked_complete_after_everything_that_it_needs():
    names = ["metrics.jsonl", "generations/0000/DONE", "generations/0000/best/README.md", "config.yaml"]
    assert in_order(names) == [
        ["config.yaml"],
        ["generations/0000/best/README.md"],
        ["metrics.jsonl"],
        ["generations/0000/DONE"],
    ]


def test_generations_made_again_here_replace_those_of_another_machine(store, tmp_path):
    copied(store, write_run(tmp_path / "two", range(3), "two"))
    run = write_run(tmp_path / "one", range(2), "two")
    write_run(run, range(2, 5), "one")
    copied(store, run)  # DONE of generation 2 has the same size on both sides
    assert [maker(store, generation) for generation in range(5)] == ["two", "two", "one", "one", "one"]
    assert files(store) == files(run)


def test_files_that_change_are_copied_again_whatever_their_size(store, tmp_path):
    run = write_run(tmp_path / "run", range(1), test_results='{"a": 1}')
    copied(store, run)
    (run / "test_results.json").write_text('{"a": 2}')
    copied(store, run)
    assert (store / "test_results.json").read_text() == '{"a": 2}'


@pytest.fixture
def sent(monkeypatch) -> list[tuple[str, int]]:
    """Name and size of every file that is copied to a store."""
    found, put = [], RemoteStore.put

    def counted(self, folder, names):
        found.extend((name, (folder / name).stat().st_size) for name in names)
        put(self, folder, names)

    monkeypatch.setattr(RemoteStore, "put", counted)
    return found


@pytest.mark.parametrize("name", ["tensorboard/events.out.tfevents.1", "wandb/offline-run-1/run-1.wandb"])
def test_a_trackers_file_is_not_copied_whole_for_each_generation(store, tmp_path, sent, monkeypatch, name):
    monkeypatch.setattr(remote_copy, "LOOK_EVERY", 0.005)
    run = write_run(tmp_path / "run", range(1))
    (run / name).parent.mkdir(parents=True)
    with RemoteCopy(RemoteStore(f"file://{store}"), run):
        for generation in range(40):
            with (run / name).open("ab") as file:
                file.write(b"x" * 1000)
            write_run(run, range(generation, generation + 1))
            wait_for(lambda generation=generation: generation in generations(store))
    copies = [size for file, size in sent if file == name]
    assert 8 < len(copies) < 20, copies  # a quarter larger each time
    assert all(after >= 1.25 * before for before, after in zip(copies, copies[1:-1], strict=False))
    assert sum(copies) < 6 * 40_000
    assert len([file for file, _ in sent if file == "metrics.jsonl"]) >= 40  # what resuming needs is there
    assert copies[-1] == 40_000
    assert files(store) == files(run)


def test_a_trackers_file_is_copied_when_it_was_cut_or_after_a_while(store, tmp_path, sent, monkeypatch):
    run = write_run(tmp_path / "run", range(1))
    (run / "wandb").mkdir()
    file = run / "wandb/run.wandb"
    file.write_bytes(b"x" * 1000)
    with RemoteCopy(RemoteStore(f"file://{store}"), run):
        wait_for(lambda: generations(store) == [0])
        for generation, size in ((1, 1100), (2, 900)):
            file.write_bytes(b"x" * size)
            write_run(run, range(generation, generation + 1))
            wait_for(lambda generation=generation: generation in generations(store))
        assert [size for name, size in sent if name == "wandb/run.wandb"] == [1000, 900]
        monkeypatch.setattr(file_stamps, "PAUSE", 0.0)
        file.write_bytes(b"x" * 901)
        write_run(run, range(3, 4))
        wait_for(lambda: ("wandb/run.wandb", 901) in sent)


def test_a_lost_owner_file_is_no_takeover(store, tmp_path):
    run = write_run(tmp_path / "run", range(1))
    with copying(RemoteStore(f"file://{store}"), run) as is_ours:
        wait_for(lambda: generations(store) == [0])
        (store / "owner.json").unlink()
        shutil.rmtree(store / "generations")  # as by a rule of the store, or by hand
        write_generation(run, 1, "one")
        wait_for(lambda: generations(store) == [0, 1])
        is_ours()
    assert json.loads((store / "owner.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("seen_by", ["the last pass", "the copying thread"])
def test_a_driver_that_was_taken_over_at_its_end_fails(store, tmp_path, seen_by):
    run = write_run(tmp_path / "run", range(1))
    with pytest.raises(RunError, match="another driver goes on with .*store: host elsewhere, pid 7"):  # noqa: SIM117
        with RemoteCopy(RemoteStore(f"file://{store}"), run) as copy:
            wait_for(lambda: generations(store) == [0])
            (store / "owner.json").write_text('{"host": "elsewhere", "pid": 7, "token": "x"}')
            if seen_by == "the copying thread":
                write_generation(run, 1, "one")
                copy._thread.join(20)
    assert generations(store) == [0]


def test_a_store_that_never_answers_does_not_keep_a_stopped_run(tmp_path, monkeypatch, caplog):
    s3fs = pytest.importorskip("s3fs")
    from tests.s3_server import S3

    monkeypatch.setattr(remote_copy, "LAST_ATTEMPTS", 1.0)
    server = S3(tmp_path / "s3")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    run = write_run(tmp_path / "run", range(1))
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
            with RemoteCopy(RemoteStore("s3://bucket/run"), run) as copy:
                wait_for(lambda: "generations/0000/DONE" in server.names("run"))
                server.pause()
                write_generation(run, 1, "one")
                time.sleep(1)
                started = time.monotonic()
                raise KeyboardInterrupt
        assert time.monotonic() - started < 5
        assert "lacks the last generations" in caplog.text
        server.resume()
        copy._thread.join(60)
    finally:
        server.kill()
        s3fs.S3FileSystem.clear_instance_cache()


def test_interrupting_the_wait_at_the_end_says_what_the_store_lacks(store, tmp_path, caplog, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    run = write_run(tmp_path / "run", range(1))
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with RemoteCopy(RemoteStore(f"file://{store}"), run):
            wait_for(lambda: generations(store) == [0])
            shutil.rmtree(store)
            store.write_text("a file, which no folder can replace")
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert "lacks the last generations" in caplog.text
    wait_for(lambda: "remote copy" not in [thread.name for thread in threading.enumerate()])


def test_a_store_never_shows_half_a_file(store, tmp_path):
    """A reader sees the old file or the new one, even while a larger one replaces it."""
    (tmp_path / "run").mkdir()
    sizes, ended = set(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            if (store / "metrics.jsonl").exists():
                sizes.add((store / "metrics.jsonl").stat().st_size)

    thread = threading.Thread(target=look)
    thread.start()
    for size in (20_000_000, 30_000_000):
        (tmp_path / "run/metrics.jsonl").write_bytes(b"x" * size)
        RemoteStore(f"file://{store}").put(tmp_path / "run", ["metrics.jsonl"])
    ended.set()
    thread.join()
    assert sizes <= {20_000_000, 30_000_000}
    assert list(RemoteStore(f"file://{store}").list()) == ["metrics.jsonl"]


def test_files_that_vanish_while_they_are_copied_leave_nothing_half_done(store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/selected.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        RemoteStore(f"file://{store}").put(tmp_path / "run", ["selected.json", "report.html"])
    assert not list(store.rglob("*.part"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://host/run", "sftp is no store that a run can be copied to; must be s3://"),
        ("ftp://host/run", "ftp is no store"),
        ("smb://host/share/run", "smb is no store"),
        ("nosuch://x/y", "nosuch is no store"),
        ("s3://me:pa/ss@bucket/run", "leave the password out"),
    ],
)
def test_stores_that_cannot_be_used_are_refused(url, said):
    with pytest.raises(UserError) as refused:
        RemoteStore(url)
    assert said in str(refused.value)
    assert "pa/ss" not in str(refused.value)
