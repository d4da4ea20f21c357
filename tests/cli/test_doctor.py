"""`es-ray doctor` as users type it: this machine, and clusters with and without a token."""

import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version

import pytest

from tests.short_runs import es_ray
from tests.small_models import small_model

CLUSTER = """
import json, signal, sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
host = sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
head = dict(num_cpus=1, include_dashboard=host != "none", dashboard_host=host.replace("none", "127.0.0.1"))
cluster = Cluster(initialize_head=True, head_node_args=head)
try:
    print(cluster.address, flush=True)
    for line in sys.stdin:
        report = json.dumps(dict(zip(("ray_version", "python_version"), line.split()))).encode()
        GcsClient(address=cluster.address).internal_kv_put(CLUSTER_METADATA_KEY, report, True, b"cluster")
        print("done", flush=True)
finally:
    cluster.shutdown()
"""


@contextmanager
def cluster(environment, dashboard="none"):
    """A cluster in a process of its own: Ray reads its settings once. Gives its address and `pretend`.

    pretend(ray, python): have the cluster say that it runs these versions.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, dashboard],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def pretend(ray, python):
            process.stdin.write(f"{ray} {python}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"

        try:
            yield process.stdout.readline().strip(), pretend
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdin.close()
            process.wait(60)


def token(home):
    """The environment of a machine with a token of its own in its home folder."""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    return {"HOME": str(home), "RAY_AUTH_MODE": "token"}


def doctor(address, environment, *more):
    """The command in its own process, and its output as JSON if there is any."""
    done = es_ray("doctor", "--address", address, *more, "--json", env=os.environ | environment)
    return done, json.loads(done.stdout) if done.stdout else None


def test_this_machine_is_examined_without_ray(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('nothing here needs Ray')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = es_ray("doctor", cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for words in ("this machine", "Python 3.", "torch", "SGLang", "memory", "/dev/shm", "in a folder"):
        assert words in done.stdout
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".py" and file.is_file()] == []


def test_json_for_machines(cli):
    ended = cli("doctor", "--local", "--json")
    assert ended.code == 0, ended.out
    report = json.loads(ended.out)
    assert report["healthy"] is True
    assert report["nodes"] == []
    assert report["driver"]["facts"]["model"]["found"] == "folder"
    assert report["driver"]["facts"]["memory"]["free"] > 0
    assert report["driver"]["cpus"] == len(os.sched_getaffinity(0))
    assert all(finding["level"] == "warning" for finding in report["findings"])


def test_errors_end_it_with_1_and_a_line_each(cli, tmp_path):
    folder = small_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    ended = cli("doctor", "--model", folder, "--engine", "sglang", "--set", "task.train=/no/such.jsonl")
    assert ended.code == 1
    assert ended.err == ""
    errors = [line for line in ended.out.splitlines() if line.startswith("error: this machine: ")]
    for words in ("SGLang is missing", "no weights", "/no/such.jsonl: no such file", "has 0 GPUs"):
        assert any(words in line for line in errors)
    assert ended.out.splitlines()[-1] == f"{len(errors)} errors, 0 warnings"


def test_a_model_that_no_engine_could_load_is_an_error(cli, tmp_path):
    folder = small_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    torn = cli("doctor", "--model", folder)
    (folder / "tokenizer.json").unlink()
    unread = cli("doctor", "--model", folder)
    for ended, words in ((torn, "model.safetensors is cut short"), (unread, "it has no tokenizer")):
        assert ended.code == 1
        (line,) = [line for line in ended.out.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: this machine: model {folder}: {words}")


ENGINE = """
from es_ray.engines.spec import EngineSpec, Package
package = Package("no-such-llm", "NoSuchLLM", (2,), "es-ray supports it from 2.0 on", "pip install it")
SPEC = EngineSpec("own", None, lambda engine, available: 2, (package,), needs_shm=True)
"""


def test_a_users_own_engine_is_checked_by_its_spec(cli, tmp_path):
    (tmp_path / "own.py").write_text(ENGINE)
    ended = cli("doctor", "--engine", f"{tmp_path}/own.py:SPEC")
    assert ended.code == 1
    assert "NoSuchLLM -" in ended.out
    errors = [line for line in ended.out.splitlines() if line.startswith("error: this machine: ")]
    assert "error: this machine: NoSuchLLM is missing; pip install it there" in errors
    if shutil.which("nvidia-smi") is None:
        assert any("has 0 GPUs, no node has more, and an engine needs 2" in line for line in errors)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--local", "--address", "auto"), ("--local", "--address")),
        (("--engine", "nowhere.py:SPEC"), ("engine.kind", "nowhere.py", "no such file")),
        (("--timeout", "0"), ("--timeout", "0")),
        (("--engine", "vllm"), ("engine.kind", "vllm", "sglang")),
        (("--set", "evolution.popluation=1"), ("evolution.popluation",)),
        (("--address", "nowhere"), ("--address nowhere", "host:port")),
        (("--address", "127.0.0.1:1"), ("--address 127.0.0.1:1", "nothing answers")),
    ],
)
def test_bad_usage_ends_it_with_2(cli, arguments, words):
    ended = cli("doctor", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    for word in words:
        assert word in ended.err


@pytest.mark.slow
def test_a_cluster_with_a_token_is_healthy_to_one_who_has_it_and_closed_to_others(tmp_path):
    mine, nobody = token(tmp_path / "mine"), {"HOME": str(tmp_path)}
    with cluster(mine) as (address, pretend):
        done, report = doctor(address, mine)
        refused = [doctor(address, nobody | mode)[0] for mode in ({}, {"RAY_AUTH_MODE": "token"})]
        pretend("2.54.0", platform.python_version())
        other_ray, _ = doctor(address, mine)
        pretend(version("ray"), "3.9.1")
        other_python, _ = doctor(address, mine)
    assert done.returncode == 0, done.stdout + done.stderr
    (node,) = report["nodes"]
    assert node["head"]
    assert node["engines"]
    assert node["facts"]["auth"]["mode"] == "token"
    for done in (*refused, other_ray, other_python):
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    for done in refused:
        assert "asks for a token" in done.stderr
        assert "RAY_AUTH_MODE=token" in done.stderr
    assert f"the cluster runs Ray 2.54.0, this process Ray {version('ray')}" in other_ray.stderr
    assert f"Ray {version('ray')} on Python 3.9.1, this process Ray" in other_python.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "host", "level"),
    [("disabled", "0.0.0.0", "error"), ("token", "0.0.0.0", "warning"), ("token", "127.0.0.1", None)],
)
def test_rays_own_dashboard(tmp_path, mode, host, level):
    """Needs ray[default], whose dashboard has a server; tests/doctor/test_ports.py needs none."""
    pytest.importorskip("aiohttp_cors")
    pytest.importorskip("opencensus")
    environment = token(tmp_path) | {"RAY_AUTH_MODE": mode}
    with cluster(environment, host) as (address, _):
        done, report = doctor(address, environment)
    found = [f["level"] for f in report["findings"] if f"dashboard listens on {host}:" in f["what"]]
    assert found == ([level] if level else [])
    assert done.returncode == (level == "error")
