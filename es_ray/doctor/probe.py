"""What runs on a node to examine it. It is sent there by value, as es-ray may be missing there.

So it imports nothing but the standard library, ports.py and model_files.py, which are sent with it, and
returns plain values that any process can read. Sizes are in bytes.
"""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from es_ray.doctor.model_files import examples_problem, model, package_folder
from es_ray.doctor.ports import ray_servers

PACKAGES = ("es-ray", "ray", "torch", "transformers", "tokenizers", "peft", "numpy")
"""Packages that every run needs; engines may need others."""
GPU_KEYS = ("index", "uuid", "name", "driver", "total", "free")
NVIDIA_SMI_SECONDS = 15


def software(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Versions of Python and of packages, None if one is missing; and a hash of es-ray's own code.

    packages: names to report besides PACKAGES. Nothing is imported for it: torch alone would take seconds and
    hundreds of MB.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in (*PACKAGES, *packages)}
    root = package_folder("es_ray")
    if root is None:
        versions["es-ray"] = None  # an editable installation whose checkout is gone
    elif versions["es-ray"] is None:
        versions["es-ray"] = "0+unknown"  # a checkout that is not installed
    source = None if root is None else _code_hash(root)
    return {"versions": versions, "source": source, "cuda": _cuda_of_torch()}


def examine(wanted: dict[str, Any]) -> dict[str, Any]:
    """Everything about this node.

    wanted: `model` ({kind: bundled | folder | hub, path, revision}), `files`, paths that the workers read,
    `ports`, where the cluster's HTTP servers should listen, `packages`, as for `software`, and
    `visible_gpus`, as for `gpus`.
    """
    return software(wanted["packages"]) | {
        "host": socket.gethostname(),
        "gpus": gpus(wanted["visible_gpus"]),
        "memory": memory(),
        "disk": {tempfile.gettempdir(): space(tempfile.gettempdir())},
        "shm": space("/dev/shm"),
        "auth": auth(),
        "servers": ray_servers(wanted["ports"]),
        "model": model(**wanted["model"]),
        "files": {file: examples_problem(Path(file)) for file in wanted["files"]},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code_hash(root: Path) -> str:
    """A hash of a package's Python files: two checkouts may differ under one version."""
    found = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] != "_data":
            found.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def _cuda_of_torch() -> str | None:
    """The CUDA that torch was built with, such as 12.8; None for a build without, and without torch."""
    root = package_folder("torch")
    text = (root / "version.py").read_text(encoding="utf-8") if root is not None else ""
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return found.group(1) if found else None


def gpus(visible: str | None = None) -> dict[str, Any]:
    """NVIDIA's GPUs, the newest CUDA that their driver supports, or why there are none.

    Each is {index, name, driver, total, free}; index: as nvidia-smi counts, and CUDA where all are of a kind.
    visible: the value of CUDA_VISIBLE_DEVICES if only these count; a process of Ray's has one of its own.
    """
    if shutil.which("nvidia-smi") is None:
        return {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}
    query = [
        "nvidia-smi",
        "--query-gpu=index,uuid,name,driver_version,memory.total,memory.free",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        return {
            "found": [],
            "cuda": None,
            "problem": f"nvidia-smi did not answer within {NVIDIA_SMI_SECONDS} s",
        }
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        return {"found": [], "cuda": None, "problem": f"nvidia-smi fails: {said}"}
    rows = [dict(zip(GPU_KEYS, line.split(", "), strict=True)) for line in done.stdout.splitlines()]
    rows = rows if visible is None else _visible(rows, visible)
    found = [
        {
            "index": int(row["index"]),
            "name": row["name"],
            "driver": row["driver"],
            "total": _mebibytes(row["total"]),
            "free": _mebibytes(row["free"]),
        }
        for row in rows
    ]
    return {"found": found, "cuda": _cuda_of_driver(), "problem": None}


def _visible(rows: list[dict[str, str]], visible: str) -> list[dict[str, str]]:
    """The GPUs that CUDA shows: those before the first name that is none's; none if one is repeated."""
    if "MIG-" in visible:
        return rows  # parts of GPUs, which are not listed here
    found = []
    for name in map(str.strip, visible.split(",")):
        named = [row for row in rows if _is_called(row, name)]
        if len(named) != 1:
            break
        found += named
    return [] if any(found.count(row) > 1 for row in found) else found


def _is_called(row: dict[str, str], name: str) -> bool:
    """Whether that is its number or the beginning of its UUID."""
    if name.isdecimal():
        return int(row["index"]) == int(name)
    return name.startswith("GPU-") and row["uuid"].startswith(name)


def _mebibytes(text: str) -> int | None:
    """Bytes; None if the driver does not report it (`[N/A]`)."""
    return int(text) << 20 if text.isdecimal() else None


def _cuda_of_driver() -> str | None:
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except OSError:  # a container may have nvidia-smi but not this
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def memory() -> dict[str, int]:
    """Total memory, and what a new process may still use, within a container's limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    limit = (group / "memory.max").read_text().strip() if (group / "memory.max").is_file() else "max"
    if limit != "max" and int(limit) < total:
        total = int(limit)
        free = min(free, max(total - int((group / "memory.current").read_text()), 0))
    return {"total": total, "free": free}


def space(folder: str) -> dict[str, int] | None:
    """Space on the file system of a folder, which may not exist yet; None for a missing mount."""
    path = Path(folder)
    if not path.exists() and path == Path("/dev/shm"):
        return None
    usage = shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists()))
    return {"total": usage.total, "free": usage.free}


def auth() -> dict[str, Any]:
    """Ray's mode in this process, `token` or `disabled`, and the value of RAY_AUTH_MODE."""
    setting = os.environ.get("RAY_AUTH_MODE")
    mode = (setting or "disabled").lower()
    raylet = sys.modules.get("ray._raylet")  # loaded in a worker: has the mode that Ray uses
    if raylet is not None and hasattr(raylet, "get_authentication_mode"):
        mode = "token" if raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN else "disabled"
    return {"mode": mode, "setting": setting}
