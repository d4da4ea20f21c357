"""Reports on a model's files, for folders that real loaders accept or reject."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from es_ray.config import ModelConfig
from es_ray.doctor import model_files
from es_ray.doctor.model_files import model
from es_ray.models import ModelSource, files
from tests.short_runs import SETTINGS
from tests.small_models import edit_json, small_model


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


def cut(name: str, kept: int = 60):
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:kept])

    return damage


def lose_the_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


INCOMPLETE = {
    "no tokenizer": (lose_the_tokenizer, "no tokenizer"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    "torn config": (cut("config.json"), "config.json"),
    "empty config": (cut("config.json", 0), "config.json"),
    "torn tokenizer": (cut("tokenizer.json", 6000), "tokenizer.json"),
    "torn tokenizer's config": (cut("tokenizer_config.json"), "tokenizer_config.json"),
    "torn generation config": (cut("generation_config.json"), "generation_config.json"),
    "torn weights": (cut("model.safetensors", 9000), "model.safetensors"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors"),
}


@pytest.mark.parametrize("damage", INCOMPLETE)
def test_the_doctor_and_a_run_name_the_same_part_of_an_incomplete_folder(folder, tmp_path, cli, damage):
    spoil, culprit = INCOMPLETE[damage]
    spoil(folder)
    examined = cli("doctor", "--model", folder)
    assert examined.code == 1
    (line,) = [line for line in examined.out.splitlines() if line.startswith("error: ")]
    run = cli("run", "--local", *SETTINGS, "--model", folder, "--output", tmp_path / "run")
    assert run.code == 2
    assert len(run.err.splitlines()) == 1, run.err
    for text in (line, run.err):
        assert str(folder) in text
        assert culprit in text
        assert "copy the complete model folder again" in text
        assert ("chat template" in text) == (culprit == "no chat template")
    assert not (tmp_path / "run").exists()


def test_a_template_in_the_tokenizers_configuration_is_one(folder):
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    assert examined(folder)["problem"] is None
    assert ModelSource.of(ModelConfig(path=str(folder))).chat_ids([{"role": "user", "content": "Why?"}])


def test_both_know_the_same_vocabularies():
    assert model_files.VOCABULARIES == files.VOCABULARIES


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
