"""Runs whose folder is in Google Cloud Storage, of which an emulator stands in, in memory."""

import shutil
import socket
from collections.abc import Callable, Iterator
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from es_ray.runs.remote_store import RemoteStore, local_folder
from tests.short_runs import GENERATIONS, SETTINGS, evolved

gcsfs = pytest.importorskip("gcsfs", reason="the extra `gcs` is not installed")
emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
URL = "gs://bucket/runs/first"


@pytest.fixture
def stored(monkeypatch) -> Iterator[Callable[[str], bytes]]:
    """An empty bucket; the content of an object in it, asked for without gcsfs."""
    import fsspec.config

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "test"})
    gcsfs.GCSFileSystem.clear_instance_cache()

    def content(key: str) -> bytes:
        with urlopen(f"{address}/download/storage/v1/b/bucket/o/{quote(key, safe='')}?alt=media") as answer:
            return answer.read()

    with emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket"):
        yield content
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_files_are_put_listed_read_got_and_removed(stored, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    contents = {f"{n % 3}/{40 - n}": b"x" * n for n in range(40)}  # in groups, in no order of names
    contents["large"] = b"0123456789abcdef" * 400_000  # more than gcsfs sends in one request
    for name, content in contents.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    store = RemoteStore(URL)
    assert store.list() == {}
    store.put(here, list(contents))
    store.write("owner.json", b"{}")
    assert {name: stored(f"runs/first/{name}") for name in contents} == contents
    assert store.list() == {name: len(content) for name, content in contents.items()} | {"owner.json": 2}
    assert store.read("owner.json") == b"{}"
    assert store.read_each(["0/40", "none", "0/1"]) == {"0/40": b"", "0/1": contents["0/1"]}
    assert store.get([*contents, "none"], there) == ["none"]
    assert {name: (there / name).read_bytes() for name in contents} == contents
    store.remove([*(name for name in contents if name != "large"), "none"])
    assert set(store.list()) == {"large", "owner.json"}


def test_a_run_goes_on_from_there_to_the_same_bytes(stored, finished, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / local_folder(URL)
    ended = cli("run", "--local", *SETTINGS, "--generations", 2, "--output", URL)
    assert ended.code == 0, ended.err
    shutil.rmtree(run)
    ended = cli("run", "--resume", "--output", URL, "--generations", GENERATIONS)
    assert ended.code == 0, ended.err
    assert evolved(run) == evolved(finished.path)
    for name in set(RemoteStore(URL).list()) - {"owner.json"}:
        assert stored(f"runs/first/{name}") == (run / name).read_bytes(), name
    kept = {file.relative_to(run).as_posix() for file in (run / "generations").rglob("*") if file.is_file()}
    assert kept <= set(RemoteStore(URL).list())
