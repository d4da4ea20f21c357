"""`ray up cluster/onprem.yaml` on three hosts, and a run that loses two of them and a link.

The hosts are namespaces of this machine (hosts.py): root is needed, and programs that Debian has as packages.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Lan, lan, missing
from tests.cluster.onprem import CHECKOUT, OnPrem, raylets, until
from tests.short_runs import evolved, json_lines

pytestmark = pytest.mark.cluster

GENERATIONS = 12
SETTINGS = (
    "--population", "12",
    "--generations", str(GENERATIONS),
    "--seed", "12345678901",
    "--set", "engine.shard=2",
    "--set", "evolution.noise.multiplier=40",
    "--set", "task.max_new_tokens=24",
    "--set", "output.plots_every=100",
)  # fmt: skip
SHORT = 5.0
"""Seconds without a link that no connection notices."""
GIVEN_UP = 240.0
"""Seconds for a cut host to be declared dead (about 65 by Ray's defaults), and the run to continue."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    if reason := missing():
        pytest.skip(reason)
    with lan(tmp_path_factory.mktemp("hosts"), keep=[CHECKOUT]) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(desk: Lan, tmp_path_factory: pytest.TempPathFactory) -> OnPrem:
    made = OnPrem(desk, tmp_path_factory.mktemp("key"))
    made.up()
    return made


@pytest.fixture(scope="module")
def undisturbed(cluster: OnPrem) -> Path:
    """The run as in README: `ray exec` from the desk, on the cluster that the head belongs to."""
    home, head = cluster.head.home, cluster.head
    words = [
        *cluster.project(),
        "run",
        "--address",
        "auto",
        "--workers",
        3,
        "--output",
        home / "calm",
        *SETTINGS,
    ]
    cluster.ray("exec", cluster.file, " ".join(map(str, words)), timeout=600)
    run = head.outside(home / "calm")
    lines = json_lines(run / "metrics.jsonl")
    assert {line["workers"] for line in lines} == {3}
    assert {line["redispatched"] for line in lines} == {0}
    return run


def complete(run: Path) -> int:
    """How many generations are complete."""
    return len(list(run.glob("generations/*/DONE")))


def hosts(run: Path, generation: int) -> set[str]:
    """The hosts that answered in a generation."""
    lines = json_lines(run / f"generations/{generation:04d}/population.jsonl")
    return {line["worker"].partition("/")[0] for line in lines}


def test_the_head_hosts_no_engine(cluster, undisturbed):
    answered = set().union(*(hosts(undisturbed, generation) for generation in range(GENERATIONS)))
    assert answered == {"one", "two"}


def test_without_the_token_nothing_is_revealed(cluster):
    ask = ("env", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=" + "0" * 64, cluster.program("ray"), "status",
           "--address", f"{cluster.head.address}:6379")  # fmt: skip
    output = cluster.workers[0].run(*ask, check=False)
    assert "CPU" not in output
    assert "Unauthenticated" in output or "token" in output
    known = cluster.workers[0].run(*(word for word in ask if "AUTH_TOKEN" not in word))
    assert "CPU" in known


def test_a_killed_raylet_and_a_cut_link_change_no_number(cluster, undisturbed, tmp_path):
    one, two = cluster.workers
    run = cluster.head.outside(cluster.head.home / "wild")
    with (tmp_path / "output").open("w+") as output, cluster.desk.mended(two):
        process = subprocess.Popen(
            cluster.evolve(cluster.head.home / "wild", *SETTINGS), stdout=output, stderr=subprocess.STDOUT
        )

        def report() -> str:
            output.seek(0)
            return f"{output.read()}\n{cluster.status()}\n{cluster.log()}"

        def reached(generations: int) -> bool:
            assert process.poll() in (None, 0), report()
            return complete(run) >= generations

        until(lambda: reached(1), 240, report)
        before = complete(run)
        cluster.desk.cut(two)
        time.sleep(SHORT)
        cluster.desk.mend(two)
        until(lambda: reached(before + 1), 120, report)

        before = complete(run)
        one.kill("raylet")
        until(lambda: reached(before + 2), 120, report)

        cut = complete(run)
        assert cut < GENERATIONS - 2, "the run was too short to be disturbed"
        cluster.desk.cut(two)
        # Either host may be back by now. What counts: the run continues on hosts that can be reached.
        until(lambda: reached(cut + 2), GIVEN_UP, report)
        cluster.desk.mend(two)
        code = process.wait(timeout=400)
        assert code == 0, report()
    lines = json_lines(run / "metrics.jsonl")
    assert sum(line["redispatched"] for line in lines) > 0
    assert hosts(run, cut + 1) == {"one"}
    last = f"generations/{GENERATIONS - 1:04d}/adapter/adapter_model.safetensors"
    assert (run / last).read_bytes() == (undisturbed / last).read_bytes()
    assert evolved(run) == evolved(undisturbed)


def test_the_launcher_brings_lost_hosts_back(cluster):
    until(lambda: all(raylets(host) for host in cluster.workers), 120, cluster.log)
    until(lambda: "/4.0 CPU" in cluster.status(), 120, cluster.log)


def test_ray_stop_ends_what_runs_on_its_own_host_alone(cluster):
    one, two = cluster.workers
    others = raylets(two), raylets(cluster.head)
    assert all(others)
    one.run(cluster.program("ray"), "stop", "--force")
    assert (raylets(two), raylets(cluster.head)) == others


def test_ray_down_leaves_no_ray(cluster):
    cluster.ray("down", "--yes", cluster.file)
    assert not raylets(cluster.head)
    # A worker gets no message: it ends when it has had no contact with its head for a minute.
    until(lambda: not any(raylets(host) for host in cluster.workers), 180)


def test_the_slurm_script_on_three_nodes(cluster, undisturbed):
    """examples/slurm.sh on the head; what stands in for Slurm reaches the others by ssh, and is no more.

    No launcher, and every host may have engines. The options are those of the other runs.
    """
    head, home = cluster.head, cluster.head.home
    addresses = [host.address for host in (head, *cluster.workers)]
    write_slurm(head.outside(home) / "slurm", cluster.variables(), addresses[1:])
    variables = cluster.variables()
    variables[1] = variables[1].replace("PATH=", f"PATH={home}/slurm:")
    job = ["SLURM_JOB_ID=7", "SLURM_NNODES=3", "SLURM_CPUS_ON_NODE=1", "WORKERS=3",
           f"SLURM_JOB_NODELIST={','.join(addresses)}"]  # fmt: skip
    script = ["bash", home / "es-ray/examples/slurm.sh", *SETTINGS, "--generations", 2]
    output = head.run(*variables, *job, *script, timeout=400)
    run = head.outside(home / "runs/7")
    assert len(json_lines(run / "metrics.jsonl")) == 2, output
    assert hosts(run, 1) <= {"head", "one", "two"}
    assert len(hosts(run, 0) | hosts(run, 1)) > 1
    second = "generations/0001/adapter/adapter_model.safetensors"
    assert (run / second).read_bytes() == (undisturbed / second).read_bytes()
    assert not any(raylets(host) for host in (head, *cluster.workers))


def write_slurm(folder: Path, variables: list[str], others: list[str]) -> None:
    """`scontrol show hostnames LIST`, and `srun --OPTION COMMAND`: here and, by ssh, on the other nodes."""
    ssh = "ssh -i ~/ray_bootstrap_key.pem -o StrictHostKeyChecking=no -o LogLevel=ERROR -n"
    passed = " ".join([shlex.join(variables), "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=180"])
    programs = {
        "scontrol": ['[ "$1 $2" = "show hostnames" ]', "echo \"$3\" | tr , '\\n'"],
        "srun": [
            "while [[ $1 == --* ]]; do shift; done",
            *(f'{ssh} {other} {passed} "${{@@Q}}" &' for other in others),
            '"$@" & wait $!; code=$?',
            "wait",
            "exit $code",
        ],
    }
    folder.mkdir()
    for name, lines in programs.items():
        (folder / name).write_text("\n".join(["#!/bin/bash", *lines, ""]))
        (folder / name).chmod(0o755)


def test_everything_ends_with_the_desk(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    with pytest.raises(ZeroDivisionError), lan(tmp_path / "lan") as desk:
        (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA nobody\n")
        host = desk.host("lonely", tmp_path / "key.pub")
        inside = host.processes("sshd")
        assert inside
        assert host.run("cat", "/proc/sys/kernel/hostname").strip() == "lonely"
        1 / 0  # noqa: B018
    assert not any(Path(f"/proc/{process}").exists() for process in inside)
    assert "lonely" not in os.listdir("/sys/class/net")
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line]
