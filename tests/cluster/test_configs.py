"""cluster/: valid by Ray's own schema, and right in what Ray does not check. No cluster is started."""

import copy
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "cluster"
CLOUD = ("gpu.yaml", "gpu-gcp.yaml")
LAUNCHER = (*CLOUD, "onprem.yaml")
BUNDLE = {"GPU": 1, "CPU": 1}
"""The smallest placement of a run: an engine with tensor_parallel 1 and one thread."""


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def prepared(name: str) -> dict[str, Any]:
    """A configuration as `ray up` completes it."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(read(name))


def pods() -> dict[str, dict[str, Any]]:
    """The pod templates of kuberay.yaml, by what they are."""
    job, _ = kuberay()
    spec = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {
        "submitter": job["spec"]["submitterPodTemplate"],
        "head": spec["headGroupSpec"]["template"],
        **workers,
    }


def kuberay() -> tuple[dict[str, Any], dict[str, Any]]:
    """The job and the network policy."""
    job, policy = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return job, policy


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods().items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield name, container


def ray_starts(config: dict[str, Any]) -> list[str]:
    """The commands that start Ray on the head and on the workers."""
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_it(name):
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(name))


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_dashboard_stays_on_loopback(name):
    (head,) = [command for command in ray_starts(prepared(name)) if "--head" in command]
    assert re.findall(r"--dashboard-host[= ](\S+)", head) == ["127.0.0.1"]
    assert "0.0.0.0" not in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", LAUNCHER)
def test_tokens_are_asked_for_wherever_ray_starts(name):
    config = prepared(name)
    starts = ray_starts(config)
    assert len(starts) == 2
    for command in starts:
        assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*;.*\bray start\b", command)
    tokens = [remote for remote in config["file_mounts"] if remote.endswith("/.ray/auth_token")]
    assert [config["file_mounts"][remote] for remote in tokens] == ["~/.ray/auth_token"]


@pytest.mark.parametrize("name", CLOUD)
def test_tokens_reach_every_container(name):
    assert "-e RAY_AUTH_MODE=token" in prepared(name)["docker"]["run_options"]
    assert "/root/.ray/auth_token" in prepared(name)["file_mounts"]


def test_tokens_reach_commands_typed_on_a_machine_without_containers():
    written = [command for command in read("onprem.yaml")["setup_commands"] if ".bashrc" in command]
    assert any("RAY_AUTH_MODE=token" in command for command in written)


@pytest.mark.parametrize("name", LAUNCHER)
def test_no_secret_is_written_down(name):
    assert "RAY_AUTH_TOKEN" not in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", CLOUD)
def test_no_command_of_rays_defaults_is_left(name):
    """They install a development version of Ray and open the dashboard."""
    config = prepared(name)
    assert config["head_setup_commands"] == config["worker_setup_commands"] == []
    assert "pip install" not in str({key: config[key] for key in config if key.endswith("_commands")})


def test_ports_are_closed_to_the_world_at_aws():
    """Ray makes a security group with port 22 open to all for every node type that names none."""
    config = prepared("gpu.yaml")
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]
        assert "NetworkInterfaces" not in node_type["node_config"]
    assert "security_group" not in config["provider"]


def test_ports_are_closed_to_the_world_at_google():
    """The default network lets the world in by ssh."""
    for node_type in prepared("gpu-gcp.yaml")["available_node_types"].values():
        (interface,) = node_type["node_config"]["networkInterfaces"]
        assert interface["subnetwork"].endswith("/subnetworks/es-ray")


def test_ports_are_closed_to_the_world_at_kubernetes():
    job, policy = kuberay()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")
    assert "headService" not in head
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen
    for pod in pods().values():
        assert chosen.items() <= pod["metadata"]["labels"].items()
        assert not pod["spec"].get("hostNetwork")
        for container in pod["spec"]["containers"]:
            assert not any("hostPort" in port for port in container.get("ports", []))
    assert "Ingress" in policy["spec"]["policyTypes"]
    own, operator = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert [peer["podSelector"] for peer in operator["from"]] == [
        {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
    ]


@pytest.mark.parametrize("name", CLOUD)
def test_nodes_end_when_they_are_not_needed(name):
    config = read(name)
    assert config["provider"]["cache_stopped_nodes"] is False
    assert 0 < config["idle_timeout_minutes"] <= 30
    workers = {key: value for key, value in config["available_node_types"].items() if key != "head"}
    assert sum(value["max_workers"] for value in workers.values()) <= config["max_workers"]
    for value in workers.values():
        assert 0 <= value["min_workers"] <= value["max_workers"]


def test_disks_end_with_their_nodes():
    for node_type in read("gpu.yaml")["available_node_types"].values():
        for device in node_type["node_config"]["BlockDeviceMappings"]:
            assert device["Ebs"]["DeleteOnTermination"] is True
    for node_type in read("gpu-gcp.yaml")["available_node_types"].values():
        assert all(disk["autoDelete"] for disk in node_type["node_config"]["disks"])


@pytest.mark.parametrize("name", CLOUD)
def test_engines_fit_on_workers_and_never_on_the_head(name):
    config = prepared(name)
    assert config["head_node_type"] == "head"
    for key, node_type in config["available_node_types"].items():
        fits = all(node_type["resources"].get(what, 0) >= needed for what, needed in BUNDLE.items())
        assert fits == (key != "head"), key
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert config["available_node_types"]["head"]["max_workers"] == 0
    assert "--gpus all" in config["docker"]["worker_run_options"]
    assert "--gpus" not in str(config["docker"].get("head_run_options", []) + config["docker"]["run_options"])


@pytest.mark.parametrize("name", CLOUD)
def test_spot_is_offered_and_only_that_differs(name):
    types = read(name)["available_node_types"]
    spot, usual = copy.deepcopy(types["gpu_spot"]), copy.deepcopy(types["gpu"])
    assert spot["resources"] == usual["resources"]
    market = str(
        spot["node_config"].pop("InstanceMarketOptions", spot["node_config"].pop("scheduling", None))
    )
    assert "spot" in market.lower()
    usual["node_config"].pop("scheduling", None)
    assert spot["node_config"] == usual["node_config"]


def test_an_on_premises_head_hosts_no_engine():
    head, worker = ray_starts(prepared("onprem.yaml"))
    assert "--num-cpus=0" in head
    assert "--num-gpus=0" in head
    assert "--num" not in worker


def test_all_on_premises_workers_are_started():
    """Ray 2.60's second autoscaler counts the head among them, and starts one less."""
    config = prepared("onprem.yaml")
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    head, _ = ray_starts(config)
    assert re.search(r"export [^;]*\bRAY_enable_autoscaler_v2=0\b[^;]*;", head)


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_checkout_gets_onto_every_node(name):
    config = prepared(name)
    (remote,) = [remote for remote, local in config["file_mounts"].items() if local == "."]
    assert remote.endswith("/es-ray")
    assert config["rsync_filter"] == [".gitignore"]
    if name in CLOUD:
        place = f"/tmp/ray_tmp_mount/{config['cluster_name']}{remote}"
        for key, node_type in config["available_node_types"].items():
            target = "head" if key == "head" else "gpu"
            commands = config if key == "head" else node_type
            (build,) = commands["initialization_commands"]
            assert build.endswith(f" {place}")
            assert f"--file {place}/cluster/Dockerfile --target {target} " in build
            image = config["docker"]["head_image" if key == "head" else "worker_image"]
            assert f"--tag {image} " in build


def test_kuberay_ends_what_it_started():
    job, _ = kuberay()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert 0 <= job["spec"]["ttlSecondsAfterFinished"] <= 600
    assert job["spec"]["activeDeadlineSeconds"] > 0
    assert job["spec"]["entrypoint"].startswith("es-ray run ")


def test_kuberay_tokens_reach_every_container():
    job, _ = kuberay()
    secret = {"name": "es-ray-token", "key": "auth_token"}
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": secret["name"]}
    assert {name for name, _ in containers()} == {"submitter", "head", "gpu"}
    for _, container in containers():
        environment = {variable["name"]: variable for variable in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == {
            "name": "RAY_AUTH_TOKEN",
            "valueFrom": {"secretKeyRef": secret},
        }


def test_kuberay_engines_fit_on_workers_and_never_on_the_head():
    job, _ = kuberay()
    spec = job["spec"]["rayClusterSpec"]
    started = spec["headGroupSpec"]["rayStartParams"]
    assert (started["num-cpus"], started["num-gpus"]) == ("0", "0")
    (group,) = spec["workerGroupSpecs"]
    assert not {"num-cpus", "num-gpus"} & set(group["rayStartParams"])
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for name, container in containers():
        limits = container["resources"]["limits"]
        assert int(limits.get("nvidia.com/gpu", 0)) == (BUNDLE["GPU"] if name == "gpu" else 0)
        assert int(limits["cpu"]) >= BUNDLE["CPU"]
        assert ("es-ray-gpu:" in container["image"]) == (name == "gpu")
    asked = re.search(r"--workers (\d+)", job["spec"]["entrypoint"])
    assert asked
    assert int(asked[1]) <= group["maxReplicas"]


def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (FOLDER / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_versions_are_those_that_pyproject_allows():
    pinned, declared = pins(), project()
    asked = [
        Requirement(text) for text in declared["dependencies"] + declared["optional-dependencies"]["sglang"]
    ]
    allowed = {requirement.name: requirement.specifier for requirement in asked}
    assert set(pinned) >= {"ray", "sglang", "torch"}
    for name, version in pinned.items():
        assert allowed[name].contains(version), f"{name}=={version}: pyproject.toml has {allowed[name]}"


def test_one_version_everywhere():
    job, _ = kuberay()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins()["ray"]
    for name in (*LAUNCHER, "kuberay.yaml"):
        for image in re.findall(r"es-ray-(?:head|gpu):(\S+)", (FOLDER / name).read_text()):
            assert image == project()["version"]


@pytest.mark.parametrize("text", ["Dockerfile", "onprem.yaml"])
def test_what_is_installed_is_pinned(text):
    installs = [line for line in (FOLDER / text).read_text().splitlines() if "pip install" in line]
    assert installs
    for line in installs:
        assert re.search(r"(-c|--constraint) \S*cluster/constraints\.txt", line), line


def test_head_and_workers_have_one_python_and_the_head_no_sglang():
    stages = re.split(r"^FROM ", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    head, gpu = stages
    assert head.startswith("ubuntu:24.04 AS head")
    assert re.match(r"nvidia/cuda:\S+-devel-ubuntu24\.04 AS gpu", gpu)
    for stage in stages:
        assert re.search(r"\bpython3 .*python3-venv\b|\bpython3 python3-venv\b", stage)
        assert "'ray[default]'" in stage
    assert "sglang" not in re.sub("#.*", "", head)
    assert "sglang" in gpu
    onprem = read("onprem.yaml")
    assert "sglang" not in str(onprem["head_setup_commands"])
    assert "sglang" in str(onprem["worker_setup_commands"])
