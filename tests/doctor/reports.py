"""Constructed reports of nodes, for the functions that check them."""

import copy
from typing import Any

from es_ray.doctor.report import NodeReport

GIB = 1 << 30
GPU = {"index": 0, "name": "NVIDIA H100", "driver": "570.1", "total": 80 * GIB, "free": 79 * GIB}
FACTS: dict[str, Any] = {
    "versions": {
        "python": "3.11.7", "es-ray": "0.1.0", "ray": "2.60.0", "torch": "2.9.1+cu128", "sglang": "0.5.17",
        "transformers": "4.57.1", "tokenizers": "0.22.1", "peft": "0.18.0", "numpy": "2.3.5",
    },
    "source": "aaaa", "cuda": "12.8", "host": "n",
    "gpus": {"found": [GPU], "cuda": "12.8", "problem": None},
    "memory": {"total": 64 * GIB, "free": 60 * GIB},
    "disk": {"/tmp": {"total": 100 * GIB, "free": 50 * GIB}},
    "shm": {"total": 16 * GIB, "free": 16 * GIB},
    "auth": {"mode": "token", "setting": "token"},
    "servers": [],
    "model": {"found": "folder", "path": "/m", "size": GIB, "hash": "cccc", "problem": None},
    "files": {"/t.jsonl": None},
}  # fmt: skip


def facts(**changes: Any) -> dict[str, Any]:
    """A healthy GPU node's answer, with some of it changed: `versions__torch="2.8.0"`."""
    tree = copy.deepcopy(FACTS)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree[section][name.replace("_", "-") if section == "versions" else name] = value
        else:
            tree[section] = value
    return tree


def node(name: str = "n1", offers: float = 1, engines: bool = True, **changes: Any) -> NodeReport:
    """A node that answered, healthy but for the changes; offers: GPUs that Ray hands out there."""
    return NodeReport(name, f"{name}:1", name, 0.1, offers, 8, engines=engines, facts=facts(**changes))


def head(**changes: Any) -> NodeReport:
    """The driver on a head without GPUs: torch for CPUs, no SGLang."""
    cpu = {"versions__sglang": None, "versions__torch": "2.9.1+cpu", "cuda": None}
    none = {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}
    return NodeReport("the driver", "this process", facts=facts(**(cpu | {"gpus": none} | changes)))
