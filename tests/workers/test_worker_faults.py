"""Workers that die, stop, block or misbehave: real processes and signals, the bytes of an undisturbed run."""

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import es_ray
from es_ray.config import Config, load
from es_ray.errors import RunError
from tests.listeners import listening
from tests.processes import Command, Exited, assert_all_end, offspring
from tests.short_runs import SETTINGS, command, evolved, json_lines

pytestmark = pytest.mark.faults
FAULTY = Path(__file__).parent / "faulty"


@pytest.fixture(autouse=True)
def nothing_is_left(drawn_plots) -> Iterator[None]:
    """A run in this process ends with its actors and its plots' process; Ray's idle processes are Ray's."""
    yield
    assert_all_end(lambda: offspring("ray::WorkerActor", "ray::HeartbeatMonitor", "es_ray.callbacks.plots"))


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What es-ray warns of in this process."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("es_ray").addHandler(handler)
    yield messages
    logging.getLogger("es_ray").removeHandler(handler)


def actors() -> dict[int, str]:
    """The worker actors of runs in this process: what each is doing, by pid."""
    found = {}
    for process in offspring("ray::WorkerActor"):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[process.pid] = " ".join(process.cmdline())
    return found


def shared(finished, output: Path, **values) -> Config:
    """The finished run's configuration with two workers, and short deadlines."""
    values = {"cluster__heartbeat": 8.0, "cluster__workers": 2} | values
    return load(finished.path / "config.yaml").replace(output__dir=str(output), **values)


@contextlib.contextmanager
def once(condition, action) -> Iterator[list]:
    """In a thread: wait for a condition, take what it returns, act on it once."""
    done: list = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if found := condition():
                done.append(found)
                action(found)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield done
    over.set()
    thread.join()


def first(title: str, since: Path | None = None):
    """The first actor's pid whose process does that, once a file is there."""

    def condition() -> int | None:
        if since is not None and not since.exists():
            return None
        return next((pid for pid, line in actors().items() if title in line), None)

    return condition


@pytest.mark.parametrize("title", ["WorkerActor.start", "WorkerActor.call"])
def test_a_worker_killed_at_its_start_or_in_a_shard(finished, cluster, tmp_path, title):
    run = tmp_path / "run"
    with once(first(title), lambda pid: os.kill(pid, signal.SIGKILL)) as killed:
        es_ray.run(shared(finished, run))
    assert killed
    assert evolved(run) == evolved(finished.path)
    assert killed[0] not in actors()


def test_a_worker_killed_between_two_generations(finished, cluster, tmp_path):
    run, killed = tmp_path / "run", []

    def kill(metrics: dict) -> None:
        if metrics["generation"] == 1:
            killed.extend(actors())
            os.kill(killed[0], signal.SIGKILL)

    es_ray.run(shared(finished, run), callbacks=[listening(on_generation_end=kill)])
    assert len(killed) == 2
    assert evolved(run) == evolved(finished.path)
    assert json_lines(run / "metrics.jsonl")[1]["redispatched"] == 0


def test_callbacks_are_told_of_a_lost_worker_before_its_generation_ends(finished, cluster, tmp_path):
    said: list[tuple[str, int]] = []

    def kill(done: int, total: int) -> None:
        if said[-1:] == [("ended", 0)] and 0 < done < total:
            os.kill(next(iter(actors())), signal.SIGKILL)
            said.append(("killed", 1))

    listener = listening(
        on_progress=kill,
        on_workers=lambda ready: said.append(("workers", ready)),
        on_generation_end=lambda metrics: said.append(("ended", metrics["generation"])),
    )
    es_ray.run(shared(finished, tmp_path / "run", cluster__workers=1), callbacks=[listener])
    assert [each for each in said if each != ("ended", 2) and each != ("ended", 3)] == [
        ("ended", 0), ("killed", 1), ("workers", 0), ("workers", 1), ("ended", 1),
    ]  # fmt: skip
    assert evolved(tmp_path / "run") == evolved(finished.path)


def test_a_stopped_worker_is_dropped_and_its_answers_are_ignored(finished, cluster, tmp_path, warnings):
    run = tmp_path / "run"

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        # it wakes up when it has been dropped, and may still answer before Ray ends it
        threading.Timer(13.0, lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGCONT)).start()

    with once(first("WorkerActor.call", run / "generations/0000/DONE"), stop) as stopped:
        es_ray.run(shared(finished, run))
    assert stopped
    assert evolved(run) == evolved(finished.path)
    assert any("no heartbeat for" in text and "cluster.heartbeat" in text for text in warnings)
    # the run may be over before the worker wakes up and hears Ray
    assert_all_end(lambda: [process for process in offspring("ray::WorkerActor") if process.pid in stopped])


def test_a_worker_that_hangs_while_the_monitor_restarts_is_dropped_alone(
    finished, cluster, tmp_path, warnings
):
    run, began = tmp_path / "run", []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        began.append(time.monotonic())
        monitors = offspring("ray::HeartbeatMonitor")
        assert len(monitors) == 1
        monitors[0].kill()

    deadlines = {"cluster__heartbeat": 5.0, "cluster__shard_timeout": 600.0}
    with once(first("WorkerActor.call", run / "generations/0000/DONE"), stop) as stopped:
        es_ray.run(shared(finished, run, **deadlines))
    assert stopped
    assert time.monotonic() - began[0] < 60
    silent = [text for text in warnings if "no heartbeat for" in text]
    assert len(silent) == 1, warnings
    assert 5 <= float(re.search(r"no heartbeat for (\d+) s \(cluster.heartbeat\)", silent[0])[1]) <= 15
    assert evolved(run) == evolved(finished.path)


def test_a_monitor_that_restarts_costs_no_worker(finished, cluster, tmp_path, warnings):
    run, killed = tmp_path / "run", []

    def kill(metrics: dict) -> None:
        pids = set(actors())
        for monitor in offspring("ray::HeartbeatMonitor"):
            killed.append(pids)
            monitor.kill()
        time.sleep(6)

    callbacks = [listening(on_generation_end=kill)]
    es_ray.run(shared(finished, run).replace(cluster__heartbeat=2.0), callbacks=callbacks)
    assert len(killed) > 1
    assert len(set.union(*killed)) == 2, "the first workers made the whole run"
    assert [line for line in warnings if "worker" in line] == []
    assert evolved(run) == evolved(finished.path)


def test_all_workers_stopped_at_once(finished, cluster, tmp_path):
    run = tmp_path / "run"

    def stop(_: int) -> None:
        for pid in actors():
            os.kill(pid, signal.SIGSTOP)

    with once(first("WorkerActor.call", run / "generations/0000/DONE"), stop) as stopped:
        es_ray.run(shared(finished, run))
    assert stopped
    assert evolved(run) == evolved(finished.path)


def test_a_shard_that_kills_every_worker_stops_the_run_with_its_name(finished, cluster, tmp_path):
    run, over = tmp_path / "run", threading.Event()

    def kill_all() -> None:
        while not over.wait(0.005):
            for pid, title in actors().items():
                if "WorkerActor.call" in title:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_all, daemon=True)
    thread.start()
    message = r"of generation 0: lost with 2 workers, one after the other: the process"
    with pytest.raises(RunError, match=message):
        es_ray.run(shared(finished, run, cluster__max_attempts=2))
    over.set()
    thread.join()


def faulty_run(tmp_path: Path, fault: str, *more: object) -> Exited:
    """The command with two workers and a reward that misbehaves in them; none of its processes is left."""
    path = f"{FAULTY}:{os.environ.get('PYTHONPATH', '')}"
    words = command("run", "--workers", 2, *SETTINGS, "--output", tmp_path / "run", *more)
    with Command(words, tmp_path, PYTHONPATH=path, ES_RAY_FAULT=fault) as run:
        ended = run.end(300)
        run.assert_none_left()
    return ended


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", ["of generation 0", "ZeroDivisionError: the reward divides by zero"]),
        ("nan", ["reward nan is not finite, for", "(member ", "of generation 0)"]),
    ],
)
def test_a_reward_that_misbehaves_stops_the_run_with_one_line(tmp_path, fault, words):
    done = faulty_run(tmp_path, fault)
    assert done.code == 1, done.err
    last = done.err.splitlines()[-1]
    assert all(word in last for word in words), done.err
    assert "Traceback" not in done.err


def test_a_reward_that_blocks_once_costs_its_worker(finished, tmp_path):
    done = faulty_run(tmp_path, f"blocks {tmp_path / 'blocked'}", "--set", "cluster.shard_timeout=20")
    assert done.code == 0, done.err
    assert (tmp_path / "blocked").exists()
    assert re.search(r"not done after 2\d s \(cluster.shard_timeout\)", done.out), done.out
    assert evolved(tmp_path / "run") == evolved(finished.path)


def test_a_reward_that_always_blocks_stops_the_run(tmp_path):
    deadlines = ("--set", "cluster.shard_timeout=5", "--set", "cluster.max_attempts=2")
    done = faulty_run(tmp_path, "blocks", *deadlines)
    assert done.code == 1, done.err
    assert "of generation 0: lost with 2 workers" in done.err.splitlines()[-1]


def test_a_start_that_takes_too_long_is_an_error(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom dataclasses import replace\n\n"
        "from es_ray.engines.hf.spec import SPEC as USUAL\n\n\n"
        "def load(experiment):\n    time.sleep(3600)\n\n\n"
        "SPEC = replace(USUAL, name='slow', load=load)\n"
    )
    deadlines = ("--set", "cluster.start_timeout=2", "--set", "cluster.max_attempts=2",
                 "--set", "cluster.heartbeat=8", "--engine", f"{tmp_path / 'slow.py'}:SPEC")  # fmt: skip
    done = faulty_run(tmp_path, "", *deadlines)
    assert done.code == 1, done.err
    assert "2 workers in a row failed to start" in done.err.splitlines()[-1]
    assert "cluster.start_timeout" in done.err.splitlines()[-1]


@pytest.fixture
def nodes():
    """A cluster of a head without room for a worker, and two nodes with room for two each."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    before = set(offspring())
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    added = [made.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    started = set(offspring())
    yield made, added
    started |= set(offspring())
    ray.shutdown()
    made.shutdown()
    assert_all_end(lambda: [*started - before])


def test_a_node_that_goes_and_one_that_comes(finished, nodes, tmp_path):
    cluster, added = nodes
    run, seen = tmp_path / "run", []

    def change(metrics: dict) -> None:
        seen.append(metrics["workers"])
        if metrics["generation"] == 0:
            cluster.remove_node(added[0], allow_graceful=False)
        if metrics["generation"] == 1:
            cluster.add_node(num_cpus=2)

    values = {"cluster__workers": 4, "cluster__placement": "spread"}
    es_ray.run(shared(finished, run).replace(**values), callbacks=[listening(on_generation_end=change)])
    assert seen[0] == 4
    assert min(seen) == 2
    assert evolved(run) == evolved(finished.path)


def test_with_no_worker_left_it_waits_aloud_and_stops_resumably(finished, nodes, tmp_path, warnings):
    cluster, added = nodes
    run = tmp_path / "run"

    def remove(metrics: dict) -> None:
        if metrics["generation"] == 1:
            for node in added:
                cluster.remove_node(node, allow_graceful=False)

    callbacks = [listening(on_generation_end=remove)]
    began = time.monotonic()
    with pytest.raises(RunError, match=r"no worker for 45 s \(cluster.wait_timeout\): 0 of 2 ready"):
        es_ray.run(shared(finished, run, cluster__wait_timeout=45.0), callbacks=callbacks)
    assert time.monotonic() - began < 200
    assert any("waiting for workers: 0 of 2 ready" in text for text in warnings)
    es_ray.run(load(run / "config.yaml").replace(output__dir=str(run), cluster__workers=0), resume=True)
    assert evolved(run) == evolved(finished.path)
