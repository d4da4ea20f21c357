"""The sources of SGLang, where there are any.

ES_RAY_SGLANG_SOURCES: folders of unpacked sglang packages, separated by colons; without it, the installed
one, if any.
"""

import os
from pathlib import Path

import pytest

from es_ray.engines.sglang import compat

GIVEN = os.environ.get("ES_RAY_SGLANG_SOURCES", "")
SOURCES = [Path(folder) for folder in GIVEN.split(":") if folder] or (
    [compat.installed()] if compat.installed() else []
)


@pytest.fixture(params=SOURCES or [None], ids=lambda path: str(path))
def root(request):
    if request.param is None:
        pytest.skip("sglang is not installed, and ES_RAY_SGLANG_SOURCES names no unpacked one")
    return request.param
