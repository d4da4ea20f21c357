"""The worked examples of the tasks' docstrings."""

import doctest
import importlib

import pytest

MODULES = {
    "countdown": None,
    "matching": None,
    "mathematics": "math_verify",
    "numeric": None,
    "reasoning_gym": "reasoning_gym",
}


@pytest.mark.parametrize(("module", "package"), MODULES.items())
def test_the_worked_examples_are_true(module, package):
    if package:
        pytest.importorskip(package)
    failed, tried = doctest.testmod(importlib.import_module(f"es_ray.tasks.{module}"))
    assert tried >= 3
    assert failed == 0
