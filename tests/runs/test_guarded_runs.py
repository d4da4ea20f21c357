"""Runs whose reward is hacked: warned of, stopped, rolled back, and resumed to the same bytes."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from es_ray.runs.past_run import open_past_run
from es_ray.runs.run_dir import RunDir
from tests.no_plots import with_plots
from tests.short_runs import evolved, in_process, json_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "table_engine.py"
GENERATIONS, POPULATION = 12, 16
ENGINE = f"""
from dataclasses import replace
import numpy as np
from es_ray.evolution.optimizers import Direction, Optimizer
from es_ray.imports import resolve

TableEngine, ANSWERS, TABLE = (
    resolve("engine.kind", f"{EXAMPLE}:{{name}}", {{}}) for name in ("TableEngine", "ANSWERS", "SPEC")
)
# the longer answer is right: a reward for brevity alone makes the model forget it
ANSWERS = {{prompt: ("x", long) for prompt, (_, long) in ANSWERS.items()}}


class Reluctant(TableEngine):
    def _completion(self, row, vector):
        return super()._completion(row, None if vector is None else vector - np.float32(0.06))


SPEC = replace(TABLE, load=lambda experiment: Reluctant(experiment, ANSWERS))


class HeavyBall(Optimizer):
    def initial(self, size):
        return {{"velocity": np.zeros(size, dtype=np.float32)}}

    def direction(self, noise_sum, population, arrays):
        velocity = np.float32(0.5) * arrays["velocity"] + noise_sum / np.float32(population)
        return Direction(velocity), {{"velocity": velocity}}
"""
RATE = 0.03


@pytest.fixture(scope="module")
def hacked(tmp_path_factory):
    """`hacked(name, *settings)`: the run with these settings, made once."""
    folder, made = tmp_path_factory.mktemp("hacked"), {}
    engine = folder / "hackable.py"
    engine.write_text(ENGINE)

    def run(name: str, *settings: str, generations: int = GENERATIONS) -> Path:
        path = folder / name
        if name not in made:
            sets = [word for setting in settings for word in ("--set", setting)]
            rule = (
                "--set",
                f"evolution.learning_rate={RATE}",
                "--set",
                f"evolution.optimizer={engine}:HeavyBall",
            )
            with with_plots() if name == "stop" else nullcontext():
                in_process("run", "--preset", "tiny-chat-0.1.0", "--local", "--engine", f"{engine}:SPEC",
                           "--population", POPULATION, "--seed", 1, "--generations", generations,
                           *rule, *sets, "--output", path)  # fmt: skip
            made[name] = path
        return path

    return run


ROLLBACK = "guard.action=rollback"


def state(run: Path, generation: int) -> dict[str, np.ndarray]:
    return load_file(run / f"generations/{generation:04d}/state.safetensors")


def selected(run: Path) -> int:
    return json.loads((run / "selected.json").read_text())["generation"]


def test_a_warned_run_goes_on_and_selects_a_centre_without_a_verdict(hacked):
    run = hacked("warn")
    lines = json_lines(run / "metrics.jsonl")
    assert len(lines) == GENERATIONS
    bad = [line["generation"] for line in lines if line["verdicts"]]
    assert bad and bad[0] > 0
    first = lines[bad[0]]["verdicts"][0]
    assert first.startswith("correct: ") and "below the base model's 100%" in first
    for line in lines:  # two training prompts: one wrong answer is more than 0.15
        assert bool(line["verdicts"]) == (line["centre_correct"] < 0.85)
    free = [line for line in lines if not line["verdicts"]]
    best = max(free, key=lambda line: (line["centre_reward"], -line["generation"]))
    assert selected(run) == best["generation"] - 1
    results = json.loads((run / "test_results.json").read_text())
    assert results["selected"]["generation"] == selected(run)
    assert results["centre"]["reward"] > results["selected"]["reward"]
    assert results["centre"]["correct"] < results["selected"]["correct"]


def test_a_stopped_run_ends_well_with_the_generation_of_the_verdict(hacked):
    warned, run = hacked("warn"), hacked("stop", "guard.action=stop", "output.adapters_every=100")
    lines = json_lines(run / "metrics.jsonl")
    assert [bool(line["verdicts"]) for line in lines] == [False] * (len(lines) - 1) + [True]
    assert [line["verdicts"] for line in lines] == [
        line["verdicts"] for line in json_lines(warned / "metrics.jsonl")[: len(lines)]
    ]
    assert (run / f"generations/{len(lines) - 1:04d}/adapter").is_dir()
    assert (run / f"plots/evolution_progress_gen{len(lines) - 1}.png").is_file()
    assert json.loads((run / "test_results.json").read_text())["selected"]["correct"] == 1.0


def test_a_stopped_run_stays_stopped_unless_the_guard_changes(hacked, tmp_path, cli):
    run = Path(
        shutil.copytree(hacked("stop", "guard.action=stop", "output.adapters_every=100"), tmp_path / "run")
    )
    before, length = evolved(run), len(json_lines(run / "metrics.jsonl"))
    ended = cli("run", "--resume", "--output", run)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.index("the guard ends the run") < ended.out.index("evaluating base")  # why comes first
    assert "--set guard.action=warn" in ended.out
    assert evolved(run) == before
    ended = cli("run", "--resume", "--output", run, "--set", "guard.action=warn")
    assert ended.code == 0, ended.err
    assert "with another guard: the run is the same as without the change up to here only" in ended.out
    lines, warned = json_lines(run / "metrics.jsonl"), json_lines(hacked("warn") / "metrics.jsonl")
    assert len(lines) == GENERATIONS > length
    assert [line["centre_reward"] for line in lines] == [line["centre_reward"] for line in warned]


def test_a_rollback_restores_the_selected_centre_and_halves_the_step(hacked):
    run = hacked("rollback", ROLLBACK)
    lines = json_lines(run / "metrics.jsonl")
    back = [line["generation"] for line in lines if "rollback" in line]
    assert len(back) >= 2, "one rollback alone tests too little"
    past = RunDir.open(run)
    strategy = open_past_run(past, None).strategy
    for number, generation in enumerate(back):
        line, after = lines[generation], state(run, generation)
        assert line["verdicts"]
        target = line["rollback"]
        wanted = state(run, target)["theta"] if target >= 0 else strategy.initial()["theta"]
        assert after["theta"].tobytes() == wanted.tobytes()
        assert float(after["learning_rate_factor"]) == 0.5 ** (number + 1)
        assert not after["optimizer.velocity"].any()
        assert state(run, generation - 1)["optimizer.velocity"].any()
        if generation + 1 < GENERATIONS and generation + 1 not in back:
            assert lines[generation + 1]["centre_reward"] == lines[target + 1]["centre_reward"]
    assert all("rollback" in line for line in lines if line["verdicts"])


def test_the_step_after_a_rollback_is_half_of_what_it_would_be(hacked):
    """Against NumPy in float64: the first step from a cleared velocity is the mean of Z x noise."""
    run = hacked("rollback", ROLLBACK)
    lines = json_lines(run / "metrics.jsonl")
    generation = next(
        line["generation"] + 1
        for line, following in zip(lines, lines[1:], strict=False)
        if "rollback" in line and "rollback" not in following and not following["zero_variance"]
    )
    before, after = state(run, generation - 1), state(run, generation)
    past = open_past_run(RunDir.open(run), generation)
    z = past.run.generation_folder(generation).advantages()
    noise = [
        past.member(index).astype(np.float64) - before["theta"].astype(np.float64)
        for index in range(POPULATION)
    ]
    sigma = past.strategy.perturbation.scale(generation).dense(0, len(before["theta"])).astype(np.float64)
    mean = sum(weight * each / sigma for weight, each in zip(z, noise, strict=True)) / POPULATION
    rate = RATE * float(before["learning_rate_factor"])
    assert np.allclose(after["theta"] - before["theta"].astype(np.float64), rate * mean, rtol=0, atol=1e-5)
    assert np.abs(rate * mean).max() > 1e-3


@pytest.mark.parametrize("keep", [None, 1])
def test_killed_after_any_generation_a_rolled_back_run_resumes_to_the_same_bytes(hacked, tmp_path, keep):
    settings = [ROLLBACK] if keep is None else [ROLLBACK, f"output.keep={keep}"]
    run = hacked("rollback" if keep is None else "pruned", *settings)
    wanted, record = evolved(run), (run / "selected.json").read_text()
    lines = json_lines(run / "metrics.jsonl")
    back = next(line["generation"] for line in lines if "rollback" in line)
    for last in (back - 1, back, back + 1, GENERATIONS - 2):
        if keep is not None and last != GENERATIONS - 2:
            continue  # what was pruned later was there when a run was killed earlier
        killed = Path(shutil.copytree(run, tmp_path / f"killed-{last}"))
        for generation in range(last + 1, GENERATIONS):
            (killed / f"generations/{generation:04d}/DONE").unlink()
        in_process("run", "--resume", "--output", killed)
        assert evolved(killed) == wanted
        assert (killed / "selected.json").read_text() == record


def test_interrupted_and_extended_it_has_the_same_bytes(hacked, tmp_path):
    back = next(line["generation"] for line in json_lines(hacked("rollback", ROLLBACK) / "metrics.jsonl")
                if "rollback" in line)  # fmt: skip
    short = hacked("short", ROLLBACK, generations=back + 1)
    run = Path(shutil.copytree(short, tmp_path / "longer"))
    in_process("run", "--resume", "--output", run, "--generations", GENERATIONS)
    assert evolved(run) == evolved(hacked("rollback", ROLLBACK))


def test_pruned_states_are_rebuilt_through_rollbacks_to_the_byte(hacked, tmp_path, cli):
    complete, pruned = hacked("rollback", ROLLBACK), hacked("pruned", ROLLBACK, "output.keep=1")
    gone = [g for g in range(GENERATIONS) if not (pruned / f"generations/{g:04d}/state.safetensors").exists()]
    assert len(gone) > GENERATIONS / 3
    back = [line["generation"] for line in json_lines(complete / "metrics.jsonl") if "rollback" in line]
    assert set(gone) & set(back), "no rollback is replayed"
    for generation in gone:
        output = tmp_path / str(generation)
        ended = cli("member", pruned, "--generation", generation, "--centre", "--output", output)
        assert ended.code == 0, ended.err
        recorded = complete / f"generations/{generation:04d}/adapter/adapter_model.safetensors"
        assert (output / "adapter_model.safetensors").read_bytes() == recorded.read_bytes()


@pytest.mark.parametrize("settings", [[], [ROLLBACK]])
def test_the_selected_state_is_never_pruned(hacked, settings):
    run = hacked("pruned" if settings else "kept", *settings, "output.keep=1")
    number = selected(run)
    if number >= 0:
        assert (run / f"generations/{number:04d}/state.safetensors").is_file()
        assert (run / f"generations/{number:04d}/adapter").is_dir()


def test_validation_decides_where_there_is_some(hacked, tmp_path_factory):
    data = tmp_path_factory.mktemp("data") / "validation.jsonl"
    rows = [{"prompt": "How many days are in a week?", "target": "7"},
            {"prompt": "What is the capital of France?", "target": "Paris"}]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = hacked("validated", f"task.validation={data}", "evaluation.every=2", "guard.max_drop=0.9")
    lines = json_lines(run / "metrics.jsonl")
    asked = [line for line in lines if line["validation_reward"] is not None and not line["verdicts"]]
    assert {line["generation"] % 2 for line in asked} == {0}
    record = json.loads((run / "selected.json").read_text())
    assert record["split"] == "validation"
    best = max(asked, key=lambda line: (line["validation_reward"], -line["generation"]))
    final = record["generation"] == GENERATIONS - 1  # it is asked at the end, for this alone
    assert final or record["generation"] == best["generation"] - 1
    assert record["reward"] >= best["validation_reward"]


def test_drawn_prompts_select_the_last_centre_without_a_verdict(hacked):
    run = hacked("drawn", "task.batch=1")
    record = json.loads((run / "selected.json").read_text())
    free = [line["generation"] - 1 for line in json_lines(run / "metrics.jsonl") if not line["verdicts"]]
    assert record["why"].startswith("the last one")
    assert record["generation"] in (free[-1], GENERATIONS - 1)


def test_a_metric_that_the_task_lacks_is_named(tmp_path, cli, hacked):
    engine = hacked("warn").parent / "hackable.py"
    ended = cli("run", "--local", "--engine", f"{engine}:SPEC", "--set", "guard.metric=f1",
                "--generations", 1, "--output", tmp_path / "run")  # fmt: skip
    assert ended.code == 1
    assert "guard.metric: 'f1' is no metric of the task, which has correct, exact" in ended.err


def test_an_engine_without_log_probabilities_leaves_kl_out_and_says_so(hacked):
    lines = json_lines(hacked("warn") / "metrics.jsonl")
    assert not any("kl" in line for line in lines)
    assert "kl_every: null" in (hacked("warn") / "config.yaml").read_text()
