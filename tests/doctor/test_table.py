"""The table of nodes, as wide as the terminal allows."""

import io

import pytest
from rich.console import Console

from es_ray.doctor.table import health_table
from es_ray.engines.spec import Package
from tests.doctor.reports import GIB, GPU, head, node

PACKAGES = [Package("sglang", "SGLang", (0, 5), "", "")]


def shown(width: int, driver, *nodes, packages=PACKAGES) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(health_table(driver, list(nodes), packages, width))
    return console.file.getvalue().splitlines()


EIGHT = {"found": [GPU | {"index": n} for n in range(8)], "cuda": "12.8", "problem": None}
NODES = [node("gpu-node-1.example.internal", offers=8, gpus=EIGHT), node("n2")]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_and_breaks_no_value(width):
    lines = shown(width, head(), *NODES)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in (
        "the driver", "gpu-node-1.example.internal", "Ray 2.60.0", "torch 2.9.1+cpu", "SGLang 0.5.17",
        "SGLang -", "7: NVIDIA H100, 79 of 80 GiB free", "driver 570.1, CUDA 12.8", "8 for Ray",
        "memory 60/64 GiB",
        "/dev/shm 16/16 GiB", "token on", "in a folder", "1.0 GiB of weights", "answered in 0.1 s",
    ):  # fmt: skip
        assert words in text, words


def test_a_wide_terminal_has_a_row_for_each_node_and_a_narrow_one_a_row_for_each_cell():
    assert sum("─┼" in line or "━╇" in line for line in shown(200, head(), *NODES)) == 3
    narrow = shown(80, head(), *NODES)
    assert [line.split()[1] for line in narrow if "│ versions" in line] == ["versions"] * 3


def test_a_node_that_did_not_answer_is_in_it():
    silent = node("lost")
    silent = type(silent)(**vars(silent) | {"facts": {}, "failure": "it does not answer within 30 s"})
    for width in (80, 200):
        assert "it does not answer within 30 s" in "\n".join(shown(width, head(), silent))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (5 << 10, "5.0 KiB of weights"),
        (3 << 20, "3.0 MiB of weights"),
        (700 << 20, "700 MiB of weights"),
        (3 * GIB // 2, "1.5 GiB of weights"),
        (15 * GIB, "15 GiB of weights"),
    ],
)
def test_sizes_have_a_unit_of_which_there_is_one_at_least(size, words):
    assert words in "\n".join(shown(200, head(model__size=size)))


def test_docker_has_64_mib_of_shared_memory():
    shm = {"total": 64 << 20, "free": 3 << 20}
    assert "/dev/shm 3.0/64 MiB" in "\n".join(shown(200, head(shm=shm)))


def test_the_packages_of_a_users_own_engine_are_shown():
    package = Package("fast-llm", "FastLLM", (2,), "", "")
    assert "FastLLM 2.2" in "\n".join(shown(200, head(versions__fast_llm="2.2"), packages=[package]))
