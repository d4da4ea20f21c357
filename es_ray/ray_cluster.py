"""Joining or starting Ray, with an error in one line instead of a hang."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from es_ray.config import ClusterConfig
from es_ray.errors import RunError, UserError
from es_ray.interrupts import defer_interrupts

ANSWER_SECONDS = 15
"""How long a cluster may take to answer at all."""
MISMATCH = re.compile(
    r"Version mismatch.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL
)
RAY_MISMATCH = re.compile(r"cluster has Ray version (\S+) but local Ray version is ([\w.]+\w)")
TOKEN = re.compile(
    r"InvalidAuthToken|no authentication token was found|find an authentication token|Unauthenticated",
    re.IGNORECASE,
)


def connect(config: ClusterConfig, cpus: int) -> tuple[bool, bool]:
    """Connect this process to the configured Ray, starting one for `local`; returns (started, joined).

    cpus: how many a Ray that is started here declares at least. Raises UserError where no Ray answers,
    RunError where none can be started.
    """
    if ray.is_initialized():
        return False, False
    with _keep_sigterm_handler():
        return _connect(config, cpus)


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler: Ray installs its own, which ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _connect(config: ClusterConfig, cpus: int) -> tuple[bool, bool]:
    address = config.address or "local"
    options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with _undivided_start():
                ray.init(address="local", num_cpus=max(cpus, os.cpu_count() or 1), **options)
        except Exception as error:  # Ray raises all kinds, a bare Exception where its node took over 30 s
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"Ray could not be started on this machine: {reason}") from error
        return True, False
    _check_answer(address)
    options.pop("include_dashboard")
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--address {address}: {_known(str(error)) or ' '.join(str(error).split())[:300]}"
        ) from error
    return False, True


@contextmanager
def _undivided_start() -> Iterator[None]:
    """Defer Ctrl-C until Ray has started: a half-started one would leave processes behind."""
    try:
        with defer_interrupts("es-ray: stopping, as soon as Ray has started and can be stopped"):
            yield
    except BaseException:
        ray.shutdown()
        raise


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Connect to the configured Ray for the duration of the block; raises UserError where no Ray answers."""
    started, joined = connect(config, cpus=1)
    try:
        yield
    finally:
        if started or joined:  # a connection that existed before is kept
            ray.shutdown()


def _known(text: str) -> str | None:
    """One line for a refusal that Ray explains at length; None for any other."""
    found = RAY_MISMATCH.search(text)
    if found is not None:
        there, here = found.groups()
        return f"the cluster runs Ray {there}, this process Ray {here}; they must be the same"
    found = MISMATCH.search(text)
    if found is not None:
        there, python_there, here, python_here = found.groups()
        return (
            f"the cluster runs Ray {there} on Python {python_there}, this process Ray {here} on Python "
            f"{python_here}; they must be the same"
        )
    if TOKEN.search(text):
        return (
            "the cluster asks for a token that this process does not have; set RAY_AUTH_MODE=token, and copy "
            "what `ray get-auth-token` prints on the head to ~/.ray/auth_token"
        )
    return None


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
        said = _known(done.stderr) or f"no Ray cluster answers there ({reason.strip()[:200]})"
        raise UserError(f"--address {address}: {said}")
