"""Resuming: what is complete is kept, what is torn is redone, what was edited is detected."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.runs.generation_folder import DROPPABLE
from es_ray.runs.run_dir import RunDir
from tests.short_runs import GENERATIONS, SETTINGS, evolved, json_lines
from tests.small_models import small_model

LAST = f"generations/{GENERATIONS - 1:04d}"


def lose_the_mark(run: Path) -> None:
    (run / LAST / "DONE").unlink()


def die_between_the_line_and_the_name(run: Path) -> None:
    """metrics.jsonl has the line already, the folder still has its temporary name."""
    (run / LAST).rename(run / f"generations/.{GENERATIONS - 1:04d}")
    (run / f"generations/.{GENERATIONS - 1:04d}" / "DONE").unlink()


def tear_the_last_line(run: Path) -> None:
    shutil.rmtree(run / LAST)
    file = run / "metrics.jsonl"
    file.write_text(file.read_text()[:-40])


def lose_two_generations(run: Path) -> None:
    shutil.rmtree(run / LAST)
    (run / f"generations/{GENERATIONS - 2:04d}" / "DONE").unlink()


def lose_the_results(run: Path) -> None:
    (run / "test_results.json").unlink()


def leave_nothing_but_the_configuration(run: Path) -> None:
    shutil.rmtree(run / "generations")
    for name in ("metrics.jsonl", "test_results.json"):
        (run / name).unlink()
    (run / "generations").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lose_the_mark,
        die_between_the_line_and_the_name,
        tear_the_last_line,
        lose_two_generations,
        lose_the_results,
        leave_nothing_but_the_configuration,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_torn_run_is_resumed_to_equal_bytes(finished, copied, cli, damage):
    damage(copied)
    ended = cli("run", "--resume", "--output", copied)
    assert ended.code == 0, ended.err
    assert evolved(copied) == evolved(finished.path)
    assert not [p for p in copied.rglob(".*")], "temporary files were left behind"


def test_a_run_can_be_extended_to_the_bytes_of_a_longer_one(finished, tmp_path, cli):
    run = tmp_path / "run"
    assert cli("run", "--local", *SETTINGS, "--generations", 2, "--output", run).code == 0
    assert len(json_lines(run / "metrics.jsonl")) == 2
    ended = cli("run", "--resume", "--output", run, "--generations", GENERATIONS)
    assert ended.code == 0, ended.err
    assert evolved(run) == evolved(finished.path)
    # and the run directory's own config has the new total
    assert cli("run", "--resume", "--config", run / "config.yaml").code == 0
    assert evolved(run) == evolved(finished.path)


def test_a_resumed_run_may_change_where_it_runs_and_what_it_keeps(finished, copied, cli):
    lose_the_mark(copied)
    ended = cli("run", "--resume", "--output", copied, "--set", "output.plots_every=50",
                "--set", "cluster.wait_timeout=5")  # fmt: skip
    assert ended.code == 0, ended.err
    assert evolved(copied) == evolved(finished.path)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--seed", "77"), "evolution.seed"),
        (("--set", "evolution.learning_rate=0.01"), "evolution.learning_rate"),
        (("--set", "task.max_new_tokens=41"), "task.max_new_tokens"),
        (("--set", "lora.layers=0-2"), "lora.layers"),
    ],
)
def test_any_other_change_is_refused_by_its_key_and_changes_nothing(finished, copied, cli, options, key):
    lose_the_mark(copied)
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    ended = cli("run", "--resume", "--output", copied, *options)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert key in ended.err
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


def flip_a_bit_of_the_state(run: Path) -> Path:
    file = run / LAST / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file


def cut_the_state(run: Path) -> Path:
    file = run / LAST / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return file


def tear_the_states_description(run: Path) -> Path:
    file = run / LAST / "state.json"
    file.write_text(file.read_text()[:50])
    return file


def empty_the_states_description(run: Path) -> Path:
    file = run / LAST / "state.json"
    file.write_text("{}")
    return file


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit_of_the_state, cut_the_state, tear_the_states_description, empty_the_states_description],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_state_is_found(copied, tmp_path, cli, damage):
    """Resuming from an earlier generation: tests/faults/test_damage.py."""
    file = damage(copied)
    ended = cli("member", copied, "--generation", GENERATIONS - 1, "--centre", "--output", tmp_path / "m")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert str(file) in ended.err
    assert "internal error" not in ended.err
    assert not (tmp_path / "m").exists()


def test_a_run_is_not_resumed_on_other_weights(tmp_path, cli):
    from safetensors.numpy import load_file, save_file

    model, run = small_model(tmp_path / "model"), tmp_path / "run"
    options = ("--population", 2, "--set", "task.max_new_tokens=4")
    ended = cli("run", "--local", "--model", model, *options, "--generations", 1, "--output", run)
    assert ended.code == 0, ended.err
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.01
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    ended = cli("run", "--resume", "--output", run, "--generations", 2)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "weights" in ended.err
    assert len(json_lines(run / "metrics.jsonl")) == 1


def test_checksums_can_be_checked_without_es_ray(finished):
    for folder in (finished.path / "generations").iterdir():
        done = subprocess.run(
            ["sha256sum", "--check", "--strict", "DONE"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == files - {"DONE"}


def without_a_key(line: str) -> str:
    return json.dumps({key: value for key, value in json.loads(line).items() if key != "reward_best"})


METRICS = {
    "no file": lambda lines: None,
    "empty": lambda lines: "",
    "half a line": lambda lines: lines[0][:100],
    "half of the last": lambda lines: "\n".join([*lines[:-1], lines[-1][:100]]),
    "a key missing": lambda lines: "\n".join(map(without_a_key, lines)),
    "other JSON": lambda lines: "\n".join("[1]" for _ in lines),
    "another order": lambda lines: "\n".join(reversed(lines)),
}


@pytest.mark.parametrize("damage", METRICS)
def test_a_damaged_metrics_file_is_named_by_all_who_read_it(copied, cli, damage):
    file = copied / "metrics.jsonl"
    text = METRICS[damage](file.read_text().splitlines())
    file.unlink() if text is None else file.write_text(text)
    commands = [("plot", copied), ("evaluate", copied), ("evaluate", copied, "--json")]
    if damage != "half of the last":  # that is evaluated again: test_a_torn_run_is_resumed_to_equal_bytes
        commands.append(("run", "--resume", "--output", copied))
    for command in commands:
        ended = cli(*command)
        assert ended.code == 1, command
        assert len(ended.err.splitlines()) == 1, ended.err
        assert ended.err.startswith(f"es-ray: {file}")
        assert "internal error" not in ended.err


@pytest.mark.parametrize("text", ["", "[]", '{"host": ', '{"resumed": 5}'])
def test_a_damaged_environment_is_no_reason_to_refuse_the_run(finished, copied, cli, text):
    lose_the_mark(copied)
    (copied / "environment.json").write_text(text)
    ended = cli("run", "--resume", "--output", copied)
    assert ended.code == 0, ended.err
    (warning,) = [line for line in ended.out.splitlines() if line.startswith("warning: ")]
    assert f"{copied}/environment.json: torn or edited" in warning
    record = json.loads((copied / "environment.json").read_text())
    assert record["host"] == record["resumed"][0]["host"]
    assert record["resumed"][0]["from_generation"] == GENERATIONS - 1
    assert evolved(copied) == evolved(finished.path)


def test_half_a_line_of_a_generation_that_was_never_finished_is_no_reason_either(finished, copied, cli):
    leave_nothing_but_the_configuration(copied)
    (copied / "metrics.jsonl").write_text('{"generation": 0, "rew')
    ended = cli("run", "--resume", "--output", copied)
    assert ended.code == 0, ended.err
    assert evolved(copied) == evolved(finished.path)


def test_metrics_that_do_not_fit_the_generations_are_found(copied, cli):
    lose_the_mark(copied)
    file = copied / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    ended = cli("run", "--resume", "--output", copied)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "metrics.jsonl" in ended.err
    assert "internal error" not in ended.err


@pytest.mark.parametrize(
    "torn",
    [
        lambda lines: ["{}", *lines[1:]],
        lambda lines: [lines[0][:30], *lines[1:]],
        lambda lines: lines[:-1],
        lambda lines: [*lines[1:], lines[0]],
        lambda lines: [],
    ],
    ids=["no advantage", "torn line", "a line missing", "another order", "empty"],
)
def test_a_torn_population_is_found_where_it_is_needed(copied, tmp_path, cli, torn):
    """Without the state of generation 0, the centre is replayed from the recorded advantages."""
    (copied / "generations/0000/state.safetensors").unlink()
    file = copied / "generations/0000/population.jsonl"
    file.write_text("".join(f"{line}\n" for line in torn(file.read_text().splitlines())))
    ended = cli("member", copied, "--generation", 0, "--centre", "--output", tmp_path / "m")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert str(file) in ended.err
    assert "internal error" not in ended.err
    assert not (tmp_path / "m").exists()


def test_an_occupied_folder_is_left_alone(tmp_path, cli):
    (tmp_path / "notes.txt").write_text("mine")
    ended = cli("run", "--local", "--output", tmp_path)
    assert ended.code == 2
    assert str(tmp_path) in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_of_two_runs_that_found_a_folder_empty_the_second_is_refused(tmp_path):
    first, second = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    first.create(Config(), {"host": "first"})
    first.release()
    before = {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="taken by another run"):
        second.create(Config(), {"host": "second"})
    second.release()
    assert {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()} == before


DONES = {
    "empty": lambda text: "",
    "no sums": lambda text: "sums\n",
    "without the population": lambda text: "".join(
        line for line in text.splitlines(keepends=True) if "population" not in line
    ),
    "without the line of metrics.jsonl": lambda text: text[: text.rindex("\n", 0, -1) + 1],
}


@pytest.mark.parametrize("damage", DONES)
def test_a_damaged_list_of_checksums_is_named(copied, cli, damage):
    file = copied / LAST / "DONE"
    file.write_text(DONES[damage](file.read_text()))
    ended = cli("member", copied, "--generation", GENERATIONS - 1, "--index", 0,
                "--output", copied / "member")  # fmt: skip
    assert ended.code == 1
    assert f"{file}: torn or edited" in ended.err and len(ended.err.strip().splitlines()) == 1
    assert not (copied / "member").exists()


def test_an_empty_folder_may_be_given(tmp_path, cli):
    (tmp_path / "run").mkdir()
    ended = cli("run", "--local", *SETTINGS, "--generations", 1, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())


def many_generations(run: Path, template: Path, last: int) -> None:
    """A run of so many generations, whose files and lines are those of generation 1."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:2]]
    for folder in sorted((run / "generations").iterdir())[2:]:
        shutil.rmtree(folder)
    for generation in range(2, last + 1):
        pruned = () if generation > last - 2 else DROPPABLE
        folder = run / f"generations/{generation:04d}"
        shutil.copytree(template, folder, ignore=lambda _, names, pruned=pruned: set(names) & set(pruned))
        lines.append({**lines[1], "generation": generation})
        digest = hashlib.sha256(json.dumps(lines[-1], ensure_ascii=False).encode()).hexdigest()
        listed = (folder / "DONE").read_text().splitlines()[:-1]
        listed.append(f"# {digest}  its line in ../../metrics.jsonl\n")
        (folder / "DONE").write_text("\n".join(listed))
    (run / "metrics.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines))


def test_resuming_a_long_run_opens_one_small_file_of_each_past_generation(copied, tmp_path):
    """And lists the folders a few times, not once for each question."""
    many_generations(copied, copied / "generations/0001", 150)
    script = f"""
import collections, os, sys
counts = collections.Counter()
def listener(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and "generations/0" in str(arguments[0]):
        counts[event, os.path.basename(str(arguments[0])) if event == "open" else ""] += 1
import es_ray.driver
def step(*arguments):
    print(dict(counts), file=sys.stderr)
    os._exit(0)
es_ray.driver.step = step
sys.addaudithook(listener)
sys.argv = ["es-ray", "run", "--resume", "--output", {str(copied)!r}, "--generations", "152"]
from es_ray.cli.main import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    counts = ast.literal_eval(ended.stderr.splitlines()[-1])
    opened = {name: count for (event, name), count in counts.items() if event == "open"}
    assert 150 <= opened.pop("DONE") < 170
    assert sum(opened.values()) < 30, opened
    assert counts.get(("os.listdir", ""), 0) + counts.get(("os.scandir", ""), 0) < 170


def test_the_last_generation_is_the_last_one_that_is_whole(copied):
    run = RunDir(copied)
    for name in (".0009", "0007", "notes", "0011.old"):  # being written; killed; somebody's
        (copied / "generations" / name).mkdir()
    assert run.complete_generations() == [0, 1, 2, 3]
    assert run.last_complete() == 3
    (copied / LAST / "DONE").unlink()
    assert run.last_complete() == 2
    shutil.rmtree(copied / "generations")
    assert (run.complete_generations(), run.last_complete()) == ([], -1)
