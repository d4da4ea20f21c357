"""Completions that are written only so often, or compressed, and a member that is asked again."""

import gzip
import json

import pytest

from es_ray.runs import generation_folder
from es_ray.runs.run_dir import RunDir
from tests.short_runs import GENERATIONS, SETTINGS, evolved, in_process, json_lines

FOLDER = "generations/{:04d}"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """The run that most tests share, with completions of every third generation."""
    run = tmp_path_factory.mktemp("sparse") / "run"
    in_process("run", "--local", *SETTINGS, "--set", "output.populations_every=3", "--output", run)
    return run


def test_rewards_and_metrics_are_always_there_and_completions_only_so_often(sparse, finished):
    for generation in range(GENERATIONS):
        folder = FOLDER.format(generation)
        lines, complete = (json_lines(run / folder / "population.jsonl") for run in (sparse, finished.path))
        assert all({"correct", "exact"} <= set(line) for line in lines)
        for line, wanted in zip(lines, complete, strict=True):
            asked = wanted["examples"]
            assert wanted["correct"] == pytest.approx(sum(e["correct"] for e in asked) / len(asked))
            kept = generation in (0, 3)
            assert ("examples" in line) is kept
            for key in ("worker", *([] if kept else ["examples"])):
                wanted.pop(key)
                line.pop(key, None)
            assert line == wanted


def test_it_resumes_to_the_same_bytes(sparse, tmp_path, cli):
    run = tmp_path / "run"
    options = (*SETTINGS, "--set", "output.populations_every=3")
    assert cli("run", "--local", *options, "--generations", 2, "--output", run).code == 0
    resumed = cli("run", "--local", "--resume", "--generations", GENERATIONS, "--output", run)
    assert resumed.code == 0, resumed.err
    assert evolved(run) == evolved(sparse)


@pytest.mark.parametrize("generation", [1, 3])
def test_a_member_answers_again_what_it_answered_in_the_run(sparse, finished, tmp_path, cli, generation):
    file = finished.path / FOLDER.format(generation) / "population.jsonl"
    recorded = json_lines(file)[4]
    arguments = ("--generation", generation, "--index", 4, "--output", tmp_path / "member", "--evaluate")
    ended = cli("member", sparse, *arguments, "--json")
    assert ended.code == 0, ended.err
    answers = json.loads(ended.out)["answers"]
    assert answers["examples"] == recorded["examples"]
    assert (answers["reward"], answers["correct"]) == (recorded["reward"], recorded["correct"])
    shown = cli("member", sparse, *arguments[:-3], "--output", tmp_path / "again", "--evaluate")
    assert recorded["examples"][0]["completion"][:10] in shown.out
    assert (tmp_path / "again" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--centre", "--evaluate"), ("--evaluate", "--index")),
        (("--index", 0, "--engine", "transformers"), ("--engine", "--evaluate")),
        (("--index", 0, "--evaluate", "--engine", "nothing"), ("nothing", "transformers")),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(sparse, tmp_path, cli, arguments, words):
    ended = cli("member", sparse, "--generation", 1, *arguments, "--output", tmp_path / "member")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert all(word in ended.err for word in words), ended.err
    assert not (tmp_path / "member").exists()


def test_large_populations_are_compressed_and_read_alike(sparse, tmp_path, monkeypatch, cli):
    monkeypatch.setattr(generation_folder, "COMPRESS_ABOVE", 1000)
    run = tmp_path / "run"
    in_process("run", "--local", *SETTINGS, "--set", "output.populations_every=3", "--output", run)
    plain, packed = (sorted(p.name for p in (r / FOLDER.format(0)).iterdir()) for r in (sparse, run))
    assert [name.removesuffix(".gz") for name in packed] == plain
    assert "population.jsonl.gz" in packed
    for generation in range(GENERATIONS):
        folders = [RunDir(r).generation_folder(generation) for r in (run, sparse)]
        ours, wanted = ([m | {"worker": ""} for m in folder.population()] for folder in folders)
        assert ours == wanted
        assert (folders[0].advantages() == folders[1].advantages()).all()
    first = run / FOLDER.format(0) / "population.jsonl.gz"
    content = gzip.decompress(first.read_bytes())
    assert gzip.compress(content, compresslevel=6, mtime=0) == first.read_bytes()
    (run / FOLDER.format(0) / "state.safetensors").unlink()
    rebuilt = cli("member", run, "--generation", 0, "--centre", "--output", tmp_path / "centre")
    assert rebuilt.code == 0, rebuilt.err
    first.write_bytes(first.read_bytes()[:-20])
    torn = cli("member", run, "--generation", 0, "--centre", "--output", tmp_path / "torn")
    assert torn.code == 1
    assert str(first) in torn.err
    assert len(torn.err.splitlines()) == 1
