"""A reward that lies on the head alone reaches a worker on another host, which has a /tmp of its own."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Lan, lan, missing
from tests.cluster.onprem import CHECKOUT, CPUS, until
from tests.short_runs import SETTINGS, json_lines

pytestmark = pytest.mark.cluster

REWARD = """\
import helpers
from es_ray import Score


async def reward(example, completion, files):
    seen = any(__import__("pathlib").Path(file).exists() for file in files.split(","))
    return Score(helpers.length(completion), {"seen": seen})
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    if reason := missing():
        pytest.skip(reason)
    with lan(tmp_path_factory.mktemp("hosts"), keep=[CHECKOUT]) as made:
        yield made


def variables() -> list[str]:
    import sys

    path = f"PATH={sys.prefix}/bin:/usr/bin:/bin"
    return ["env", path, "HF_HUB_OFFLINE=1", "RAY_USAGE_STATS_ENABLED=0", f"PYTHONPATH={CHECKOUT}"]


def ray_start(host: Host, *options: object) -> None:
    host.run(*variables(), "ray", "start", f"--node-ip-address={host.address}", *options, timeout=120)


def test_a_reward_reaches_a_host_that_cannot_see_its_file(desk, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    head, worker = (desk.host(name, key.with_suffix(".pub")) for name in ("head", "one"))
    for host in (head, worker):  # what the desk keeps is mounted below its /tmp, not below theirs
        if not host.outside(host.home).joinpath("checkout").exists() and str(CHECKOUT).startswith("/tmp/"):
            place = host.outside(CHECKOUT)
            subprocess.run(["cp", "-r", "--", CHECKOUT, place], check=True)
    home = head.outside(head.home) / "mine"
    home.mkdir()
    (home / "reward.py").write_text(REWARD)
    (home / "helpers.py").write_text("def length(text):\n    return -len(text) / 100\n")
    rows = [{"prompt": "How many days are in a week?", "target": "7"}]
    for split in ("train", "test"):
        (home / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ray_start(head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
    ray_start(worker, f"--address={head.address}:6379", f"--num-cpus={CPUS}")
    inside = head.home / "mine"
    files = ",".join(str(inside / name) for name in ("reward.py", "helpers.py", "train.jsonl"))
    command = head.command(
        *variables(), "python", "-m", "es_ray.cli.main", "run", "--address", f"{head.address}:6379",
        "--workers", 1, "--task", f"{inside}/reward.py:reward", "--train", inside / "train.jsonl",
        "--test", inside / "test.jsonl", "--set", f"task.options.files={files}", *SETTINGS,
        "--generations", 2, "--output", inside / "run",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json_lines(home / "run/metrics.jsonl")
    assert [line["members_seen"] for line in lines] == [0.0, 0.0]
    answered = json_lines(home / "run/generations/0001/population.jsonl")
    assert {line["worker"].partition("/")[0] for line in answered} == {"one"}
    left = worker.outside(Path("/tmp"))
    until(lambda: not list(left.glob("es-ray-code-*")), 30, lambda: "code is left behind")
