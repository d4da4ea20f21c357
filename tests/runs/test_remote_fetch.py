"""Bringing a run from a store into a folder that may have some of it: small folders, a store that is one."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from es_ray.config import load
from es_ray.errors import UserError
from es_ray.runs.lock import RunLock
from es_ray.runs.remote_copy import RemoteCopy
from es_ray.runs.remote_fetch import fetch, plan, with_local_folder
from es_ray.runs.remote_store import RemoteStore, local_folder
from tests.hand_made_runs import files, generations, maker, write_run


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def url(store: Path) -> str:
    return f"file://{store}"


def copied(store: Path, run: Path) -> None:
    with RemoteCopy(RemoteStore(url(store)), run):
        pass


def here(store: Path) -> Path:
    return local_folder(url(store))


def test_a_run_is_fetched_as_it_is(store, tmp_path):
    run = write_run(tmp_path / "run", range(3), test_results="{}")
    copied(store, run)
    assert files(fetch(url(store))) == files(run)
    assert not list(here(store).glob(".fetched"))


def test_commands_that_look_leave_a_live_run_alone(store, tmp_path, cli):
    live = write_run(here(store), range(3))
    copied(store, live)
    (live / "metrics.jsonl").write_text((live / "metrics.jsonl").read_text() + '{"generation": 3')
    before, inode = files(live), (live / "metrics.jsonl").stat().st_ino
    lock = RunLock(live)
    try:
        assert fetch(url(store)) == live
        assert (files(live), (live / "metrics.jsonl").stat().st_ino) == (before, inode)
        for more in ([], ["--dry-run"]):
            ended = cli("run", "--resume", "--output", url(store), *more)
            assert ended.code == 2 and "is in use by another run: pid" in ended.err
            assert files(live) == before
    finally:
        lock.release()


def test_two_commands_fetch_one_after_the_other(store, tmp_path):
    run = write_run(tmp_path / "run", range(40))
    copied(store, run)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(url(store)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [here(store)] * 4
    # not before: while others fetch, the folder has their parts
    assert files(here(store)) == files(run)


def test_on_the_first_machine_again_generations_are_those_of_the_second(store, tmp_path):
    """It made generation 2 and was lost before copying it; the second one made it again, and more."""
    first = write_run(here(store), range(2))
    copied(store, first)
    second = shutil.copytree(first, tmp_path / "second")
    (second / ".remote").unlink()
    write_run(first, range(2, 3), "one")
    (first / "generations/0002/adapter/extra").write_text("of the first")
    write_run(second, range(2, 5), "two")
    copied(store, second)
    fetch(url(store), resume=True)
    assert [maker(first, generation) for generation in range(5)] == ["one", "one", "two", "two", "two"]
    assert files(first) == files(second)


def test_what_is_ahead_here_stays(store, tmp_path):
    first = write_run(here(store), range(2))
    copied(store, first)
    second = shutil.copytree(first, tmp_path / "second")
    write_run(second, range(2, 3), "two")
    copied(store, second)
    write_run(first, range(2, 5), "one", test_results='{"of": "the first"}')
    before = files(first)
    fetch(url(store), resume=True)
    assert files(first) == before
    copied(store, first)
    assert files(store) == before


def test_results_that_the_store_dropped_are_dropped_here(store, tmp_path):
    first = write_run(here(store), range(2), test_results='{"after": 1}', selected="{}")
    (first / "notes.txt").write_text("mine")
    second = write_run(tmp_path / "second", range(4))
    copied(store, second)
    fetch(url(store))
    assert not (first / "test_results.json").exists() and not (first / "selected.json").exists()
    assert (first / "notes.txt").read_text() == "mine"
    (first / "test_results.json").write_text('{"after": 3}')  # which was not copied before the driver died
    fetch(url(store))
    assert (first / "test_results.json").read_text() == '{"after": 3}'


def test_what_is_fetched_follows_whoever_has_more_generations(tmp_path):
    there = {
        "config.yaml": 2,
        "metrics.jsonl": 4,
        "owner.json": 1,
        "selected.json": 2,
        "generations/0000/DONE": 1,
        "generations/0001/state.json": 1,
    }
    others = ["config.yaml", "metrics.jsonl", "selected.json"]
    assert plan(there, tmp_path, set()).wanted == [*others, "generations/0000/DONE"]
    write_run(tmp_path, range(1))
    assert plan(there, tmp_path, set()).wanted == others
    again = plan(there, tmp_path, {"generations/0000"})
    assert (again.wanted, again.replaced) == ([*others, "generations/0000/DONE"], ["generations/0000"])
    write_run(tmp_path, range(1, 2))
    assert plan(there, tmp_path, {"generations/0000"}).wanted == []


def resumed(output: object):
    return with_local_folder(load(sets=[f"output.dir={output}"]), resume=True)


def test_a_local_folder_that_is_behind_its_copy_is_not_resumed(store, tmp_path, cli):
    run = write_run(tmp_path / "run", range(4))
    old = shutil.copytree(run, tmp_path / "old")
    shutil.rmtree(old / "generations/0003")
    copied(store, run)
    (old / ".remote").write_text(f"{url(store)}\n")
    before = files(store)
    with pytest.raises(UserError, match=f"up to generation 3, which .*old lacks; .*--output {url(store)}"):
        resumed(old)
    with pytest.raises(UserError, match="which .*old lacks"):  # noqa: SIM117
        with RemoteCopy(RemoteStore(url(store)), old):
            raise AssertionError("entered")
    assert files(store) == before
    _, found = resumed(run)
    assert found is not None and found.url == url(store)
    (run / "environment.json").write_text(json.dumps({"date": "2026-01-02", "host": "first"}))
    with pytest.raises(UserError, match="holds another run than"):
        resumed(run)


def test_a_url_where_only_an_owner_is_can_be_used(store, tmp_path):
    """It is left behind by a start that failed, before there was anything to copy."""
    with pytest.raises(ValueError, match="the engine"):  # noqa: SIM117
        with RemoteCopy(RemoteStore(url(store)), here(store)):
            raise ValueError("the engine did not start")
    assert [file.name for file in store.iterdir()] == ["owner.json"]
    config, found = with_local_folder(load(sets=[f"output.dir={url(store)}"]), resume=False)
    assert config.output.dir == str(here(store)) and found is not None
    (store / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        with_local_folder(load(sets=[f"output.dir={url(store)}"]), resume=False)


def test_a_run_that_is_pruned_meanwhile_is_fetched_without_what_was_dropped(store, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", range(40))
    copied(store, run)
    get = RemoteStore.get

    def pruned_first(self, names, folder):
        """The store's driver prunes after it was listed."""
        for generation in range(30):
            shutil.rmtree(store / f"generations/{generation:04d}/adapter")
        return get(self, names, folder)

    monkeypatch.setattr(RemoteStore, "get", pruned_first)
    fetched = fetch(url(store))
    assert files(fetched) == files(store)
    assert len(generations(fetched)) == 40 and len(list(fetched.glob("generations/*/adapter"))) == 10


def test_other_files_that_vanish_are_an_error(store, tmp_path, monkeypatch):
    copied(store, write_run(tmp_path / "run", range(3)))
    get = RemoteStore.get

    def lost_first(self, names, folder):
        (store / "generations/0001/population.jsonl").unlink()
        return get(self, names, folder)

    monkeypatch.setattr(RemoteStore, "get", lost_first)
    with pytest.raises(UserError, match="generations/0001/population.jsonl was removed meanwhile"):
        fetch(url(store))
    assert not generations(here(store))
