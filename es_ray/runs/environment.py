"""What a run ran on: versions, hardware, git revision, command."""

import os
import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from es_ray.engines.registry import AUTO, engine_packages

PACKAGES = ("es-ray", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "ray")
"""Packages of every run; engines may add others."""


def environment(engine_kind: str = AUTO) -> dict[str, Any]:
    """What one start of a run runs on, for environment.json; engine_kind: whose packages to include."""
    import torch

    engines = [package.name for package in engine_packages(engine_kind)]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in (*PACKAGES, *engines)},
        "git_revision": _git_revision(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _git_revision() -> str | None:
    """The revision of the checkout that es-ray runs from, with `+` if it has changes; None outside one."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():  # a file in a worktree
        return None
    git = ["git", "-C", str(top), "status", "--porcelain=v2", "--branch"]
    try:
        found = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    lines = found.stdout.splitlines()
    revision = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), None)
    if found.returncode or revision is None or revision == "(initial)":
        return None
    return revision + "+" * any(not line.startswith("#") for line in lines)
