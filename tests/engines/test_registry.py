"""Which engine a name stands for, and which one `auto` is."""

import subprocess
import sys
from pathlib import Path

import pytest

from es_ray.config import Config, EngineConfig
from es_ray.engines.registry import ANYWHERE, ENGINES, Machine, automatic, engine_packages, engine_spec
from es_ray.engines.spec import EngineSpec, Package, parsed
from es_ray.errors import UserError

OWN = """
from es_ray.engines.spec import EngineSpec, Package
SPEC = EngineSpec("own", None, lambda engine, available: 0, (Package("fast-llm", "FastLLM", (2,), "", ""),))
NUMBER = 5
"""


@pytest.fixture
def own(tmp_path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def test_a_registered_name_and_an_import_path_give_a_spec(own, tmp_path, monkeypatch):
    for name, spec in ENGINES.items():
        assert engine_spec(name) is spec
        assert spec.name == name
    assert engine_spec(f"{own}:SPEC").name == "own"
    monkeypatch.syspath_prepend(tmp_path)
    assert engine_spec("own:SPEC").name == "own"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vllm", ["'vllm'", "auto", "sglang", "transformers", "package.module:name"]),
        ("{own}:NUMBER", ["own.py:NUMBER", "int", "EngineSpec"]),
        ("{own}:ENGINE", ["own.py", "'ENGINE'", "SPEC"]),
        ("nowhere.py:SPEC", ["nowhere.py", "no such file"]),
        ("no_such_package:SPEC", ["no_such_package", "cannot be imported"]),
    ],
)
def test_what_is_not_an_engine_is_refused_in_one_line(kind, words, own):
    with pytest.raises(UserError) as error:
        engine_spec(kind.format(own=own))
    assert str(error.value).startswith("engine.kind: ")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def machine(gpus: float, *packages: str) -> Machine:
    return Machine(gpus, packages.__contains__)


@pytest.mark.parametrize(
    ("machines", "in_process", "name"),
    [
        ([machine(1, "sglang")], False, "sglang"),
        ([machine(1, "sglang")], True, "transformers"),  # it may end the process that it runs in
        ([machine(1)], False, "transformers"),
        ([machine(0, "sglang")], False, "transformers"),
        ([machine(0, "sglang"), machine(1)], False, "transformers"),  # not on one machine
        ([machine(0), machine(8, "sglang")], False, "sglang"),
        ([], False, "transformers"),
    ],
)
def test_auto_is_the_first_engine_that_a_machine_can_host(machines, in_process, name):
    assert automatic(EngineConfig(), machines, in_process) is ENGINES[name]


def test_auto_leaves_too_few_gpus_to_a_later_message():
    assert automatic(EngineConfig(tensor_parallel=4), [machine(1, "sglang")], False).name == "sglang"


def test_one_engine_runs_anywhere():
    assert list(ENGINES.values())[-1] is ANYWHERE
    assert ANYWHERE.gpus(EngineConfig(), False) == 0
    assert not ANYWHERE.packages
    assert ANYWHERE.in_process
    assert engine_spec("auto") is ANYWHERE


def test_gpus_of_an_engine():
    two = EngineConfig(tensor_parallel=2)
    assert [ENGINES["sglang"].gpus(two, available) for available in (False, True)] == [2, 2]
    assert [ENGINES["transformers"].gpus(EngineConfig(), available) for available in (False, True)] == [0, 1]


def test_transformers_refuses_a_model_over_several_gpus():
    with pytest.raises(UserError, match=r"engine\.tensor_parallel: 2 is for sglang; transformers needs 1"):
        ENGINES["transformers"].check(Config().replace(engine__tensor_parallel=2), True)


def test_a_missing_sglang_matters_where_engines_would_be_hosted():
    config = Config().replace(engine__kind="sglang")
    from es_ray.engines.sglang import compat

    if compat.installed() is None:
        ENGINES["sglang"].check(config, False)
        with pytest.raises(UserError, match=r"sglang is not installed.*es-ray\[sglang\]"):
            ENGINES["sglang"].check(config, True)


def test_packages_are_those_of_the_registry_and_of_the_configured_engine(own):
    assert [package.name for package in engine_packages()] == ["sglang"]
    assert [package.name for package in engine_packages("sglang")] == ["sglang"]
    assert [package.name for package in engine_packages(f"{own}:SPEC")] == ["sglang", "fast-llm"]


def test_a_spec_needs_a_name_a_loader_and_gpus():
    spec = EngineSpec("own", lambda experiment: None, lambda engine, available: 0)
    spec.check(Config(), True)
    assert (spec.packages, spec.in_process, spec.slice_size) == ((), True, 1 << 16)
    assert Package("a", "A", parsed("1.2.3rc1"), "", "").oldest == (1, 2, 3)


def test_the_registry_is_read_without_a_library_that_runs_models():
    code = "import sys, es_ray.engines.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "sglang", "ray", "numpy"}.isdisjoint(done.stdout.split())


def test_noise_sums_of_a_gpu_are_not_those_of_numpy():
    assert {name: spec.exact_replay for name, spec in ENGINES.items()} == {
        "sglang": False,
        "transformers": True,
    }
    assert EngineSpec("own", lambda experiment: None, lambda engine, available: 0).exact_replay
