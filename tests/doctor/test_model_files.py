"""Reports on a model's files, for folders that real loaders accept or reject."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from es_ray.doctor.model_files import model
from tests.small_models import small_model


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def folder(complete, tmp_path) -> Path:
    """A copy of a model, to be damaged."""
    return Path(shutil.copytree(complete, tmp_path / "copy"))


def examined(folder: Path) -> dict:
    return model("folder", str(folder), None)


def test_a_complete_model_has_no_problem(folder):
    report = examined(folder)
    assert (report["found"], report["problem"]) == ("folder", None)
    assert report["size"] == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("kept", [0, 5, 100, 3000, -1])
def test_weights_that_are_cut_short_are_reported_when_the_library_rejects_them(folder, kept):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    with pytest.raises(SafetensorError):
        load_file(file)
    report = examined(folder)
    assert report["found"] == "folder"
    assert "model.safetensors is cut short" in report["problem"]
    if kept == -1:
        assert f"{len(content) - 1} bytes instead of {len(content)}" in report["problem"]


def test_weights_with_more_bytes_than_they_should_have_are_damaged(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(SafetensorError):
        load_file(file)
    assert "model.safetensors is damaged" in examined(folder)["problem"]


@pytest.mark.parametrize(
    "text",
    ["version https://git-lfs.github.com/spec/v1\n", "\x02" + "\0" * 7 + "[]", "\x04" + "\0" * 7 + '{"a"'],
)
def test_a_file_that_only_has_the_name_is_reported(folder, text):
    (folder / "model.safetensors").write_text(text)
    assert "no safetensors file" in examined(folder)["problem"]


def test_a_model_without_a_tokenizer_cannot_be_used(folder):
    (folder / "tokenizer.json").unlink()
    report = examined(folder)
    assert report["found"] is None
    assert "no tokenizer" in report["problem"]
    (folder / "vocab.json").write_text("{}")
    assert examined(folder)["problem"] is None


def split(folder: Path, *names: str) -> None:
    """Have an index say that the weights lie in these files."""
    index = {"metadata": {}, "weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_parts_must_all_be_present_and_complete(folder):
    first = folder / "model-00001-of-00002.safetensors"
    second = folder / "model-00002-of-00002.safetensors"
    shutil.move(folder / "model.safetensors", first)
    split(folder, first.name, second.name)
    assert examined(folder)["problem"] == f"{second.name} is missing"
    second.write_bytes(first.read_bytes()[:-4])
    assert f"{second.name} is cut short" in examined(folder)["problem"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    assert "index.json cannot be read" in examined(folder)["problem"]


def test_a_file_that_is_cut_short_in_the_hubs_cache_is_not_expected_from_the_hub(
    complete, tmp_path, monkeypatch
):
    """The hub's client assumes that a file which exists is complete."""
    repository = tmp_path / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    cached = Path(shutil.copytree(complete, repository / "snapshots" / ("0" * 40)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    report = model("hub", "someone/small", None)
    assert (report["found"], report["problem"]) == ("cache", None)
    file = cached / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    report = model("hub", "someone/small", None)
    assert report["found"] == "cache"
    assert "cut short" in report["problem"]
