"""What a node says of its GPUs, by a program of nvidia-smi's name that answers as that one does."""

import pytest

from es_ray.config import Config
from es_ray.doctor import probe
from es_ray.doctor.diagnosis import diagnose


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """`nvidia_smi(script)`: the program on the path."""

    def write(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_gpus_are_read_with_their_memory_in_bytes(nvidia_smi):
    nvidia_smi(
        "echo '0, GPU-1f, NVIDIA H100 80GB HBM3, 570.86.15, 81559, 81072'\n"
        "echo '1, GPU-2e, NVIDIA GB10, 580.95, [N/A], [N/A]'"
    )
    found = probe.gpus()
    assert found["problem"] is None
    assert found["found"] == [
        {"index": 0, "name": "NVIDIA H100 80GB HBM3", "driver": "570.86.15",
         "total": 81559 * 2**20, "free": 81072 * 2**20},
        {"index": 1, "name": "NVIDIA GB10", "driver": "580.95", "total": None, "free": None},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]), ("2", [2]), ("2,0", [2, 0]), ("GPU-2e", [1]), ("GPU-3d,GPU-1f", [2, 0]), ("", []),
        ("-1", []), ("1,7,0", [1]), ("0, 1", [0, 1]), (" 01", [1]), ("0,0", []), ("0,1,0", []), ("GPU-", []),
        ("GPU-1f,GPU-1fa", []), ("x", []), ("MIG-4c", [0, 1, 2]),
    ],
)  # fmt: skip
def test_gpus_that_cuda_hides_do_not_count(nvidia_smi, visible, indices):
    lines = [f"{n}, GPU-{n + 1}{'fed'[n]}a4, NVIDIA H100, 570.1, 81559, 81072" for n in range(3)]
    nvidia_smi("\n".join(f"echo '{line}'" for line in lines))
    assert [gpu["index"] for gpu in probe.gpus(visible)["found"]] == indices


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'No devices\nwere found'; exit 6", "nvidia-smi fails: No devices were found"),
        ("exec /bin/sleep 60", "nvidia-smi did not answer within 0.5 s"),
    ],
)
def test_a_driver_that_does_not_work_is_said_to_be_one(nvidia_smi, monkeypatch, script, problem):
    monkeypatch.setattr(probe, "NVIDIA_SMI_SECONDS", 0.5)
    nvidia_smi(script)
    assert probe.gpus() == {"found": [], "cuda": None, "problem": problem}


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("1", 1)])
def test_a_run_on_this_machine_has_the_gpus_that_cuda_shows(nvidia_smi, monkeypatch, visible, count):
    nvidia_smi("echo '0, GPU-1f, H100, 570.1, 81559, 1000'\necho '1, GPU-2e, H100, 570.1, 81559, 81072'")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    else:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = diagnose(Config(), 5.0)
    assert found.driver.gpus == count
    full = [finding for finding in found.findings if "GPU 0 has" in finding.what]
    assert len(full) == (visible is None)  # what others do on a GPU that this process does not see


def test_a_machine_without_nvidia_smi_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.gpus() == {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}
