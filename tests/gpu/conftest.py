"""For tests that need a CUDA device, and some of them SGLang.

ES_RAY_SGLANG: engine.sglang of all of them as JSON, for hosts that need settings of their own, such as
{"attention_backend": "triton", "sampling_backend": "pytorch", "grammar_backend": "none"}.
ES_RAY_GPU_REPORT: a file to which what was measured is appended, one JSON object a line.
"""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest


def sglang_settings(**more: Any) -> dict[str, Any]:
    """engine.sglang: the host's, and room on the GPU for the engine that SGLang is compared with."""
    return {"mem_fraction_static": 0.4, **json.loads(os.environ.get("ES_RAY_SGLANG", "{}")), **more}


def lost_workers(messages: str) -> int:
    """How many workers a run says it lost; with members, or with a sum of noise, which is no evaluation."""
    return len(re.findall("a worker (?:lost|failed) with|an idle worker is dropped", messages))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write down what a test measured."""

    def write(**values: Any) -> None:
        line = json.dumps({"test": request.node.name, **values})
        print(line)
        if file := os.environ.get("ES_RAY_GPU_REPORT"):
            with open(file, "a") as opened:
                opened.write(line + "\n")

    return write
