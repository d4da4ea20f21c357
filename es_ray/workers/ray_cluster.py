"""Joining or starting Ray, with answers instead of silence."""

import os
import socket
import subprocess
import sys

import ray

from es_ray.config import ClusterConfig
from es_ray.errors import UserError

ANSWER_SECONDS = 15
"""How long a cluster may take to answer at all."""


def connect(config: ClusterConfig, cpus: int) -> tuple[bool, bool]:
    """Connect this process to the configured Ray, starting one for `local`; returns (started, joined).

    cpus: how many a Ray that is started here declares at least. Raises UserError where no Ray answers.
    """
    if ray.is_initialized():
        return False, False
    address = config.address or "local"
    options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=max(cpus, os.cpu_count() or 1), **options)
        return True, False
    _check_answer(address)
    options.pop("include_dashboard")
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: {' '.join(str(error).split())[:300]}") from error
    return False, True


def _check_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not port.isdecimal():
            raise UserError(f"--address {address}: must be local, auto or host:port")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--address {address}: nothing answers there ({error})") from error
    # ray.init waits for minutes, or ends the process, where no Ray answers: ask from a process of its own
    command = [sys.executable, "-m", "ray.scripts.scripts", "status"]
    if address != "auto":
        command += ["--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"--address {address}: no Ray answered within {ANSWER_SECONDS} s") from error
    if done.returncode != 0:
        reason = next((line for line in reversed(done.stderr.strip().splitlines()) if line.strip()), "")
        raise UserError(f"--address {address}: no Ray cluster answers there ({reason.strip()[:200]})")
