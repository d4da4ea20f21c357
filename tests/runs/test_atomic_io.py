"""Files get their names whole, also across mounts."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from es_ray.runs.atomic_io import replace_file, write_text
from es_ray.runs.remote_copy import RemoteCopy
from es_ray.runs.remote_fetch import fetch
from es_ray.runs.remote_store import RemoteStore
from tests.hand_made_runs import files, maker, write_run


@pytest.fixture
def mounted(tmp_path, monkeypatch) -> Path:
    """A folder on a mount of its own: nothing can be renamed into it."""
    folder, replace = tmp_path / "mounted", os.replace
    folder.mkdir()

    def over_mounts(source, target, **options):
        source_is_there, target_is_there = (
            Path(path).parent.resolve().is_relative_to(folder) for path in (source, target)
        )
        if source_is_there != target_is_there:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", over_mounts)
    return folder


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_nothing_and_the_old_one(step, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, step, full)
    monkeypatch.setattr(Path, "replace", lambda source, target: os.replace(source, target))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_replaces_one_on_another_mount(mounted, tmp_path):
    (tmp_path / "new").write_text("new")
    (mounted / "file").write_text("old")
    replace_file(tmp_path / "new", mounted / "file")
    assert (mounted / "file").read_text() == "new"
    assert not (tmp_path / "new").exists()
    assert [path.name for path in mounted.iterdir()] == ["file"]


def test_a_copy_that_fails_leaves_the_old_file_and_nothing_else(mounted, tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    (mounted / "file").write_text("old")

    def full(source, target):
        Path(target).write_text("n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "new", mounted / "file")
    assert (mounted / "file").read_text() == "old"
    assert [path.name for path in mounted.iterdir()] == ["file"]


def test_other_errors_are_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none", tmp_path / "file")


def test_a_run_goes_to_a_store_on_another_mount_and_comes_back(mounted, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", range(3))
    url = f"file://{mounted}/store"
    with RemoteCopy(RemoteStore(url), run):
        pass
    assert files(mounted / "store") == files(run)
    monkeypatch.chdir(tmp_path)
    assert files(fetch(url)) == files(run)


def test_a_run_is_fetched_into_a_folder_that_has_a_mount_in_it(tmp_path, monkeypatch, mounted):
    run = write_run(tmp_path / "run", range(3))
    url = f"file://{tmp_path}/store"
    with RemoteCopy(RemoteStore(url), run):
        pass
    monkeypatch.chdir(tmp_path)
    at = fetch(url)
    for generation in (1, 2):
        shutil.rmtree(at / f"generations/{generation:04d}")
    (at / "generations").rename(mounted / "generations")
    (at / "generations").symlink_to(mounted / "generations")
    fetch(url)
    assert [maker(at, generation) for generation in range(3)] == ["one"] * 3
    assert not [path for path in mounted.rglob(".*")]
