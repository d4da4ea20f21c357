"""What runs on a node to tell what it is like. It is sent there by value, as es-ray may be missing there.

So it imports nothing but the standard library and ports.py, which is sent with it, and answers with
plain values that any process can read. Sizes are bytes.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from es_ray.doctor.ports import ray_servers

PACKAGES = ("es-ray", "ray", "torch", "sglang", "transformers", "tokenizers", "peft", "numpy")
WEIGHTS = ("*.safetensors", "*.bin")
GPU_KEYS = ("name", "driver", "total", "free")
NVIDIA_SMI_SECONDS = 15
HUB_SECONDS = 5


def software() -> dict[str, Any]:
    """Versions of Python and of the packages, None where one is missing; and a hash of es-ray's own code.

    Nothing is imported for it: torch alone would take seconds and hundreds of MB.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    root = _package("es_ray")
    if root is None:
        versions["es-ray"] = None  # an editable installation whose checkout is gone
    elif versions["es-ray"] is None:
        versions["es-ray"] = "0+unknown"  # a checkout that is not installed
    source = None if root is None else _code_hash(root)
    return {"versions": versions, "source": source, "cuda": _cuda_of_torch()}


def examine(wanted: dict[str, Any]) -> dict[str, Any]:
    """Everything about this node.

    wanted: `model` ({kind: bundled | folder | hub, path, revision}), `files`, paths that the workers read,
    and `ports`, where the cluster's HTTP servers are said to listen.
    """
    return software() | {
        "host": socket.gethostname(),
        "gpus": gpus(),
        "memory": memory(),
        "disk": {tempfile.gettempdir(): space(tempfile.gettempdir())},
        "shm": space("/dev/shm"),
        "auth": auth(),
        "servers": ray_servers(wanted["ports"]),
        "model": model(**wanted["model"]),
        "files": {file: _file_hash(Path(file)) for file in wanted["files"]},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _code_hash(root: Path) -> str:
    """A hash of a package's Python files: two checkouts may differ under one version."""
    found = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] != "_data":
            found.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def _cuda_of_torch() -> str | None:
    """The CUDA that torch was built with, such as 12.8; None for a build without, and without torch."""
    root = _package("torch")
    text = (root / "version.py").read_text(encoding="utf-8") if root is not None else ""
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return found.group(1) if found else None


def gpus() -> dict[str, Any]:
    """NVIDIA's GPUs ({name, driver, total, free}), the newest CUDA that their driver knows, or why not."""
    if shutil.which("nvidia-smi") is None:
        return {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,memory.free",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        return {"found": [], "cuda": None, "problem": f"nvidia-smi hangs for {NVIDIA_SMI_SECONDS} s"}
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        return {"found": [], "cuda": None, "problem": f"nvidia-smi fails: {said}"}
    rows = [dict(zip(GPU_KEYS, line.split(", "), strict=True)) for line in done.stdout.splitlines()]
    found = [row | {key: _mebibytes(row[key]) for key in ("total", "free")} for row in rows]
    return {"found": found, "cuda": _cuda_of_driver(), "problem": None}


def _mebibytes(text: str) -> int | None:
    """Bytes; None where the driver does not tell (`[N/A]`)."""
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
    """Memory in all and what a new process may still take, a container's limit counted in."""
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
    """Room of the file system that holds a folder, which may not be there yet; None for a missing mount."""
    path = Path(folder)
    if not path.exists() and path == Path("/dev/shm"):
        return None
    usage = shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists()))
    return {"total": usage.total, "free": usage.free}


def auth() -> dict[str, Any]:
    """Ray's mode in this process, `token` or `disabled`, and what RAY_AUTH_MODE says."""
    setting = os.environ.get("RAY_AUTH_MODE")
    mode = (setting or "disabled").lower()
    raylet = sys.modules.get("ray._raylet")  # there in a worker: it knows what Ray made of the setting
    if raylet is not None and hasattr(raylet, "get_authentication_mode"):
        mode = "token" if raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN else "disabled"
    return {"mode": mode, "setting": setting}


def model(kind: str, path: str, revision: str | None) -> dict[str, Any]:
    """Where this node has the model: {found: folder | cache | hub | None, path, size, hash, problem}.

    size: bytes of its weights; hash: of its config.json. Both None where it would have to be downloaded.
    """
    if kind == "hub":
        return _hub_model(path, revision)
    if kind == "bundled":
        root = _package("es_ray")
        if root is None:
            return _missing(path, "it comes with es-ray, which is not installed")
        data = root / "_data" if (root / "_data").is_dir() else root.parent / "data"
        path = str(data / "tiny_chat")
    return _folder_model(Path(path), "folder")


def _folder_model(folder: Path, found: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        return _missing(str(folder), "no such folder" if not folder.is_dir() else "it has no config.json")
    weights = {
        file.name: file.stat().st_size for form in WEIGHTS for file in folder.glob(form) if file.is_file()
    }
    lost = sorted(_shards(folder) - set(weights))
    problem = f"{', '.join(lost)[:100]} is missing" if lost else None
    if not weights:
        problem = f"it has no weights ({' or '.join(WEIGHTS)})"
    size, sha = sum(weights.values()), _file_hash(folder / "config.json")
    return {"found": found, "path": str(folder), "size": size, "hash": sha, "problem": problem}


def _shards(folder: Path) -> set[str]:
    """The files that weights in several parts consist of: a download may have been cut short."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    return set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())


def _missing(path: str, problem: str) -> dict[str, Any]:
    return {"found": None, "path": path, "size": None, "hash": None, "problem": problem}


def _hub_model(name: str, revision: str | None) -> dict[str, Any]:
    if importlib.util.find_spec("huggingface_hub") is None:
        return _missing(name, "huggingface_hub is not installed")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        here = _folder_model(Path(cached).parent, "cache")
        if here["problem"] is None:
            return here
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_SECONDS)
    except (
        Exception
    ) as error:  # of whatever HTTP library the hub's client uses: all mean that it can't be had
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return _missing(name, f"not in the cache, and the hub does not give it: {said[:200]}")
    return {"found": "hub", "path": name, "size": None, "hash": None, "problem": None}


def _file_hash(file: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return None
