"""TensorBoard and W&B, read back from what they write: a run that is killed, cut, and goes on."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from es_ray.callbacks.tensorboard import TensorBoard, event_folder
from es_ray.callbacks.tracked import GROUPS, configuration, configuration_text, numbers
from es_ray.config import Config, differences, load
from tests.drivers import Drivers
from tests.judge.report.pages import add_generation, write_metrics
from tests.short_runs import GENERATIONS, SETTINGS, evolved, in_process, json_lines

pytest.importorskip("tensorboard")
pytest.importorskip("wandb")

KILLED_IN, CUT, TOTAL = 3, 2, 5
TRACKED = {
    "tracking__tensorboard": True,
    "tracking__wandb__project": "tiny",
    "tracking__completions_every": 2,
}
ENDED = f"""
import os, signal, sys
import es_ray
from tests.listeners import listening
def end(metrics):
    if metrics["generation"] == {KILLED_IN}:
        os.kill(os.getpid(), int(sys.argv[3]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
config = es_ray.load(sys.argv[1]).replace(output__dir=sys.argv[2])
es_ray.run(config, callbacks=[listening(on_generation_end=end)])
"""
AWAY = """
import http.server, os, threading
class Answers(http.server.BaseHTTPRequestHandler):
    started = False
    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answered = self.path == "/graphql" and not Answers.started
        Answers.started |= b"mutation UpsertBucket" in asked
        self.send_response(200 if answered else 503)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b'{"data": {}}')
    do_GET = do_PUT = do_POST
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40}
os.environ["WANDB_INIT_TIMEOUT"] = "20"
import es_ray.callbacks.wandb
es_ray.callbacks.wandb.FINISH_WITHIN = 2.0
"""
"""A server of W&B's that is gone once a run has begun."""
OFFLINE = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
WITHOUT = dict.fromkeys(set(os.environ) - set(OFFLINE))


def cut_and_resumed(drivers: Drivers, plain: Path, folder: Path, number: signal.Signals) -> SimpleNamespace:
    """A plain run's configuration with trackers: a signal ends it in a generation that its trackers have.

    It loses that generation and the one before, and goes on.
    """
    run, config = folder / "run", folder / "config.yaml"
    config.write_text(load(plain / "config.yaml").replace(**TRACKED).to_yaml())
    words = [sys.executable, "-c", ENDED, config, run, str(int(number))]
    ended = subprocess.run(words, env=OFFLINE, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL or "KeyboardInterrupt" in ended.stderr, ended.stderr
    for lost in (CUT, KILLED_IN):
        (run / f"generations/{lost:04d}/DONE").unlink(missing_ok=True)
    again = ("run", "--resume", "--output", run, "--generations", TOTAL)
    resumed = drivers(*again, environment=WITHOUT, plots=True)
    assert resumed.code == 0, resumed.err
    assert "warning" not in resumed.out
    return SimpleNamespace(path=run, lines=json_lines(run / "metrics.jsonl"))


@pytest.fixture(scope="module")
def interrupted(drivers, finished, tmp_path_factory) -> SimpleNamespace:
    """Ended by Ctrl-C: killed with the driver, W&B's own process loses what it has not written yet."""
    return cut_and_resumed(drivers, finished.path, tmp_path_factory.mktemp("interrupted"), signal.SIGINT)


@pytest.fixture(scope="module", params=["interrupted", pytest.param("killed", marks=pytest.mark.slow)])
def tracked(request, drivers, finished, tmp_path_factory) -> SimpleNamespace:
    """Ended either way: TensorBoard's files are the driver's own."""
    if request.param == "interrupted":
        return request.getfixturevalue("interrupted")
    return cut_and_resumed(drivers, finished.path, tmp_path_factory.mktemp("killed"), signal.SIGKILL)


@pytest.fixture(scope="module")
def events(tracked):
    """What TensorBoard shows of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tracked.path / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    return found.Reload()


def text_of(events, tag: str) -> dict[int, str]:
    return {e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors(f"{tag}/text_summary")}


def test_trackers_change_no_byte(tracked, copied):
    in_process("run", "--resume", "--output", copied, "--generations", TOTAL)  # the same without trackers
    assert evolved(tracked.path) == evolved(copied)


def test_tensorboard_has_each_generation_once_with_the_values_of_metrics_jsonl(tracked, events):
    assert len(list((tracked.path / "tensorboard").iterdir())) == 2
    line = tracked.lines[0]
    wanted = {"reward/mean": "reward_mean", "test/reward": "test_reward", "centre/correct": "centre_correct",
              "step/sigma": "sigma", "step/update_norm": "update_norm", "answers/truncated": "truncated",
              "speed/tokens": "tokens", "members/exact": "members_exact"}  # fmt: skip
    assert set(wanted.values()) <= set(line)
    for tag, key in wanted.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == list(range(TOTAL))
        values = [scalar.value for scalar in scalars]
        assert values == pytest.approx([float(each[key]) for each in tracked.lines], rel=1e-6)
    shown = set(events.Tags()["scalars"])
    assert {tag for each in tracked.lines for tag in numbers(each)} - shown <= {"speed/seconds_record"}
    results = json.loads((tracked.path / "test_results.json").read_text())
    (final,) = events.Scalars("final/centre_reward")
    assert final.value == pytest.approx(results["centre"]["reward"])
    for scalar in events.Scalars("base/test_reward"):
        assert scalar.value == pytest.approx(results["base"]["reward"])


def test_tensorboard_has_configuration_completions_and_plots(tracked, events):
    assert "population: 6" in text_of(events, "configuration")[0]
    tables = text_of(events, "completions/best_member")
    assert sorted(tables) == [0, 2, 4]
    for generation, table in tables.items():
        best = tracked.lines[generation]["best_index"]
        member = json_lines(tracked.path / f"generations/{generation:04d}/population.jsonl")[best]
        answers = [" ".join(example["completion"].split()) for example in member["examples"]]
        assert any(answers) and all(f"`{answer}`" in table for answer in answers if answer)
    assert "completions/final/text_summary" in events.Tags()["tensors"]
    images = events.Images("progress")
    assert images[-1].encoded_image_string.startswith(b"\x89PNG")
    assert (images[-1].width, images[-1].height) > (300, 300)


def test_wandb_goes_on_with_the_same_run_where_cut_generations_appear_again(interrupted):
    from tests.callbacks.wandb_file import history, of_type

    first, second = sorted((interrupted.path / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (interrupted.path / "wandb/id").read_text().strip()
    runs = [of_type(file, "run")[0] for file in (first, second)]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {(run_id, "tiny", "run")}
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["evolution.population"] == 6
    rows = [[row for row in history(file) if "reward/mean" in row] for file in (first, second)]
    assert [row["generation"] for row in rows[0]] == list(range(KILLED_IN + 1))
    assert [row["generation"] for row in rows[1]] == list(range(CUT, TOTAL))
    for row in [*rows[0], *rows[1]]:  # also the generations that were cut: they came again
        line = interrupted.lines[row["generation"]]
        assert row["reward/mean"] == line["reward_mean"]
        assert row["test/reward"] == line["test_reward"]
        assert row["step/update_norm"] == line["update_norm"]
    metrics = of_type(first, "metric")
    assert {(metric.glob_name, metric.step_metric) for metric in metrics} >= {("*", "generation")}
    (ended,) = of_type(second, "exit")
    assert ended.exit_code == 0


def test_wandb_has_tables_of_completions_and_plots(interrupted):
    from tests.callbacks.wandb_file import history

    second = sorted((interrupted.path / "wandb").glob("offline-run-*"))[-1]
    rows = history(next(second.glob("run-*.wandb")))
    last = [row for row in rows if "completions/final/path" in row][-1]
    table = json.loads((second / "files" / last["completions/final/path"]).read_text())
    results = json.loads((interrupted.path / "test_results.json").read_text())
    assert table["columns"][:4] == ["prompt", "target", "base", "centre"]
    assert [row[3] for row in table["data"]] == [e["completion"] for e in results["centre"]["examples"]]
    best = [row for row in rows if "completions/best_member/path" in row][-1]
    assert best["generation"] == TOTAL - 1
    assert (second / "files" / last["progress/path"]).read_bytes().startswith(b"\x89PNG")


def test_wandb_gets_no_command_line(interrupted):
    """It may hold secrets; this one holds --resume."""
    for file in (interrupted.path / "wandb").glob("offline-run-*/**/*"):
        assert file.is_dir() or b"--resume" not in file.read_bytes(), file


def info(run: Path, first: int, **values) -> SimpleNamespace:
    """A RunInfo of a run's folder, as far as trackers read it."""
    config = load(run / "config.yaml").replace(tracking__completions_every=2, **values)
    return SimpleNamespace(path=run, config=config, first=first, model="m", parameters=1, where="here")


def recorded(run: Path, first: int, last: int, **values) -> object:
    """What TensorBoard shows of generations that are on disk, reported to a tracker one after the other."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker, results = TensorBoard(), json.loads((run / "test_results.json").read_text())
    tracker.on_run_start(info(run, first, tracking__tensorboard=True, **values))
    tracker.on_base_evaluated({"test": {"reward": 1.0}})
    for line in json_lines(run / "metrics.jsonl")[first : last + 1]:
        tracker.on_generation_end(line)
        tracker.on_generation_recorded(line["generation"])
    tracker.on_run_end(results)
    tracker.close()
    size = {"tensors": 0, "images": 0, "scalars": 0}
    return EventAccumulator(str(run / "tensorboard"), size_guidance=size).Reload()


def steps(events) -> set[int]:
    tags = events.Tags()
    return {one.step for tag in tags["scalars"] for one in events.Scalars(tag)} | {
        one.step for tag in tags["tensors"] for one in events.Tensors(tag)
    }


def test_a_finished_run_that_is_resumed_gets_no_generation_that_it_does_not_have(copied):
    assert steps(recorded(copied, GENERATIONS, GENERATIONS - 1)) == {GENERATIONS - 1}


def test_a_run_that_the_guard_stops_has_a_table_of_its_last_generation(copied):
    events = recorded(copied, 0, GENERATIONS - 1, evolution__generations=99)
    assert sorted(text_of(events, "completions/best_member")) == [0, 2, GENERATIONS - 1]


def test_plots_come_without_completions_too(copied):
    members = [{"index": 0, "reward": 1.0, "advantage": 0.0}]
    write_metrics(copied, GENERATIONS + 1, best_index=lambda g: 0)
    add_generation(copied, GENERATIONS, members)
    events = recorded(copied, GENERATIONS, GENERATIONS, evolution__generations=GENERATIONS + 1)
    assert [image.step for image in events.Images("progress")] == [GENERATIONS]
    assert "completions/best_member/text_summary" not in events.Tags()["tensors"]


def test_two_runs_of_one_name_have_event_files_of_their_own_which_they_find_again(tmp_path, monkeypatch):
    runs = [tmp_path / place / "run" for place in "abc"]
    for run in runs:
        run.mkdir(parents=True)

    def folder(run: Path, first: int = 0, logs: str = "logs") -> Path:
        config = Config().replace(tracking__tensorboard=str(tmp_path / logs))
        return event_folder(SimpleNamespace(path=run, config=config, first=first))

    names = ["run", "run-2", "run-3"]
    assert [folder(run) for run in runs] == [tmp_path / "logs" / name for name in names]
    assert [folder(run, 5) for run in reversed(runs)] == [
        tmp_path / "logs" / name for name in reversed(names)
    ]
    monkeypatch.chdir(runs[1])
    assert folder(Path("."), 5) == tmp_path / "logs/run-2"
    assert folder(runs[2], 5, "others") == tmp_path / "others/run"


def test_secrets_are_not_recorded():
    secret = "sk-12345"
    options = {
        "api_key": {"value": secret},
        "password": f"my {secret}, word",
        "url": f"http://a:{secret}@host",
    }
    config = Config().replace(task__options=options | {"limit": 7})
    text = configuration_text(SimpleNamespace(config=config, model="m", parameters=1, where="here"))
    assert secret not in text
    assert "limit: 7" in text
    assert secret not in str(configuration(config))
    assert configuration(config)["task.options.limit"] == 7
    assert configuration(config)["task.max_new_tokens"] == config.task.max_new_tokens


def test_a_tracker_that_cannot_reach_its_server_is_a_warning(drivers, tmp_path):
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}
    done = drivers(
        "run", "--local", *SETTINGS, "--generations", 1, "--output", tmp_path / "run",
        "--set", "output.plots_every=null",
        "--set", "tracking.wandb={project: tiny, mode: online}", environment=WITHOUT | away,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the callback WeightsAndBiases failed and is left out from now on" in done.out
    assert (tmp_path / "run/test_results.json").is_file()
    assert "0" * 40 not in done.out + done.err


@pytest.mark.slow
def test_an_interrupted_run_ends_though_its_tracker_has_lost_its_server(tmp_path):
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    online = load(sets=["tracking.wandb={project: tiny, mode: online}", "task.max_new_tokens=4"])
    config.write_text(online.replace(evolution__population=2, cluster__workers=0).to_yaml())
    words = [sys.executable, "-c", AWAY + ENDED, config, run, str(int(signal.SIGINT))]
    ended = subprocess.run(words, env=OFFLINE, capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in ended.stderr, ended.stderr
    assert "W&B did not take all of the run within 2 seconds" in ended.stderr
    folder = re.search(r"wandb sync (\S+) uploads the rest", ended.stderr)[1]
    assert list(Path(folder).glob("run-*.wandb"))
    assert len(json_lines(run / "metrics.jsonl")) >= KILLED_IN


@pytest.mark.parametrize(
    ("package", "key"), [("tensorboard", "tensorboard=true"), ("wandb", "wandb.project=x")]
)
@pytest.mark.parametrize("option", ["--dry-run", "--local"])
def test_a_missing_package_is_named_before_anything_is_written(
    monkeypatch, tmp_path, cli, package, key, option
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
    )
    ended = cli("run", option, "--set", f"tracking.{key}", "--output", tmp_path / "run")
    assert ended.code == 2
    assert ended.err == (
        f"es-ray: tracking.{package}: needs the package {package}: pip install 'es-ray[{package}]'\n"
    )
    assert not (tmp_path / "run").exists()


def test_trackers_may_change_on_resume_and_values_are_checked(cli):
    plain, changed = load(), load(sets=["tracking.tensorboard=logs", "tracking.wandb.project=x"])
    assert differences(plain, changed) == []
    assert changed.tracking.tensorboard == "logs"
    wrong = {
        "tracking.tensorboard=3": "tracking.tensorboard", "tracking.wandb.mode=sometimes": "offline",
        "tracking.tensorboard=s3://bucket/logs": "a folder of this machine",
    }  # fmt: skip
    for value, words in wrong.items():
        ended = cli("run", "--dry-run", "--set", value)
        assert ended.code == 2
        assert words in ended.err
        assert len(ended.err.splitlines()) == 1


def test_every_number_of_a_line_has_a_group_of_its_own():
    line = {"generation": 2, "zero_variance": True, "verdicts": ["kl"], "rollback": 1, "kl": 0.5,
            "drift": 0.1,
            "centre_reward": 1.0, "validation_reward": None, "seconds": {"total": 1.0}}  # fmt: skip
    assert numbers(line | dict.fromkeys([key for keys in GROUPS.values() for key in keys], 1)) == {
        "step/zero_variance": 1.0, "guard/verdicts": 1.0, "guard/rollback_to": 1.0, "step/kl": 0.5,
        "step/drift": 0.1, "centre/reward": 1.0, "speed/seconds_total": 1.0,
        **{f"{group}/{key}": 1.0 for group, keys in GROUPS.items() for key in keys},
    }  # fmt: skip
