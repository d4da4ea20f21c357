"""Which differences between driver and nodes are errors."""

import pytest

from es_ray.config import Config
from es_ray.doctor.versions import chosen_engine, mismatches, old_ray
from es_ray.engines.registry import ENGINES
from es_ray.engines.spec import Package
from tests.doctor.reports import head, node


def found(*nodes, driver=None, packages=ENGINES["sglang"].packages):
    return [(f.level, f.where, f.what) for f in mismatches(driver or head(), nodes, packages)]


def test_a_head_without_sglang_and_with_a_torch_for_cpus_is_fine():
    assert found(node("n1"), node("n2")) == []


def test_a_node_that_hosts_no_engine_may_lack_what_engines_need():
    bare = node("cpu", offers=0, engines=False, versions__sglang=None, versions__torch=None, source=None)
    assert found(node(), bare) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions__ray": "2.55.0"}, ("Ray 2.55.0", "2.60.0")),
        ({"versions__python": "3.12.1"}, ("Python 3.12.1", "3.11.7")),
        ({"versions__torch": "2.8.0+cu128"}, ("torch 2.8.0", "2.9.1")),
        ({"versions__torch": None}, ("torch is missing",)),
        ({"versions__sglang": None}, ("SGLang is missing",)),
        ({"versions__sglang": "0.5.10"}, ("SGLang 0.5.10", "too old")),
        ({"source": None}, ("es-ray is missing",)),
        ({"source": "bbbb"}, ("es-ray 0.1.0 (code bbbb)", "code aaaa")),
        ({"source": "bbbb", "versions__es_ray": "0.2.0"}, ("es-ray 0.2.0", "es-ray 0.1.0")),
    ],
)
def test_different_software_on_an_engines_node_is_an_error_that_names_both(change, words):
    (only,) = found(node("good"), node("bad", **change))
    assert only[:2] == ("error", "bad")
    for word in words:
        assert word in only[2]


def test_engines_must_have_one_sglang_and_one_build_of_torch():
    (sglang,) = found(node("n1"), node("n2", versions__sglang="0.5.23"))
    assert sglang == ("error", "n2", "SGLang 0.5.23, n1 has 0.5.17")
    (torch,) = found(node("n1"), node("n2", versions__torch="2.9.1+cu126"))
    assert torch == ("error", "n2", "torch 2.9.1+cu126, n1 has 2.9.1+cu128")


def test_the_transformers_engine_needs_no_sglang():
    assert (
        found(node("n1"), node("n2", versions__sglang=None), packages=ENGINES["transformers"].packages) == []
    )


def test_pythons_patch_and_a_checkout_that_is_not_installed_do_not_matter():
    assert found(node(versions__python="3.11.2", versions__es_ray="0+unknown")) == []


def test_different_libraries_are_a_warning():
    assert found(node(versions__numpy="1.26.4")) == [
        ("warning", "n1", "numpy 1.26.4, the driver has 2.3.5"),
    ]


def test_a_ray_with_the_known_vulnerability_is_an_error_and_2_54_is_not():
    old = list(old_ray([head(versions__ray="2.53.1"), node(versions__ray="2.54.0")]))
    assert [(f.level, f.where) for f in old] == [("error", "the driver")]
    assert "CVE-2026-27482" in old[0].what


@pytest.mark.parametrize(
    ("kind", "nodes", "expected"),
    [
        ("auto", [node()], "sglang"),
        ("auto", [node(versions__sglang=None)], "transformers"),
        ("auto", [node(offers=0)], "transformers"),
        ("auto", [node(engines=False)], "transformers"),
        ("auto", [node(versions__sglang=None), node()], "sglang"),
        ("auto", [], "transformers"),
        ("sglang", [], "sglang"),
        ("transformers", [node()], "transformers"),
    ],
)
def test_which_engine_it_will_be(kind, nodes, expected):
    assert chosen_engine(Config().replace(engine__kind=kind), nodes) is ENGINES[expected]


def test_auto_in_this_process_is_no_engine_that_may_end_it():
    here = Config().replace(cluster__workers=0)
    assert chosen_engine(here, [node()]) is ENGINES["transformers"]


def test_the_packages_of_any_engine_are_compared():
    package = Package(
        "fast-llm", "FastLLM", (2, 1), "es-ray supports fast-llm >= 2.1", "pip install fast-llm"
    )

    def findings(version):
        nodes = [node("n1", versions__fast_llm="2.2"), node("n2", versions__fast_llm=version)]
        return [
            (f.where, f.what, f.advice) for f in mismatches(head(versions__fast_llm=None), nodes, [package])
        ]

    assert findings("2.2") == []
    assert findings(None) == [("n2", "FastLLM is missing", "pip install fast-llm there")]
    assert findings("2.0.9") == [("n2", "FastLLM 2.0.9 is too old", "es-ray supports fast-llm >= 2.1")]
    assert findings("2.3")[0][:2] == ("n2", "FastLLM 2.3, n1 has 2.2")
