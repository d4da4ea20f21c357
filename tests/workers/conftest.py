"""One Ray for the tests of this folder: it takes seconds to start."""

import pytest

from tests.processes import ray_here

cluster = pytest.fixture(scope="package")(ray_here)
