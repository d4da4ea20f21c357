"""Runs of an engine whose noise sums have other bits than NumPy's: states stay, what is rebuilt says so."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.short_runs import evolved, in_process, json_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "table_engine.py"
GENERATIONS = 6
ENGINE = f"""
from dataclasses import replace
import numpy as np
from es_ray.imports import resolve

TableEngine, ANSWERS, TABLE = (
    resolve("engine.kind", f"{EXAMPLE}:{{name}}", {{}}) for name in ("TableEngine", "ANSWERS", "SPEC")
)

class Device(TableEngine):
    def noise_sum(self, *arguments):
        return super().noise_sum(*arguments) * np.float32(1 + 1e-6)

EXACT = TABLE
ROUNDED = replace(TABLE, load=lambda experiment: Device(experiment, ANSWERS), exact_replay=False)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("engine") / "device.py"
    file.write_text(ENGINE)
    return file


@pytest.fixture(scope="module")
def runs(engine, tmp_path_factory) -> dict[str, Path]:
    """One of each engine with output.keep=1, and one of the engine that rounds with everything kept."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, more in (("EXACT", 1), ("ROUNDED", 1), ("complete", None)):
        kind = f"{engine}:{'ROUNDED' if name == 'complete' else name}"
        keep = () if more is None else ("--set", f"output.keep={more}")
        found[name] = folder / name
        in_process("run", "--local", "--task", "conciseness", "--engine", kind, "--population", 6,
                   "--generations", GENERATIONS, "--seed", 5, *keep, "--output", found[name])  # fmt: skip
    return found


def there(run: Path, name: str) -> set[int]:
    return {g for g in range(GENERATIONS) if (run / f"generations/{g:04d}/{name}").exists()}


def best_generation(run: Path) -> int:
    lines = json_lines(run / "metrics.jsonl")
    return max(range(len(lines)), key=lambda g: (lines[g]["reward_best"], -g))


@pytest.mark.parametrize("name", ["EXACT", "ROUNDED"])
def test_states_are_dropped_only_where_their_bytes_can_be_made_again(runs, name):
    run = runs[name]
    best, last = best_generation(run), GENERATIONS - 1
    selected = json.loads((run / "selected.json").read_text())["generation"]
    assert there(run, "adapter") == there(run, "best") == {best, last, selected} & set(range(GENERATIONS))
    some = {g for g in (best - 1, best, selected, last - 1, last) if g >= 0}
    assert len(some) < GENERATIONS
    assert there(run, "state.safetensors") == (some if name == "EXACT" else set(range(GENERATIONS)))


def test_pruning_changes_nothing_of_what_stays(runs):
    left, complete = evolved(runs["ROUNDED"]), evolved(runs["complete"])
    assert left == {name: complete[name] for name in left}


@pytest.fixture
def rebuild(tmp_path, cli, monkeypatch):
    """`rebuild(run, *which)`: the command, and the adapter's folder."""
    logger = logging.getLogger("es_ray")
    # as in a new process: earlier runs in this one had their console
    monkeypatch.setattr(logger, "handlers", [logging.lastResort])
    monkeypatch.setattr(logger, "propagate", False)

    def call(run: Path, *which: object):
        output = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}"
        ended = cli("member", run, *which, "--output", output)
        assert ended.code == 0, ended.err
        return ended, output

    return call


def test_centres_have_the_recorded_bytes_and_members_say_that_numpy_made_them(runs, rebuild):
    ended, output = rebuild(runs["ROUNDED"], "--generation", 1, "--centre")
    recorded = runs["complete"] / "generations/0001/adapter/adapter_model.safetensors"
    assert (output / "adapter_model.safetensors").read_bytes() == recorded.read_bytes()
    assert (ended.err, "NumPy" in ended.out) == ("", False)
    assert "NumPy" not in (output / "README.md").read_text(encoding="utf-8")
    ended, output = rebuild(runs["ROUNDED"], "--generation", 2, "--index", 1)
    note = "computed by NumPy, whose noise is within 1e-5 of that of ROUNDED"
    assert len(ended.out.splitlines()) == 1
    assert ended.out.endswith(f"; {note}\n")
    assert f"recorded advantages; {note}.\n" in (output / "README.md").read_text(encoding="utf-8")
    assert ended.err == ""


def test_the_best_member_is_rebuilt_to_the_byte(runs, rebuild):
    best = best_generation(runs["complete"])
    index = json_lines(runs["complete"] / "metrics.jsonl")[best]["best_index"]
    _, output = rebuild(runs["ROUNDED"], "--generation", best, "--index", index)
    recorded = runs["complete"] / f"generations/{best:04d}/best/adapter_model.safetensors"
    assert (output / "adapter_model.safetensors").read_bytes() == recorded.read_bytes()


@pytest.fixture
def pruned(runs, tmp_path) -> Path:
    """The run that rounds, as version 0.1.0 would have pruned it."""
    run = Path(shutil.copytree(runs["ROUNDED"], tmp_path / "pruned"))
    for generation in range(GENERATIONS - 2):
        (run / f"generations/{generation:04d}/state.safetensors").unlink()
    return run


def assert_one_warning(err: str, run: Path) -> None:
    (line,) = err.splitlines()
    assert line.startswith(f"{run}: states that were pruned are computed again by NumPy")
    assert "close to the recorded one, not equal to the byte" in line


def test_a_replay_of_such_updates_is_close_and_says_so(pruned, runs, rebuild):
    ended, output = rebuild(pruned, "--generation", 2, "--centre")
    assert_one_warning(ended.err, pruned)
    recorded = load_file(runs["complete"] / "generations/0002/adapter/adapter_model.safetensors")
    found = load_file(output / "adapter_model.safetensors")
    assert any(found[name].tobytes() != recorded[name].tobytes() for name in recorded)
    for name, tensor in recorded.items():
        assert np.allclose(found[name], tensor, rtol=0, atol=1e-5)
    for text in (ended.out, (output / "README.md").read_text(encoding="utf-8")):
        assert "; it had been pruned, and is close to the recorded one, not equal" in text
    ended, output = rebuild(pruned, "--generation", 2, "--index", 0, "--json")
    assert ended.err == ""  # the note is in the output
    written = json.loads(ended.out)
    assert written["note"].startswith(
        "computed by NumPy, whose noise is within 1e-5 of that of ROUNDED; the "
    )
    assert written["note"].endswith(
        "centre before it had been pruned, and is close to the recorded one, not equal"
    )
    ended, _ = rebuild(pruned, "--generation", GENERATIONS - 1, "--centre", "--json")
    assert ended.err == ""
    assert set(json.loads(ended.out)) == {"adapter", "generation", "index", "base"}


def test_evaluate_warns_once_and_not_into_its_json(drivers, pruned):
    done = drivers("evaluate", pruned, "--generation", 3, "--json")
    assert done.code == 0, done.err
    assert_one_warning(done.err, pruned)
    assert list(json.loads(done.out))[:4] == ["base", "centre", "best", "selected"]


def test_an_exact_engines_replay_says_nothing(runs, rebuild):
    dropped = min(set(range(GENERATIONS)) - there(runs["EXACT"], "state.safetensors"))
    for which in (("--centre",), ("--index", 0)):
        ended, output = rebuild(runs["EXACT"], "--generation", dropped, *which)
        assert ended.err == ""
        assert "NumPy" not in ended.out + (output / "README.md").read_text(encoding="utf-8")


def test_members_are_rebuilt_where_the_engines_file_is_not(runs, rebuild, tmp_path):
    run = Path(shutil.copytree(runs["ROUNDED"], tmp_path / "elsewhere"))
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("device.py:", "no-such-device.py:"))
    ended, _ = rebuild(run, "--generation", 1, "--index", 0)
    assert "computed by NumPy" in ended.out
