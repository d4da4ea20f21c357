"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """\
import resource, sys
import numpy as np
from es_ray.engines.hf.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def layer():
    return np.ones(1_250_000, np.float32) + np.ones(1_250_000, np.float32)  # of 5 MB each

layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
OPTIONS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def faults(kind: str, **environment: str) -> int:
    """Page faults of twenty layers."""
    plain = {name: value for name, value in os.environ.items() if name not in OPTIONS}
    words = [sys.executable, "-c", FAULTS, kind]
    return int(
        subprocess.run(words, env=plain | environment, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator stays as it is")
def test_what_a_layer_frees_the_next_one_gets_without_page_faults():
    assert faults("kept") < 0.1 * faults("as it is")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator stays as it is")
def test_what_the_environment_says_counts_more():
    own = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    assert faults("kept", **own) > 0.5 * faults("as it is", **own)
