"""By which engine, and where, a past run is evaluated again."""

from pathlib import Path

import pytest
import torch

from es_ray.config import ClusterConfig, Config, load
from es_ray.errors import UserError
from es_ray.judge.reevaluation import reevaluation_config

OWN = """
from es_ray.engines.spec import EngineSpec
def spec(gpus=0, **more):
    return EngineSpec("own", None, lambda engine, available: gpus, **more)
PLAIN, LARGE, APART = spec(), spec(64), spec(in_process=False)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """own.py, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def recorded(kind: str, **values) -> Config:
    """A run on somebody's cluster."""
    return load().replace(
        engine__kind=kind, engine__shard=5, engine__rows=64, engine__threads=2, engine__processes=1,
        cluster__workers=4, cluster__address="auto", cluster__heartbeat=7.0, **values,
    )  # fmt: skip


def test_nothing_is_taken_of_the_recorded_cluster(own):
    config = reevaluation_config(recorded(f"{own}:PLAIN"))
    assert config.cluster == ClusterConfig(workers=0)
    assert config == recorded(f"{own}:PLAIN").replace(cluster={"workers": 0})


@pytest.mark.parametrize("name", ["PLAIN", "APART"])
@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({}, {"PLAIN": 0, "APART": 1}),
        ({"workers": 3}, {"PLAIN": 3, "APART": 3}),
        ({"address": "local"}, {"PLAIN": "auto", "APART": "auto"}),
        ({"address": "head:6379"}, {"PLAIN": "auto", "APART": "auto"}),
        ({"workers": 3, "address": "head:6379"}, {"PLAIN": 3, "APART": 3}),
    ],
)
def test_one_engine_is_enough_unless_more_are_asked_for(own, name, given, workers):
    config = reevaluation_config(recorded(f"{own}:{name}"), **given)
    assert config.cluster == ClusterConfig(workers=workers[name], address=given.get("address"))
    assert reevaluation_config(recorded("transformers"), "own.py:" + name, **given).cluster == config.cluster


def test_another_engine_gets_none_of_the_recorded_ones_own_settings(own):
    cluster = recorded("sglang", engine__tensor_parallel=8, engine__sglang={"page_size": 1})
    other = reevaluation_config(cluster, "transformers").engine
    assert (other.kind, other.tensor_parallel, other.sglang) == ("transformers", 1, {})
    assert (other.shard, other.threads) == (5, 2)
    assert reevaluation_config(cluster, "own.py:PLAIN").engine.kind == f"{own}:PLAIN"


def test_the_recorded_engine_keeps_its_settings_by_whichever_name(own):
    mine = recorded(f"{own}:PLAIN", engine__tensor_parallel=8)
    for engine in (None, f"{own}:PLAIN", "own.py:PLAIN"):
        assert reevaluation_config(mine, engine).engine == mine.engine


def test_auto_is_an_engine_that_this_machine_can_host():
    if torch.cuda.device_count():
        pytest.skip("SGLang may be what it is here")
    engine = reevaluation_config(recorded("sglang", engine__tensor_parallel=2), "auto").engine
    assert (engine.kind, engine.tensor_parallel) == ("transformers", 1)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("sglang", {}, ["engine.kind: sglang needs 64 GPUs", "--engine transformers", "--address"]),
        ("sglang", {"workers": 2}, ["sglang needs 64 GPUs", "--engine transformers"]),
        ("own.py:LARGE", {"address": "local"}, ["own needs 64 GPUs", "--engine transformers"]),
        ("own.py:APART", {"workers": 0}, ["own runs in Ray workers", "--local", "transformers"]),
        ("own.py:PLAIN", {"workers": 0, "address": "auto"}, ["cluster.address: auto", "without Ray"]),
        ("own.py:PLAIN", {"workers": -1}, ["cluster.workers", "-1"]),
        ("own.py:PLAIN", {"engine": "vllm"}, ["engine.kind: 'vllm'", "sglang", "transformers"]),
        ("nowhere.py:SPEC", {}, ["engine.kind", "nowhere.py", "no such file"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(own, kind, given, words):
    with pytest.raises(UserError) as error:
        reevaluation_config(recorded(kind, engine__tensor_parallel=64), **given)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


TELLS = """
from es_ray.engines.spec import EngineSpec
from es_ray.errors import RunError
def load(experiment):
    raise RunError(f"to prepare for: {experiment.workload.rows}")
SPEC = EngineSpec("tells", load, lambda engine, available: 0)
"""


def test_an_engine_prepares_for_what_is_asked_of_it(finished, tmp_path, cli):
    """Eight test prompts of base, centre, best and selected; the two training prompts of one member."""
    (tmp_path / "tells.py").write_text(TELLS)
    engine = ("--engine", f"{tmp_path}/tells.py:SPEC")
    member = ("--generation", 1, "--index", 0, "--evaluate", "--output", tmp_path / "member")
    for command, rows in ((("evaluate", finished.path), 32), (("member", finished.path, *member), 2)):
        ended = cli(*command, *engine)
        assert ended.code == 1
        assert ended.err == f"es-ray: to prepare for: {rows}\n"
