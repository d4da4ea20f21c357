"""What is wrong with nodes, by their reports. Pure functions of reports; sizes in bytes."""

from collections.abc import Iterator, Sequence

from es_ray.doctor.model_files import NO_FOLDER
from es_ray.doctor.ports import DASHBOARD
from es_ray.doctor.report import Finding, NodeReport, answered, error, hosts, warning
from es_ray.engines.registry import ANYWHERE
from es_ray.engines.spec import EngineSpec

GIB = 1 << 30
LEAST_SHM = GIB
"""Docker's default of 64 MiB is too little for Ray's objects, NCCL and a large LoRA."""
LEAST_DISK = GIB
LEAST_MEMORY = 2 * GIB
"""A worker's process with torch in it, and no model yet."""
FULL_DISK = 0.95
"""Ray spills no objects to a disk that is fuller than this."""
FREE_GPU = 0.8
"""An engine may take most of a GPU; if less than this share is free, another process is using it."""


def reachable(nodes: Sequence[NodeReport]) -> Iterator[Finding]:
    """Nodes that Ray considers alive but that did not answer."""
    for node in nodes:
        if node.failure is not None:
            yield error(
                node.name,
                f"{node.failure} ({node.reached})",
                "look at that machine and its logs in /tmp/ray/session_latest/logs, or remove it",
            )


def gpus(nodes: Sequence[NodeReport], needed: int) -> Iterator[Finding]:
    """Drivers, torch's CUDA, memory taken by others, GPUs of several kinds, and too few of them.

    needed: GPUs that one engine takes.
    """
    for node in answered(nodes):
        yield from _gpus_of(node, node.gpus > 0)
    hosting = [node for node in hosts(nodes) if node.facts["gpus"]["found"]]
    for node in hosting:
        mine, first = (report.facts["gpus"]["found"][0] for report in (node, hosting[0]))
        if mine["driver"] != first["driver"]:
            what = f"NVIDIA driver {mine['driver']}, {hosting[0].name} has {first['driver']}"
            yield warning(node.name, what, "install one driver everywhere, so that numbers can be compared")
        if kinds := {gpu["name"] for gpu in node.facts["gpus"]["found"]} - {first["name"]}:
            yield warning(
                node.name,
                f"has {', '.join(sorted(kinds))}, {hosting[0].name} has {first['name']}",
                "the same bytes are promised on one kind of GPU only",
            )
    if answered(nodes) and not any(node.gpus >= needed for node in nodes):
        most = max(nodes, key=lambda node: node.gpus)
        yield error(
            most.name,
            f"has {most.gpus:g} GPUs, no node has more, and an engine needs {needed}",
            f"use engine.kind {ANYWHERE.name}, a smaller engine.tensor_parallel, or nodes with GPUs",
        )


def _gpus_of(node: NodeReport, wanted: bool) -> Iterator[Finding]:
    report = node.facts["gpus"]
    if report["problem"] is not None:
        if wanted:
            install = "install the NVIDIA driver, and its container toolkit where Ray runs in a container"
            yield error(node.name, f"Ray offers {node.gpus:g} GPUs there, but {report['problem']}", install)
        return
    if node.node_id is not None and node.gpus != len(report["found"]):
        what = f"Ray offers {node.gpus:g} GPUs, the machine has {len(report['found'])}"
        yield warning(node.name, what, "start Ray there with --num-gpus as many as are to be used")
    if not wanted:
        return
    torch, cuda = node.version("torch"), node.facts["cuda"]
    if torch is not None and cuda is None:
        advice = "install a build of torch with CUDA there"
        yield error(node.name, f"torch {torch} cannot use its GPUs: it was built without CUDA", advice)
    elif cuda is not None and report["cuda"] is not None and _major(report["cuda"]) < _major(cuda):
        what = f"its driver supports CUDA up to {report['cuda']}, torch {torch} needs {cuda}"
        yield error(node.name, what, "update the NVIDIA driver, or install a torch for an older CUDA")
    for gpu in report["found"]:
        if gpu["free"] is not None and gpu["free"] < FREE_GPU * gpu["total"]:
            what = f"GPU {gpu['index']} has {gpu['free'] / GIB:.1f} of {gpu['total'] / GIB:.1f} GiB free"
            yield warning(node.name, what, "find out with nvidia-smi what uses the rest, and end it")


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def resources(nodes: Sequence[NodeReport], engine: EngineSpec) -> Iterator[Finding]:
    """Memory, disks and shared memory, for engines of that kind."""
    for node in answered(nodes):
        memory, shm = node.facts["memory"], node.facts["shm"]
        if node.engines:
            needed = LEAST_MEMORY + (node.facts["model"]["size"] or 0) * engine.weights_in_memory
            if memory["free"] < needed:
                free = f"{memory['free'] / GIB:.1f} GiB of memory are free"
                what = f"{free}, an engine needs about {needed / GIB:.1f}"
                yield warning(node.name, what, "use a larger machine, or fewer workers on it")
        for folder, disk in node.facts["disk"].items():
            what = (
                f"{disk['free'] / GIB:.1f} of {disk['total'] / GIB:.0f} GiB are free on the disk of {folder}"
            )
            if disk["free"] < LEAST_DISK:
                yield error(node.name, what, "make room there")
            elif disk["free"] < (1 - FULL_DISK) * disk["total"]:
                yield warning(
                    node.name, what, f"make room: Ray spills nothing to a disk over {FULL_DISK:.0%}"
                )
        if shm is None or shm["total"] < LEAST_SHM:
            what = (
                "there is no /dev/shm"
                if shm is None
                else f"/dev/shm holds {shm['total'] / (1 << 20):.0f} MiB"
            )
            advice = "docker run --shm-size 10g; on Kubernetes, an emptyDir of medium Memory at /dev/shm"
            finding = error if engine.needs_shm and node.engines else warning
            yield finding(node.name, f"{what}, at least {LEAST_SHM / GIB:.0f} GiB is needed", advice)


def security(nodes: Sequence[NodeReport]) -> Iterator[Finding]:
    """Ray's HTTP servers that answer other machines, and clusters that require no token."""
    for node in answered(nodes):
        for server in node.facts["servers"]:
            place = f"Ray's {server['what']} listens on {server['address']}:{server['port']}"
            if server["loopback"]:
                continue
            if not server["token"]:
                yield error(
                    node.name,
                    f"{place} and requires no token: anyone who reaches it can run programs here "
                    "(CVE-2023-48022)",
                    "start Ray with RAY_AUTH_MODE=token, and with --dashboard-host 127.0.0.1",
                )
            elif server["what"] == DASHBOARD:
                advice = (
                    "keep it on 127.0.0.1 and use `ray dashboard` or a tunnel, or close the port to the world"
                )
                yield warning(node.name, f"{place}; it requires the token, but over plain HTTP", advice)
        mode, setting = node.facts["auth"]["mode"], node.facts["auth"]["setting"]
        if node.node_id is not None and mode != "token":
            yield error(
                node.name,
                "Ray runs without token authentication: anyone who reaches its ports can run programs there",
                "stop the cluster, set RAY_AUTH_MODE=token on every node, and start it again "
                "(ray get-auth-token --generate makes a token)",
            )
        elif node.node_id is None and setting is not None and mode != "token":
            what = f"RAY_AUTH_MODE={setting}: a Ray started from here requires no token"
            yield warning(node.name, what, "leave it out, or set RAY_AUTH_MODE=token")


def data(driver: NodeReport, nodes: Sequence[NodeReport]) -> Iterator[Finding]:
    """The model: present, complete, and the same on every node that hosts engines; the driver's examples."""
    engines = hosts(nodes)
    for node in [driver, *engines]:
        model = node.facts["model"]
        weights = node.engines or model["found"] is None
        if model["problem"] is not None and weights:
            local = (
                "copy it to the same path on every node, or give a name on the Hugging Face hub"
                if model["problem"] == NO_FOLDER
                else "copy the complete model folder again"
            )
            hub = "let that node reach the hub, or put the model into its cache with hf download"
            again = "delete that folder, and download the model again with hf download"
            advice = local if model["path"].startswith("/") else hub
            advice = again if model["found"] == "cache" else advice
            yield error(node.name, f"model {model['path']}: {model['problem']}", advice)
        elif model["found"] == "hub" and node.engines:
            what = f"model {model['path']} is not there yet; the first engine downloads it"
            yield warning(node.name, what, f"hf download {model['path']} there saves that time")
    for node in engines:
        hashes = [report.facts["model"]["hash"] for report in (node, driver)]
        if None not in hashes and hashes[0] != hashes[1]:
            model = f"model {node.facts['model']['path']}"
            what = f"{model} is not the one that {driver.name} has: config.json differs"
            yield error(node.name, what, "copy the same model to every node")
    for file, problem in driver.facts["files"].items():
        if problem is not None:
            yield error(driver.name, f"{file}: {problem}", "name a file of examples that is here")
