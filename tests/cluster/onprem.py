"""cluster/onprem.yaml on hosts made of namespaces: addresses, key and installation exchanged, no more."""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.cluster.hosts import PATH, Host, Lan

CHECKOUT = Path(__file__).parents[2]
CPUS = 2
"""What each worker declares, whatever this machine has."""


class OnPrem:
    """Three hosts, and the desk at which `ray` is typed."""

    def __init__(self, desk: Lan, folder: Path) -> None:
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.desk = desk
        self.head, *self.workers = [
            desk.host(name, key.with_suffix(".pub")) for name in ("head", "one", "two")
        ]
        shutil.copy(key, desk.outside(desk.home) / "key")
        self.file = desk.home / "onprem.yaml"
        desk.outside(self.file).write_text(yaml.safe_dump(self._adapted(), sort_keys=False))

    def _adapted(self) -> dict:
        config = yaml.safe_load((CHECKOUT / "cluster/onprem.yaml").read_text())
        config["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [worker.address for worker in self.workers],
        }
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.desk.home / "key")}
        # Nothing can be downloaded there: the environment that runs the tests stands for the installed one,
        # with the project as it was copied to the host.
        at = config["setup_commands"].index("python3 -m venv ~/es-ray-venv")
        config["setup_commands"][at] = f"ln -sfn {shlex.quote(sys.prefix)} ~/es-ray-venv"
        config["head_setup_commands"] = config["worker_setup_commands"] = []
        for node, more in ("head", ""), ("worker", f" --num-cpus={CPUS}"):
            start = config[f"{node}_start_ray_commands"]
            assert "ray start" in start[-1]
            start[-1] = f"export PYTHONPATH=~/es-ray HF_HUB_OFFLINE=1; {start[-1]}{more}"
        return config

    def ray(self, *arguments: object, timeout: float = 120, check: bool = True) -> str:
        """The ray command, typed at the desk, at the top of the checkout."""
        typed = shlex.join([self.program("ray"), *map(str, arguments)])
        line = f"cd {shlex.quote(str(CHECKOUT))} && RAY_USAGE_STATS_ENABLED=0 {typed}"
        return self.desk.run("sh", "-c", line, timeout=timeout, check=check)

    def up(self) -> None:
        """`ray up`, and wait until the workers are there."""
        self.ray("get-auth-token", "--generate")
        self.ray("up", "--yes", self.file)
        until(lambda: f"/{CPUS * len(self.workers)}.0 CPU" in self.status(), 120, self.log)

    def status(self) -> str:
        """What `ray status` says on the head."""
        return self.head.run("env", "RAY_AUTH_MODE=token", self.program("ray"), "status", check=False)

    def log(self) -> str:
        """What the launcher on the head wrote, for messages of failed tests."""
        return self.head.run("sh", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor*", check=False)

    def program(self, name: str) -> str:
        """A program of the installed environment."""
        return f"{sys.prefix}/bin/{name}"

    def variables(self) -> list[str]:
        """`env` with what somebody at the head has set, and the project as it was copied there."""
        path = f"{sys.prefix}/bin:{PATH}"
        return ["env", f"PATH={path}", "RAY_AUTH_MODE=token", "HF_HUB_OFFLINE=1",
                f"PYTHONPATH={self.head.home}/es-ray"]  # fmt: skip

    def project(self) -> list[str]:
        """The es-ray command on the head."""
        return [*self.variables(), "python", "-m", "es_ray.cli.main"]

    def evolve(self, output: Path, *arguments: object) -> list[str]:
        """`es-ray run` on the head, with the cluster by its address."""
        address = f"{self.head.address}:6379"
        options = ("--address", address, "--workers", 3, "--output", output, *arguments)
        return self.head.command(*self.project(), "run", *options)


def until(true: Callable[[], bool], seconds: float, why: Callable[[], str] = lambda: "") -> float:
    """Wait for something; how long it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds, f"not within {seconds} s\n{why()}"
        time.sleep(0.2)
    return time.monotonic() - start


def raylets(host: Host) -> list[int]:
    """The raylets of a host."""
    return host.processes("raylet")
