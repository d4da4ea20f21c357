"""What a node says of its GPUs, by a program of nvidia-smi's name that answers as that one does."""

import pytest

from es_ray.doctor import probe


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
        "echo 'NVIDIA H100 80GB HBM3, 570.86.15, 81559, 81072'\necho 'NVIDIA GB10, 580.95, [N/A], [N/A]'"
    )
    found = probe.gpus()
    assert found["problem"] is None
    assert found["found"] == [
        {"name": "NVIDIA H100 80GB HBM3", "driver": "570.86.15",
         "total": 81559 * 2**20, "free": 81072 * 2**20},
        {"name": "NVIDIA GB10", "driver": "580.95", "total": None, "free": None},
    ]  # fmt: skip


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


def test_a_machine_without_nvidia_smi_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.gpus() == {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}
