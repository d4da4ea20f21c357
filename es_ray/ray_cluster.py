"""Joining or starting Ray, with an error in one line instead of a hang."""

import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from es_ray.config import ClusterConfig
from es_ray.errors import RunError, UserError
from es_ray.interrupts import defer_interrupts, keep_handlers

ANSWER_SECONDS = 15
"""How long a cluster may take to answer at all."""
FAILURE_HANDLERS = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
"""ray::RayLog::InstallFailureSignalHandler(const char*, bool), which acts once only."""
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
    if config.address in (None, "local"):
        _start(cpus)
        return True, False
    _join(config.address)
    return False, True


def disconnect() -> None:
    """End the connection, and the Ray that was started here."""
    with keep_handlers():  # Ray resets that of SIGTERM
        ray.shutdown()


def _start(cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # a half-started Ray would leave processes behind
        with defer_interrupts("es-ray: stopping, as soon as Ray has started and can be stopped"):
            _init(address="local", num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False)
    except Exception as error:  # Ray raises all kinds, a bare Exception where its node took over 30 s
        disconnect()
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"Ray could not be started on this machine: {reason}") from error
    except BaseException:
        disconnect()
        raise


def _join(address: str) -> None:
    _check_answer(address)
    try:
        _init(address=address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--address {address}: {_known(str(error)) or ' '.join(str(error).split())[:300]}"
        ) from error
    except KeyboardInterrupt:
        disconnect()
        raise


def _init(**options: Any) -> None:
    """Call ray.init without its two handlers of SIGTERM, in Python and in C++, which end this process."""
    with keep_handlers():
        _install_failure_handlers()
    with keep_handlers():
        ray.init(log_to_driver=False, logging_level="ERROR", **options)


def _install_failure_handlers() -> None:
    """Install Ray's C++ handlers of SIGSEGV and the like now: ray.init then leaves that of SIGTERM alone.

    It would replace it in a call that runs for a second without the GIL being released, so that nothing
    could set it back. Without this function in Ray, SIGTERM in that second ends the process with a dump.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(ray._raylet.__file__)[FAILURE_HANDLERS](None, False)


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Connect to the configured Ray for the duration of the block; raises UserError where no Ray answers."""
    started, joined = connect(config, cpus=1)
    try:
        yield
    finally:
        if started or joined:  # a connection that existed before is kept
            disconnect()


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
